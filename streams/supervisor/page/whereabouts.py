"""Where the row of a key is: in which lanes it waits, in which tables it stands, and why not in the others."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pyspark.sql.types import DateType, IntegerType, LongType, StringType

from streams.flows.silver import SILVER_TABLES
from streams.micro_batch import Upsert

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from streams.flows.flow import Flow
    from streams.quality.contract import Contract
    from streams.supervisor.page.lanes import LaneRow
    from streams.supervisor.page.overview import FlowView

# Columns in which people look for a row, besides those of its key.
_AN_ID: Final = re.compile(r"(_id|_key|Id|Number__c)$")
_TOMBSTONES: Final = ("_is_tombstone", "is_deleted")
MESSAGE_KEY: Final = "_key"  # of bronze: where a tombstone of Kafka has its key, and nowhere else
_SEARCHABLE: Final = (StringType, LongType, IntegerType, DateType)


@dataclass(frozen=True)
class Place:
    """A table in which rows are looked for.

    Args:
        flow: the flow that writes it, and its name.
        path: where it lies.
        key: its key's columns.
        ids: other columns by which a row may be known.
        tombstone: the column that marks rows which stand for a deleted one; None: there are none.
        sources: the columns of its rows' provenance; gold has none.
    """

    flow: str
    path: str
    key: tuple[str, ...]
    ids: tuple[str, ...]
    tombstone: str | None
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """What a table holds of a key.

    Attributes:
        rows: how many.
        deleted: how many of them are tombstones.
        newest_at: when the newest came in; None where the table does not say.
        source: where that one is from.
        by: the columns that the key was found in; none: those of the table's key together.
        asked: the columns that were looked in.
    """

    flow: str
    rows: int
    deleted: int = 0
    newest_at: datetime | None = None
    source: str | None = None
    by: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Whereabouts:
    """All that is known of a key: each table of the lake, and the rows of lanes."""

    key: str
    found: tuple[Found, ...]
    lanes: tuple[LaneRow, ...]

    def of(self, flow: str) -> Found | None:
        """What the table of that name holds; None: it is not of the lake."""
        return next((one for one in self.found if one.flow == flow), None)


@dataclass(frozen=True)
class Verdict:
    """Whether a key is in a table and, if not, why; `state` is the sign that it is shown with."""

    flow: str
    state: str
    says: str
    lane: LaneRow | None = None


def places(flows: Iterable[Flow], contracts: Mapping[str, Contract]) -> list[Place]:
    """The tables of bronze, silver and gold, with the columns by which their rows are known.

    Columns that the contracts call personal are not looked in, unless they are the key itself.
    """
    of_bronze = {table.upstream: contracts[table.contract] for table in SILVER_TABLES}
    of_silver = {name: table for table in SILVER_TABLES for name in (table.flow, table.versions) if name}
    found = []
    for flow in flows:
        table = next((one for one in flow.tables if one.path.rstrip("/").endswith(flow.name.replace(".", "/"))), None)
        if flow.layer not in ("bronze", "silver", "gold") or table is None:
            continue
        key = flow.processor.ranking.key if isinstance(flow.processor, Upsert) else of_bronze[flow.name].primary_key
        private: set[str] = set()
        if flow.name in of_bronze:
            private = {column.name for column in of_bronze[flow.name].columns if column.personal}
        elif flow.name in of_silver:
            silver = of_silver[flow.name]
            private = {silver.name_of(column) for column in contracts[silver.contract].columns if column.personal}
        types = {field.name: field.dataType for field in table.schema}
        # A key that is a number of the row's version says nothing to people: any column of the key is enough.
        ids = [name for name in types if name == MESSAGE_KEY or (_AN_ID.search(name) and not name.startswith("_"))]
        looked_in = [
            name
            for name in dict.fromkeys((*key, *ids))
            if isinstance(types[name], _SEARCHABLE) and (name in key or name not in private)
        ]
        found.append(
            Place(
                flow.name,
                table.path,
                key,
                tuple(looked_in),
                next((name for name in _TOMBSTONES if name in types), None),
                tuple(name for name in ("_source", "_partition", "_offset", "_ingested_at") if name in types),
            )
        )
    return found


def verdicts(where: Whereabouts, views: Sequence[FlowView]) -> list[Verdict]:
    """Go down from the sources, and say of each table whether the key is there and, if not, what keeps it.

    Tables that neither have it nor would have it from one that has are left out.
    """
    waiting = {row.flow: row for row in where.lanes if row.status == "waiting"}
    settled = {row.flow: row for row in where.lanes if row.status != "waiting"}
    reached: set[str] = set()
    said = []
    for view in views:
        found = where.of(view.name)
        comes_from_above = any(name in reached and _comes_along(where.of(name), found) for name in view.reads)
        if found is not None and found.rows:
            reached.add(view.name)
            said.append(Verdict(view.name, "there", _there(found), waiting.get(view.name)))
        elif view.name in waiting:
            said.append(Verdict(view.name, "lane", "Not there: it waits in the error lane.", waiting[view.name]))
        elif view.name in settled:
            row = settled[view.name]
            what = "was given up by a person" if row.status == "discarded" else "was sent back, and has not arrived"
            said.append(Verdict(view.name, "absent", f"Not there: it {what}.", row))
        elif found is None and comes_from_above:
            said.append(Verdict(view.name, *_of_warehouse(view)))
        elif comes_from_above:
            said.append(Verdict(view.name, *_missing(view)))
    return said


def _comes_along(upstream: Found | None, found: Found | None) -> bool:
    """Whether a row of that key upstream makes one here: an order has its product's id, and not the day of a rate."""
    if upstream is None or found is None or found.flow.startswith("silver."):
        return True  # a warehouse has what gold has, silver what bronze has
    return not {*(upstream.by or upstream.asked)}.isdisjoint(found.asked)


def _there(found: Found) -> str:
    if found.deleted == found.rows:
        return "Deleted: a tombstone stands there."
    columns = [name for name in found.by if name != MESSAGE_KEY]
    by = " and ".join(columns) or ("its message’s key" if found.by else "its key")
    also = f", {found.deleted} of them deleted" if found.deleted else ""
    return f"{found.rows:,} {'row' if found.rows == 1 else 'rows'}{also}, by {by}."


def _missing(view: FlowView) -> tuple[str, str]:
    if view.state == "waiting":
        return "absent", "Not there, and its flow has read all there is: nothing of it belongs in this table."
    return view.state, f"Not there yet: its flow is {view.state}.{_why(view)}"


def _of_warehouse(view: FlowView) -> tuple[str, str]:
    if view.state == "waiting":
        return "waiting", "The warehouse was not asked; its flow has loaded all that gold holds."
    return view.state, f"The warehouse was not asked; its flow is {view.state}.{_why(view)}"


def _why(view: FlowView) -> str:
    return f" {view.error}" if view.error else ""
