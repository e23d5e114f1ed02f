"""What the metrics say after events: read back as Prometheus reads it."""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from streams.checkpoint import BatchIdentity
from streams.errors import FatalError, RetriableError, UnavailableError
from streams.telemetry.audit import BatchAudit, CheckOutcome, RowCounts
from streams.telemetry.events import BatchDone, FlowChanged, GateJudged, KafkaLag, RunBegan, RunEnded
from streams.telemetry.freshness import Freshness
from streams.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from pathlib import Path

    from streams.telemetry.events import Event

AT = dt.datetime(2026, 6, 30, 10, tzinfo=dt.UTC)
FLOW = "gold.fact_orders"
AUDIT = BatchAudit(
    batch=BatchIdentity(FLOW, "c", 3),
    run_id="r",
    started_at=AT,
    finished_at=AT,
    seconds={"prepare": 0.2, "merge": 2.0},
    counts=RowCounts(rows_read=10, rows_written=7, rows_duplicate=1, rows_stale=0, rows_error=2),
    versions={},
    is_recovered=False,
    code_version="1",
    freshness=Freshness(1.5, 20.0, 30.0),
)


def told(*events: Event) -> dict[tuple[str, ...], float]:
    metrics = Metrics("1.2", "test")
    for event in events:
        metrics(event)
    return values(metrics.render()[0].decode())


def values(page: str) -> dict[tuple[str, ...], float]:
    """Name and labels' values, in the order in which they are documented → value."""
    order = ("flow", "table", "topic", "version", "environment", "outcome", "phase", "le")
    samples = [one for family in text_string_to_metric_families(page) for one in family.samples]

    def labels(of: dict[str, str]) -> list[str]:
        return [
            of[name] for name in sorted(of, key=lambda name: (name not in order, name in order and order.index(name)))
        ]

    return {(one.name, *labels(one.labels)): one.value for one in samples}


def test_rows_batches_times_and_freshness() -> None:
    unmeasured = replace(AUDIT, freshness=None)
    found = told(BatchDone("r", AUDIT), BatchDone("r", unmeasured))
    outcomes = ("read", "written", "duplicate", "stale", "error")
    assert [found["streams_rows_total", FLOW, one] for one in outcomes] == [20, 14, 2, 0, 4]
    assert found["streams_batches_total", FLOW] == 2
    assert found["streams_last_batch_timestamp_seconds", FLOW] == AT.timestamp()
    # A batch that could not be measured leaves what was measured before.
    assert [found["streams_freshness_seconds", FLOW, one] for one in ("0.5", "0.99", "1")] == [1.5, 20, 30]
    assert found["streams_batch_seconds_count", FLOW, "merge"] == 2
    assert found["streams_batch_seconds_sum", FLOW, "merge"] == 4
    assert found["streams_batch_seconds_bucket", FLOW, "prepare", "0.25"] == 2


def test_a_flow_is_in_one_state() -> None:
    changes = [("running", "starting"), ("waiting", "running"), ("running", "waiting")]
    found = told(*(FlowChanged(FLOW, state, before, AT) for state, before in changes))
    assert {key[2]: value for key, value in found.items() if key[0] == "streams_flow_state"} == {
        "starting": 0,
        "running": 1,
        "waiting": 0,
    }


def test_a_failure_that_is_told_of_its_run_and_of_its_state_is_one() -> None:
    away, lost = UnavailableError("AWAY", "It is away."), FatalError("LOST", "It is lost.")
    held = RetriableError("BATCH_HELD", "A check holds it.")
    found = told(
        RunBegan(FLOW, "1", AT),
        RunEnded(FLOW, "1", AT, error=away),
        FlowChanged(FLOW, "backing off", "running", AT, away),
        RunBegan(FLOW, "2", AT),
        RunEnded(FLOW, "2", AT, error=held),
        FlowChanged(FLOW, "held", "running", AT, held),
        RunBegan(FLOW, "3", AT),
        RunEnded(FLOW, "3", AT),
        RunBegan(FLOW, "4", AT),
        RunEnded(FLOW, "4", AT, error=lost),
        FlowChanged(FLOW, "failed", "running", AT, lost),
    )
    failures = {key[2]: value for key, value in found.items() if key[0] == "streams_failures_total"}
    assert failures == {"fatal": 1, "held": 1, "unavailable": 1, "retriable": 0}
    assert found["streams_restarts_total", FLOW] == 2


def test_gates_and_lag_are_as_they_were_last() -> None:
    def judged(*outcomes: str) -> GateJudged:
        checks = tuple(CheckOutcome(f"c{number}", "d", one, None, None) for number, one in enumerate(outcomes))
        return GateJudged("gold", "r", AT, AT, {FLOW: checks})

    found = told(
        judged("pass", "fail", "fail"),
        judged("pass", "pass", "error"),
        KafkaLag("bronze.order_events", "t", {0: 7, 1: 3}, AT),
        KafkaLag("bronze.order_events", "t", {0: 0, 1: 4}, AT),
    )
    checks = {key[2]: value for key, value in found.items() if key[0] == "streams_gate_checks"}
    assert checks == {"pass": 2, "warn": 0, "fail": 0, "error": 1}
    lag = {key[3]: value for key, value in found.items() if key[0] == "streams_kafka_lag_messages"}
    assert lag == {"0": 0, "1": 4}


def test_the_process_and_sparks_driver_are_measured() -> None:
    metrics = Metrics("1.2", "test", jvm_pid=os.getpid)
    page, content_type = metrics.render()
    found = values(page.decode())
    assert content_type.startswith("text/plain")
    assert found["streams_info", "1.2", "test"] == 1
    for of in ("process", "spark_driver_process"):
        assert found[f"{of}_resident_memory_bytes",] > 1 << 20


def test_a_textfile_has_no_metric_of_the_process(tmp_path: Path) -> None:
    metrics = Metrics("1.2", "test")
    metrics(BatchDone("r", AUDIT))
    file = tmp_path / "metrics" / "streams.prom"
    metrics.write_textfile(str(file))
    found = values(file.read_text())
    assert found["streams_batches_total", FLOW] == 1
    assert not [name for name, *_ in found if name.startswith(("process", "python", "streams_info", "streams_deliv"))]
    assert [one.name for one in file.parent.iterdir()] == ["streams.prom"]
