"""The replay into the Kafka that users run in a container; skipped where there is no container engine."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from streams.local.producer import send_messages
from streams.local.replay import plan_replay
from tests.spark.flow_bench import Bench
from tests.stack.reading import read_topic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyspark.sql import SparkSession


@pytest.fixture(scope="module")
def container_servers() -> Iterator[str]:
    engine = shutil.which("docker")
    if engine is None or subprocess.run([engine, "info"], capture_output=True, check=False).returncode:
        pytest.skip("no container engine answers `docker info`")
    from testcontainers.kafka import KafkaContainer

    with KafkaContainer("confluentinc/cp-kafka:7.9.1").with_kraft() as container:
        yield container.get_bootstrap_server()


def test_bronze_reads_from_the_container(
    spark: SparkSession, container_servers: str, topic: str, tmp_path: Path
) -> None:
    messages = plan_replay(seed=4, limit=50).messages
    admin = AdminClient({"bootstrap.servers": container_servers})
    admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(60)
    send_messages(messages, container_servers, topic)
    kafka = {"bootstrap_servers": container_servers, "topics": {"order_events": topic}}
    (run,) = Bench.at(spark, tmp_path, kafka=kafka).run("bronze.order_events")
    assert run.total("rows_read") == len(messages) == run.total("rows_written") + run.total("rows_error")


def test_container_holds_what_the_plan_says(container_servers: str, topic: str) -> None:
    messages = plan_replay(seed=3, limit=200).messages
    admin = AdminClient({"bootstrap.servers": container_servers})
    admin.create_topics([NewTopic(topic, 3, 1)])[topic].result(60)
    send_messages(messages, container_servers, topic)
    held = read_topic(container_servers, topic)
    assert Counter((one.key, one.value) for one in held) == Counter((sent.key, sent.value) for sent in messages)
