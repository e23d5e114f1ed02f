"""History: the versions of a key (slowly changing dimension, type 2), made from everything that is known of it.

The versions are a function of the set of changes alone, so it does not matter in which order, in which batches or how
often a change came. A change that comes late is one more member of the set: the version it falls into is split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pyspark.sql import Window
from pyspark.sql import functions as F

from streams.sinks.merge import GONE
from streams.telemetry.freshness import SOURCE_TIME

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# The first known state of a key is taken to have been so before: facts are older than the oldest change on record.
BEGINNING: Final = "1900-01-01 00:00:00"
_KEY_DIGITS: Final = 32


@dataclass(frozen=True)
class History:
    """Which columns make versions.

    Args:
        key: the column that identifies what the versions are of.
        at: when a change happened; one change a key and time.
        surrogate: the name of the column that identifies a version.
        tracked: a change in any of them makes a new version.
        overwritten: on every version they are as the newest change has them.
    """

    key: str
    at: str
    surrogate: str
    tracked: tuple[str, ...]
    overwritten: tuple[str, ...]

    def versions(self, changes: DataFrame) -> DataFrame:
        """All changes of some keys → all versions of these keys.

        Args:
            changes: key, time, ``is_deleted``, tracked and overwritten columns; a row each time. In all rows of a key
                ``_source_time`` is the same: that for which they are made anew.

        Returns:
            The surrogate key, the key, ``valid_from``, ``valid_to`` (null: still), ``is_current``, ``is_deleted`` (the
            version was ended by a delete), tracked and overwritten columns, ``_source_time``. A delete ends the open
            version; what comes after it begins another. Each version's surrogate key depends on its key and beginning
            alone.
        """
        in_time = Window.partitionBy(self.key).orderBy(self.at)
        of_key = in_time.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
        before = F.lag(F.struct("is_deleted", *self.tracked)).over(in_time)
        seen = changes.withColumns(
            {
                "_before": before,
                "_now": F.last(F.struct(*self.overwritten)).over(of_key),
                "_state": F.struct("is_deleted", *self.tracked),
            }
        )
        is_first = F.col("_before").isNull()
        is_change = ~F.col("_state").eqNullSafe(F.col("_before"))
        # A delete of what is not there, or not there any more, ends nothing.
        is_end = F.col("is_deleted") & ~F.coalesce(F.col("_before.is_deleted"), F.lit(True))
        turns = seen.where(F.when(F.col("is_deleted"), is_end).otherwise(is_change))
        bounded = turns.withColumns(
            {
                "valid_from": F.when(is_first, F.least(F.lit(BEGINNING).cast("timestamp"), self.at)).otherwise(
                    F.col(self.at)
                ),
                "valid_to": F.lead(self.at).over(in_time),
                "_is_ended": F.coalesce(F.lead("is_deleted").over(in_time), F.lit(False)),
            }
        ).where(~F.col("is_deleted"))
        identity = F.concat_ws("|", self.key, F.unix_micros("valid_from").cast("string"))
        return bounded.select(
            F.substring(F.sha2(identity, 256), 1, _KEY_DIGITS).alias(self.surrogate),
            self.key,
            "valid_from",
            "valid_to",
            F.col("valid_to").isNull().alias("is_current"),
            F.col("_is_ended").alias("is_deleted"),
            *self.tracked,
            *(F.col("_now")[name].alias(name) for name in self.overwritten),
            SOURCE_TIME,
        )

    def with_gone(self, versions: DataFrame, keys: DataFrame, path: str) -> DataFrame:
        """Add the table's versions of these keys that are no more, marked `GONE`.

        Args:
            versions: all versions of the keys, with the table's columns.
            keys: the keys, each once.
            path: the table.
        """
        table = versions.sparkSession.read.format("delta").load(path)
        gone = table.join(keys, self.key, "left_semi").join(versions, self.surrogate, "left_anti")
        kept = versions.withColumn(GONE, F.lit(False))
        gone = gone.select(versions.columns).withColumn(SOURCE_TIME, F.lit(None).cast("timestamp"))
        return kept.unionByName(gone.withColumn(GONE, F.lit(True)))
