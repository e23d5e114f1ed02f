"""CSV messages (RFC 4180, one record a message, no header) as columns of text, without a UDF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from streams.sources.envelope import violation

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

# Stands for one quoted stretch while the structure of a line is looked at.
_QUOTED = "\x00"
_CSV_OPTIONS = {
    "mode": "PERMISSIVE",
    "quote": '"',
    "escape": '"',
    "nullValue": "",
    "emptyValue": "",
    "multiLine": "true",
}


@dataclass(frozen=True)
class CsvRecords:
    """Reads each envelope's payload as one CSV record.

    Args:
        columns: the columns' names, in the order of the line.
        least: how many columns a line must have at the least; those after were added later, at the end.
        plain: a regular expression of Java's for lines that are a record without a quote, for certain; most lines
            are, and need not be taken apart to know it.
    """

    columns: tuple[str, ...]
    least: int
    plain: str | None = None

    def decode(self, envelopes: DataFrame) -> DataFrame:
        """Add ``_texts`` (struct of strings, a field a column), ``_is_plain`` and ``_broken`` to an envelope.

        ``_broken`` is null, or why the record can't be read at all: struct<code, column, value>. The codes:
        ``encoding`` (not UTF-8), ``empty``, ``quoting``, ``records`` (several in one message), ``columns``.
        """
        raw = F.col("payload").cast("string")
        is_plain = (
            F.coalesce(F.is_valid_utf8(raw) & raw.rlike(self.plain), F.lit(False)) if self.plain else F.lit(False)
        )
        lines = envelopes.withColumn("_is_plain", is_plain)
        is_plain = F.col("_is_plain")
        text = F.regexp_replace(raw, r"^\x{FEFF}|\r?\n\z", "")
        lines = lines.withColumn(
            "_text", F.when(is_plain, F.rtrim(raw, F.lit("\r\n"))).when(F.is_valid_utf8(raw), text)
        )
        lines = lines.withColumn("_skeleton", F.when(~is_plain, _skeleton(F.col("_text"))))
        broken = F.when(~is_plain, self._broken(F.col("_text"), F.col("_skeleton")))
        lines = lines.withColumn("_broken", broken)
        schema = StructType([StructField(name, StringType()) for name in self.columns])
        sound = F.when(F.col("_broken").isNull(), F.col("_text"))
        return lines.withColumn(
            "_texts", F.from_csv(sound, schema.simpleString()[7:-1].replace(":", " "), _CSV_OPTIONS)
        ).drop("_text", "_skeleton")

    def _broken(self, text: Column, skeleton: Column) -> Column:
        count = F.length(skeleton) - F.length(F.replace(skeleton, F.lit(","), F.lit(""))) + 1
        expected = str(len(self.columns)) if self.least == len(self.columns) else f"{self.least} to {len(self.columns)}"
        return (
            F.when(F.col("payload").isNull(), None)
            .when(text.isNull(), violation("encoding", "not UTF-8"))
            .when(text.rlike(r"^\s*$"), violation("empty", "no text"))
            .when(_is_misquoted(skeleton), violation("quoting", "a quote is not closed or stands inside a value"))
            .when(skeleton.rlike(r"[\r\n]"), violation("records", "more than one record in a message"))
            .when(
                ~count.between(self.least, len(self.columns)),
                violation("columns", F.concat(count.cast("string"), F.lit(f" columns in place of {expected}"))),
            )
        )


def _skeleton(text: Column) -> Column:
    """The line with each quoted stretch made one mark, so that commas and line ends in it do not count."""
    text = F.replace(text, F.lit(_QUOTED), F.lit(" "))  # a value may hold the mark itself
    return F.when(F.contains(text, F.lit('"')), F.regexp_replace(text, '"[^"]*+"', _QUOTED)).otherwise(text)


def _is_misquoted(skeleton: Column) -> Column:
    return F.contains(skeleton, F.lit('"')) | skeleton.rlike(f"[^,{_QUOTED}\r\n]{_QUOTED}|{_QUOTED}[^,{_QUOTED}\r\n]")
