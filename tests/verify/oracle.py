"""What the lake must hold of what was sent, and what it holds: rows lost, rows twice, rows that are others."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from streams.delta_log import has_table
from streams.flows.gold import GOLD_TABLES
from streams.local.read_back import gold_rows, warehouse_rows
from streams.local.shop_sources import STAGING
from tests.spark.flow_bench import HASH_KEY
from tests.spark.lake_model import TABLES, lake
from tests.verify.stack import DEAREST
from tests.verify.workload import EVENTS, PULLED, RATES, SOURCES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from streams.supervisor.service import Service
    from tests.spark.lake_model import Bronze
    from tests.verify.judge import Rules
    from tests.verify.stack import Stack
    from tests.verify.workload import Sent, Workload

_SILVER_OF = {EVENTS: ("silver.order_events",), RATES: ("silver.fx_rates",)}
_SHOWN = 3


@dataclass
class Difference:
    """What one table has in another way than it must; `examples` are for people."""

    table: str
    lost: int = 0
    twice: int = 0
    wrong: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def is_one(self) -> bool:
        return bool(self.lost or self.twice or self.wrong)


@dataclass
class Comparison:
    """All tables held against the oracle; `rows` is how many rows were compared."""

    differences: list[Difference]
    rows: int

    def total(self, name: str) -> int:
        return sum(getattr(one, name) for one in self.differences)

    @property
    def agrees(self) -> bool:
        return not self.differences


def compare(service: Service, stack: Stack, workload: Workload) -> Comparison:
    """Hold all tables, both warehouses, the error lanes and the audit against what was sent."""
    comparing = _Comparing(service, workload.sent, workload.rules)
    works = (comparing.bronze, comparing.model, comparing.lanes, comparing.silver_lane, comparing.audit)
    return comparing.all(*works, lambda: comparing.published(stack))


def compare_bronze(service: Service, sent: Sent, rules: Mapping[str, Rules]) -> Comparison:
    """Hold bronze and its error lane only, and that nothing is unaccounted for."""
    comparing = _Comparing(service, sent, rules)
    return comparing.all(comparing.bronze, comparing.lanes, comparing.masks)


class _Comparing:
    def __init__(self, service: Service, sent: Sent, rules: Mapping[str, Rules]) -> None:
        self.service, self.sent, self.rules = service, sent, rules
        self.columns = {flow: list(one.columns) for flow, one in rules.items()}
        self.rows = 0

    def all(self, *works: Callable[[], Iterable[Difference]]) -> Comparison:
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(lambda work=work: list(work())) for work in works]
            found = [difference for one in asked for difference in one.result()]
        return Comparison([one for one in found if one.is_one], self.rows)

    def held(self, table: str) -> list[dict[str, Any]]:
        """A table's rows; none where there is no table yet."""
        path = self.service.lake.table(table)
        if not has_table(self.service.spark, path):
            return []
        rows = self.service.spark.read.format("delta").load(path).collect()
        self.rows += len(rows)
        return [row.asDict(recursive=True) for row in rows]

    def bronze(self) -> Iterable[Difference]:
        for flow in SOURCES:
            columns = self.columns[flow]
            found = Counter(
                (*_place(flow, row), _canonical({name: row[name] for name in columns}), row["_is_tombstone"])
                for row in self.held(flow)
            )
            must = Counter(
                (*place, _canonical(dict.fromkeys(columns) | _business(row)), _is_tombstone(row))
                for place, row in sound(self.sent, flow)
            )
            yield _difference(flow, must, found)

    def model(self) -> Iterable[Difference]:
        expected = lake(bronze(self.sent), HASH_KEY)
        for table, rows in expected.items():
            must = Counter(_canonical(row) for row in rows)
            found = Counter(
                _canonical({name: value for name, value in row.items() if not name.startswith("_")})
                for row in self.held(table)
            )
            yield _difference(table, must, found)

    def lanes(self) -> Iterable[Difference]:
        by_flow: dict[str, list[dict[str, Any]]] = {}
        for row in self.held("error_lane.bronze"):
            by_flow.setdefault(row["flow"], []).append(row)
        for flow in SOURCES:
            why = dict(_broken(self.sent, flow))
            must = Counter(place for place, _ in _broken(self.sent, flow))
            rows = by_flow.get(flow, [])
            difference = _difference(f"lane of {flow}", must, Counter(_lane_place(flow, row) for row in rows))
            for row in rows:
                codes = {violation["code"] for violation in row["violations"]}
                if not codes & why.get(_lane_place(flow, row), codes):
                    difference.wrong += 1
                    difference.examples.append(f"{codes} in place of {set(why[_lane_place(flow, row)])}")
            yield difference

    def masks(self) -> Iterable[Difference]:
        """No personal value stands among the reasons that the lane shows."""
        for row in self.held("error_lane.bronze"):
            personal = self.rules[row["flow"]].personal
            shown = [
                one["column"]
                for one in row["violations"]
                if one["column"] in personal and one["value"] not in (None, "***")
            ]
            if shown:
                yield Difference(f"lane of {row['flow']} shows {shown}", wrong=1)

    def silver_lane(self) -> Iterable[Difference]:
        dear = {row["event_id"] for _, row in sound(self.sent, EVENTS) if _is_dear(row)}
        rows = self.held("error_lane.silver")
        # The same row may fail its check in several batches, in each once.
        batches = Counter((row["flow"], row["checkpoint_id"], row["batch_id"], row["key"]) for row in rows)
        must = Counter(("silver.order_events", key) for key in dear)
        difference = _difference("lane of silver", must, Counter({(flow, key): 1 for flow, _, _, key in batches}))
        difference.twice += sum(count - 1 for count in batches.values())
        yield difference

    def audit(self) -> Iterable[Difference]:
        rows = self.held("audit.batches")
        batches = Counter((row["flow"], row["checkpoint_id"], row["batch_id"]) for row in rows)
        difference = Difference("audit", twice=sum(count - 1 for count in batches.values()))
        read: Counter[str] = Counter()
        # A table that was made anew has read all once more, by another checkpoint.
        last = {row["flow"]: row["checkpoint_id"] for row in sorted(rows, key=lambda row: row["started_at"])}
        for row in rows:
            if row["flow"] not in self.sent.made_anew or row["checkpoint_id"] == last[row["flow"]]:
                read[row["flow"]] += row["rows_read"]
            accounted = sum(row[f"rows_{name}"] for name in ("written", "duplicate", "stale", "error"))
            if row["rows_read"] != accounted:
                difference.wrong += 1
                difference.examples.append(f"{row['flow']} {row['batch_id']}: {row['rows_read']} ≠ {accounted}")
        for flow in SOURCES:
            must = {flow: self.sent.count(flow)}
            written = sum(1 for _ in sound(self.sent, flow))
            must |= dict.fromkeys(_first_readers(flow), written)
            for name, count in must.items():
                if read[name] != count:
                    difference.lost += max(0, count - read[name])
                    difference.twice += max(0, read[name] - count)
                    difference.examples.append(f"{name}: {read[name]} rows accounted for, {count} came")
        yield difference

    def published(self, stack: Stack) -> Iterable[Difference]:
        for system in ("redshift", "snowflake"):
            for table in GOLD_TABLES:
                name = f"{system}.{table.flow.partition('.')[2]}"
                if not self.service.checkpoint(name).exists():
                    continue
                gold = gold_rows(self.service, table)
                there = warehouse_rows(self.service.settings, system, table, gold.schema)
                must, found = (Counter(_canonical(row) for row in one.to_pylist()) for one in (gold, there))
                self.rows += len(there)
                yield _difference(name, must, found)
        left = stack.sources.s3.keys(STAGING)
        yield Difference("staged files", wrong=len(left), examples=left[:_SHOWN])


def sound(sent: Sent, flow: str) -> Iterable[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Where each sound input of a bronze flow came from, and its row."""
    if flow == EVENTS:
        for message in sent.messages:
            if message.verdict.row is not None:
                yield (message.partition, message.offset), message.verdict.row | {"_source_time": message.at}
    elif flow == RATES:
        for name, verdicts in sent.files.items():
            yield from (((name, verdict.place), verdict.row) for verdict in verdicts if verdict.row is not None)
    else:
        yield from (((key,), verdict.row) for key, verdict in sent.rows.get(flow, ()) if verdict.row is not None)


def bronze(sent: Sent) -> Bronze:
    """What the model is told: the rows that silver is made of."""
    return [(flow, row) for flow in SOURCES for _, row in sound(sent, flow) if not (flow == EVENTS and _is_dear(row))]


def _broken(sent: Sent, flow: str) -> Iterable[tuple[tuple[Any, ...], frozenset[str]]]:
    if flow == EVENTS:
        yield from (((m.partition, m.offset), m.verdict.why) for m in sent.messages if m.verdict.row is None)
    elif flow == RATES:
        for name, verdicts in sent.files.items():
            yield from (((name, verdict.place), verdict.why) for verdict in verdicts if verdict.row is None)
    else:
        yield from (((key,), verdict.why) for key, verdict in sent.rows.get(flow, ()) if verdict.row is None)


def _first_readers(flow: str) -> tuple[str, ...]:
    """The flows of silver that read each row of a bronze table once."""
    tables = _SILVER_OF.get(flow) or tuple(name for name, table in TABLES.items() if table.bronze == flow)
    versions = {"silver.customers": "silver.customer_versions", "silver.products": "silver.product_versions"}
    return tuple(versions.get(name, name) for name in tables)


def _is_dear(row: Mapping[str, Any]) -> bool:
    return (row.get("amount") or 0) > DEAREST


def _is_tombstone(row: Mapping[str, Any]) -> bool:
    return bool(row.get("_is_tombstone"))


def _business(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("_")}


def _place(flow: str, row: Mapping[str, Any]) -> tuple[Any, ...]:
    if flow == EVENTS:
        return row["_partition"], row["_offset"]
    if flow == RATES:
        return row["_source"].rpartition("/")[2], row["_offset"]
    return (row["_key"],)


def _lane_place(flow: str, row: Mapping[str, Any]) -> tuple[Any, ...]:
    if flow in PULLED:
        return (row["key"],)
    return _place(flow, {"_partition": row["partition"], "_offset": row["offset"], "_source": row["source"]})


def _difference(table: str, must: Counter[Any], found: Counter[Any]) -> Difference:
    missing, extra = must - found, found - must
    twice = sum(count for row, count in extra.items() if row in must)
    difference = Difference(table, lost=missing.total(), twice=twice, wrong=extra.total() - twice)
    difference.examples = [
        f"{word} {row}"[:400] for word, rows in (("missing", missing), ("extra", extra)) for row in list(rows)[:_SHOWN]
    ]
    # A row that is there in another way is one wrong row, and not one lost and one too many.
    changed = min(difference.lost, difference.wrong)
    difference.lost -= changed
    return difference


def _canonical(row: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((name, _plain(row[name])) for name in sorted(row))


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value.normalize(), "f")
    if isinstance(value, dt.datetime):  # Spark gives times in the process's own zone, without saying so
        return value.astimezone(dt.UTC).isoformat()
    return str(value) if isinstance(value, dt.date) else value
