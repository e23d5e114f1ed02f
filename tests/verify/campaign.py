"""A whole run: which faults strike which lake, in which order. One lake's processes are killed, the other's flows fail."""

from __future__ import annotations

import shutil
import threading
import traceback
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from streams.local.broker import Broker
from streams.session import build_session
from streams.supervisor.service import Service
from streams.telemetry.logs import configure_logging
from tests.verify import evolution
from tests.verify.bad_input import send_bad_input
from tests.verify.cell import Cell, InProcess, Killed
from tests.verify.disk import Disk, disk_scenarios
from tests.verify.outside import scenarios, second_supervisor
from tests.verify.stack import Stack
from tests.verify.workers import WorkerProcess, Workers
from tests.verify.workload import EVENTS, RATES, SOURCES, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tests.verify.cell import Target
    from tests.verify.tally import Tally

KILLS: Final = ("kill", "kill at random", "stopped", "two supervisors", "maintain", "reset")
OUTSIDE: Final = ("s3", "redshift", "snowflake", "salesforce", "broker", "clock", "worker killed", "disk")
KINDS: Final = (*KILLS, "raise", *OUTSIDE, "bad input", "schema")


@dataclass(frozen=True)
class Options:
    """What is tried.

    Args:
        seed: of the workload and of all that is left to chance.
        kinds: only faults of these.
        faults: about how many.
        inputs: how many mutated ones.
        stall_seconds: how long what stands still does so.
        check_every: after how many faults all tables are compared.
        sources: the bronze flows that are fed.
    """

    seed: int = 7
    kinds: tuple[str, ...] = KINDS
    faults: int = 320
    inputs: int = 100_000
    stall_seconds: float = 20.0
    check_every: int = 29
    sources: tuple[str, ...] = SOURCES

    def wants(self, *kinds: str) -> bool:
        return any(kind in self.kinds for kind in kinds)


def run(options: Options, folder: Path, tally: Tally) -> None:
    """Try it all; `tally` has what came of it."""
    threads = []
    with ExitStack() as stack:
        disk = stack.enter_context(Disk(folder / "failing" / "disk"))
        if options.wants("disk") and not disk.is_there:
            tally.note("No file system can be mounted here: a full disk and a read-only one were not tried.")
        on_disk = {name: {"root": str(disk.folder / name)} for name in ("lake", "checkpoints")}
        failing = stack.enter_context(
            Stack(folder / "failing" / "cell", stack.enter_context(Broker(folder / "failing" / "broker")), **on_disk)
        )
        configure_logging(failing.settings.logging.model_copy(update={"level": "error"}), "verify")
        spark = build_session(failing.settings)
        stack.callback(spark.stop)
        # Its share comes from its own seed, so that the faults of one lake do not depend on the other's.
        if options.wants(*KILLS):
            killed = stack.enter_context(
                Stack(folder / "killed" / "cell", stack.enter_context(Broker(folder / "killed" / "broker")))
            )
            workload = Workload(options.seed, killed)
            service = Service(lambda: spark, killed.settings, run_id="verify")
            cell = Cell(killed, workload, service, tally, options.seed, "kill", options.sources)
            workers = stack.enter_context(Workers(killed.config, folder / "killed" / "logs", ahead=2))
            threads.append(_thread(tally, "kill", lambda: kill(cell, Killed(workers), options)))
        service = Service(lambda: spark, failing.settings, run_id="verify")
        workload = Workload(options.seed, failing)
        other = Cell(failing, workload, service, tally, options.seed, "raise", options.sources)
        _guarded(tally, "raise", lambda: fail(other, InProcess(service), options, disk))
        for thread in threads:
            thread.join()
        if options.wants(*KILLS) and workers.started:
            tally.note(
                f"A process and its session take {min(workers.started):.0f} to {max(workers.started):.0f} s to start; one stands by."
            )


def kill(cell: Cell, runner: Killed, options: Options) -> None:
    """Processes of one lake, killed at every failpoint, and at random."""
    tally = cell.tally
    wanted = max(4, int(options.faults * 0.42))

    def done() -> int:
        return sum(tally.kinds[kind].tried for kind in KILLS if kind in tally.kinds)

    for source in cell.sources:
        cell.feed(source)
    # An empty lake, whose tables are being made.
    for flow, point, nth in _FIRST:
        if options.wants("kill") and done() < wanted and flow in cell.reads:
            runner.how = cell.chance.choice(("process", "both"))
            cell.fail_anywhere(runner, "kill", flow, point, nth)
    number = cell.chance.randrange(7)
    while done() < wanted:
        struck = done()
        for target in cell.sweep(number):
            if done() < wanted:
                _strike(cell, runner, target, options)
        if options.wants("two supervisors"):
            second_supervisor(cell, runner)
        for do, table, point in _BESIDE:
            if options.wants(do) and table in cell.reads and done() < wanted:
                runner.how = cell.chance.choice(("process", "both"))
                cell.kill_beside(runner, do, table, point)
        if not cell.check(runner) or done() == struck:
            return
        number += 8  # so that each flow meets other points than in the sweep before


_BESIDE: Final = (
    *(("maintain", "silver.order_events", point) for point in ("tombstones_expired", "files_compacted")),
    ("maintain", "bronze.order_events", "files_vacuumed"),
    *(("reset", "silver.order_events", point) for point in ("table_rebuilt", "table_replaced", "data_written")),
    ("reset", "gold.fact_orders", "checkpoint_set_aside"),
)


def _strike(cell: Cell, runner: Killed, target: Target, options: Options) -> None:
    dice = cell.chance.random()
    runner.how = cell.chance.choice(("process", "both"))
    if options.wants("kill at random") and (dice < 0.25 or not options.wants("kill")):
        cell.kill_at_random(runner, target.flow)
    elif options.wants("stopped") and (dice < 0.3 or not options.wants("kill")):
        cell.stop_for_a_while(runner, target.flow, options.stall_seconds / 2)
    elif options.wants("kill"):
        cell.fail_at(runner, "kill", target)


_FIRST: Final = (
    *((EVENTS, "table_made", nth) for nth in (1, 2)),
    (EVENTS, "source_remembered", 1),
    (RATES, "table_made", 1),
    ("silver.order_events", "table_made", 1),
    ("bronze.snowflake_customers", "draft_written", 1),
    (EVENTS, "draft_written", 1),
    ("silver.fx_rates", "draft_written", 1),
)


def fail(cell: Cell, runner: InProcess, options: Options, disk: Disk) -> None:
    """Flows of the other lake: they fail at every failpoint, and what they need fails around them."""
    outside = [*scenarios(options.stall_seconds), *(disk_scenarios(disk) if disk.is_there else [])]
    outside = [one for one in outside if options.wants(one.kind) and one.flow in cell.reads]
    cell.chance.shuffle(outside)
    raises = int(options.faults * 0.35) if options.wants("raise") else 0
    if options.faults < len(outside):
        outside = outside[: max(4, options.faults // 3)]
    waiting = iter(outside)
    for source in cell.sources:
        cell.feed(source)
    number = cell.chance.randrange(7)
    every = max(1, raises // max(1, len(outside)))
    targets: list[Callable[[], None]] = []
    while len(targets) < raises:
        targets += [lambda t=target: cell.fail_at(runner, "raise", t) for target in cell.sweep(number)]
        number += 1
    faults = list(_interleaved(targets[:raises], [lambda s=one: s.run(cell, runner) for one in waiting], every))
    for place, fault in enumerate(faults, start=1):
        fault()
        if place % options.check_every == 0 and not cell.check(runner):
            return
    if not cell.check(runner):
        return
    if options.wants("schema"):
        evolution.play(
            cell.stack,
            cell.service.spark,
            cell.tally,
            only=max(4, options.faults // 6) if options.faults < 200 else None,
        )
    if options.wants("bad input"):
        bad_input(cell, options)


def bad_input(cell: Cell, options: Options) -> None:
    """Mutated inputs, in a process of their own."""
    worker = WorkerProcess(cell.stack.config, cell.stack.folder / "bad-input.log")
    try:
        send_bad_input(
            cell.stack, cell.workload, cell.service.spark, cell.tally, worker, seed=options.seed, count=options.inputs
        )
    finally:
        worker.kill("both")
        worker.bury()


def _interleaved(
    many: list[Callable[[], None]], few: list[Callable[[], None]], every: int
) -> Iterator[Callable[[], None]]:
    left: Iterable[Callable[[], None]] = iter(few)
    for place, one in enumerate(many):
        yield one
        if place % every == 0 and (next_one := next(iter(left), None)) is not None:
            yield next_one
    yield from left


def _guarded(tally: Tally, name: str, work: Callable[[], None]) -> None:
    try:
        work()
    except Exception as error:
        tally.failed(f"{name}: {type(error).__name__}: {error}", examples=(traceback.format_exc(),))


def _thread(tally: Tally, name: str, work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=_guarded, args=(tally, name, work), name=name, daemon=True)
    thread.start()
    return thread


def clear(folder: Path) -> None:
    """Remove what a run left."""
    shutil.rmtree(folder, ignore_errors=True)
