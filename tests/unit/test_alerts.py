"""Alerts, as a receiver of them gets them over HTTP: one for each thing that is wrong, and one when it is well again."""

from __future__ import annotations

import datetime as dt
import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from streams.checkpoint import BatchIdentity
from streams.errors import FatalError, RetriableError, StreamsError, UnavailableError
from streams.secrets import SecretReference
from streams.settings import AlertSettings
from streams.telemetry.alerts import Alerts
from streams.telemetry.audit import BatchAudit, CheckOutcome, RowCounts
from streams.telemetry.events import BatchDone, FlowChanged, GateJudged, RunBegan, RunEnded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FLOW = "gold.fact_orders"
AT = dt.datetime(2026, 6, 30, 10, tzinfo=dt.UTC)
AUDIT = BatchAudit(BatchIdentity(FLOW, "c", 1), "r", AT, AT, {}, RowCounts(1, 1), {}, False, "1")
PATH = "/services/T000/B000/aVerySecretPath"


class Receiver:
    """A server that takes messages, and answers as it is told to."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.answers: list[int] = []  # the next ones; then 200
        self.calls = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.calls += 1
                status = receiver.answers.pop(0) if receiver.answers else 200
                if status == 200:
                    assert self.headers["Content-Type"] == "application/json"
                    receiver.got.append(json.loads(body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}{PATH}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        deadline = time.monotonic() + 20
        while len(self.got) < count:
            assert time.monotonic() < deadline, self.got
            time.sleep(0.01)
        return self.got


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture
def alerts(receiver: Receiver) -> Iterator[Callable[..., Any]]:
    """Gives a context in which they are sent, and the counts of what became of them."""

    @contextmanager
    def sending(**settings: Any) -> Iterator[tuple[Alerts, Counter[str]]]:
        counts: Counter[str] = Counter()
        said = AlertSettings.model_validate({"webhook": receiver.url} | settings)
        one = Alerts(said, "test", lambda to, outcome: counts.update([f"{to} {outcome}"]), first_pause=0.01)
        try:
            yield one, counts
        finally:
            one.close()
            assert not one._thread.is_alive()

    return sending


def changed(state: str, before: str, error: Exception | None = None) -> FlowChanged:
    return FlowChanged(FLOW, state, before, AT, error)


def told(messages: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(one["kind"], one["subject"], one["status"]) for one in messages]


def test_a_flow_that_failed_is_told_once_and_again_when_it_is_well(receiver: Receiver, alerts: Any) -> None:
    lost = FatalError("UPSTREAM_VACUUMED", "What it has not read was removed.", way_out=f"streams reset {FLOW}")
    with alerts() as (one, counts):
        one(changed("running", "queued"))
        one(RunBegan(FLOW, "1", AT))
        one(RunEnded(FLOW, "1", AT, error=lost))
        one(changed("failed", "running", lost))
        one(changed("starting", "failed"))
        one(changed("failed", "starting", lost))
        one(changed("starting", "failed"))
        one(BatchDone("2", AUDIT))
        one(changed("waiting", "running"))
    failed, well = receiver.got
    assert told(receiver.got) == [("failure", FLOW, "open"), ("failure", FLOW, "resolved")]
    assert failed["incident"] == well["incident"]
    assert (failed["code"], failed["way_out"]) == ("UPSTREAM_VACUUMED", f"streams reset {FLOW}")
    assert failed["text"] == (
        f"lakehouse-streams test: {FLOW} failed. [UPSTREAM_VACUUMED] What it has not read was removed. "
        f"streams reset {FLOW}"
    )
    assert well["text"].startswith(f"lakehouse-streams test: well again: {FLOW} failed, since ")
    assert counts == {"webhook sent": 2}


def test_what_is_tried_again_is_no_failure_but_a_job_that_ends_by_it_is(receiver: Receiver, alerts: Any) -> None:
    away = UnavailableError("KAFKA_UNREACHABLE", "Kafka does not answer.")
    with alerts() as (one, _):
        one(changed("running", "queued"))
        one(RunEnded(FLOW, "1", AT, error=away))
        one(changed("backing off", "running", away))
    assert receiver.got == []
    with alerts() as (one, _):
        one(RunBegan(FLOW, "1", AT))
        one(RunEnded(FLOW, "1", AT, error=away))
        one(RunBegan(FLOW, "2", AT))
        one(RunEnded(FLOW, "2", AT))
    assert told(receiver.got) == [("failure", FLOW, "open"), ("failure", FLOW, "resolved")]


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("held", RetriableError("BATCH_HELD", "Batch 7 fails: no rows are negative (found 3).")),
        ("failed", FatalError("BATCH_REFUSED", "Batch 7 fails: no rows are negative (found 3).")),
    ],
)
def test_a_check_that_failed_is_a_breach(receiver: Receiver, alerts: Any, state: str, error: StreamsError) -> None:
    with alerts() as (one, _):
        one(changed("running", "queued"))
        one(changed(state, "running", error))
        one(changed("running", state))
        one(changed(state, "running", error))
        one(BatchDone("1", AUDIT))
    assert told(receiver.got) == [("breach", FLOW, "open"), ("breach", FLOW, "resolved")]
    assert "no rows are negative" in receiver.got[0]["message"]


def test_a_check_that_only_warns_is_a_breach_until_a_batch_passes(receiver: Receiver, alerts: Any) -> None:
    with alerts() as (one, _):
        for breaches in (("rows are few",), ("rows are few",), (), ()):
            one(BatchDone("1", replace(AUDIT, breaches=breaches)))
            one(changed("waiting", "running"))
    assert told(receiver.got) == [("breach", FLOW, "open"), ("breach", FLOW, "resolved")]


def test_a_gate_that_did_not_pass(receiver: Receiver, alerts: Any) -> None:
    def judged(outcome: str) -> GateJudged:
        return GateJudged("gold", "r", AT, AT, {FLOW: (CheckOutcome("no order twice", "d", outcome, 1.0, None),)})

    with alerts() as (one, _):
        for outcome in ("pass", "fail", "error", "warn"):
            one(judged(outcome))
    assert told(receiver.got) == [("gate", "gold", "open"), ("gate", "gold", "resolved")]
    assert receiver.got[0]["message"] == f"Failed checks: {FLOW}: no order twice."


def test_a_flow_at_work_without_a_batch_stalls(receiver: Receiver, alerts: Any) -> None:
    with alerts(stall_seconds=0.05) as (one, _):
        one(changed("waiting", "starting"))
        one(FlowChanged("silver.orders", "waiting", "starting", AT))  # it has nothing to do
        one(changed("queued", "waiting"))
        one(changed("running", "queued"))
        receiver.wait_for(1)
        one(BatchDone("1", AUDIT))
        one(changed("waiting", "running"))
        receiver.wait_for(2)
    assert told(receiver.got) == [("stall", FLOW, "open"), ("stall", FLOW, "resolved")]


def test_only_what_is_asked_for_is_told(receiver: Receiver, alerts: Any) -> None:
    with alerts(on=["gate"]) as (one, _):
        one(changed("failed", "running", FatalError("LOST", "It is lost.")))
        one(GateJudged("gold", "r", AT, AT, {FLOW: (CheckOutcome("c", "d", "fail", 1.0, None),)}))
    assert [one["kind"] for one in receiver.got] == ["gate"]


def test_a_receiver_that_is_away_for_a_while_gets_it_and_one_that_refuses_is_left(
    receiver: Receiver, alerts: Any
) -> None:
    with alerts() as (one, counts):
        receiver.answers = [503, 429, 500]
        one(changed("failed", "running", FatalError("LOST", "It is lost.")))
        receiver.wait_for(1)
        receiver.answers = [404]
        one(BatchDone("1", AUDIT))
    assert (len(receiver.got), receiver.calls) == (1, 5)
    assert counts == {"webhook sent": 1, "webhook failed": 1}


def test_a_receiver_that_stays_away_holds_nothing_up(receiver: Receiver, alerts: Any) -> None:
    receiver.server.shutdown()
    receiver.server.server_close()
    with capture_logs() as logged, alerts() as (one, counts):
        began = time.monotonic()
        for number in range(300):
            one(RunEnded(f"flow {number}", "1", AT, error=FatalError("LOST", "It is lost.")))
        assert time.monotonic() - began < 5
    assert counts["webhook dropped"] >= 90
    assert sum(counts.values()) == 300
    assert [line["event"] for line in logged] == ["an alert could not be sent"]
    assert PATH not in str(logged)


def test_no_message_holds_a_secret_or_what_spark_quotes(
    receiver: Receiver, alerts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERTS_WEBHOOK", receiver.url)
    monkeypatch.setenv("A_PASSWORD", "hunter2hunter2")
    SecretReference("env:A_PASSWORD").resolve()
    said = [
        FatalError("A", "The login hunter2hunter2 is wrong, password=other."),
        RetriableError("FLOW_FAILED", "gold failed: the value 'ada@example.org' can't be cast"),
        ValueError("ada@example.org"),
    ]
    with alerts(webhook="env:ALERTS_WEBHOOK") as (one, _):
        for number, error in enumerate(said):
            one(RunEnded(f"flow.{number}", "1", AT, error=error))
    texts = json.dumps(receiver.got)
    assert len(receiver.got) == 3
    assert not [word for word in ("hunter2", "other.", "ada@", PATH) if word in texts]
    assert [one["code"] for one in receiver.got] == ["A", "FLOW_FAILED", None]
