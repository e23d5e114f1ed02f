"""The demo: real data, sent with all its dirt, through every flow, and what gold holds beside what it must."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import yaml
from pyspark.sql import functions as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from streams.errors import ConfigurationError, FatalError
from streams.flows import all_flows
from streams.local.broker import Broker
from streams.local.producer import send_replay
from streams.local.purchases import Month, expected_months
from streams.local.replay import ReplayPlan, plan_replay
from streams.settings import PROJECT, Settings, load_settings
from streams.supervisor.service import started
from streams.supervisor.supervisor import State, Supervisor

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from streams.supervisor.service import Service
    from streams.telemetry.audit import BatchAudit

TOPIC: Final = "order_events"
_PARTITIONS: Final = 4
_SEND_SECONDS: Final = 45.0
_SENT: Final = "sent"  # a file that is there when all of the replay has gone out
_GIVE_UP_AFTER: Final = 600.0  # seconds without any flow doing anything


@dataclass(frozen=True)
class Comparison:
    """What was found beside what must be; they agree or they do not."""

    months: tuple[tuple[Month, Month | None], ...]
    lane: tuple[tuple[str, int, int], ...]  # code, sent, found
    deleted: tuple[int, int]  # orders: sent, found

    @property
    def agrees(self) -> bool:
        """Every month to the cent, and every broken row in the lane, once."""
        return (
            all(must == found for must, found in self.months)
            and all(sent == found for _, sent, found in self.lane)
            and self.deleted[0] == self.deleted[1]
        )


def run_demo(out: Console, *, orders: int | None, seed: int, keep: bool, folder: Path | None = None) -> bool:
    """Run it; True when gold agrees with the files that were sent.

    Args:
        out: where to show progress and the result.
        orders: how many of the purchases; None for all.
        seed: which dirt.
        keep: go on with what an earlier demo left in the folder.
        folder: where the demo's broker and lake live; ``.streams/demo`` in the project by default.
    """
    began = time.monotonic()
    place = folder or PROJECT / ".streams" / "demo"
    _make_place(place, {"orders": orders, "seed": seed}, keep=keep)
    out.print("[bold]1[/] Planning the replay", highlight=False)
    plan = plan_replay(seed, orders)
    _show_plan(out, plan)
    out.print("[bold]2[/] Starting a Kafka broker and Spark", highlight=False)
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(place / "broker", lambda line: out.print(f"  {line}", highlight=False)))
        if not keep:
            broker.create_topic(TOPIC, _PARTITIONS)
        settings = _settings(place, broker.bootstrap_servers)
        counted = _Counted()
        service = stack.enter_context(
            started(settings, counted.add, lambda line: out.print(f"  {line}", highlight=False))
        )
        out.print(
            f"  broker at {broker.bootstrap_servers}, lake in {settings.lake.root}", highlight=False, soft_wrap=True
        )
        out.print("[bold]3[/] Every flow is up; the replay runs", highlight=False)
        _replay_and_settle(out, plan, service, broker, counted, place)
        _show_flows(out, counted)
        comparison = _compare(plan, service)
    _show_comparison(out, comparison)
    verdict = "[bold green]gold agrees[/]" if comparison.agrees else "[bold red]gold does not agree[/]"
    out.print(f"{verdict} · {time.monotonic() - began:.0f} s in all", highlight=False)
    out.print(
        f"Look around: .venv/bin/streams errors list --config {place / 'settings.yaml'}",
        highlight=False,
        soft_wrap=True,
    )
    return comparison.agrees


def _make_place(place: Path, plan: dict[str, int | None], *, keep: bool) -> None:
    note = place / "demo.json"
    if keep and not (place / _SENT).is_file():
        raise ConfigurationError(
            "DEMO_NOT_SENT",
            f"No whole replay was sent in {place}: there is nothing to go on with.",
            way_out="Leave --keep out.",
        )
    if keep and json.loads(note.read_text()) != plan:
        raise ConfigurationError(
            "DEMO_DIFFERS",
            f"The demo kept in {place} was another one ({note.read_text()}).",
            way_out="Leave --keep out.",
        )
    if place.exists() and not keep:
        shutil.rmtree(place)
    place.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(plan))


def _settings(place: Path, bootstrap_servers: str) -> Settings:
    """The development configuration, in a place of its own."""
    overrides = {
        "STREAMS__ENVIRONMENT": "demo",
        "STREAMS__LAKE__ROOT": str(place / "lake"),
        "STREAMS__CHECKPOINTS__ROOT": str(place / "checkpoints"),
        "STREAMS__DQ_RESULTS_ROOT": str(place / "dq_results"),
        "STREAMS__FILES__FX_RATES": str(place / "landing"),
        "STREAMS__KAFKA__BOOTSTRAP_SERVERS": bootstrap_servers,
        "STREAMS__KAFKA__TOPICS__ORDER_EVENTS": TOPIC,
        "STREAMS__LOGGING__LEVEL": "warning",
    }
    settings = load_settings("dev", None, overrides)
    # So that every other command can be tried on what the demo leaves.
    (place / "settings.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_none=True)))
    return settings


class _Counted:
    """Sums over the audits of all batches, kept while they are made in the flows' threads."""

    def __init__(self) -> None:
        self.by_flow: dict[str, Counter[str]] = {}
        self._lock = threading.Lock()

    def add(self, audit: BatchAudit) -> None:
        with self._lock:
            sums = self.by_flow.setdefault(audit.batch.flow, Counter())
            sums.update(vars(audit.counts) | {"batches": 1})
            sums.update({"milliseconds": int(1000 * sum(audit.seconds.values()))})

    def rows_in(self, *flows: str) -> int:
        with self._lock:
            return sum(self.by_flow.get(flow, Counter())["rows_read"] for flow in flows)


def _replay_and_settle(
    out: Console, plan: ReplayPlan, service: Service, broker: Broker, counted: _Counted, place: Path
) -> None:
    """Send everything while the supervisor runs, then wait until every flow has nothing left to do."""
    supervisor = Supervisor(all_flows(service.settings).values(), service)
    supervisor.start()
    was_sent = (place / _SENT).is_file()
    columns = (TextColumn("  {task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out) as progress:
        total = len(plan.messages) + len(plan.files)
        sending = progress.add_task("sent", total=total, completed=total if was_sent else 0)
        reading = progress.add_task("messages in bronze", total=len(plan.messages))
        sender = (
            _start_sender(plan, broker, place, lambda count: progress.advance(sending, count)) if not was_sent else None
        )
        last_change, last_seen = time.monotonic(), -1
        while True:
            supervisor.wait(0.5)
            _raise_what_failed(supervisor, sender)
            seen = counted.rows_in(*counted.by_flow)
            progress.update(reading, completed=counted.rows_in("bronze.order_events"))
            if seen != last_seen:
                last_change, last_seen = time.monotonic(), seen
            if (sender is None or not sender.is_alive()) and supervisor.is_idle():
                break
            if time.monotonic() - last_change > _GIVE_UP_AFTER:
                raise FatalError(
                    "DEMO_STALLED", f"Nothing has moved for {_GIVE_UP_AFTER:.0f} s: {supervisor.states()}."
                )
    if not supervisor.drain(service.settings.drain_seconds):
        raise FatalError("DRAIN_TOO_SLOW", "The flows did not end in time.")


class _Sender(threading.Thread):
    """Sends the replay; keeps the error that ended it."""

    def __init__(self, plan: ReplayPlan, broker: Broker, place: Path, on_progress: object) -> None:
        super().__init__(name="replay", daemon=True)
        self._arguments = (plan, broker.bootstrap_servers, TOPIC, place / "landing")
        self._sent = place / _SENT
        self._on_progress = on_progress
        self.error: Exception | None = None

    def run(self) -> None:
        seconds = _SEND_SECONDS * len(self._arguments[0].messages) / 220_000
        try:
            send_replay(*self._arguments, seconds=seconds, on_progress=self._on_progress)  # type: ignore[arg-type]
            self._sent.touch()
        except Exception as error:
            self.error = error


def _start_sender(plan: ReplayPlan, broker: Broker, place: Path, on_progress: object) -> _Sender:
    sender = _Sender(plan, broker, place, on_progress)
    sender.start()
    return sender


def _raise_what_failed(supervisor: Supervisor, sender: _Sender | None) -> None:
    if sender is not None and sender.error is not None:
        raise sender.error
    for flow, state in supervisor.states().items():
        if state is State.FAILED:
            raise FatalError("FLOW_FAILED", f"{flow} failed: {supervisor.errors().get(flow)}")


def _compare(plan: ReplayPlan, service: Service) -> Comparison:
    lake, read = service.lake, service.spark.read.format("delta")
    facts = read.load(lake.table("gold.fact_orders"))
    by_month = (
        facts.where(~F.col("is_deleted"))
        .groupBy(F.date_format("order_date", "yyyy-MM").alias("month"))
        .agg(F.count(F.lit(1)), F.sum("amount"), F.sum("reporting_amount"))
        .collect()
    )
    found = {row[0]: Month(*row) for row in by_month}
    must = {month.month: month for month in expected_months(plan.orders)}
    empty = Month("", 0, next(iter(must.values())).usd * 0, next(iter(must.values())).usd * 0)
    months = tuple((must.get(name, empty), found.get(name)) for name in sorted({*must, *found}, key=str))
    lane = read.load(lake.lane("bronze")).groupBy(F.col("violations")[0]["code"]).count().collect()
    lane_found = {row[0]: row[1] for row in lane}
    codes = sorted({*plan.lane, *lane_found})
    ghosts = len({message.key for message in plan.messages if message.kind == "tombstone"})
    return Comparison(
        months,
        tuple((code, plan.lane.get(code, 0), lane_found.get(code, 0)) for code in codes),
        (ghosts, facts.where("is_deleted").count()),
    )


def _show_plan(out: Console, plan: ReplayPlan) -> None:
    kinds = plan.counts()
    broken = sum(count for kind, count in kinds.items() if kind.startswith("broken"))
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    rest = {kind: count for kind, count in kinds.items() if not kind.startswith("broken")}
    for kind, count in (rest | {"broken messages, of twelve kinds": broken}).items():
        table.add_row(f"  {kind}", f"{count:,}")
    out.print(table, highlight=False)


def _show_flows(out: Console, counted: _Counted) -> None:
    columns = ("batches", "rows_read", "rows_written", "rows_duplicate", "rows_stale", "rows_error")
    table = Table(title="What the flows did", title_justify="left", box=None, pad_edge=False)
    table.add_column("flow", no_wrap=True)
    for name in (*columns, "seconds"):
        table.add_column(name.replace("rows_", ""), justify="right")
    for flow, sums in sorted(counted.by_flow.items()):
        each = sums["milliseconds"] / 1000 / max(1, sums["batches"])
        table.add_row(flow, *(f"{sums[name]:,}" for name in columns), f"{each:.1f}")
    out.print(table)


def _show_comparison(out: Console, comparison: Comparison) -> None:
    lane = Table(title="Error lane", title_justify="left", box=None, pad_edge=False)
    for name in ("what is wrong", "sent", "found", ""):
        lane.add_column(name, justify="right" if name in ("sent", "found") else "left")
    for code, sent, found in comparison.lane:
        lane.add_row(code, f"{sent:,}", f"{found:,}", _mark(sent == found))
    lane.add_row(
        "orders deleted again",
        f"{comparison.deleted[0]:,}",
        f"{comparison.deleted[1]:,}",
        _mark(comparison.deleted[0] == comparison.deleted[1]),
    )
    out.print(lane)
    table = Table(title="gold.fact_orders", title_justify="left", box=None, pad_edge=False)
    for name in ("month", "orders", "USD", "EUR", "must be USD", "must be EUR", ""):
        table.add_column(name, justify="left" if name in ("month", "") else "right")
    for must, made in comparison.months:
        shown = (f"{made.orders:,}", f"{made.usd:,}", f"{made.eur:,}") if made else ("none", "", "")
        table.add_row((made or must).month, *shown, f"{must.usd:,}", f"{must.eur:,}", _mark(must == made))
    rows = [found for _, found in comparison.months if found]
    totals = (sum(row.orders for row in rows), sum(row.usd for row in rows), sum(row.eur or 0 for row in rows))
    musts = (sum(must.usd for must, _ in comparison.months), sum(must.eur for must, _ in comparison.months))
    table.add_section()
    table.add_row(
        "all",
        *(f"{value:,}" for value in totals),
        *(f"{value:,}" for value in musts),
        _mark(comparison.agrees),
        style="bold",
    )
    out.print(table)


def _mark(agrees: bool) -> str:
    return "[green]✓[/]" if agrees else "[bold red]✗[/]"
