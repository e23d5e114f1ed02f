"""Alerts to a webhook: one message when something begins to be wrong, one when it is well again.

The message is JSON::

    {"text": "lakehouse-streams prod: gold.fact_orders failed. [UPSTREAM_VACUUMED] …",   for Slack and its like
     "incident": "5d1c…", "status": "open" or "resolved",
     "kind": "breach", "failure", "stall" or "gate",
     "subject": "gold.fact_orders",                 the flow, or the layer of the gate
     "environment": "prod", "host": "…",
     "code": "UPSTREAM_VACUUMED" or null, "message": "…", "way_out": "…" or null,
     "since": "2026-06-30T10:00:00.000+00:00", "at": "2026-06-30T10:05:00.000+00:00"}

- ``breach``: a check on a whole batch failed, whatever its flow does then; well with the next batch that passes.
- ``failure``: a flow failed and is not started again (of a job that runs once: any failure); well when it has run.
- ``stall``: a flow that has something to do has done no batch for ``alerts.stall_seconds``, whether it works, waits
  for its turn or fails again and again; well with its next batch, or when it has nothing to do.
- ``gate``: a gate found a check that failed; well with the layer's next gate that passes.

No message holds a secret. What is quoted from Spark may hold a value of a row, so it stays in the log.
"""

from __future__ import annotations

import platform
import queue
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import requests
import structlog
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter
from tenacity.nap import sleep_using_event

from streams.errors import StreamsError
from streams.secrets import SecretReference
from streams.telemetry.events import BatchDone, FlowChanged, GateJudged, RunBegan, RunEnded
from streams.telemetry.logs import masked

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.settings import AlertSettings
    from streams.telemetry.events import Event

log = structlog.get_logger(__name__)
_MOST_WAITING: Final = 200
_TRIES: Final = 6
_ANSWER_WITHIN: Final = (3.0, 10.0)  # seconds: to connect, to answer
_END_WITHIN: Final = 15.0
_LOOK_SECONDS: Final = 1.0
_CHECKED: Final = ("BATCH_HELD", "BATCH_REFUSED")
# Their sentences quote Spark's.
_QUOTING: Final = ("FLOW_FAILED", "QUERY_FAILED")
_AT_WORK: Final = frozenset({"starting", "queued", "running", "backing off"})


@dataclass(frozen=True)
class Incident:
    """Something that is wrong: of one kind and subject there is one at a time."""

    kind: str
    subject: str
    message: str
    code: str | None = None
    way_out: str | None = None
    is_warning: bool = False  # the work went on
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    since: datetime = field(default_factory=lambda: datetime.now(UTC))


_SAID: Final = {
    "breach": "{} breaks a check",
    "failure": "{} failed",
    "stall": "{} stalls",
    "gate": "the gate of {} did not pass",
}


class _RefusedError(Exception):
    """The receiver does not take the message, and will not take it later."""


class _AwayError(Exception):
    """The receiver may take it later."""


class Alerts:
    """A listener.

    Args:
        settings: to whom, and of what.
        environment: which configuration, for whoever reads it.
        count: told of each message: ``sent``, ``failed`` or ``dropped``.
        first_pause: before the second try to send one, in seconds; the next ones are longer.
    """

    def __init__(
        self, settings: AlertSettings, environment: str, count: Callable[[str, str], None], first_pause: float = 1.0
    ) -> None:
        assert settings.webhook is not None
        self._webhook, self._on, self._stall_seconds = settings.webhook, settings.on, settings.stall_seconds
        self._environment, self._count, self._first_pause = environment, count, first_pause
        self._open: dict[tuple[str, str], Incident] = {}
        self._quiet_since: dict[str, float] = {}  # flows at work: since when they have done no batch
        self._supervised: set[str] = set()  # their states say more than their runs' ends
        self._changing = threading.RLock()
        self._messages: queue.Queue[dict[str, Any]] = queue.Queue(_MOST_WAITING)
        self._is_well = True
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="alerts", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Take note of what begins to be wrong, and of what is well again."""
        with self._changing:
            if isinstance(event, FlowChanged):
                self._on_state(event)
            elif isinstance(event, BatchDone):
                self._on_batch(event)
            elif isinstance(event, RunBegan):
                self._quiet_since.setdefault(event.flow, time.monotonic())
            elif isinstance(event, RunEnded) and event.flow not in self._supervised:
                self._quiet_since.pop(event.flow, None)
                if event.error is not None:
                    self._begin(_of_error(event.flow, event.error))
                else:
                    self._is_through(event.flow)
            elif isinstance(event, GateJudged):
                self._on_gate(event)

    def close(self) -> None:
        """Send what waits, without long pauses between tries, and end."""
        self._over.set()
        self._thread.join(_END_WITHIN)

    def _on_state(self, event: FlowChanged) -> None:
        self._supervised.add(event.flow)
        if event.state in _AT_WORK:
            self._quiet_since.setdefault(event.flow, time.monotonic())
        else:
            self._quiet_since.pop(event.flow, None)
        if event.state in ("failed", "held") and event.error is not None:
            self._begin(_of_error(event.flow, event.error))
        elif event.state == "waiting":
            self._is_through(event.flow)
        elif event.state in ("paused", "stopped", "failed"):
            self._end("stall", event.flow)

    def _on_batch(self, event: BatchDone) -> None:
        flow = event.audit.batch.flow
        if flow in self._quiet_since:
            self._quiet_since[flow] = time.monotonic()
        self._end("stall", flow)
        self._end("failure", flow)
        if event.audit.breaches:
            failed = "; ".join(event.audit.breaches)
            self._begin(Incident("breach", flow, f"Its batches go on, but fail: {failed}.", is_warning=True))
        else:
            self._end("breach", flow)

    def _on_gate(self, event: GateJudged) -> None:
        failed = [
            f"{table}: {check.check}"
            for table, checks in event.checks.items()
            for check in checks
            if check.outcome in ("fail", "error")
        ]
        if failed:
            self._begin(Incident("gate", event.layer, f"Failed checks: {'; '.join(failed)}."))
        else:
            self._end("gate", event.layer)

    def _is_through(self, flow: str) -> None:
        """The flow has been through all that its sources have."""
        self._end("stall", flow)
        self._end("failure", flow)
        breach = self._open.get(("breach", flow))
        if breach is not None and not breach.is_warning:
            self._end("breach", flow)

    def _begin(self, incident: Incident) -> None:
        key = (incident.kind, incident.subject)
        if incident.kind in self._on and key not in self._open:
            self._open[key] = incident
            self._put(incident, "open")

    def _end(self, kind: str, subject: str) -> None:
        incident = self._open.pop((kind, subject), None)
        if incident is not None:
            self._put(incident, "resolved")

    def _put(self, incident: Incident, status: str) -> None:
        try:
            self._messages.put_nowait(self._message(incident, status))
        except queue.Full:
            self._count("webhook", "dropped")

    def _message(self, incident: Incident, status: str) -> dict[str, Any]:
        said = _SAID[incident.kind].format(incident.subject)
        code = f"[{incident.code}] " if incident.code else ""
        more = f"{code}{incident.message} {incident.way_out or ''}".strip()
        text = f"well again: {said}, since {incident.since:%H:%M} UTC." if status == "resolved" else f"{said}. {more}"
        message = {
            "text": f"lakehouse-streams {self._environment}: {text}",
            "incident": incident.name,
            "status": status,
            "kind": incident.kind,
            "subject": incident.subject,
            "environment": self._environment,
            "host": platform.node(),
            "code": incident.code,
            "message": incident.message,
            "way_out": incident.way_out,
            "since": incident.since.isoformat(timespec="milliseconds"),
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        return {name: value if value is None else masked(value) for name, value in message.items()}

    def _work(self) -> None:
        while True:
            is_over = self._over.is_set()
            try:
                self._send(self._messages.get(timeout=0 if is_over else min(_LOOK_SECONDS, self._stall_seconds)))
            except queue.Empty:
                if is_over:
                    return
            self._look_for_stalls()

    def _look_for_stalls(self) -> None:
        with self._changing:
            for flow, since in self._quiet_since.items():
                quiet = time.monotonic() - since
                if quiet > self._stall_seconds:
                    message = f"It has something to do, and has done no batch for {quiet:.0f} s."
                    self._begin(Incident("stall", flow, message, way_out=f"streams status; streams restart {flow}"))

    def _send(self, message: dict[str, Any]) -> None:
        patience = Retrying(
            retry=retry_if_exception_type(_AwayError),
            stop=stop_after_attempt(_TRIES),
            wait=wait_exponential_jitter(
                multiplier=self._first_pause, max=60 * self._first_pause, jitter=self._first_pause / 2
            ),
            sleep=sleep_using_event(self._over),
        )
        try:
            patience(self._post, message)
        except Exception as error:  # this thread must outlive whatever the receiver does
            self._count("webhook", "failed")
            cause = error.last_attempt.exception() if isinstance(error, RetryError) else error
            if self._is_well:
                about = f"{message['kind']} {message['subject']}"
                log.warning("an alert could not be sent", about=about, why=str(cause))
            self._is_well = False
        else:
            self._count("webhook", "sent")
            self._is_well = True

    def _post(self, message: dict[str, Any]) -> None:
        url = self._webhook.resolve() if isinstance(self._webhook, SecretReference) else self._webhook
        trouble = None
        try:
            status = requests.post(url, json=message, timeout=_ANSWER_WITHIN).status_code
        except (requests.RequestException, ValueError) as error:  # of an address that is none, too
            trouble = type(error).__name__  # its text has the address, which is a secret
        # Raised out here, so that no traceback has it either.
        if trouble is not None:
            raise _AwayError(trouble)
        if status == requests.codes.too_many_requests or status >= requests.codes.server_error:
            raise _AwayError(f"HTTP {status}")
        if status >= requests.codes.bad_request:
            raise _RefusedError(f"HTTP {status}")


def _of_error(flow: str, error: Exception) -> Incident:
    if not isinstance(error, StreamsError):
        return Incident("failure", flow, f"{type(error).__name__}; its log says more.")
    kind = "breach" if error.code in _CHECKED else "failure"
    message = "Spark could not go on; its log says more." if error.code in _QUOTING else error.message
    return Incident(kind, flow, message, error.code, error.way_out)
