"""A small lake for tests of whole flows: rows put into bronze by hand, flows run until they are through."""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import yaml

from streams.flows import all_flows
from streams.flows.bronze import bronze_schema
from streams.quality.contract import load_contracts
from streams.settings import load_settings
from streams.sinks.table import ensure_table
from streams.supervisor.run import FlowRun, drain
from streams.supervisor.service import Service

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pyspark.sql import Row, SparkSession

    from streams.settings import Settings

HASH_KEY = b"a key of the tests, which is longer than one block of SHA-256 has bytes"
PROVENANCE = ("_source", "_partition", "_offset", "_source_time", "_ingested_at")


def settings_for(folder: Path, **changes: Any) -> Settings:
    """Settings of a lake in a folder of its own. Its sources are not there: bronze is filled by hand."""
    file, secret = folder / "settings.yaml", folder / "hash.key"
    secret.write_bytes(HASH_KEY)
    text = {
        "environment": "test",
        "lake": {"root": str(folder / "lake")},
        "checkpoints": {"root": str(folder / "checkpoints")},
        "dq_results_root": str(folder / "results"),
        "kafka": {"bootstrap_servers": "localhost:1", "topics": {"order_events": "order_events"}},
        "files": {"fx_rates": str(folder / "fx")},
        "personal": {"hash_key": f"file:{secret}"},
        "sources": {
            "snowflake": {"account": "shop", "user": "loader", "password": f"file:{secret}", "database": "SHOP"},
            "redshift": {
                "host": "localhost",
                "user": "loader",
                "password": f"file:{secret}",
                "database": "shop",
                "mode": "direct",
            },
            "salesforce": {
                "instance_url": "http://localhost",
                "consumer_key": "key",
                "consumer_secret": f"file:{secret}",
            },
        },
        "restart": {"first_pause_seconds": 0.1, "max_pause_seconds": 1.0},
        "logging": {"level": "error"},
    } | changes
    file.write_text(yaml.safe_dump(text))
    return load_settings("test", str(file), {"PATH": os.environ["PATH"]})


@dataclass
class Bench:
    """One lake, one service."""

    service: Service

    @classmethod
    def at(cls, spark: SparkSession, folder: Path, **changes: Any) -> Bench:
        return cls(Service(lambda: spark, settings_for(folder, **changes), run_id="test"))

    @property
    def spark(self) -> SparkSession:
        return self.service.spark

    def run(self, *flows: str) -> list[FlowRun]:
        """Run flows one after the other, each until it is through."""
        declared = all_flows(self.service.settings)
        return [drain(declared[name], self.service) for name in flows]

    def put(self, table: str, contract: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows to a bronze table, as its flow would; what a row does not say is null."""
        schema = bronze_schema(load_contracts_of(self.service.settings)[contract])
        path = self.service.lake.table(table)
        ensure_table(self.spark, path, schema)
        told = [{"_is_tombstone": False, "_source": "test", "_ingested_at": at(0)} | dict(row) for row in rows]
        values = [tuple(row.get(field.name) for field in schema) for row in told]
        self.spark.createDataFrame(values, schema).coalesce(1).write.format("delta").mode("append").save(path)

    def rows(self, table: str) -> list[Row]:
        """The table's business columns, in an order that does not depend on how it was written."""
        frame = self.spark.read.format("delta").load(self.service.lake.table(table))
        business = [name for name in frame.columns if not name.startswith("_")]
        return sorted(frame.select(business).collect(), key=repr)

    def all_rows(self, path: str) -> list[Row]:
        """Every column of the table at a path."""
        return self.spark.read.format("delta").load(path).collect()


def load_contracts_of(settings: Settings) -> dict[str, Any]:
    from pathlib import Path

    return load_contracts(Path(settings.contracts_root) / "bronze")


def at(minutes: float) -> dt.datetime:
    return dt.datetime(2025, 1, 6, tzinfo=dt.UTC) + dt.timedelta(minutes=minutes)


def order_event(
    order: int,
    sequence: int,
    kind: str = "created",
    *,
    minutes: float = 0,
    amount: str = "10.00",
    version: int = 0,
    currency: str = "USD",
) -> dict[str, Any]:
    """An order event as bronze holds it; `version` makes another event of the same id."""
    made = (
        {"customer_id": "7", "quantity": 1, "amount": Decimal(amount), "currency": currency}
        if kind == "created"
        else {}
    )
    return made | {
        "event_id": f"00000000-0000-0000-{sequence:04d}-{order:012d}",
        "order_id": f"CD-{order}",
        "sequence": sequence,
        "event_type": kind,
        "occurred_at": at(minutes),
        "note": f"v{version}",
    }


def tombstone(order: int, minutes: float = 0) -> dict[str, Any]:
    return {"_is_tombstone": True, "_key": f"CD-{order}", "_source_time": at(minutes)}


def rate(day: int, value: str, *, revision: int = 0, currency: str = "USD") -> dict[str, Any]:
    """A rate of January 2025; a later revision corrects it."""
    return {
        "rate_date": dt.date(2025, 1, day),
        "base_currency": "EUR",
        "quote_currency": currency,
        "rate": Decimal(value),
        "published_at": dt.datetime(2025, 1, day, 15, revision, tzinfo=dt.UTC),
    }
