"""Schemas that change under a stream, at every source: promise 6, case by case, each on a small lake of its own."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import shutil
import time
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Protocol

import pyarrow as pa
from confluent_kafka import Producer

from streams.errors import StreamsError
from streams.flows import all_flows
from streams.supervisor.run import drain
from streams.supervisor.service import Service

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

    from tests.verify.judge import Row
    from tests.verify.stack import Stack
    from tests.verify.tally import Tally

_NEW: Final = {
    "type": ["string", "null"],
    "description": "How it came.",
    "enum": ["web", "app"],
    "x-added": "2026-12-01",
}


class Place(Protocol):
    """A source on which a case is played: rows go in as dicts, of the columns that there are now."""

    flow: str
    contract: str
    decimal: str | None  # a required column of the type number
    optional: str | None  # a column that is not required
    required: str

    def row(self, number: int) -> Row:
        """A sound row."""
        ...

    def put(self, rows: list[Row]) -> None:
        """Send rows; the columns of the first one are those of the source."""
        ...

    def settings(self) -> dict[str, Any]:
        """What is other in the service's settings."""
        ...


@dataclass
class Topic:
    """Kafka: the columns of a line have no names."""

    stack: Stack
    flow: str = "bronze.order_events"
    contract: str = "kafka_events"
    decimal: str | None = "amount"
    optional: str | None = "note"  # the last, so that it can be left out
    required: str = "currency"
    name: str = field(default_factory=lambda: f"evolving-{uuid.uuid4().hex[:8]}")

    def __post_init__(self) -> None:
        self.stack.broker.create_topic(self.name)

    def row(self, number: int) -> Row:
        return {
            "event_id": f"{number:08x}-0000-4000-8000-000000000000",
            "order_id": f"CD-{number}",
            "sequence": 1,
            "event_type": "created",
            "occurred_at": "2026-01-01T10:00:00Z",
            "customer_id": "7",
            "quantity": 1,
            "amount": "10.00",
            "currency": "USD",
            "note": "",
        }

    def put(self, rows: list[Row]) -> None:
        producer = Producer({"bootstrap.servers": self.stack.broker.bootstrap_servers, "log_level": 0})
        for row in rows:
            line = io.StringIO(newline="")
            csv.writer(line, lineterminator="").writerow(row.values())
            producer.produce(self.name, key=str(row["order_id"]), value=line.getvalue())
        assert not producer.flush(30)

    def settings(self) -> dict[str, Any]:
        servers = self.stack.broker.bootstrap_servers
        return {"kafka": {"bootstrap_servers": servers, "topics": {"order_events": self.name}}}


@dataclass
class Folder:
    """Files of JSON."""

    stack: Stack
    flow: str = "bronze.fx_rates"
    contract: str = "fx_rates"
    decimal: str | None = "rate"
    optional: str | None = None
    required: str = "quote_currency"

    def __post_init__(self) -> None:
        self.landing = self.stack.folder / f"evolving-{uuid.uuid4().hex[:8]}"
        self.landing.mkdir()

    def row(self, number: int) -> Row:
        day = dt.date(2025, 1, 1) + dt.timedelta(days=number)
        made = {"rate_date": f"{day}", "base_currency": "EUR", "quote_currency": "USD"}
        return made | {"rate": 1.25, "published_at": f"{day}T15:00:00Z"}

    def put(self, rows: list[Row]) -> None:
        (self.landing / f"{uuid.uuid4().hex}.json").write_text(json.dumps(rows, default=float))

    def settings(self) -> dict[str, Any]:
        return {"files": {"fx_rates": str(self.landing)}}


@dataclass
class PulledTable:
    """A table of a stand-in, made anew with other columns when they change."""

    stack: Stack
    system: str
    flow: str
    contract: str
    decimal: str | None
    optional: str | None
    required: str
    model: Row
    key: str
    cursor: str
    kinds: dict[str, pa.DataType] = field(default_factory=dict)
    put_so_far: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = f"EVOLVING_{uuid.uuid4().hex[:8].upper()}" + ("__c" if self.system == "salesforce" else "")
        self.server = getattr(self.stack.sources, self.system)
        self.columns: list[str] = []

    def row(self, number: int) -> Row:
        return self.model | {self.key: self.model[self.key].format(number)}

    def put(self, rows: list[Row]) -> None:
        dated = [row | {self.cursor: self.stack.now(self.system)} for row in rows]
        if list(rows[0]) != self.columns or self.kinds:
            self.columns = list(rows[0])
            schema = pa.schema([(name, self.kinds.get(name) or _kind(rows[0][name])) for name in self.columns])
            old = [
                {name: _as(row.get(name), schema.field(name).type) for name in self.columns} for row in self.put_so_far
            ]
            dated, kept = old + dated, dated
            if self.system == "salesforce":
                self.server.create_object(self.name, schema)
            else:
                self.server.create_table(self.name, schema, [self.key])
            self.put_so_far += kept
        else:
            self.put_so_far += dated
        self.server.load(self.name, dated)
        self.stack.pass_time(self.system)

    def settings(self) -> dict[str, Any]:
        said = self.stack.settings.sources.model_dump(mode="json", exclude_none=True, by_alias=True)
        said[self.system]["tables"] = {self.contract: self.name}
        return {"sources": said}


def _kind(value: Any) -> pa.DataType:
    if isinstance(value, Decimal):
        return pa.decimal128(24, 2)
    if isinstance(value, dt.datetime):
        return pa.timestamp("us", "UTC")
    return pa.bool_() if isinstance(value, bool) else pa.int64() if isinstance(value, int) else pa.string()


def _as(value: Any, kind: pa.DataType) -> Any:
    return str(value) if value is not None and pa.types.is_string(kind) else value


_AT: Final = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)


def places(stack: Stack) -> list[Any]:
    """What makes each source, by name."""
    return [
        ("kafka", lambda: Topic(stack)),
        ("files", lambda: Folder(stack)),
        (
            "snowflake",
            lambda: PulledTable(
                stack,
                "snowflake",
                "bronze.snowflake_products",
                "snowflake_products",
                "unit_price",
                "supplier",
                "category",
                {
                    "product_id": "P-{}",
                    "name": "Record",
                    "category": "Jazz",
                    "unit_price": Decimal("12.50"),
                    "currency": "USD",
                    "supplier": "Halyard",
                    "is_active": True,
                    "updated_at": _AT,
                    "is_deleted": False,
                },
                "product_id",
                "updated_at",
            ),
        ),
        (
            "redshift",
            lambda: PulledTable(
                stack,
                "redshift",
                "bronze.redshift_behavior",
                "redshift_behavior",
                None,
                "referrer",
                "device",
                {
                    "session_id": "{:08x}-0000-4000-8000-000000000000",
                    "customer_id": "7",
                    "started_at": _AT,
                    "ended_at": _AT,
                    "page_views": 3,
                    "cart_adds": 1,
                    "device": "mobile",
                    "referrer": "https://example.org",
                    "country": "DE",
                    "loaded_at": _AT,
                },
                "session_id",
                "loaded_at",
            ),
        ),
        (
            "salesforce",
            lambda: PulledTable(
                stack,
                "salesforce",
                "bronze.crm_accounts",
                "crm_accounts",
                "AnnualRevenue",
                "Industry",
                "OwnerId",
                {
                    "Id": "0018c{:010}",
                    "Name": "Records Ltd",
                    "Type": "Customer",
                    "Industry": "Retail",
                    "BillingCountry": "Germany",
                    "AnnualRevenue": Decimal("1000.00"),
                    "NumberOfEmployees": 5,
                    "CustomerNumber__c": "7",
                    "OwnerId": "0058c0000000001",
                    "CreatedDate": _AT,
                    "SystemModstamp": _AT,
                    "IsDeleted": False,
                },
                "Id",
                "SystemModstamp",
            ),
        ),
    ]


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
        self.service = Service(self.spark, settings, run_id="evolving")
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
