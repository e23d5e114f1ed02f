"""Metrics in CloudWatch: sent by boto3 to moto's server, and read back from there."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from streams.checkpoint import BatchIdentity
from streams.errors import UnavailableError
from streams.settings import CloudWatchSettings
from streams.telemetry.audit import BatchAudit, CheckOutcome, RowCounts
from streams.telemetry.cloudwatch import CloudWatch
from streams.telemetry.events import BatchDone, GateJudged, KafkaLag, RunEnded
from streams.telemetry.freshness import Freshness

if TYPE_CHECKING:
    from collections.abc import Iterator

AT = dt.datetime(2026, 6, 30, 10, tzinfo=dt.UTC)
FLOW = "gold.fact_orders"
COUNTS = RowCounts(rows_read=10, rows_written=8, rows_error=2)
AUDIT = BatchAudit(
    BatchIdentity(FLOW, "c", 1), "r", AT, AT, {"merge": 2.0, "check": 1.0}, COUNTS, {}, is_recovered=False,
    code_version="1", freshness=Freshness(1.0, 9.0, 10.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadedMotoServer]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def aws(server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stand-in")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "stand-in")
    return boto3.client("cloudwatch", region_name="us-east-1")


def sender(namespace: str, counts: Counter[str], every: float = 600, **more: Any) -> CloudWatch:
    settings = CloudWatchSettings(namespace=namespace, region="us-east-1", every_seconds=every)
    return CloudWatch(settings, "test", lambda to, outcome: counts.update([f"{to} {outcome}"]), **more)


def statistics(aws: Any, namespace: str, metric: str, **labels: str) -> tuple[float, float, float]:
    """Sum, least and most of a series."""
    now = dt.datetime.now(dt.UTC)
    (found,) = aws.get_metric_statistics(
        Namespace=namespace,
        MetricName=metric,
        Dimensions=[{"Name": name, "Value": value} for name, value in ({"environment": "test"} | labels).items()],
        StartTime=now - dt.timedelta(hours=1),
        EndTime=now + dt.timedelta(hours=1),
        Period=7200,
        Statistics=["Sum", "Minimum", "Maximum"],
    )["Datapoints"]
    return found["Sum"], found["Minimum"], found["Maximum"]


def test_what_events_say_is_there_when_the_process_has_ended(aws: Any) -> None:
    counts: Counter[str] = Counter()
    one = sender("whole", counts)
    one(BatchDone("1", AUDIT))
    one(BatchDone("1", replace(AUDIT, counts=RowCounts(rows_read=5, rows_written=5), freshness=Freshness(3, 30, 30))))
    one(KafkaLag("bronze.order_events", "t", {0: 7, 1: 3}, AT))
    one(RunEnded(FLOW, "1", AT, error=UnavailableError("AWAY", "It is away.")))
    one(GateJudged("gold", "r", AT, AT, {FLOW: (CheckOutcome("c", "d", "fail", 1.0, None),)}))
    one.close()
    assert counts == {"cloudwatch sent": 1}
    assert statistics(aws, "whole", "streams_rows", flow=FLOW, outcome="read") == (15, 5, 10)
    assert statistics(aws, "whole", "streams_rows", flow=FLOW, outcome="error") == (2, 2, 2)
    assert statistics(aws, "whole", "streams_batches", flow=FLOW)[0] == 2
    assert statistics(aws, "whole", "streams_batch_seconds", flow=FLOW) == (6, 3, 3)
    assert statistics(aws, "whole", "streams_freshness_seconds", flow=FLOW, quantile="0.99")[1:] == (9, 30)
    assert statistics(aws, "whole", "streams_kafka_lag_messages", flow="bronze.order_events", topic="t")[0] == 10
    assert statistics(aws, "whole", "streams_failures", flow=FLOW, kind="unavailable")[0] == 1
    assert statistics(aws, "whole", "streams_gate_checks", table=FLOW, outcome="fail")[0] == 1
    assert statistics(aws, "whole", "streams_gate_checks", table=FLOW, outcome="error")[0] == 0


def test_many_are_sent_in_as_many_calls_as_it_takes(aws: Any) -> None:
    counts: Counter[str] = Counter()
    one = sender("many", counts)
    for number in range(2500):
        one(KafkaLag(f"flow-{number:04d}", "t", {0: number}, AT))
    one.close()
    assert counts == {"cloudwatch sent": 3}
    assert statistics(aws, "many", "streams_kafka_lag_messages", flow="flow-2499", topic="t")[0] == 2499


def test_what_could_not_be_sent_waits_until_it_can_and_the_oldest_is_dropped(
    aws: Any, monkeypatch: pytest.MonkeyPatch, server: ThreadedMotoServer
) -> None:
    counts: Counter[str] = Counter()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # nobody listens
    one = sender("later", counts, every=0.05, most_waiting=10)
    for number in range(12):
        one(KafkaLag(f"flow-{number:02d}", "t", {0: number}, AT))
    wait_for(lambda: counts["cloudwatch failed"])
    host, port = server.get_host_and_port()
    one._client = None
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    wait_for(lambda: counts["cloudwatch sent"])
    one.close()
    assert counts["cloudwatch dropped"] == 2
    assert statistics(aws, "later", "streams_kafka_lag_messages", flow="flow-11", topic="t")[0] == 11
    names = {tuple(d["Value"] for d in one["Dimensions"]) for one in aws.list_metrics(Namespace="later")["Metrics"]}
    assert len(names) == 10


def wait_for(happened: Any) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)
