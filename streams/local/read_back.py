"""What the warehouses hold, read by their own clients and held against gold, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import TimestampNTZType, TimestampType

from streams.flows.gold import GOLD_TABLES
from streams.flows.publish import WAREHOUSES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import DataFrame

    from streams.flows.gold import GoldTable
    from streams.settings import Settings
    from streams.supervisor.service import Service

_ROWS_AT_ONCE: Final = 20_000


@dataclass(frozen=True)
class Published:
    """One table of gold in one warehouse.

    Args:
        warehouse, table: which.
        gold: rows in gold.
        there: rows in the warehouse.
        different: rows that only one of them has, or that differ.
    """

    warehouse: str
    table: str
    gold: int
    there: int
    different: int

    @property
    def agrees(self) -> bool:
        """Every row is there as gold has it, and no other."""
        return self.gold == self.there and self.different == 0


def published(service: Service) -> Iterator[Published]:
    """All tables of gold in all warehouses that are configured."""
    for system in WAREHOUSES:
        if getattr(service.settings.targets, system) is None:
            continue
        for table in GOLD_TABLES:
            gold = gold_rows(service, table)
            there = warehouse_rows(service.settings, system, table, gold.schema)
            yield Published(system, table.flow.partition(".")[2], len(gold), len(there), _different(gold, there))


def gold_rows(service: Service, table: GoldTable) -> pa.Table:
    """A table of gold in the order of its key; times are UTC without a zone, as the warehouses keep them."""
    rows: DataFrame = service.spark.read.format("delta").load(service.lake.table(table.flow))
    naive = [
        F.col(one.name).cast(TimestampNTZType()) if isinstance(one.dataType, TimestampType) else F.col(one.name)
        for one in table.schema
    ]
    chosen = rows.select(naive)
    return chosen.toArrow().cast(_nullable(to_arrow_schema(chosen.schema))).sort_by(table.key)


def warehouse_rows(settings: Settings, system: str, table: GoldTable, schema: pa.Schema) -> pa.Table:
    """The same of a warehouse, by its own client."""
    name = table.flow.partition(".")[2]
    read = {"redshift": _of_redshift, "snowflake": _of_snowflake}[system]
    return read(settings, name, schema).sort_by(table.key)


def _of_redshift(settings: Settings, name: str, schema: pa.Schema) -> pa.Table:
    target = settings.targets.redshift
    assert target is not None
    listed = ", ".join(f'"{column}"' for column in schema.names)
    batches = []
    with target.login().connect() as connection, connection.cursor() as cursor:
        cursor.execute(f'SELECT {listed} FROM "{target.schema_name}"."{name}"')  # noqa: S608 - our own names
        while rows := cursor.fetchmany(_ROWS_AT_ONCE):
            columns: list[Any] = list(zip(*rows, strict=True))
            arrays = [pa.array(list(values), one.type) for values, one in zip(columns, schema, strict=True)]
            batches.append(pa.Table.from_arrays(arrays, schema=schema))
    return pa.concat_tables(batches) if batches else schema.empty_table()


def _of_snowflake(settings: Settings, name: str, schema: pa.Schema) -> pa.Table:
    target = settings.targets.snowflake
    assert target is not None
    listed = ", ".join(schema.names)
    with target.login().connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT {listed} FROM {name}")  # noqa: S608 - our own names
        rows = cursor.fetch_arrow_all(force_return_table=True)
    return rows.rename_columns([column.lower() for column in rows.column_names]).select(schema.names).cast(schema)


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([pa.field(one.name, one.type) for one in schema])


def _different(gold: pa.Table, there: pa.Table) -> int:
    if gold.equals(there):
        return 0
    ours, theirs = ({tuple(row.values()) for row in table.to_pylist()} for table in (gold, there))
    return len(ours ^ theirs)
