"""How far a flow is, as others see it: in its consumer group by another client, in its lag, in `streams status`."""

from __future__ import annotations

import warnings
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import AdminClient
from structlog.testing import capture_logs

from streams.flows import all_flows
from streams.local.producer import send_messages
from streams.local.replay import plan_replay
from streams.supervisor.kafka_progress import KafkaProgress
from streams.supervisor.supervisor import State, Supervisor
from streams.telemetry.events import KafkaLag
from streams.telemetry.metrics import Metrics
from tests.spark.flow_bench import Bench
from tests.waiting import wait_until

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"(read|open)_text is deprecated", DeprecationWarning)
    from kafka import KafkaAdminClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyspark.sql import SparkSession

    from streams.local.broker import Broker

FLOW = "bronze.order_events"
GROUP = f"lakehouse-streams.test.{FLOW}"


@pytest.fixture
def bench(spark: SparkSession, broker: Broker, topic: str, tmp_path: Path) -> Iterator[Bench]:
    """A lake whose flows' progress is followed."""
    broker.create_topic(topic, partitions=2)
    kafka = {"bootstrap_servers": broker.bootstrap_servers, "topics": {"order_events": topic}}
    service = Bench.at(spark, tmp_path, kafka=kafka).service
    metrics, told = Metrics("1", "test"), []
    service = replace(service, listeners=(metrics, told.append), metrics=metrics)
    with closing(KafkaProgress(service.settings, service.checkpoint, service.tell, every_seconds=0.2)) as following:
        bench = Bench(replace(service, listeners=(following, *service.listeners), kafka=following))
        bench.told = told  # type: ignore[attr-defined]
        yield bench


def group_offsets(broker: Broker) -> dict[tuple[str, int], int]:
    """By another client than ours."""
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    try:
        said = admin.list_group_offsets({GROUP: None})[GROUP]
        return {(place.topic, place.partition): held.offset for place, held in said.items()}
    finally:
        admin.close()


def of_checkpoint(bench: Bench, topic: str) -> dict[tuple[str, int], int]:
    offsets = bench.service.checkpoint(FLOW).committed_offsets(0)[topic]
    return {(topic, int(partition)): offset for partition, offset in offsets.items()}


def test_a_consumer_group_stands_where_the_checkpoint_does_and_the_lag_is_what_came_since(
    bench: Bench, broker: Broker, topic: str
) -> None:
    kafka = bench.service.kafka
    assert kafka is not None
    send_messages(plan_replay(seed=1, limit=60).messages[:30], broker.bootstrap_servers, topic)
    (run,) = bench.run(FLOW)
    assert run.total("rows_read") == 30
    there = of_checkpoint(bench, topic)
    assert sum(there.values()) == 30
    wait_until(lambda: {at: offset for at, offset in group_offsets(broker).items() if at[0] == topic} == there)
    wait_until(lambda: kafka.lag(FLOW) == {0: 0, 1: 0})
    # Nothing is run, and the lag grows by what comes.
    send_messages(plan_replay(seed=9, limit=60).messages[:12], broker.bootstrap_servers, topic)
    wait_until(lambda: sum((kafka.lag(FLOW) or {}).values()) == 12)
    unread = read_ends(broker, topic)
    lag = kafka.lag(FLOW) or {}
    assert {(topic, partition): messages for partition, messages in lag.items()} == {
        at: end - there[at] for at, end in unread.items()
    }
    page = bench.service.metrics.render()[0].decode() if bench.service.metrics else ""
    for partition, messages in lag.items():
        label = f'{{flow="{FLOW}",partition="{partition}",topic="{topic}"}}'
        assert f"streams_kafka_lag_messages{label} {float(messages)}" in page
    assert [event for event in bench.told if isinstance(event, KafkaLag)][-1].messages == lag  # type: ignore[attr-defined]


def read_ends(broker: Broker, topic: str) -> dict[tuple[str, int], int]:
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers)
    try:
        ends = consumer.end_offsets([TopicPartition(topic, partition) for partition in (0, 1)])
        return {(at.topic, at.partition): end for at, end in ends.items()}
    finally:
        consumer.close()


def test_the_supervisors_report_has_lag_and_freshness(bench: Bench, broker: Broker, topic: str) -> None:
    sound = [message for message in plan_replay(seed=1, limit=60).messages if message.kind == "event"]
    send_messages(sound[:20], broker.bootstrap_servers, topic)
    supervisor = Supervisor([all_flows(bench.service.settings)[FLOW]], bench.service)
    supervisor.start()
    try:
        wait_until(lambda: supervisor.states()[FLOW] is State.WAITING)
        wait_until(lambda: supervisor.reports()[FLOW].kafka_lag == {"0": 0, "1": 0})
        found = supervisor.reports()[FLOW]
        # The messages were sent a moment ago, and have their broker's time.
        assert found.freshness_p50 is not None
        assert found.freshness_p99 is not None
        assert 0 < found.freshness_p50 <= found.freshness_p99 < 60
    finally:
        assert supervisor.drain(60)


def test_a_group_that_may_not_be_committed_to_fails_nothing(bench: Bench, broker: Broker, topic: str) -> None:
    """A reader of the same group that is there stands for a broker that refuses."""
    from confluent_kafka import Consumer

    reader = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": GROUP, "auto.offset.reset": "latest"})
    reader.subscribe([topic])
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})

    def has_joined() -> bool:
        reader.poll(0.1)
        (described,) = (future.result() for future in admin.describe_consumer_groups([GROUP]).values())
        return bool(described.members) and described.state.name == "STABLE"

    wait_until(has_joined)
    try:
        with capture_logs() as logged:
            for part in (slice(0, 10), slice(10, 20)):
                send_messages(plan_replay(seed=1, limit=60).messages[part], broker.bootstrap_servers, topic)
                (run,) = bench.run(FLOW)
                assert run.total("rows_read") == 10
            assert bench.service.kafka is not None
            bench.service.kafka.close()
        assert bench.service.kafka.lag(FLOW) == {0: 0, 1: 0}
    finally:
        reader.close()
    assert [one["event"] for one in logged].count("how far a flow is could not be told to Kafka") == 1
