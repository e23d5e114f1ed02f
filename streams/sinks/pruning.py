"""What keeps a merge from reading more of its table than it must: conditions on the table's keys alone.

MERGE reads the table three times where it has deletion vectors: for the files that hold any of the keys, for the rows
to write anew, for those to mark as gone. The second time it joins from the left, so it sorts all that it has read.
Delta leaves out files by their statistics where the condition has literals, and Spark rows before they are sorted.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pyspark.sql import functions as F

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from streams.sinks.merge import Ranking

# A smaller table is sorted sooner than the filter is made.
_LARGE: Final = 64 * 2**20  # bytes of Parquet
_MOST_KEYS: Final = 50_000  # the filter stands in the commit's description: some 8 bits a key
_FALSE_POSITIVES: Final = 0.03


@dataclass(frozen=True)
class KeySpan:
    """The smallest and the greatest value of the first key column among some rows; unknown where both are None."""

    first_key: object = None
    last_key: object = None

    @staticmethod
    def columns(ranking: Ranking) -> dict[str, Column]:
        """Aggregates that give it."""
        return {"first_key": F.min(ranking.key[0]), "last_key": F.max(ranking.key[0])}

    def holds(self, key: Column) -> Column | None:
        """Whether a key lies within, by literals; None: of no use."""
        # A time's literal would depend on the time zone of this process.
        if not isinstance(self.first_key, str | int | dt.date) or isinstance(self.first_key, dt.datetime):
            return None
        return key.between(F.lit(self.first_key), F.lit(self.last_key))


def is_among(rows: DataFrame, count: int, size: int, key: tuple[str, ...], alias: str) -> Column | None:
    """Whether a key of the table may be one of some rows', by a Bloom filter; None where that does not pay.

    Args:
        rows: with the key's columns; read once.
        count: how many they are.
        size: the table's, in bytes of Parquet.
        key: the key's columns.
        alias: the table's in the condition.
    """
    if size < _LARGE or not 0 < count <= _MOST_KEYS:
        return None
    from pyspark.sql.classic.column import Column as ClassicColumn

    jvm = rows.sparkSession._jvm
    assert jvm is not None
    hashes = rows.select(F.xxhash64(*key).alias("hash"))
    made = jvm.java.io.ByteArrayOutputStream()
    hashes._jdf.stat().bloomFilter("hash", count, _FALSE_POSITIVES).writeTo(made)
    # Spark's own, which it makes for joins by itself where it knows that one side is small; it has no name in SQL.
    expressions = jvm.org.apache.spark.sql.classic.ExpressionUtils
    literal, hashed = F.lit(bytes(made.toByteArray())), F.xxhash64(*(F.col(f"{alias}.{name}") for name in key))
    might_contain = jvm.org.apache.spark.sql.catalyst.expressions.BloomFilterMightContain
    return ClassicColumn(
        expressions.column(might_contain(expressions.expression(literal._jc), expressions.expression(hashed._jc)))
    )
