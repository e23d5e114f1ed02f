"""Merges that read less of their table than it has do the same as those that read all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pyspark.sql import functions as F

from streams.checkpoint import BatchIdentity
from streams.delta_log import polled_version
from streams.sinks import merge as merging
from streams.sinks import pruning
from streams.sinks.merge import Ranking, merge
from streams.sinks.pruning import KeySpan
from streams.sinks.table import ensure_table

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import DataFrame, SparkSession

RANKING = Ranking(("key",), ("sequence",), ("key", "sequence", "text"))


def numbered(spark: SparkSession, first: int, last: int, sequence: int) -> DataFrame:
    rows = spark.range(first, last, 1, 1)
    return rows.select(
        F.format_string("K-%06d", "id").alias("key"),
        F.lit(sequence).cast("bigint").alias("sequence"),
        F.lit(f"of {sequence}").alias("text"),
    )


@pytest.mark.parametrize("marked", [True, False])
def test_a_merge_by_span_and_filter_is_a_merge(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, marked: bool
) -> None:
    path = str(tmp_path / "table")
    ensure_table(spark, path, numbered(spark, 0, 1, 0).schema)
    for first in range(0, 400, 100):
        numbered(spark, first, first + 100, 5).write.format("delta").mode("append").save(path)
    before = polled_version(spark, path)
    # Every table is a large one.
    monkeypatch.setattr(pruning, "_LARGE", 0)
    if marked:
        monkeypatch.setattr(merging, "_REWRITTEN_UP_TO", 0)
    rows = numbered(spark, 350, 380, 9).union(numbered(spark, 380, 420, 1)).localCheckpoint()
    commit = merge(
        rows, path, RANKING, BatchIdentity("bench", "one", 0), {"rows_read": 70}, KeySpan("K-000350", "K-000419")
    )
    assert (commit.rows("numTargetRowsUpdated"), commit.rows("numTargetRowsInserted")) == (30, 20)
    assert polled_version(spark, path) == before + 1 == commit.version
    assert (commit.rows("numTargetDeletionVectorsAdded") > 0) == marked
    found = spark.read.format("delta").load(path).groupBy("sequence").count().collect()
    assert dict(found) == {5: 370, 9: 30, 1: 20}
