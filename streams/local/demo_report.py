"""What the demo shows: the plan, what the flows did, and what was found beside what must be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import functions as F
from rich.table import Table

from streams.flows.bronze import PULLED_TABLES
from streams.local.purchases import Month, expected_months

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator, Mapping

    from rich.console import Console

    from streams.local.replay import ReplayPlan
    from streams.local.shop import Shop
    from streams.local.shop_sources import ShopSources
    from streams.supervisor.service import Service


@dataclass(frozen=True)
class Pulled:
    """One table of a source beside bronze.

    Args:
        source: its system and name.
        held: rows that the source holds, as it says itself.
        keys: different keys that bronze and its lane have of it.
        sent: rows that were ever new or changed there, and could be seen by a pull.
        bronze: rows in bronze.
        lane: rows in the error lane, and how many of those sent are broken.
    """

    source: str
    held: int
    keys: int
    sent: int
    bronze: int
    lane: tuple[int, int]

    @property
    def agrees(self) -> bool:
        """Nothing lost, nothing twice."""
        return self.held == self.keys and self.sent == self.bronze + self.lane[0] and self.lane[0] == self.lane[1]


@dataclass(frozen=True)
class Comparison:
    """What was found beside what must be; they agree or they do not."""

    months: tuple[tuple[Month, Month | None], ...]
    lane: tuple[tuple[str, int, int], ...]  # code, sent, found
    deleted: tuple[int, int]  # orders: sent, found
    pulled: tuple[Pulled, ...]

    @property
    def agrees(self) -> bool:
        """Every month to the cent, every row of the sources, and every broken row in the lane, once."""
        return (
            all(must == found for must, found in self.months)
            and all(sent == found for _, sent, found in self.lane)
            and self.deleted[0] == self.deleted[1]
            and all(table.agrees for table in self.pulled)
        )


def compare(plan: ReplayPlan, shop: Shop, sources: ShopSources, service: Service) -> Comparison:
    """Read the lake, and ask the sources."""
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
    lane = (
        read.load(lake.lane("bronze"))
        .where(~F.col("flow").isin([table.flow for table in PULLED_TABLES]))
        .groupBy(F.col("violations")[0]["code"])
        .count()
        .collect()
    )
    lane_found = {row[0]: row[1] for row in lane}
    codes = sorted({*plan.lane, *lane_found})
    ghosts = len({message.key for message in plan.messages if message.kind == "tombstone"})
    return Comparison(
        months,
        tuple((code, plan.lane.get(code, 0), lane_found.get(code, 0)) for code in codes),
        (ghosts, facts.where("is_deleted").count()),
        tuple(_pulled(shop, sources, service)),
    )


def _pulled(shop: Shop, sources: ShopSources, service: Service) -> Iterator[Pulled]:
    lake, read = service.lake, service.spark.read.format("delta")
    waiting = read.load(lake.lane("bronze"))
    for table in PULLED_TABLES:
        bronze = read.load(lake.table(table.flow)).select(F.col("_key").alias("key"), F.lit(1).alias("sound"))
        lane = waiting.where(F.col("flow") == table.flow).select("key", F.lit(0).alias("sound"))
        found = bronze.unionByName(lane).agg(F.count_distinct("key"), F.sum("sound"), F.count(F.lit(1))).first()
        assert found is not None
        keys, sound, rows = found[0], found[1] or 0, found[2]
        must = shop.expected[table.contract]
        yield Pulled(
            f"{table.system} {table.table}", sources.count(table), keys, must.rows, sound, (rows - sound, must.broken)
        )


def show_plan(out: Console, plan: ReplayPlan) -> None:
    kinds = plan.counts()
    broken = sum(count for kind, count in kinds.items() if kind.startswith("broken"))
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    rest = {kind: count for kind, count in kinds.items() if not kind.startswith("broken")}
    for kind, count in (rest | {"broken messages, of twelve kinds": broken}).items():
        table.add_row(f"  {kind}", f"{count:,}")
    out.print(table, highlight=False)


def show_flows(out: Console, by_flow: Mapping[str, Counter[str]]) -> None:
    columns = ("batches", "rows_read", "rows_written", "rows_duplicate", "rows_stale", "rows_error")
    table = Table(title="What the flows did", title_justify="left", box=None, pad_edge=False)
    table.add_column("flow", no_wrap=True)
    for name in (*columns, "seconds"):
        table.add_column(name.replace("rows_", ""), justify="right")
    for flow, sums in sorted(by_flow.items()):
        each = sums["milliseconds"] / 1000 / max(1, sums["batches"])
        table.add_row(flow, *(f"{sums[name]:,}" for name in columns), f"{each:.1f}")
    out.print(table)


def show_comparison(out: Console, comparison: Comparison) -> None:
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
    _show_pulled(out, comparison.pulled)
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


def _show_pulled(out: Console, pulled: tuple[Pulled, ...]) -> None:
    table = Table(title="Sources that are pulled", title_justify="left", box=None, pad_edge=False)
    table.add_column("table", no_wrap=True)
    for name in ("rows there", "keys in bronze", "new or changed", "rows in bronze", "in the lane"):
        table.add_column(name, justify="right")
    table.add_column("")
    for one in pulled:
        counts = (one.held, one.keys, one.sent, one.bronze, one.lane[0])
        table.add_row(one.source, *(f"{count:,}" for count in counts), _mark(one.agrees))
    out.print(table)


def _mark(agrees: bool) -> str:
    return "[green]✓[/]" if agrees else "[bold red]✗[/]"
