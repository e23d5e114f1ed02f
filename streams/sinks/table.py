"""Making a Delta table fit its declared schema, without losing or reinterpreting what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from delta.tables import DeltaTable
from pyspark.sql.types import DataType, DecimalType, DoubleType, FloatType, IntegerType, LongType, ShortType, StructType

from streams.delta_log import has_table
from streams.errors import FatalError
from streams.failpoints import failpoint
from streams.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyspark.sql import SparkSession

# What a column may become without any of its values changing, as Delta's type widening allows it.
_WIDER: Final[dict[type[DataType], tuple[type[DataType], ...]]] = {
    ShortType: (IntegerType, LongType),
    IntegerType: (LongType,),
    FloatType: (DoubleType,),
}
_PROPERTIES: Final = {
    "delta.enableChangeDataFeed": "true",
    "delta.enableDeletionVectors": "true",
    "delta.enableTypeWidening": "true",
}


def ensure_table(
    spark: SparkSession, path: str, schema: StructType, evolution: Mapping[str, str] | None = None
) -> None:
    """Create the table, or bring it up to its declaration: new columns are added, wider types widened.

    Args:
        spark: the session.
        path: the table.
        schema: its declaration.
        evolution: of the contract: ``allow`` or ``stop``, by what changes: ``add``, ``widen``, ``drop``.

    Raises:
        FatalError: ``SCHEMA_NARROWED``: a declared type can't hold what the column holds. ``SCHEMA_CHANGED``: the
            contract does not allow this change.
    """
    if not has_table(spark, path):
        _create(spark, path, schema)
        failpoint(_name(path), "table_made")
        return
    current = spark.read.format("delta").load(path).schema
    known = {field.name: field for field in current}
    for name in sorted(known.keys() - {field.name for field in schema}):
        if not name.startswith("_"):
            _require(evolution, "drop", path, name, known[name].dataType.simpleString(), "not there")
    new = [field for field in schema if field.name not in known]
    if new:
        _require(evolution, "add", path, new[0].name, "not there", new[0].dataType.simpleString())
        columns = ", ".join(f"`{field.name}` {field.dataType.simpleString()}" for field in new)
        spark.sql(f"ALTER TABLE delta.`{path}` ADD COLUMNS ({columns})")
        failpoint(_name(path), "columns_added")
    for field in schema:
        if field.name in known and field.dataType != known[field.name].dataType:
            _widen(spark, path, field.name, known[field.name].dataType, field.dataType, evolution)


def _require(evolution: Mapping[str, str] | None, change: str, path: str, column: str, old: str, new: str) -> None:
    if evolution is None or evolution[change] == "allow":
        return
    raise FatalError(
        "SCHEMA_CHANGED",
        f"Column {column!r} of {path} is {old}; its contract now says {new}, and does not allow that.",
        way_out=f'If it is meant, say "x-evolution": {{"{change}": "allow"}} in the contract, then '
        "start the service again, `streams up`; if not, say of the column what was said before.",
        column=column,
        old=old,
        new=new,
    )


def _name(path: str) -> str:
    return ".".join(path.split("/")[-2:])


def _create(spark: SparkSession, path: str, schema: StructType) -> None:
    if Storage(spark).exists(f"{path}/_delta_log"):
        # A creation was killed. Delta's builder takes what it left for a table; a write of no rows does not.
        writer = spark.createDataFrame([], schema).write.format("delta").mode("append")
        writer.options(**_PROPERTIES).save(path)
        return
    builder = DeltaTable.createIfNotExists(spark).location(path).addColumns(schema)
    for name, value in _PROPERTIES.items():
        builder = builder.property(name, value)
    builder.execute()


def _widen(
    spark: SparkSession, path: str, column: str, old: DataType, new: DataType, evolution: Mapping[str, str] | None
) -> None:
    if not _is_wider(old, new):
        raise FatalError(
            "SCHEMA_NARROWED",
            f"Column {column!r} of {path} is {old.simpleString()}, its declaration says {new.simpleString()}: what the "
            "column holds may not fit.",
            way_out="Put the old type back, or give the new one a column of its own"
            + ("." if evolution else f"; or make the table anew: `streams reset {_name(path)}`."),
            column=column,
            old=old.simpleString(),
            new=new.simpleString(),
        )
    _require(evolution, "widen", path, column, old.simpleString(), new.simpleString())
    spark.sql(f"ALTER TABLE delta.`{path}` ALTER COLUMN `{column}` TYPE {new.simpleString()}")


def _is_wider(old: DataType, new: DataType) -> bool:
    if isinstance(old, DecimalType) and isinstance(new, DecimalType):
        return new.scale >= old.scale and new.precision - new.scale >= old.precision - old.scale
    return type(new) in _WIDER.get(type(old), ())
