"""Merging one batch into a Delta table by its key: the newest row of each key wins, whatever came first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from delta.tables import DeltaTable
from pyspark.sql import Window
from pyspark.sql import functions as F

from streams.delta_log import table_size
from streams.sinks.commits import Commit, commit_of, metadata_of, new_writer
from streams.sinks.pruning import KeySpan, is_among

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import Column, DataFrame, SparkSession

    from streams.checkpoint import BatchIdentity

_PLACE, _IS_SAME = "__place", "__is_same"
GONE: Final = "_is_gone"  # a column of rows to merge, beside the table's own: true deletes the row of that key


@dataclass(frozen=True)
class Ranking:
    """Which of two rows of one key is the newer one.

    The greater sequence wins, its columns compared in order; nulls are the smallest. Of equal sequences the row wins
    whose other columns are greater, compared in the table's order. Two rows that are equal in all of it are
    the same row. So the winner depends on the rows alone, never on which came first.

    Args:
        key: what identifies a row of the table.
        sequence: what orders the versions of one; empty where each batch's row is simply the current one.
        columns: all business columns, in the table's order.
    """

    key: tuple[str, ...]
    sequence: tuple[str, ...]
    columns: tuple[str, ...]

    def of(self, prefix: str = "") -> Column:
        """A struct that compares as the rule says."""
        rest = [column for column in self.columns if column not in self.key and column not in self.sequence]
        # As one expression: as columns it is a call into the JVM, and back, for each, several times a batch.
        return F.expr(f"struct({', '.join(f'{prefix}`{name}`' for name in (*self.sequence, *rest))})")


def rank(rows: DataFrame, ranking: Ranking) -> DataFrame:
    """Mark each row's place among those of its key in this batch; see `winners` and `losers`.

    Rows without a sequence are one a key as they come.
    """
    if not ranking.sequence:
        return rows.withColumns({_PLACE: F.lit(1), _IS_SAME: F.lit(True)})
    by_key = Window.partitionBy(*ranking.key).orderBy(ranking.of().desc())
    first = F.first(ranking.of()).over(by_key)
    return rows.withColumn(_PLACE, F.row_number().over(by_key)).withColumn(_IS_SAME, ranking.of() == first)


def winners(ranked: DataFrame) -> DataFrame:
    """One row a key: those to merge."""
    return ranked.where(F.col(_PLACE) == 1).drop(_PLACE, _IS_SAME)


def loser_counts() -> dict[str, Column]:
    """Aggregates over ranked rows: how many repeat the winner of their key, and how many are older than it."""
    lost = F.col(_PLACE) > 1
    return {
        "rows_read": F.count(F.lit(1)),
        "rows_duplicate": F.count_if(lost & F.col(_IS_SAME)),
        "rows_stale": F.count_if(lost & ~F.col(_IS_SAME)),
    }


# A file of a smaller table is written anew sooner than its rows are marked as gone: that takes three queries more.
_REWRITTEN_UP_TO: Final = 4 * 2**20  # bytes of Parquet
_MARKS_ROWS: Final = "spark.databricks.delta.merge.deletionVectors.persistent"
# So many rows are sent to every task that reads the table: to sort a large table by its key costs more.
_BROADCAST_UP_TO: Final = 200_000


def merge(
    rows: DataFrame,
    path: str,
    ranking: Ranking,
    batch: BatchIdentity,
    facts: dict[str, int],
    span: KeySpan | None = None,
) -> Commit:
    """Insert the keys that are new, update those for which the row is newer, leave the others.

    Args:
        rows: one row a key (see `winners`), with the table's columns, and `GONE` where rows are to be deleted too.
        path: the table.
        ranking: the rule above. Without a sequence, a row replaces any that differs from it.
        batch: whose rows they are; the commit carries it as Delta's ``txn`` action.
        facts: row counts known before the merge, kept in the commit so that a repeated batch finds them.
        span: of the rows' keys, where it is known.
    """
    spark = rows.sparkSession
    newer = (
        ranking.of("new.") > ranking.of("old.")
        if ranking.sequence
        else ~ranking.of("new.").eqNullSafe(ranking.of("old."))
    )
    same_key = [F.col(f"new.{name}") == F.col(f"old.{name}") for name in ranking.key]
    count = facts.get("rows_read", 0)
    _, size = table_size(spark, path) or (0, 0)
    near = (
        span.holds(F.col(f"old.{ranking.key[0]}")) if span else None,
        is_among(rows, count, size, ranking.key, "old"),
    )
    same_key += [condition for condition in near if condition is not None]
    if 0 < count <= _BROADCAST_UP_TO:
        rows = F.broadcast(rows)
    merging = DeltaTable.forPath(spark, path).alias("old").merge(rows.alias("new"), _all(same_key))
    is_new = None
    if GONE in rows.columns:
        merging, is_new = merging.whenMatchedDelete(f"new.{GONE}"), f"NOT new.{GONE}"
    spark.conf.set(_MARKS_ROWS, str(size > _REWRITTEN_UP_TO).lower())
    writer = new_writer()
    _describe_next_commit(spark, batch, writer, facts)
    try:
        merging.whenMatchedUpdateAll(newer).whenNotMatchedInsertAll(is_new).execute()
    finally:
        _forget_next_commit(spark)
    return commit_of(spark, path, batch, writer)


def replace_rows(rows: DataFrame, path: str, ranking: Ranking, note: str) -> tuple[int, int, int]:
    """Bring a whole table to these rows, in one commit with what differs; gives rows inserted, updated, deleted.

    Args:
        rows: one row a key, with the table's columns; every row that the table is to have.
        path: the table.
        ranking: key and business columns; a row that is the same in all of them is left as it is.
        note: the commit's ``userMetadata``.
    """
    spark = rows.sparkSession
    same_key = [F.col(f"new.{name}") == F.col(f"old.{name}") for name in ranking.key]
    same_row = ranking.of("new.").eqNullSafe(ranking.of("old."))
    spark.conf.set(_NOTE, note)
    try:
        merged = (
            DeltaTable.forPath(spark, path)
            .alias("old")
            .merge(rows.alias("new"), _all(same_key))
            .whenMatchedUpdateAll(~same_row)
            .whenNotMatchedInsertAll()
            .whenNotMatchedBySourceDelete()
            .execute()
        )
    finally:
        spark.conf.unset(_NOTE)
    counts = merged.first()
    assert counts is not None  # MERGE gives one row
    return counts["num_inserted_rows"], counts["num_updated_rows"], counts["num_deleted_rows"]


def count_same(rows: DataFrame, path: str, version: int, ranking: Ranking) -> int:
    """How many rows stand in a version of the table just as they are: those merged, and those already there."""
    table = rows.sparkSession.read.format("delta").option("versionAsOf", version).load(path)
    same = [F.col(f"new.{name}") == F.col(f"old.{name}") for name in ranking.key]
    same.append(ranking.of("new.").eqNullSafe(ranking.of("old.")))
    return rows.alias("new").join(table.alias("old"), _all(same), "left_semi").count()


_NOTE: Final = "spark.databricks.delta.commitInfo.userMetadata"
# MERGE takes its transaction and description from the session. Inside foreachBatch the session is the query's
# own, so flows that run side by side do not see each other's.
_COMMIT_KEYS = (
    "spark.databricks.delta.write.txnAppId",
    "spark.databricks.delta.write.txnVersion",
    _NOTE,
)


def _describe_next_commit(spark: SparkSession, batch: BatchIdentity, writer: str, facts: dict[str, int]) -> None:
    values = (batch.app_id, str(batch.batch_id), metadata_of(batch, writer, **facts))
    for key, value in zip(_COMMIT_KEYS, values, strict=True):
        spark.conf.set(key, value)


def _forget_next_commit(spark: SparkSession) -> None:
    for key in _COMMIT_KEYS:
        spark.conf.unset(key)


def _all(conditions: Sequence[Column]) -> Column:
    met = conditions[0]
    for condition in conditions[1:]:
        met = met & condition
    return met
