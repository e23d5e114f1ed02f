"""What people want of flows (paused, started again), and what became of the flows: small files beside the checkpoints.

So the command line, the status page and the service need not be on one machine, and what was paused stays paused when
the service is started again.
"""

from __future__ import annotations

import getpass
import json
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from streams.errors import RetriableError
from streams.small_files import change

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.small_files import SmallFile, SmallFiles

_ORDERS: Final = "_control/orders.json"
_REPORT: Final = "_control/report.json"
SILENT_SECONDS: Final = 30.0  # a service that has said nothing for so long is not up
_FORGOTTEN_SECONDS: Final = 86400.0
_CHANGES_KEPT: Final = 200


@dataclass(frozen=True)
class Order:
    """What people want of a flow.

    Attributes:
        paused: it ends its batch and waits.
        restarts: how often it was to be started again; what counts is that it changes.
        asks: how often it was to be run through all that its sources have by then (see `FlowReport.answered`).
        by, at: who said so last, and when.
    """

    paused: bool = False
    restarts: int = 0
    asks: int = 0
    by: str = ""
    at: str = ""


@dataclass(frozen=True)
class FlowReport:
    """A flow as its supervisor has it. Times are ISO 8601, UTC; rows and batches count from the service's start.

    Attributes:
        holder: the process that says so, a key of `Report.processes`.
        answered: how many requests to run it (`Order.asks`) are through.
        freshness_p50, freshness_p99: how old the last batch's rows were when it was committed, in seconds.
        kafka_lag: by partition, the messages that it has not read.
    """

    state: str
    since: str
    error: str | None = None
    code: str | None = None
    way_out: str | None = None
    failures: int = 0
    batches: int = 0
    rows_read: int = 0
    rows_written: int = 0
    rows_duplicate: int = 0
    rows_stale: int = 0
    rows_error: int = 0
    last_batch_at: str | None = None
    holder: str = ""
    answered: int = 0
    freshness_p50: float | None = None
    freshness_p99: float | None = None
    kafka_lag: dict[str, int] | None = None


@dataclass(frozen=True)
class Change:
    """A flow's change of state that people want to know of later."""

    at: str
    flow: str
    state: str
    error: str | None = None


@dataclass(frozen=True)
class Process:
    """A supervisor's process, and when it last said something."""

    run_id: str
    host: str
    pid: int
    at: str

    @property
    def age_seconds(self) -> float:
        """How long ago that was."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.at)).total_seconds()

    @property
    def is_silent(self) -> bool:
        """Whether it has said nothing for so long that it is taken to be gone."""
        return self.age_seconds > SILENT_SECONDS


@dataclass(frozen=True)
class Report:
    """What the supervisors on these checkpoints say of themselves, every few seconds. Mostly there is one.

    Attributes:
        processes: by their run's id; those that are gone for long are left out.
        flows: each as the process has it that holds it, or held it last.
        changes: of state that people want to know of later, the oldest first.
    """

    processes: dict[str, Process] = field(default_factory=dict)
    flows: dict[str, FlowReport] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()

    def process_of(self, flow: FlowReport) -> Process | None:
        """The process that said how a flow is, if it still says something."""
        process = self.processes.get(flow.holder)
        return None if process is None or process.is_silent else process


class Control:
    """The orders and the report.

    Args:
        files: those beside the checkpoints.
        by: who gives the orders; by default this process's user.
    """

    def __init__(self, files: SmallFiles, by: str | None = None) -> None:
        self._files, self._by = files, by

    def pause(self, flow: str) -> None:
        """Let a flow end its batch and wait until `resume`."""
        self._order(flow, lambda order: replace(order, paused=True))

    def ask(self, flow: str) -> int:
        """Have the supervisor run a flow through all that its sources have by now.

        Returns:
            What `FlowReport.answered` reaches when that is done.
        """
        return self._order(flow, lambda order: replace(order, asks=order.asks + 1)).asks

    def resume(self, flow: str) -> None:
        """Let a paused flow go on."""
        self._order(flow, lambda order: replace(order, paused=False))

    def is_paused(self, flow: str) -> bool:
        """Whether it is to wait."""
        return self.orders().get(flow, Order()).paused

    def restart(self, flow: str) -> None:
        """End a flow's query after its batch and start another, with no failure counted; one that had failed too."""
        self._order(flow, lambda order: replace(order, paused=False, restarts=order.restarts + 1))

    def orders(self) -> dict[str, Order]:
        """By flow; flows that nobody wants anything of are not there."""
        file = self._files.read(_ORDERS)
        return {flow: Order(**said) for flow, said in json.loads(file.text).items()} if file else {}

    def report(self) -> Report | None:
        """What the supervisors said last; None where none has run."""
        file = self._files.read(_REPORT)
        return None if file is None else self.report_of(file)

    @staticmethod
    def report_of(file: SmallFile) -> Report:
        """The report that a file holds."""
        said: dict[str, Any] = json.loads(file.text)
        flows = {name: FlowReport(**one) for name, one in said["flows"].items()}
        processes = {run: Process(**one) for run, one in said["processes"].items()}
        return Report(processes, flows, tuple(Change(**one) for one in said["changes"]))

    def say(self, process: Process, flows: dict[str, FlowReport], changes: tuple[Change, ...]) -> None:
        """Keep what one process says, beside what others do.

        Args:
            process: who says it.
            flows: those that it holds; and others, which count where no living process says anything of them.
            changes: those that it has not said yet.
        """

        def said_too(file: SmallFile | None) -> str:
            known = self.report_of(file) if file else Report()
            alive = {run: one for run, one in known.processes.items() if one.age_seconds < _FORGOTTEN_SECONDS}
            said = {
                name: mine
                for name, mine in flows.items()
                if mine.holder or name not in known.flows or known.process_of(known.flows[name]) is None
            }
            report = Report(
                alive | {process.run_id: process},
                known.flows | said,
                (*known.changes, *changes)[-_CHANGES_KEPT:],
            )
            return json.dumps(asdict(report))

        if change(self._files, _REPORT, said_too) is None:
            raise RetriableError("CONTROL_BUSY", "Others change the report all the time.")

    def _order(self, flow: str, give: Callable[[Order], Order]) -> Order:
        by, at = self._by or _whoami(), datetime.now(UTC).isoformat(timespec="milliseconds")

        def given(file: SmallFile | None) -> str:
            orders: dict[str, Any] = json.loads(file.text) if file else {}
            return json.dumps(orders | {flow: asdict(replace(give(Order(**orders.get(flow, {}))), by=by, at=at))})

        text = change(self._files, _ORDERS, given)
        if text is None:
            raise RetriableError("CONTROL_BUSY", "Others change the orders all the time.", way_out="Try again.")
        return Order(**json.loads(text)[flow])


def _whoami() -> str:
    name = "?"
    with suppress(OSError, KeyError):  # a container's user may have no name
        name = getpass.getuser()
    return f"{name}@{platform.node()}"
