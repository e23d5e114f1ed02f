"""Every flow, for as long as the process lives: run when there is a reason to, started again when it failed."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import structlog

from streams.errors import ConfigurationError, FatalError, StreamsError, UnavailableError
from streams.micro_batch import BatchHeldError
from streams.supervisor.run import drain
from streams.supervisor.turns import Turns
from streams.telemetry.logs import bound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streams.flows.flow import Flow
    from streams.settings import RestartSettings
    from streams.supervisor.service import Service

log = structlog.get_logger(__name__)


class State(StrEnum):
    """What a flow is doing."""

    STARTING = "starting"
    WAITING = "waiting"  # its sources have nothing new
    QUEUED = "queued"  # its sources have something; other flows are at work
    RUNNING = "running"
    BACKING_OFF = "backing off"  # failed, and will be tried again
    HELD = "held"  # a check holds its batch, which is tried again
    FAILED = "failed"  # a person must look
    STOPPED = "stopped"


@dataclass
class _Tended:
    flow: Flow
    state: State = State.STARTING
    error: str | None = None
    seen: object = None  # where the sources stood when the last run began; None: run, whatever they say
    failures: int = 0
    failed_at: deque[float] = field(default_factory=deque)


class Supervisor:
    """Runs each flow in a thread of its own, in one Spark session.

    A flow is run when the position of one of its sources has changed. Nothing polls through Spark, and a flow
    whose upstream has just written is woken at once. So many flows are at work at once as `settings.scheduling`
    allows: more would only make each other slow, and what a flow finds when its turn comes is one batch, not many.
    """

    def __init__(self, flows: Iterable[Flow], service: Service) -> None:
        self._service = service
        self._tended = {flow.name: _Tended(flow) for flow in flows}
        self._turns = Turns(service.settings.scheduling.flows_at_once)
        self._wake = threading.Condition()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start every flow; returns at once."""
        for tended in self._tended.values():
            thread = threading.Thread(target=self._tend, args=(tended,), name=tended.flow.name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def drain(self, seconds: float) -> bool:
        """Let each flow end its batch, then stop; False when some did not within the time given."""
        self._service.draining.set()
        self._notify()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def states(self) -> dict[str, State]:
        """What each flow is doing."""
        return {name: tended.state for name, tended in self._tended.items()}

    def errors(self) -> dict[str, str]:
        """The last error of each flow that is not well."""
        return {name: tended.error for name, tended in self._tended.items() if tended.error}

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
            while not self._service.draining.is_set() and tended.state is not State.FAILED:
                try:
                    self._run_if_needed(tended)
                except Exception as error:
                    self._on_failure(tended, error)
            if tended.state is not State.FAILED:
                self._become(tended, State.STOPPED)

    def _run_if_needed(self, tended: _Tended) -> None:
        service = self._service
        if tended.state is State.STARTING:
            service.prepare(tended.flow)
        position = tended.flow.position(service.spark)
        if position != tended.seen:
            self._become(tended, State.QUEUED)
            with self._turns.turn(service.settings.scheduling.turn_seconds) as is_over:
                if service.draining.is_set():
                    return
                self._become(tended, State.RUNNING)
                # Asked again: what has come since is done in this turn.
                position = tended.flow.position(service.spark)
                run = drain(tended.flow, service, is_over)
            tended.seen, tended.failures, tended.error = position if run.is_through else None, 0, None
            self._become(tended, State.WAITING if run.is_through else State.QUEUED)
            self._notify()
            if not run.is_through:
                return
        elif tended.state is not State.WAITING:
            self._become(tended, State.WAITING)
        self._pause(service.settings.flow(tended.flow.name).poll_seconds, until_woken=True)

    def _on_failure(self, tended: _Tended, error: Exception) -> None:
        tended.error, tended.seen = str(error), None
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
        pause = _pause_before(tended.failures, restart)
        log.warning("flow failed; it will be started again", error=str(error), pause_seconds=round(pause, 1), **facts)
        self._become(tended, State.HELD if isinstance(error, BatchHeldError) else State.BACKING_OFF)
        self._pause(pause, until_woken=False)

    def _is_hopeless(self, tended: _Tended, restart: RestartSettings) -> bool:
        now = time.monotonic()
        tended.failed_at.append(now)
        while tended.failed_at and tended.failed_at[0] < now - restart.window_seconds:
            tended.failed_at.popleft()
        return len(tended.failed_at) > restart.max_restarts

    def _become(self, tended: _Tended, state: State) -> None:
        if tended.state is not state:
            log.debug("flow state", state=state.value, before=tended.state.value)
            tended.state = state

    def _pause(self, seconds: float, *, until_woken: bool) -> None:
        if until_woken:
            with self._wake:
                if not self._service.draining.is_set():
                    self._wake.wait(seconds)
        else:
            self._service.draining.wait(seconds)

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify_all()


def _pause_before(failures: int, restart: RestartSettings) -> float:
    """Growing pauses, with jitter so that flows which failed together do not come back together."""
    pause = min(restart.first_pause_seconds * restart.multiplier ** (failures - 1), restart.max_pause_seconds)
    return float(pause * random.uniform(1 - restart.jitter, 1 + restart.jitter))
