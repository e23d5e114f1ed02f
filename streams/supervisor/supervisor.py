"""Every flow, for as long as the process lives: run when there is a reason to, started again when it failed."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import structlog

from streams.errors import ConfigurationError, FatalError, StreamsError, UnavailableError
from streams.micro_batch import BatchHeldError
from streams.small_files import small_files
from streams.supervisor.control import Change, Control, FlowReport, Order, Process
from streams.supervisor.lease import LeaseLostError
from streams.supervisor.maintenance import SHARED
from streams.supervisor.run import Stall, drain
from streams.supervisor.turns import Turns
from streams.supervisor.upkeep import Upkeep
from streams.telemetry.events import BatchDone, FlowChanged
from streams.telemetry.logs import bound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from streams.flows.flow import Flow
    from streams.settings import RestartSettings
    from streams.supervisor.run import FlowRun
    from streams.supervisor.service import Service
    from streams.telemetry.events import Event
    from streams.telemetry.freshness import Freshness

log = structlog.get_logger(__name__)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class State(StrEnum):
    """What a flow is doing."""

    STARTING = "starting"
    STANDBY = "standby"  # another process holds it; this one takes over when that is gone
    WAITING = "waiting"  # its sources have nothing new
    QUEUED = "queued"  # its sources have something; other flows are at work
    RUNNING = "running"
    BACKING_OFF = "backing off"  # failed, and will be tried again
    HELD = "held"  # a check holds its batch, which is tried again
    PAUSED = "paused"  # until a person resumes it
    FAILED = "failed"  # a person must look
    DRAINING = "draining"  # ends its batch, then stops
    STOPPED = "stopped"


# Changes to and from these are what people ask about later; the others come and go with each batch.
_NOTABLE: Final = frozenset({State.BACKING_OFF, State.HELD, State.PAUSED, State.FAILED, State.STOPPED})
_CHANGES_KEPT: Final = 200
_SHARED_LEASE: Final = "_shared tables"  # whose holder looks after the tables that no flow has for itself
_CONTROL_SECONDS: Final = 2.0
_REPORT_SECONDS: Final = 10.0  # at least so often, that its age tells whether the service lives


@dataclass
class _Tended:
    flow: Flow
    state: State = State.STARTING
    since: str = field(default_factory=_now)
    error: StreamsError | Exception | None = None
    order: Order = field(default_factory=Order)
    answered: int = 0  # of the order's asks, how many are through
    stall: Stall | None = None  # of the query that runs
    moved_at: float = field(default_factory=time.monotonic)  # when anything of it was last seen to move
    ends_early: bool = False  # was paused or is to start again: its query ends after the batch
    counts: Counter[str] = field(default_factory=Counter)
    last_batch_at: str | None = None
    freshness: Freshness | None = None
    seen: object = None  # where the sources stood when the last run began; None: run, whatever they say
    failures: int = 0
    failed_at: deque[float] = field(default_factory=deque)
    is_told: bool = False  # knows what was wanted before the service began

    def report(self, holder: str, lag: dict[int, int] | None = None) -> FlowReport:
        error, freshness = self.error, self.freshness
        return FlowReport(
            state=self.state.value,
            since=self.since,
            error=None if error is None else error.message if isinstance(error, StreamsError) else str(error),
            code=error.code if isinstance(error, StreamsError) else None,
            way_out=error.way_out if isinstance(error, StreamsError) else None,
            failures=self.failures,
            batches=self.counts["batches"],
            rows_read=self.counts["rows_read"],
            rows_written=self.counts["rows_written"],
            rows_duplicate=self.counts["rows_duplicate"],
            rows_stale=self.counts["rows_stale"],
            rows_error=self.counts["rows_error"],
            last_batch_at=self.last_batch_at,
            holder="" if self.state is State.STANDBY else holder,
            answered=self.answered,
            freshness_p50=None if freshness is None else freshness.p50,
            freshness_p99=None if freshness is None else freshness.p99,
            kafka_lag=None if lag is None else {str(partition): messages for partition, messages in lag.items()},
        )


class Supervisor:
    """Runs each flow in a thread of its own, in one Spark session.

    A flow is run when the position of one of its sources has changed. Nothing polls through Spark, and a flow
    whose upstream has just written is woken at once, and is the next. Few flows are at work at once (see `Turns` and
    `settings.scheduling`): more would only make each other slow, and what a flow finds when its turn comes is one
    batch, not many.

    A flow that another process holds is left to it, and taken over when that process is gone: a second supervisor on
    the same lake stands by.
    """

    def __init__(self, flows: Iterable[Flow], service: Service) -> None:
        self._service = replace(service, listeners=(self._on_event, *service.listeners))
        self._tended = {flow.name: _Tended(flow) for flow in flows}
        files = small_files(service.settings.checkpoints.root)
        self.control, self._upkeep = Control(files), Upkeep(self._service, files)
        self._unsaid: deque[Change] = deque(maxlen=_CHANGES_KEPT)
        scheduling = service.settings.scheduling
        # Those that wait for another system's answers are no reason for the others to wait too.
        self._turns = {
            system: Turns(scheduling.short_turns_at_once, scheduling.flows_at_once, scheduling.turn_seconds)
            for system in {"", *(one.flow.waits_for for one in self._tended.values())}
        }
        self._wake = threading.Condition()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start every flow; returns at once.

        Raises:
            StreamsError: the storage of the checkpoints does not answer.
        """
        self._obey()
        for name, work in (("control", self._watch), ("upkeep", self._look_after_shared)):
            self._threads.append(threading.Thread(target=work, name=name, daemon=True))
            self._threads[-1].start()
        for tended in self._tended.values():
            thread = threading.Thread(target=self._tend, args=(tended,), name=tended.flow.name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def drain(self, seconds: float) -> bool:
        """Let each flow end its batch, then stop; False when some did not within the time given."""
        self._service.draining.set()
        if self._service.leases is not None:
            self._service.leases.confirm(seconds + _REPORT_SECONDS)  # nobody watches any more
        for tended in self._tended.values():
            if tended.state is State.RUNNING:
                self._become(tended, State.DRAINING)
        self._notify()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with suppress(StreamsError):
            self._say(self.reports())
        has_ended = not any(thread.is_alive() for thread in self._threads)
        if has_ended and self._service.leases is not None:
            self._service.leases.release(*self._tended, _SHARED_LEASE)
        return has_ended

    def states(self) -> dict[str, State]:
        """What each flow is doing."""
        return {name: tended.state for name, tended in self._tended.items()}

    def errors(self) -> dict[str, str]:
        """The last error of each flow that is not well."""
        return {name: str(tended.error) for name, tended in self._tended.items() if tended.error}

    def reports(self) -> dict[str, FlowReport]:
        """What each flow is doing, as the status page and the command line have it."""
        run, kafka = self._service.run_id, self._service.kafka
        return {name: one.report(run, kafka.lag(name) if kafka else None) for name, one in self._tended.items()}

    def is_idle(self) -> bool:
        """Whether every flow has been through all that its sources have now."""
        return all(
            tended.state is State.WAITING and tended.flow.position(self._service.spark) == tended.seen
            for tended in self._tended.values()
        )

    def wait(self, seconds: float) -> None:
        """Sleep until a flow has done something, or the time is over."""
        with self._wake:
            self._wake.wait(seconds)

    def _tend(self, tended: _Tended) -> None:
        with bound(run=self._service.run_id, flow=tended.flow.name):
            while not self._service.draining.is_set():
                tended.ends_early = False
                try:
                    if tended.state is State.FAILED:
                        self._wait_aside(tended, State.FAILED)
                    elif tended.order.paused:
                        self._wait_aside(tended, State.PAUSED)
                    else:
                        self._try_to_run(tended)
                except Exception:
                    # Nobody else would see that this thread has ended.
                    log.exception("flow could not be looked after; tried again")
                    self._pause(_CONTROL_SECONDS)
            if tended.state is not State.FAILED:
                self._become(tended, State.STOPPED)

    def _wait_aside(self, tended: _Tended, state: State) -> None:
        """Until a person wants something; who mends the flow by a command meanwhile may hold it."""
        self._become(tended, state)
        if self._service.leases is not None:
            self._service.leases.release(tended.flow.name)
        self._pause(_CONTROL_SECONDS)

    def _try_to_run(self, tended: _Tended) -> None:
        try:
            self._run_if_held(tended)
        except Exception as error:
            self._on_failure(tended, error)

    def _run_if_held(self, tended: _Tended) -> None:
        if self._holds(tended.flow.name):
            if tended.state is State.STANDBY:
                # Its holder went further than what this process saw of its sources.
                tended.seen, tended.error, tended.failures = None, None, 0
                self._become(tended, State.STARTING)
            self._run_if_needed(tended)
        else:
            self._stand_by(tended)

    def _stand_by(self, tended: _Tended) -> None:
        tended.error = None
        self._become(tended, State.STANDBY)
        self._pause(_CONTROL_SECONDS)

    def _run_if_needed(self, tended: _Tended) -> None:
        service, turns = self._service, self._turns[tended.flow.waits_for]
        if tended.state is State.STARTING:
            service.prepare(tended.flow)
        if self._upkeep.is_due(tended.flow.name):
            with turns.turn(tended.flow.name):
                self._upkeep.look_after(tended.flow.name)
        position = tended.flow.position(service.spark)
        if position != tended.seen or tended.order.asks > tended.answered:
            self._become(tended, State.QUEUED)
            with turns.turn(tended.flow.name) as is_over:
                if service.draining.is_set() or tended.ends_early:
                    return
                self._become(tended, State.RUNNING)
                # Asked again: what has come since is done in this turn.
                asks, position = tended.order.asks, tended.flow.position(service.spark)
                run = self._drain(tended, is_over)
                for table in (tended.flow.name, "audit.batches"):
                    self._upkeep.wrote(table, run.batches)
                if run.is_through:
                    tended.answered = max(tended.answered, asks)
                tended.seen, tended.failures, tended.error = position if run.is_through else None, 0, None
                self._become(tended, State.WAITING if run.is_through else State.QUEUED)
                # Those that are woken are expected before the place is free for others.
                if run.batches:
                    turns.hand_on(tended.flow.name, self._waiting_for(tended.flow))
                self._notify()
            if not run.is_through:
                return
        elif tended.state is not State.WAITING:
            self._become(tended, State.WAITING)
        self._pause(service.settings.flow(tended.flow.name).poll_seconds)

    def _drain(self, tended: _Tended, is_over: Callable[[], bool]) -> FlowRun:
        def on_start(stall: Stall) -> None:
            tended.stall, tended.moved_at = stall, time.monotonic()

        try:
            # A turn is one batch at least: two flows that make room for each other both get on.
            return drain(
                tended.flow, self._service, lambda done: tended.ends_early or (done > 0 and is_over()), on_start
            )
        finally:
            tended.stall = None

    def _waiting_for(self, flow: Flow) -> list[str]:
        """The flows of its kind that read what this one writes, and will when they are woken."""
        readers = [one for one in self._tended.values() if flow.name in one.flow.reads]
        alike = [one for one in readers if one.flow.waits_for == flow.waits_for]
        return [one.flow.name for one in alike if one.state in (State.WAITING, State.QUEUED)]

    def _end_stalled(self) -> None:
        """End the queries in which nothing has moved for too long; their flows then try again."""
        now = time.monotonic()
        for tended in self._tended.values():
            stall = tended.stall
            if stall is None or stall.has_ended_it:
                continue
            if stall.has_moved():
                tended.moved_at = now
            elif now - tended.moved_at > stall.patience:
                log.error("flow has stalled; its query is ended", flow=tended.flow.name, seconds=now - tended.moved_at)
                # Not in this thread: a query that does not come back must not keep the others from being watched.
                threading.Thread(target=stall.end_it, name=f"ending {tended.flow.name}", daemon=True).start()

    def _on_failure(self, tended: _Tended, error: Exception) -> None:
        tended.error, tended.seen = error, None
        if self._has_lost(tended.flow.name):
            log.warning("another process may hold the flow by now; this one stands by", error=str(error))
            self._stand_by(tended)
            return
        restart = self._service.settings.restart
        facts = {"code": error.code, "way_out": error.way_out} if isinstance(error, StreamsError) else {}
        if isinstance(error, FatalError | ConfigurationError):
            log.error("flow failed; it is not started again", error=str(error), **facts)
            self._become(tended, State.FAILED)
            return
        tended.failures += 1
        waits = isinstance(error, UnavailableError | BatchHeldError)
        if not waits and self._is_hopeless(tended, restart):
            log.error(
                "flow failed too often; it is not started again", error=str(error), failures=tended.failures, **facts
            )
            self._become(tended, State.FAILED)
            return
        pause = restart.pause_before(tended.failures)
        log.warning("flow failed; it will be started again", error=str(error), pause_seconds=round(pause, 1), **facts)
        self._become(tended, State.HELD if isinstance(error, BatchHeldError) else State.BACKING_OFF)
        with self._wake:
            self._wake.wait_for(lambda: self._service.draining.is_set() or tended.ends_early, pause)

    def _has_lost(self, flow: str) -> bool:
        try:
            self._service.check_held(flow)
        except LeaseLostError:
            return True
        return False

    def _is_hopeless(self, tended: _Tended, restart: RestartSettings) -> bool:
        now = time.monotonic()
        tended.failed_at.append(now)
        while tended.failed_at and tended.failed_at[0] < now - restart.window_seconds:
            tended.failed_at.popleft()
        return len(tended.failed_at) > restart.max_restarts

    def _become(self, tended: _Tended, state: State) -> None:
        before = tended.state
        if before is state:
            return
        log.debug("flow state", state=state.value, before=before.value)
        tended.state, tended.since = state, _now()
        at = datetime.fromisoformat(tended.since)
        self._service.tell(FlowChanged(tended.flow.name, state.value, before.value, at, tended.error))
        if state in _NOTABLE or before in _NOTABLE:
            error = str(tended.error) if tended.error and state in _NOTABLE else None
            self._unsaid.append(Change(tended.since, tended.flow.name, state.value, error))

    def _on_event(self, event: Event) -> None:
        if isinstance(event, BatchDone):
            tended = self._tended[event.audit.batch.flow]
            tended.counts.update(vars(event.audit.counts) | {"batches": 1})
            tended.last_batch_at = _now()
            tended.freshness = event.audit.freshness or tended.freshness

    def _watch(self) -> None:
        """Do what people want, and say what the flows do.

        What it asks of the JVM tells that this answers: while it does not, the leases are not renewed, so that another
        process takes the flows over.
        """
        said, said_at = None, 0.0
        while not self._service.draining.wait(_CONTROL_SECONDS):
            try:
                self._obey()
                self._service.spark.sparkContext.version  # noqa: B018 - an answer is all that is wanted
                if self._service.leases is not None:
                    self._service.leases.confirm()
                self._end_stalled()
                reports = self.reports()
                if reports != said or time.monotonic() - said_at > _REPORT_SECONDS:
                    self._say(reports)
                    said, said_at = reports, time.monotonic()
            except Exception as error:
                log.warning("the flows' control files can't be read or written", error=str(error))

    def _say(self, reports: dict[str, FlowReport]) -> None:
        changes = tuple(self._unsaid)
        self.control.say(Process(self._service.run_id, platform.node(), os.getpid(), _now()), reports, changes)
        for _ in changes:
            self._unsaid.popleft()

    def _look_after_shared(self) -> None:
        """Tables that no flow has for itself."""
        while not self._service.draining.wait(_CONTROL_SECONDS):
            for table in SHARED:
                try:
                    self._look_after_if_due(table)
                except Exception as error:
                    log.warning("shared table can't be looked after", table=table, error=str(error))

    def _look_after_if_due(self, table: str) -> None:
        if self._upkeep.is_due(table) and self._holds(_SHARED_LEASE):
            with self._turns[""].turn(table):
                if not self._service.draining.is_set():
                    self._upkeep.look_after(table)

    def _holds(self, name: str) -> bool:
        leases = self._service.leases
        return leases is None or leases.acquire(name)

    def _obey(self) -> None:
        for name, order in self.control.orders().items():
            tended = self._tended.get(name)
            if tended is None or tended.order == order:
                continue
            is_restart = order.restarts != tended.order.restarts and tended.is_told
            if is_restart:
                tended.failures, tended.error, tended.seen = 0, None, None
                tended.failed_at.clear()
            tended.ends_early = is_restart or order.paused
            tended.order = order
            if is_restart and tended.state is State.FAILED:
                self._become(tended, State.STARTING)
            self._notify()
        for tended in self._tended.values():
            tended.is_told = True

    def _pause(self, seconds: float) -> None:
        """Until another flow has done something, a person wants something, or the time is over."""
        with self._wake:
            if not self._service.draining.is_set():
                self._wake.wait(seconds)

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify_all()
