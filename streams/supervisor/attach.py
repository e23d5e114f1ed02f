"""A daily job's run of a flow: by this process, or by the one that holds the flow, which is waited for."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import structlog
from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_when_event_set
from tenacity.nap import sleep_using_event

from streams.errors import FatalError, RetriableError, UnavailableError
from streams.micro_batch import BatchHeldError
from streams.small_files import small_files
from streams.supervisor.control import Control
from streams.supervisor.run import FlowRun, drain

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from streams.flows.flow import Flow
    from streams.supervisor.control import FlowReport
    from streams.supervisor.service import Service

log = structlog.get_logger(__name__)
_LOOK_SECONDS: Final = 1.0
_TELL_SECONDS: Final = 60.0
_COUNTS: Final = ("batches", "rows_read", "rows_written", "rows_duplicate", "rows_stale", "rows_error")


def run_or_attach(flow: Flow, service: Service) -> FlowRun:
    """Run a flow until what is at its sources now is through, whoever does it.

    Nobody holds the flow: this process does, and runs it. A supervisor does: it is asked to run the flow once more, and
    waited for; the counts are then those of all that it did meanwhile. Another job does: it is waited for, and what is
    left then is run here. A holder that is gone is taken over from.

    Raises:
        FatalError: ``FLOW_PAUSED``, or what made the flow fail under its supervisor.
        RetriableError: ``BATCH_HELD``: a check holds the flow's batch.
        StreamsError: what `drain` raises.
    """
    leases = service.leases
    if leases is None:
        return _drained(flow, service)
    control = Control(small_files(service.settings.checkpoints.root))
    attached: _Attached | None = None
    told_at = -_TELL_SECONDS
    while True:
        if control.is_paused(flow.name):
            raise FatalError(
                "FLOW_PAUSED",
                f"{flow.name} is paused, so nothing of it is run.",
                way_out=f"To let it go on: streams resume {flow.name}",
            )
        if leases.acquire(flow.name):
            try:
                return _drained(flow, service)
            finally:
                leases.release(flow.name)
        if service.draining.is_set():
            return FlowRun(flow.name, is_through=False)
        holder = leases.holder_of(flow.name)
        report = control.report()
        said = report.flows.get(flow.name) if report else None
        if holder is not None and said is not None and said.holder == holder.run_id:
            if attached is None or attached.holder != holder.run_id:
                attached = _Attached(holder.run_id, said, control.ask(flow.name))
                told_at = -_TELL_SECONDS
            elif said.answered >= attached.asked:
                return FlowRun(flow.name, elsewhere=attached.counted(said))
            _raise_trouble(flow.name, said)
        if holder is not None and time.monotonic() - told_at > _TELL_SECONDS:
            told_at = time.monotonic()
            log.info("waiting for the process that holds the flow", flow=flow.name, pid=holder.pid, host=holder.host)
        service.draining.wait(_LOOK_SECONDS)


def _drained(flow: Flow, service: Service) -> FlowRun:
    """Tried again where that may help: a check's judgement stays, and what is away was waited for by who asked it."""
    restart, done = service.settings.restart, FlowRun(flow.name)

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning("flow failed; it is tried again", flow=flow.name, error=str(error), attempt=state.attempt_number)

    trying = Retrying(
        retry=retry_if_exception(
            lambda error: isinstance(error, RetriableError) and not isinstance(error, UnavailableError | BatchHeldError)
        ),
        stop=stop_after_attempt(restart.job_attempts) | stop_when_event_set(service.draining),
        wait=lambda state: restart.pause_before(state.attempt_number),
        sleep=sleep_using_event(service.draining),
        before_sleep=tell,
        reraise=True,
    )
    return trying(drain, flow, service, done=done)


class _Attached:
    """A supervisor that was asked."""

    def __init__(self, holder: str, before: FlowReport, asked: int) -> None:
        self.holder, self.before, self.asked = holder, before, asked

    def counted(self, now: FlowReport) -> Counter[str]:
        """What it did since."""
        return Counter({name: getattr(now, name) - getattr(self.before, name) for name in _COUNTS})


def _raise_trouble(flow: str, said: FlowReport) -> None:
    """What a job that runs the flow itself would raise."""
    if said.state == "failed":
        raise FatalError(said.code or "FLOW_FAILED", said.error or f"{flow} failed.", way_out=said.way_out)
    if said.state == "held":
        raise RetriableError(said.code or "BATCH_HELD", said.error or f"{flow} is held.", way_out=said.way_out)
