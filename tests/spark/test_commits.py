"""A batch's commit is found again, however many others came after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.checkpoint import BatchIdentity
from streams.sinks.append import append
from streams.sinks.commits import find_commit

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from pyspark.sql import SparkSession


def test_a_batch_that_has_waited_for_long_is_found(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.sinks.commits._LOOK_BACK", 2)
    path, batch = str(tmp_path / "lane"), BatchIdentity("silver.orders", "checkpoint", 7)
    rows = spark.range(3)
    first = append(rows, path, batch)
    for number in range(4):
        append(rows, path, BatchIdentity("silver.products", "another", number))
    found = find_commit(spark, path, batch)
    assert found is not None
    assert (found.version, found.rows("numOutputRows")) == (first.version, 3)
    assert find_commit(spark, path, BatchIdentity("silver.orders", "checkpoint", 8)) is None
