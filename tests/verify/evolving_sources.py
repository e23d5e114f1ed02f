"""The sources on which schemas change: rows go in as dicts, of the columns that there are at the time."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Protocol

import pyarrow as pa
from confluent_kafka import Producer

if TYPE_CHECKING:
    from tests.verify.judge import Row
    from tests.verify.stack import Stack


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
        self.name = ""  # as the source spells it, when the table is made
        self.wanted_name = f"evolving_{uuid.uuid4().hex[:8]}"
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
            self.name = self.stack.make_table(self.system, self.wanted_name, schema, [self.key])
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
