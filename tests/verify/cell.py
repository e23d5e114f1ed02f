"""One lake under faults: what each of its flows has still to do, who runs them, and the faults that strike them."""

from __future__ import annotations

import random
import signal
import time
from collections import deque
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol

from streams.errors import ConfigurationError, FatalError, StreamsError
from streams.flows import all_flows
from streams.supervisor.run import drain
from tests.verify.oracle import compare
from tests.verify.workers import Ran, RefusedError, WorkerGoneError, Workers, armed
from tests.verify.workload import SOURCES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from streams.flows.flow import Flow
    from streams.supervisor.service import Service
    from tests.verify.stack import Stack
    from tests.verify.tally import Tally
    from tests.verify.workload import Workload

_OF_A_RUN: Final = ("query_ended", "through_written")
_UPSERT: Final = ("batch_begun", "lane_written", "data_written", "audit_appended", "audit_written", *_OF_A_RUN)
_LOAD: Final = (
    "target_prepared",
    "files_staged",
    "load_opened",
    "load_copied",
    "load_merged",
    "load_begun",
    "load_committed",
)
POINTS: Final = {
    "bronze": ("batch_begun", "data_written", "lane_written", "audit_appended", "audit_written", *_OF_A_RUN),
    "silver": _UPSERT,
    "gold": _UPSERT,
    "redshift": ("batch_begun", *_LOAD, "data_written", "audit_appended", "audit_written", *_OF_A_RUN),
    "snowflake": ("batch_begun", *_LOAD, "data_written", "audit_appended", "audit_written", *_OF_A_RUN),
}
_ANSWER_SECONDS: Final = 300.0
_TRIES: Final = 5  # a flow that still fails so long after its fault is over does not come back by itself
_token = count()


def _is_final(error: StreamsError | RefusedError) -> bool:
    """Whether the supervisor would leave it to a person."""
    return error.is_final if isinstance(error, RefusedError) else isinstance(error, FatalError | ConfigurationError)


def _fed_by(sources: Sequence[str], flows: Mapping[str, Flow]) -> dict[str, tuple[str, ...]]:
    """What each flow reads, of the flows that these lead to."""
    fed: dict[str, tuple[str, ...]] = {}
    for name, flow in flows.items():  # upstream ones first
        reads = tuple(one for one in flow.reads if one in fed)
        if name in sources or reads:
            fed[name] = reads
    return fed


class StruckError(Exception):
    """The fault has struck: what ran is gone, or has failed."""


class Runner(Protocol):
    """Who runs flows."""

    def run(self, flows: Sequence[str], failpoint: str | None = None) -> Iterator[Ran]:
        """Run flows one after the other, the last with the failpoint; StruckError where that was met."""
        ...

    def ready(self) -> None:
        """Return when there is someone to run them."""
        ...


class InProcess:
    """Flows run in this process's own session, in which a failpoint can only raise."""

    def __init__(self, service: Service) -> None:
        self.service, self.flows = service, all_flows(service.settings)

    def run(self, flows: Sequence[str], failpoint: str | None = None) -> Iterator[Ran]:
        """See `Runner`."""
        for place, name in enumerate(flows):
            is_armed = failpoint is not None and place == len(flows) - 1
            with armed(f"{failpoint}:raise:{next(_token)}" if is_armed else None):
                began = time.monotonic()
                try:
                    run = drain(self.flows[name], self.service)
                except StreamsError as error:
                    if is_armed and "was to fail at" in str(error):
                        raise StruckError from error
                    raise
            yield Ran(name, time.monotonic() - began, run.total("rows_read"), run.total("rows_written"))

    def ready(self) -> None:
        """It is."""


class Killed:
    """Flows run in processes that are killed.

    Args:
        workers: the processes.
        how: ``process`` is killed by itself and its JVM finds out; ``both`` die at once, at the failpoint.
    """

    def __init__(self, workers: Workers) -> None:
        self.workers, self.how = workers, "process"

    def run(self, flows: Sequence[str], failpoint: str | None = None) -> Iterator[Ran]:
        """See `Runner`."""
        worker = self.workers.current()
        if failpoint is not None:
            failpoint = f"{failpoint}:{'stop' if self.how == 'both' else 'kill'}:{next(_token)}"
        worker.tell("drain", flows=list(flows), failpoint=failpoint)
        yield from self.answers(failpoint is not None)

    def ready(self) -> None:
        """The one that stood by; on a busy machine it may still be starting."""
        self.workers.current()

    def answers(self, is_to_die: bool) -> Iterator[Ran]:
        worker = self.workers.current()
        try:
            yield from worker.answers(_ANSWER_SECONDS)
        except WorkerGoneError as error:
            self.workers.drop()
            if is_to_die:
                raise StruckError from error
            raise


@dataclass(frozen=True)
class Target:
    """A failpoint to be met."""

    flow: str
    point: str
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.flow} {self.point}" + (f" {self.nth}" if self.nth > 1 else "")


class Cell:
    """A lake, its stack and workload.

    Args:
        stack, workload: its own.
        service: with a session to compare by; never killed.
        tally: told of each fault.
        seed: of all that is left to chance.
        name: of what strikes here.
        sources: the bronze flows that are fed; what none of them leads to is left out.
    """

    def __init__(
        self,
        stack: Stack,
        workload: Workload,
        service: Service,
        tally: Tally,
        seed: int,
        name: str,
        sources: Sequence[str] = SOURCES,
    ) -> None:
        self.stack, self.workload, self.service, self.tally = stack, workload, service, tally
        self.chance = random.Random(f"{name} {seed}")
        self.sources = tuple(sources)
        self.reads = _fed_by(sources, all_flows(stack.settings))
        self.order = list(self.reads)
        self.pending: set[str] = set()
        self.since: deque[str] = deque(maxlen=60)  # the faults since all was well
        self.kind = name

    # --- running ---

    def run(self, runner: Runner, flows: Sequence[str], failpoint: str | None = None) -> None:
        """Run flows; what they wrote is for others to read."""
        if not flows:
            return
        for ran in runner.run(flows, failpoint):
            self.note(ran)

    def note(self, ran: Ran) -> None:
        self.pending.discard(ran.flow)
        if ran.written:
            self.pending.update(name for name, reads in self.reads.items() if ran.flow in reads)

    def feed(self, source: str, amount: int | None = None) -> None:
        """Send some more to a source."""
        self.workload.feed(source, amount)
        self.pending.add(source)

    def give_work(self, runner: Runner, flow: str) -> None:
        """See to it that a flow has something to read: not all that a source sends changes a row that it reads."""
        for _ in range(_TRIES):
            if flow in self.pending:
                return
            path = self.path_to(flow)
            # What was not read yet must be, before more of the same keys comes.
            self.run(runner, [name for name in path if name in self.pending])
            if flow not in self.pending:
                self.feed(path[0])
                self.run(runner, path[:-1])

    def catch_up(self, runner: Runner, flow: str) -> None:
        """Run a flow as the supervisor would: again, after growing pauses, when it fails by what may pass."""
        self.pending.add(flow)
        for number in range(_TRIES):
            try:
                self.run(runner, [flow])
            except (StreamsError, RefusedError) as error:
                if number == _TRIES - 1 or _is_final(error):
                    raise
                self.tally.say(f"      {flow} fails once more: {error}")
                time.sleep(0.5 * 2**number)
            else:
                return

    def path_to(self, flow: str) -> list[str]:
        """From one of its sources, by chance, through what lies between, to the flow itself."""
        path = [flow]
        while path[0] not in SOURCES:
            path.insert(0, self.chance.choice(self.reads[path[0]]))
        return path

    def settle(self, runner: Runner) -> None:
        """Run all that has something to do, until nothing has."""
        while self.pending:
            self.run(runner, [next(name for name in self.order if name in self.pending)])

    def check(self, runner: Runner) -> bool:
        """Settle, and compare all tables with the oracle; false when they do not agree."""
        self.settle(runner)
        found = compare(self.service, self.stack, self.workload)
        self.tally.checked(found, self.kind, tuple(self.since))
        if found.agrees:
            self.since.clear()
        return found.agrees

    def struck(self, kind: str, what: str, seconds: float | None = None) -> None:
        """A fault has struck, and was overcome."""
        self.kind = kind
        self.since.append(f"{kind} {what}")
        self.tally.tried(kind, what, seconds)

    # --- faults ---

    def fail_at(self, runner: Runner, kind: str, target: Target) -> None:
        """Have a flow fail, or die, at a point; then run it again."""
        self.give_work(runner, target.flow)
        try:
            self.run(runner, [target.flow], f"{target.flow}:{target.point}:{target.nth}")
        except StruckError:
            runner.ready()
            began = time.monotonic()
            self.catch_up(runner, target.flow)
            self.struck(kind, str(target), time.monotonic() - began)
        else:
            self.tally.missed(kind)

    def fail_anywhere(self, runner: Runner, kind: str, flow: str, point: str, nth: int = 1) -> None:
        """The same for a point that stands for something else than the flow."""
        self.give_work(runner, flow)
        try:
            self.run(runner, [flow], f"*:{point}:{nth}")
        except StruckError:
            runner.ready()
            began = time.monotonic()
            self.catch_up(runner, flow)
            self.struck(kind, f"{flow} {point} {nth}", time.monotonic() - began)
        else:
            self.tally.missed(kind)

    def kill_at_random(self, runner: Killed, flow: str) -> None:
        """Kill a process some time after it has begun to run a flow and those after it."""
        self.give_work(runner, flow)
        after = [flow]
        while readers := [name for name, reads in self.reads.items() if after[-1] in reads]:
            after.append(self.chance.choice(readers))
        what = self.chance.choice(("process", "process", "both", "both", "jvm"))
        worker, deadline = runner.workers.current(), time.monotonic() + self.chance.uniform(0.05, 4.0)
        worker.tell("drain", flows=after)
        ran = runner.answers(is_to_die=True)
        try:
            while time.monotonic() < deadline:
                time.sleep(min(0.05, max(0.0, deadline - time.monotonic())))
            worker.kill(what)
            for one in ran:
                self.note(one)
        except (StruckError, RefusedError):
            pass
        else:
            self.tally.missed("kill at random")  # all was done before
        runner.workers.drop()
        self.pending.update(after)
        runner.ready()
        began = time.monotonic()
        self.catch_up(runner, after[0])
        self.struck("kill at random", f"{after[0]} and after ({what})", time.monotonic() - began)
        self.run(runner, after[1:])

    def kill_beside(self, runner: Killed, do: str, table: str, point: str) -> None:
        """Kill a process that looks after a table (``maintain``) or makes it anew (``reset``); then do that again."""
        self.give_work(runner, table)
        self.settle(runner)
        if do == "reset":
            self.workload.sent.made_anew.add(table)
        how = "stop" if runner.how == "both" else "kill"
        runner.workers.current().tell(do, table=table, failpoint=f"{table}:{point}:1:{how}:{next(_token)}")
        try:
            list(runner.answers(is_to_die=True))
        except StruckError:
            runner.ready()
            began = time.monotonic()
            runner.workers.current().tell(do, table=table)
            list(runner.answers(is_to_die=False))
            self.struck(do, f"{table} {point}", time.monotonic() - began)
        else:
            self.tally.missed(do)
        self.pending.update(name for name, reads in self.reads.items() if table in reads)

    def stop_for_a_while(self, runner: Killed, flow: str, seconds: float) -> None:
        """A process is stopped (SIGSTOP) in its work, and goes on later as if no time had passed."""
        self.give_work(runner, flow)
        worker = runner.workers.current()
        worker.tell("drain", flows=[flow])
        time.sleep(self.chance.uniform(0.05, 2.0))
        worker.signal(signal.SIGSTOP)
        time.sleep(seconds)
        worker.signal(signal.SIGCONT)
        began = time.monotonic()
        try:
            for one in runner.answers(is_to_die=False):
                self.note(one)
        except RefusedError:
            self.catch_up(runner, flow)
        self.struck("stopped", f"{flow} for {seconds:.0f} s", time.monotonic() - began)

    def sweep(self, number: int) -> list[Target]:
        """A point for each flow, upstream ones first; of each flow another one each time."""
        targets = []
        for place, flow in enumerate(self.order):
            points = POINTS[flow.partition(".")[0]]
            targets.append(Target(flow, points[(number + place) % len(points)]))
        return targets
