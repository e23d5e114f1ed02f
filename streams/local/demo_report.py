"""What the demo shows: the plan, what the flows did, and what was found beside what must be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import functions as F
from rich.table import Table

from streams.flows.bronze import PULLED_TABLES
from streams.local.purchases import Month, expected_months
from streams.local.read_back import published
from streams.transforms.dim_customer import CUSTOMER_TRACKED
from streams.transforms.dim_product import PRODUCT_TRACKED

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator, Mapping

    from rich.console import Console

    from streams.local.read_back import Published
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
class Counted:
    """A number that was found beside the one that must be."""

    what: str
    must: int
    found: int

    @property
    def agrees(self) -> bool:
        """They are the same."""
        return self.must == self.found


@dataclass(frozen=True)
class Comparison:
    """What was found beside what must be; they agree or they do not."""

    months: tuple[tuple[Month, Month | None], ...]
    lane: tuple[Counted, ...]
    tables: tuple[Counted, ...]
    pulled: tuple[Pulled, ...]
    published: tuple[Published, ...]

    @property
    def agrees(self) -> bool:
        """Every month to the cent, every row of the sources and warehouses, every broken row in the lane, once."""
        parts: tuple[Counted | Pulled | Published, ...] = (*self.lane, *self.tables, *self.pulled, *self.published)
        return all(must == found for must, found in self.months) and all(part.agrees for part in parts)


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
    return Comparison(
        months,
        tuple(Counted(code, plan.lane.get(code, 0), lane_found.get(code, 0)) for code in codes),
        tuple(_tables(plan, shop, service)),
        tuple(_pulled(shop, sources, service)),
        tuple(published(service)),
    )


def _tables(plan: ReplayPlan, shop: Shop, service: Service) -> Iterator[Counted]:
    def rows(table: str, condition: str) -> int:
        return service.spark.read.format("delta").load(service.lake.table(table)).where(condition).count()

    ghosts = len({message.key for message in plan.messages if message.kind == "tombstone"})
    expected = shop.expected
    tests = expected["snowflake_orders"].deleted
    yield Counted("orders in silver", len(plan.orders), rows("silver.orders", "NOT is_deleted"))
    yield Counted("orders deleted again", ghosts + tests, rows("gold.fact_orders", "is_deleted"))
    known = rows("gold.fact_orders", "NOT is_deleted AND is_customer_known AND is_product_known")
    yield Counted("orders whose customer and product are known", len(plan.orders), known)
    for name, source in (("customers", "snowflake_customers"), ("products", "snowflake_products")):
        live = expected[source].keys - expected[source].deleted
        yield Counted(f"{name} of today", live, rows(f"gold.dim_{name[:-1]}", "is_current"))
    for name in ("customer", "product"):
        must, found = _versions(shop, name), rows(f"gold.dim_{name}", "true")
        yield Counted(f"versions of {name}s", must, found)


def _versions(shop: Shop, name: str) -> int:
    """How many versions there must be: one for each key, and one for each change of what makes versions."""
    table, key = f"snowflake_{name}s", f"{name}_id"
    tracked = CUSTOMER_TRACKED if name == "customer" else PRODUCT_TRACKED
    first = {row[key]: row for row in shop.tables[table].to_pylist()}
    count = len(first)
    unchanged = shop.dirty[table] | shop.mended[table]
    for row in shop.changes[table].to_pylist():
        before = first.get(row[key])
        if before is None:
            count += 1
        elif not row["is_deleted"] and row[key] not in unchanged:
            count += any(_alike(row[column]) != _alike(before[column]) for column in tracked)
    return count


def _alike(value: object) -> object:
    return " ".join(value.split()) if isinstance(value, str) else value


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
    for one in comparison.lane:
        lane.add_row(one.what, f"{one.must:,}", f"{one.found:,}", _mark(one.agrees))
    out.print(lane)
    _show_pulled(out, comparison.pulled)
    _show_tables(out, comparison)
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


def _show_tables(out: Console, comparison: Comparison) -> None:
    table = Table(title="Silver and gold", title_justify="left", box=None, pad_edge=False)
    for name in ("what", "must be", "found", ""):
        table.add_column(name, justify="right" if name in ("must be", "found") else "left")
    for one in comparison.tables:
        table.add_row(one.what, f"{one.must:,}", f"{one.found:,}", _mark(one.agrees))
    out.print(table)
    table = Table(title="Gold in the warehouses, read back row by row", title_justify="left", box=None, pad_edge=False)
    for name in ("table", "rows in gold", "rows there", "different", ""):
        table.add_column(name, justify="left" if name in ("table", "") else "right")
    for there in comparison.published:
        counts = (there.gold, there.there, there.different)
        table.add_row(f"{there.warehouse} {there.table}", *(f"{count:,}" for count in counts), _mark(there.agrees))
    out.print(table)


def _mark(agrees: bool) -> str:
    return "[green]✓[/]" if agrees else "[bold red]✗[/]"
