"""JSON files as columns of text: one document, JSON lines or an array a file, without a UDF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from streams.sources.envelope import violation

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


@dataclass(frozen=True)
class JsonRecords:
    """Reads each envelope's payload as JSON and makes one row of each record in it.

    A payload in which anything can't be read stays one row, so that a file half written waits in the error
    lane whole: what is missing from it can't be known.

    Args:
        columns: the fields of a record.
    """

    columns: tuple[str, ...]

    def decode(self, envelopes: DataFrame) -> DataFrame:
        """Give a row a record: the envelope with ``_offset`` counting the records of a payload, and

        ``_texts`` and ``_kinds`` (structs of strings, a field a column: the value's text and its JSON type),
        and ``_broken``: null or struct<code, column, value>. The codes: ``encoding``, ``empty``, ``not_json``,
        ``not_an_object``.
        """
        raw = F.col("payload").cast("string")
        text = F.regexp_replace(raw, r"^\x{FEFF}", "")
        files = envelopes.withColumn("_text", F.when(F.is_valid_utf8(raw), text))
        files = files.withColumn("_records", _records(F.col("_text")))
        files = files.withColumn("_broken", _broken(F.col("_text"), F.col("_records")))
        kept = [column for column in envelopes.columns if column not in ("payload", "_offset")]
        rows = files.select(
            *kept, "payload", "_broken", "_offset", F.posexplode_outer("_records").alias("_place", "_record")
        )
        record = F.col("_record")
        is_object = F.startswith(F.schema_of_variant(record), F.lit("OBJECT"))
        whole = violation("not_an_object", "a record is not an object")
        return rows.select(
            *kept,
            F.when(record.isNull(), F.col("payload")).otherwise(F.to_json(record).cast("binary")).alias("payload"),
            F.coalesce("_offset", F.col("_place").cast("bigint"), F.lit(0)).alias("_offset"),
            F.coalesce("_broken", F.when(record.isNotNull() & ~is_object, whole)).alias("_broken"),
            F.struct(*(_text_of(record, name).alias(name) for name in self.columns)).alias("_texts"),
            F.struct(*(_kind_of(record, name).alias(name) for name in self.columns)).alias("_kinds"),
        )


def _records(text: Column) -> Column:
    """The records as an array of variants, or null where any of it can't be read.

    Each reading is wrapped in brackets: `parse_json` stops after the first value and ignores what follows it,
    and inside brackets what follows is an error.
    """
    whole = F.try_parse_json(F.concat(F.lit("["), text, F.lit("]"))).cast("array<variant>")
    lines = F.filter(F.split(text, r"\r?\n"), lambda line: F.length(F.trim(line)) > 0)
    by_line = F.try_parse_json(F.concat(F.lit("["), F.array_join(lines, ","), F.lit("]"))).cast("array<variant>")
    inner = F.try_variant_get(F.get(whole, F.lit(0)), "$", "array<variant>")
    return (
        F.when(text.rlike(r"^\s*$"), None)
        .when(F.size(whole) == 1, F.coalesce(inner, whole))
        .when(whole.isNull() & (F.size(by_line) == F.size(lines)), by_line)
    )


def _broken(text: Column, records: Column) -> Column:
    return (
        F.when(text.isNull(), violation("encoding", "not UTF-8"))
        .when(text.rlike(r"^\s*$"), violation("empty", "no text"))
        .when(records.isNull(), violation("not_json", "broken or half written"))
        .when(F.size(records) == 0, violation("empty", "no records"))
    )


def _text_of(record: Column, name: str) -> Column:
    return F.try_variant_get(record, f"$['{name}']", "string")


def _kind_of(record: Column, name: str) -> Column:
    """The JSON type of a field: string, number, boolean, object, array, null; SQL's null where it is absent."""
    schema = F.schema_of_variant(F.try_variant_get(record, f"$['{name}']", "variant"))
    return (
        F.when(schema.isNull(), None)
        .when(schema == "STRING", "string")
        .when(schema == "VOID", "null")
        .when(schema == "BOOLEAN", "boolean")
        .when(F.startswith(schema, F.lit("OBJECT")), "object")
        .when(F.startswith(schema, F.lit("ARRAY")), "array")
        .otherwise("number")
    )
