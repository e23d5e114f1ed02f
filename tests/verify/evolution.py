"""Schemas that change under a stream, at every source: promise 6, case by case, each on a small lake of its own."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from streams.errors import StreamsError
from streams.flows import all_flows
from streams.supervisor.run import drain
from streams.supervisor.service import Service
from tests.verify.evolving_sources import Folder, PulledTable, Topic, places

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

    from tests.verify.evolving_sources import Place
    from tests.verify.judge import Row
    from tests.verify.stack import Stack
    from tests.verify.tally import Tally

_NEW: Final = {
    "type": ["string", "null"],
    "description": "How it came.",
    "enum": ["web", "app"],
    "x-added": "2026-12-01",
}


class Case:
    """One lake, one source, one flow; a contract that can be changed."""

    def __init__(self, place: Place, stack: Stack, spark: SparkSession, folder: Path) -> None:
        self.place, self.stack, self.spark, self.folder = place, stack, spark, folder
        folder.mkdir(parents=True)
        self.contracts = folder / "contracts"
        shutil.copytree(stack.contracts, self.contracts)
        self.file = self.contracts / "bronze" / f"{place.contract}.schema.json"
        self.number = 0
        self.sent = 0

    def put(self, count: int = 3, leave_out: tuple[str, ...] = (), **more: Any) -> None:
        """Send rows that differ from sound ones in some columns."""
        rows = []
        for _ in range(count):
            self.number += 1
            row = self.place.row(self.number) | more
            rows.append({name: value for name, value in row.items() if name not in leave_out})
        self.place.put(rows)
        self.sent += count

    def contract(self, **columns: dict[str, Any] | None) -> None:
        """Columns of the contract become what is said; None takes one out."""
        schema = json.loads(self.file.read_text())
        for name, said in columns.items():
            if said is None:
                del schema["properties"][name]
            else:
                schema["properties"][name] = said
        self.file.write_text(json.dumps(schema))

    def column(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self.file.read_text())["properties"][name])

    def run(self) -> StreamsError | None:
        """As a process that starts anew; the error that stops it."""
        settings = self.stack.settings_with(
            self.folder, contracts_root=str(self.contracts), targets={}, **self.place.settings()
        )
        self.service = Service(lambda: self.spark, settings, run_id="evolving")
        flows = all_flows(settings)
        try:
            for name in (self.place.flow, *(one for one, flow in flows.items() if self.place.flow in flow.reads)):
                drain(flows[name], self.service)
        except StreamsError as error:
            return error
        return None

    def found(self) -> tuple[int, int]:
        """Rows in bronze and in its lane."""
        lake = self.service.lake
        read = self.spark.read.format("delta")
        return read.load(lake.table(self.place.flow)).count(), read.load(lake.lane("bronze")).count()

    def values(self, column: str) -> list[Any]:
        rows = self.spark.read.format("delta").load(self.service.lake.table(self.place.flow)).select(column).collect()
        return sorted((row[0] for row in rows), key=repr)


class BrokenPromiseError(Exception):
    """The promise is not kept."""


def must(condition: object, said: str) -> None:
    if not condition:
        raise BrokenPromiseError(said)


def added(case: Case) -> None:
    """A new optional column of the contract flows through; what came before lacks it."""
    case.contract(channel=_NEW)
    case.put(channel="web")
    error = case.run()
    must(error is None, f"stops: {error}")
    must(case.found() == (case.sent, 0), f"bronze and lane hold {case.found()} of {case.sent}")
    must(case.values("channel").count("web") == 3, f"channel is {case.values('channel')}")
    case.put(1, channel="fax")
    case.run()
    must(case.found() == (case.sent - 1, 1), f"bronze and lane hold {case.found()} of {case.sent}")


def unknown(case: Case) -> None:
    """A column that no contract names: left out; a CSV line has no names, so it waits."""
    case.put(zzz="surprise")
    error = case.run()
    must(error is None, f"stops: {error}")
    waits = 3 if isinstance(case.place, Topic) else 0
    must(case.found() == (case.sent - waits, waits), f"bronze and lane hold {case.found()} of {case.sent}")


def widened(case: Case) -> None:
    """A wider type in the contract: the table becomes wider, and wider values come in."""
    column = str(case.place.decimal)
    said = case.column(column)
    digits, scale = said["x-decimal"]
    case.contract(**{column: said | {"x-decimal": [digits + 4, scale]}})
    value = Decimal("1" + "0" * (digits - scale + 1))
    case.put(1, **{column: value})
    error = case.run()
    must(error is None, f"stops: {error}")
    must(case.found() == (case.sent, 0), f"bronze and lane hold {case.found()} of {case.sent}")
    must(value in case.values(column), f"{column} is {case.values(column)}")


def narrowed(case: Case) -> None:
    """A narrower type stops the flow with an error that says all; the old contract brought back, nothing is lost."""
    column = str(case.place.decimal or "page_views")
    said = case.column(column)
    case.contract(
        **{column: {"type": "string", "description": "Narrower."}}
        if "x-decimal" not in said
        else {column: said | {"x-decimal": [4, 2]}}
    )
    case.put()
    error = case.run()
    must(error is not None and error.code == "SCHEMA_NARROWED", f"says {error}")
    assert error is not None
    must(all(error.parameters.get(name) for name in ("column", "old", "new")), f"names {error.parameters}")
    must(error.way_out, "says no way out")
    case.contract(**{column: said})
    error = case.run()
    must(error is None, f"does not go on: {error}")
    must(case.found() == (case.sent, 0), f"bronze and lane hold {case.found()} of {case.sent}")


def dropped_optional(case: Case) -> None:
    """An optional column is gone at the source: null from then on."""
    column = str(case.place.optional)
    case.put(leave_out=(column,))
    error = case.run()
    must(error is None, f"stops: {error}")
    waits = 3 if isinstance(case.place, Topic) else 0  # a line with a field less is not a line of this contract
    must(case.found() == (case.sent - waits, waits), f"bronze and lane hold {case.found()} of {case.sent}")


def dropped_required(case: Case) -> None:
    """A required column is gone: a database's flow stops and says which; files and lines wait, row by row."""
    _loses_required(case, {})


def renamed(case: Case) -> None:
    """A required column has another name: the same as gone."""
    _loses_required(case, {"renamed": "Jazz"})


def _loses_required(case: Case, more: Row) -> None:
    column = case.place.required
    case.put(leave_out=(column,), **more)
    error = case.run()
    if isinstance(case.place, PulledTable):
        must(error is not None and error.code == "SOURCE_COLUMN_MISSING", f"says {error}")
        assert error is not None
        must(column in str(error) and error.way_out, f"says {error}")
        case.place.put_so_far = [case.place.row(1) | row for row in case.place.put_so_far]
        case.put()  # brought back, with what had come without it
        error = case.run()
        must(error is None, f"does not go on: {error}")
        must(sum(case.found()) == case.sent, f"bronze and lane hold {case.found()} of {case.sent}")
    else:
        must(error is None, f"stops: {error}")
        must(case.found() == (case.sent - 3, 3), f"bronze and lane hold {case.found()} of {case.sent}")


def type_changed(case: Case) -> None:
    """Numbers become text: those that are numbers come in, others wait; none is reinterpreted."""
    column = str(case.place.decimal or "page_views")
    if isinstance(case.place, PulledTable):
        case.place.kinds = {column: pa.string()}
    case.put(2, **{column: "17"})
    case.put(1, **{column: "seventeen"})
    error = case.run()
    must(error is None, f"stops: {error}")
    bad = 3 if isinstance(case.place, Folder) else 1  # in JSON a text is no number, whatever it says
    must(case.found() == (case.sent - bad, bad), f"bronze and lane hold {case.found()} of {case.sent}")


CHANGES: Final = (added, unknown, widened, narrowed, dropped_optional, dropped_required, renamed, type_changed)


def _applies(change: Any, place: Place) -> bool:
    if change is widened:
        return place.decimal is not None
    if change is dropped_optional:
        return place.optional is not None
    # A line's columns have no names: another name is no change, a field less is `dropped_optional`'s.
    return not (change in (renamed, dropped_required) and isinstance(place, Topic))


def play(stack: Stack, spark: SparkSession, tally: Tally, only: int | None = None) -> None:
    """Every change at every source, or some of them."""
    cases = [(name, make, change) for name, make in places(stack) for change in CHANGES]
    if only is not None:
        cases = cases[:: max(1, len(cases) // only)][:only]
    for name, make, change in cases:
        place = make()
        if not _applies(change, place):
            continue
        said = f"{name}: {change.__name__.replace('_', ' ')}"
        case = Case(place, stack, spark, stack.folder / "evolving" / uuid.uuid4().hex[:8])
        case.put()
        began = time.monotonic()
        try:
            error = case.run()
            must(error is None, f"does not begin: {error}")
            change(case)
        except BrokenPromiseError as wrong:
            tally.failed(f"schema, {said}: {wrong}")
        tally.tried("schema", said, time.monotonic() - began)
