"""What the flows are like now, and what needs a person: from the report, the newest batches and the gates' files."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from streams.supervisor.control import Order
from streams.supervisor.page.words import instant, rows, shown_error, span

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from streams.flows.flow import Flow
    from streams.supervisor.control import FlowReport, Report
    from streams.supervisor.page.gate_files import GateRun
    from streams.supervisor.page.recent import Recent

GONE: Final = "gone"  # the process that held it says nothing any more
UNKNOWN: Final = "unknown"  # no process has said anything of it
MEANINGS: Final = {
    "waiting": "Its sources have nothing new.",
    "queued": "Its sources have something; other flows are at work.",
    "running": "It is at work on a batch.",
    "starting": "It is being started.",
    "standby": "Another process holds it; this one takes over when that is gone.",
    "backing off": "It failed, and is tried again by itself after a pause.",
    "held": "A check holds its batch, which is tried again.",
    "paused": "It waits until a person resumes it.",
    "failed": "It is not started again before a person restarts it.",
    "draining": "It ends its batch, then stops.",
    "stopped": "The service that held it has ended.",
    GONE: "The process that held it says nothing any more.",
    UNKNOWN: "No service has said anything of it yet.",
}
_AT_WORK: Final = ("waiting", "queued", "running", "starting", "standby")


@dataclass(frozen=True)
class FlowView:
    """A flow as it is shown. Rates are rows read a second over the last minute.

    Attributes:
        state: its supervisor's, or `GONE`, or `UNKNOWN`.
        is_told_to_pause: a person wants it to wait; it may not have yet.
        behind_since: since when it has not read what is upstream; None: it has all, or that is not known.
        rows_behind: about how many rows that is; None: not known.
        rows_waiting: about how many of its rows wait in the lane.
        holder: the process that holds it, where that is another one than this.
    """

    name: str
    reads: tuple[str, ...]
    state: str = UNKNOWN
    since: datetime | None = None
    error: str | None = None
    code: str | None = None
    way_out: str | None = None
    failures: int = 0
    batches: int = 0
    rows_read: int = 0
    rows_written: int = 0
    rows_error: int = 0
    rate: float = 0.0
    last_batch_at: datetime | None = None
    behind_since: datetime | None = None
    rows_behind: int | None = None
    age_p50: float | None = None
    age_p99: float | None = None
    rows_waiting: int = 0
    is_told_to_pause: bool = False
    paused_by: str = ""
    holder: str | None = None

    @property
    def layer(self) -> str:
        """``bronze``, ``silver``, ``gold``, or the warehouse."""
        return self.name.partition(".")[0]

    @property
    def table(self) -> str:
        """The name without the layer."""
        return self.name.partition(".")[2]

    @property
    def is_well(self) -> bool:
        """Whether it does what it should by itself."""
        return self.state in _AT_WORK

    def behind_seconds(self, now: datetime) -> float | None:
        """How far behind what is upstream of it."""
        return (now - self.behind_since).total_seconds() if self.behind_since else None

    def freshness(self, now: datetime) -> str:
        """How fresh its table is, in a few words."""
        behind = self.behind_seconds(now)
        if behind is not None:
            about = f", {rows(self.rows_behind)}" if self.rows_behind else ""
            return f"{span(behind)} behind{about}"
        if self.state == "waiting":
            return "current"
        return ""


class Urgency(IntEnum):
    """How soon a person should look; the lowest first."""

    NOW = 1
    SOON = 2
    BY_ITSELF = 3  # it may pass without anybody
    CHOSEN = 4  # a person wanted it so
    ANY_TIME = 5


@dataclass(frozen=True)
class Need:
    """Something that needs a person, or may soon.

    Attributes:
        state: whose sign it is shown with.
        link: the page that says more.
        flow: whose buttons are shown; None: there are none.
    """

    urgency: Urgency
    state: str
    title: str
    what: str
    way_out: str | None
    link: str
    since: datetime | None = None
    flow: str | None = None
    actions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Overview:
    """Everything that the first page says."""

    now: datetime
    flows: tuple[FlowView, ...]
    needs: tuple[Need, ...]
    processes: tuple[tuple[str, bool], ...] = field(default=())  # what it is called, and whether it still speaks

    def flow(self, name: str) -> FlowView | None:
        """The flow of that name."""
        return next((one for one in self.flows if one.name == name), None)

    @property
    def furthest_behind(self) -> FlowView | None:
        """The flow that has been behind for longest."""
        behind = [one for one in self.flows if one.behind_since]
        return min(behind, key=lambda one: one.behind_since or self.now, default=None)

    @property
    def counts(self) -> dict[str, int]:
        """How many flows are in each state, the worst first."""
        order = (GONE, "failed", "held", "backing off", "paused", UNKNOWN, "stopped", "draining", "starting", "standby")
        found: dict[str, int] = {}
        for state in (*order, "queued", "running", "waiting"):
            count = sum(one.state == state for one in self.flows)
            if count:
                found[state] = count
        return found


def overview(
    declared: Sequence[Flow],
    report: Report | None,
    orders: Mapping[str, Order],
    recent: Recent,
    gates: Iterable[GateRun],
    now: datetime,
    run_id: str,
    rates: Mapping[str, float] | None = None,
) -> Overview:
    """Put together what is known.

    Args:
        declared: the flows, upstream ones first.
        report: what the supervisors said last.
        orders: what people want.
        recent: the newest batches of this process.
        gates: the newest run of each layer's gate.
        now: the time, in UTC.
        run_id: this process's.
        rates: rows a second of flows that other processes hold.
    """
    reported = report.flows if report else {}
    views = []
    for flow in declared:
        said = reported.get(flow.name)
        order = orders.get(flow.name, Order())
        if report is None or said is None:
            views.append(
                FlowView(
                    flow.name,
                    flow.reads,
                    is_told_to_pause=order.paused,
                    paused_by=order.by,
                    rows_waiting=recent.waiting(flow.name),
                )
            )
            continue
        views.append(_view(flow, said, report, order, recent, now, run_id, rates or {}))
    processes = tuple(
        (f"process {one.pid} on {one.host}", not one.is_silent) for one in (report.processes if report else {}).values()
    )
    needs = [*_of_flows(views), *_of_gates(gates), *_of_lanes(views)]
    return Overview(now, tuple(views), tuple(sorted(needs, key=lambda one: one.urgency)), processes)


def _view(
    flow: Flow,
    said: FlowReport,
    report: Report,
    order: Order,
    recent: Recent,
    now: datetime,
    run_id: str,
    rates: Mapping[str, float],
) -> FlowView:
    process = report.process_of(said)
    has_ended = said.state in ("stopped", "failed")
    state = said.state if process is not None or has_ended else GONE
    is_ours = said.holder == run_id
    known = report.processes.get(said.holder)
    own = recent.batches(flow.name)
    last = max((at for at in (instant(said.last_batch_at), own[-1].finished_at if own else None) if at), default=None)
    behind_since, behind = (None, None) if state == "waiting" else _behind(flow, recent)
    if said.kafka_lag is not None:
        behind = sum(said.kafka_lag.values())
    return FlowView(
        name=flow.name,
        reads=flow.reads,
        state=state,
        since=instant(said.since),
        error=shown_error(said.error, said.code),
        code=said.code,
        way_out=shown_error(said.way_out, said.code),
        failures=said.failures,
        batches=said.batches,
        rows_read=said.rows_read,
        rows_written=said.rows_written,
        rows_error=said.rows_error,
        rate=recent.rate(flow.name, now) if is_ours else rates.get(flow.name, 0.0),
        last_batch_at=last,
        behind_since=behind_since,
        rows_behind=behind,
        age_p50=said.freshness_p50,
        age_p99=said.freshness_p99,
        rows_waiting=recent.waiting(flow.name),
        is_told_to_pause=order.paused,
        paused_by=order.by if order.paused else "",
        holder=None if is_ours else (f"process {known.pid} on {known.host}" if known else said.holder or None),
    )


def _behind(flow: Flow, recent: Recent) -> tuple[datetime | None, int | None]:
    """Since when there is something upstream that it has not read, and about how many rows.

    A batch has read what was there when it began; what was written while it ran may be in it or not.
    """
    own = recent.batches(flow.name)
    began = own[-1].started_at if own else None
    unread = [
        batch
        for name in flow.reads
        for batch in recent.batches(name)
        if batch.counts.rows_written and (began is None or batch.finished_at > began)
    ]
    if not unread:
        return None, None
    return min(batch.finished_at for batch in unread), sum(batch.counts.rows_written for batch in unread)


def _of_flows(views: Iterable[FlowView]) -> Iterable[Need]:
    for view in views:
        need = _of_flow(view)
        if need is not None:
            yield need


def _of_flow(view: FlowView) -> Need | None:
    link = f"/flows/{view.name}"

    def need(urgency: Urgency, title: str, what: str, way_out: str | None, *actions: str) -> Need:
        return Need(urgency, view.state, f"{view.name} {title}", what, way_out, link, view.since, view.name, actions)

    error = view.error or ""
    if view.state == "failed":
        often = f" It failed {view.failures} times, so it is not started again by itself." if view.failures else ""
        return need(Urgency.NOW, "has failed", error + often, view.way_out or _RESTART, "restart")
    if view.state == GONE:
        what = f"{view.holder or 'The process that held it'} says nothing any more."
        return need(Urgency.NOW, "is held by nobody", what, "Start that service again: streams up.")
    if view.state == "held":
        return need(Urgency.SOON, "holds a batch", error, view.way_out, "restart", "pause")
    if view.state == "backing off":
        times = (
            f"Failed {view.failures} {'time' if view.failures == 1 else 'times'} in a row, is tried again by itself. "
        )
        return need(Urgency.BY_ITSELF, "is backing off", times + error, view.way_out, "restart", "pause")
    if view.state == "paused" or view.is_told_to_pause:
        title = "is paused" if view.state == "paused" else "ends its batch, then pauses"
        return need(
            Urgency.CHOSEN, title, f"By {view.paused_by or 'somebody'}.", "Resume it when it may go on.", "resume"
        )
    return None


_RESTART: Final = "Mend what it says, then restart it."


def _of_gates(gates: Iterable[GateRun]) -> Iterable[Need]:
    for gate in gates:
        if not gate.failed:
            continue
        named = "; ".join(f"{one.table}: {one.check}" for one in gate.failed[:3])
        more = f"; and {len(gate.failed) - 3} more" if len(gate.failed) > 3 else ""
        checks = "1 check" if len(gate.failed) == 1 else f"{len(gate.failed)} checks"
        yield Need(
            Urgency.SOON,
            "failed",
            f"{gate.layer}’s gate failed",
            f"{checks}: {named}{more}.",
            "Mend the rows or the check; the gate’s next run tells.",
            f"/gates#{gate.layer}",
            gate.at,
        )


def _of_lanes(views: Iterable[FlowView]) -> Iterable[Need]:
    """One for all lanes: they can wait, and each flow shows its own."""
    waiting = sorted(((view.rows_waiting, view.name) for view in views if view.rows_waiting), reverse=True)
    if waiting:
        total = sum(count for count, _ in waiting)
        named = ", ".join(f"{name} {count:,}" for count, name in waiting[:6])
        yield Need(
            Urgency.ANY_TIME,
            "lane",
            f"{rows(total)} {'waits' if total == 1 else 'wait'} in the error lane",
            f"They broke their contract or a check; the others went on: {named}{', …' if len(waiting) > 6 else ''}.",
            "Look at why, then replay or discard them.",
            "/lane" if len(waiting) > 1 else f"/lane?flow={waiting[0][1]}",
        )
