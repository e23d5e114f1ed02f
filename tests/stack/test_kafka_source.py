"""Bronze from a real broker: provenance, and what happens when the topic is no longer what it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from streams.errors import FatalError, RetriableError
from streams.failpoints import FailpointError
from streams.flows import all_flows
from streams.local.broker import Broker
from streams.local.producer import send_messages
from streams.local.replay import Message, plan_replay
from streams.supervisor.resume import resume_after_loss
from tests.spark.flow_bench import Bench
from tests.spark.test_spark_jobs import jobs_so_far
from tests.stack.reading import read_topic

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

FLOW = "bronze.order_events"


@pytest.fixture
def bench(spark: SparkSession, broker: Broker, topic: str, tmp_path: Path) -> Bench:
    broker.create_topic(topic, partitions=2)
    kafka = {"bootstrap_servers": broker.bootstrap_servers, "topics": {"order_events": topic}}
    return Bench.at(spark, tmp_path, kafka=kafka)


def messages(count: int, seed: int = 1) -> tuple[Message, ...]:
    return plan_replay(seed=seed, limit=60).messages[:count]


def test_every_message_is_in_bronze_or_in_the_lane_with_its_place(bench: Bench, broker: Broker, topic: str) -> None:
    sent = plan_replay(seed=2, limit=100)
    send_messages(sent.messages, broker.bootstrap_servers, topic)
    (run,) = bench.run(FLOW)
    held = {(one.partition, one.offset): one for one in read_topic(broker.bootstrap_servers, topic)}
    bronze = {(row["_partition"], row["_offset"]): row for row in bench.all_rows(bench.service.lake.table(FLOW))}
    lane = {(row["partition"], row["offset"]): row for row in bench.all_rows(bench.service.lake.lane("bronze"))}
    assert bronze.keys() | lane.keys() == held.keys()
    assert not bronze.keys() & lane.keys()
    assert run.total("rows_read") == len(held) == run.total("rows_written") + run.total("rows_error")
    for place, row in bronze.items():
        assert row["_source"] == topic
        assert row["_is_tombstone"] == (held[place].value is None)
        assert row["_key"].encode() == held[place].key
        assert row["event_id"] is None or row["event_id"].encode() in held[place].value
    for place, row in lane.items():
        assert bytes(row["payload"]) == held[place].value
    found = sorted(row["violations"][0]["code"] for row in lane.values())
    assert found == sorted(code for code, count in sent.lane.items() for _ in range(count) if code in found)


def test_a_tombstones_key_must_be_whole(bench: Bench, broker: Broker, topic: str) -> None:
    keys, at = (b"CD-1", b"CD-1\n", b"CD-\xff"), messages(1)[0].at
    send_messages([Message(at, key, None, "tombstone") for key in keys], broker.bootstrap_servers, topic)
    bench.run(FLOW)
    assert [row["_key"] for row in bench.all_rows(bench.service.lake.table(FLOW))] == ["CD-1"]
    waiting = bench.all_rows(bench.service.lake.lane("bronze"))
    assert sorted(row["key"] for row in waiting) == ["CD-1\n", "CD-\ufffd"]


def test_a_topic_made_anew_stops_the_flow_until_someone_accepts(bench: Bench, broker: Broker, topic: str) -> None:
    send_messages(messages(30), broker.bootstrap_servers, topic)
    bench.run(FLOW)
    broker.delete_topic(topic)
    broker.create_topic(topic, partitions=2)
    send_messages(messages(10, seed=9), broker.bootstrap_servers, topic)
    with pytest.raises(FatalError) as caught:
        bench.run(FLOW)
    assert caught.value.code == "KAFKA_TOPIC_RECREATED"
    assert f"streams resume {FLOW} --accept-loss" in str(caught.value)
    resume_after_loss(all_flows(bench.service.settings)[FLOW], bench.service)
    (run,) = bench.run(FLOW)
    assert run.total("rows_read") == 10
    assert (
        len(bench.all_rows(bench.service.lake.table(FLOW))) + len(bench.all_rows(bench.service.lake.lane("bronze")))
        == 40
    )


def test_offsets_that_aged_out_stop_the_flow_until_someone_accepts(
    bench: Bench, broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_messages(messages(20), broker.bootstrap_servers, topic)
    bench.run(FLOW)
    send_messages(messages(40, seed=9), broker.bootstrap_servers, topic)
    ends = bench.service.checkpoint(FLOW).committed_offsets(0)[topic]
    lost = 5
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    for future in admin.delete_records([TopicPartition(topic, 0, ends["0"] + lost)]).values():
        future.result()
    with pytest.raises(FatalError) as caught:
        bench.run(FLOW)
    assert (caught.value.code, caught.value.parameters["lost"]) == ("KAFKA_OFFSETS_AGED_OUT", {0: lost})
    with monkeypatch.context() as failing:  # killed in its middle, called again
        failing.setenv("STREAMS_FAILPOINT", f"{FLOW}:checkpoint_set_aside:1:raise:{topic}")
        with pytest.raises(FailpointError):
            resume_after_loss(all_flows(bench.service.settings)[FLOW], bench.service)
    resume_after_loss(all_flows(bench.service.settings)[FLOW], bench.service)
    (run,) = bench.run(FLOW)
    assert run.total("rows_read") == 40 - lost
    (again,) = bench.run(FLOW)
    assert again.total("rows_read") == 0


def test_a_broker_that_is_away_is_worth_another_try(spark: SparkSession, tmp_path: Path) -> None:
    with Broker(tmp_path / "broker") as away:
        away.create_topic("t", partitions=1)
        bench = Bench.at(
            spark, tmp_path, kafka={"bootstrap_servers": away.bootstrap_servers, "topics": {"order_events": "t"}}
        )
        send_messages(messages(5), away.bootstrap_servers, "t")
        assert bench.run(FLOW)[0].total("rows_read") == 5
        away.kill()
        with pytest.raises(RetriableError) as caught:
            bench.run(FLOW)
        assert caught.value.code == "KAFKA_UNREACHABLE"
        away.start()
        send_messages(messages(3, seed=9), away.bootstrap_servers, "t")
        assert bench.run(FLOW)[0].total("rows_read") == 3


def test_a_topic_that_is_not_there_is_named(spark: SparkSession, broker: Broker, tmp_path: Path) -> None:
    bench = Bench.at(
        spark, tmp_path, kafka={"bootstrap_servers": broker.bootstrap_servers, "topics": {"order_events": "nowhere"}}
    )
    with pytest.raises(RetriableError) as caught:
        bench.run(FLOW)
    assert (caught.value.code, caught.value.parameters["topic"]) == ("KAFKA_TOPIC_MISSING", "nowhere")


def test_a_quiet_batch_costs_three_jobs(bench: Bench, broker: Broker, topic: str) -> None:
    """The append, Delta's look at its ``txn`` actions, the audit: the figure of the README."""
    sound = [message for message in plan_replay(seed=1, limit=60).messages if message.kind == "event"]
    for part in (sound[:10], sound[10:20], sound[20:30]):
        send_messages(part, broker.bootstrap_servers, topic)
        before = jobs_so_far(bench.spark)
        (run,) = bench.run(FLOW)
        assert run.total("rows_written") == len(part)
    assert jobs_so_far(bench.spark) - before == 3
