"""What maintenance removes, and what it leaves for those who still need it."""

from __future__ import annotations

import datetime as dt
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from streams.errors import ConfigurationError
from streams.supervisor.maintenance import Maintained, maintain
from tests.spark.flow_bench import Bench, order_event, tombstone

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

EVENTS = ("bronze.order_events", "kafka_events")
DAY = 24 * 60 * 60


def test_old_tombstones_go_and_nothing_comes_back(spark: SparkSession, tmp_path: Path) -> None:
    bench = Bench.at(spark, tmp_path)
    just_now = {"_ingested_at": dt.datetime.now(dt.UTC)}
    bench.put(*EVENTS, [order_event(1, 1), tombstone(1, 5), order_event(2, 1)])
    bench.put(*EVENTS, [order_event(3, 1), tombstone(3, 5) | just_now])
    bench.run("silver.order_events", "gold.fact_orders")
    before = bench.rows("gold.fact_orders")
    assert [row["status"] for row in before] == ["deleted", "created", "deleted"]

    (done,) = maintain(bench.service, ["silver.order_events"])
    assert done.tombstones_removed == 1
    left = {row["order_id"] for row in bench.rows("silver.order_events") if row["is_deleted"]}
    assert left == {"CD-3"}
    bench.run("gold.fact_orders")
    assert bench.rows("gold.fact_orders") == before
    (done,) = maintain(bench.service, ["silver.order_events"])
    assert done.tombstones_removed == 0


def test_small_files_become_large_ones_and_readers_see_no_change(spark: SparkSession, tmp_path: Path) -> None:
    bench = Bench.at(spark, tmp_path)
    for number in range(6):
        bench.put(*EVENTS, [order_event(number, 1)])
    bench.run("silver.order_events", "gold.fact_orders")
    bronze = bench.service.lake.table("bronze.order_events")
    files = spark.read.format("delta").load(bronze).inputFiles()
    rows = bench.rows("bronze.order_events")
    assert (len(files), of_bronze(bench).files_compacted) == (6, 6)
    assert len(spark.read.format("delta").load(bronze).inputFiles()) == 1
    assert bench.rows("bronze.order_events") == rows
    for run in bench.run("silver.order_events", "gold.fact_orders"):
        assert run.total("rows_read") == 0


def test_files_stay_as_long_as_the_slowest_reader_needs_them(spark: SparkSession, tmp_path: Path) -> None:
    bench = Bench.at(spark, tmp_path)
    bench.put(*EVENTS, [order_event(1, 1)])
    bench.run("silver.order_events")
    bench.put(*EVENTS, [order_event(2, 1)])
    bronze = Path(bench.service.lake.table("bronze.order_events"))
    orphan = bronze / "part-left-over.snappy.parquet"
    orphan.write_bytes(b"of a write that was killed")
    month_ago = time.time() - 30 * DAY
    for file in (orphan, *(bronze / "_delta_log").glob("*.json")):
        os.utime(file, (month_ago, month_ago))

    done = of_bronze(bench)
    assert done.held_by == "silver.order_events"
    assert orphan.exists()
    bench.run("silver.order_events")
    assert len(bench.rows("silver.order_events")) == 2

    done = of_bronze(bench)
    assert done.held_by is None
    assert not orphan.exists()


def test_results_of_old_checks_go(spark: SparkSession, tmp_path: Path) -> None:
    bench = Bench.at(spark, tmp_path, maintenance={"results_days": 2})
    bench.put(*EVENTS, [order_event(1, 1)])
    bench.run("silver.order_events")
    folder = tmp_path / "results" / "silver" / "batches" / "silver.order_events"
    (today,) = folder.iterdir()
    assert len(list(today.glob("*.json"))) == 1
    for age in (1, 3):
        old = folder / f"{dt.datetime.now(dt.UTC) - dt.timedelta(days=age):%Y-%m-%d}"
        old.mkdir()
        (old / "some.json").write_text("{}")
    maintain(bench.service, ["silver.order_events"])
    assert len(list(folder.iterdir())) == 2
    assert not old.exists()


def of_bronze(bench: Bench) -> Maintained:
    (done,) = maintain(bench.service, ["bronze.order_events"])
    return done


def test_a_table_that_is_not_there_is_said(spark: SparkSession, tmp_path: Path) -> None:
    bench = Bench.at(spark, tmp_path)
    with pytest.raises(ConfigurationError, match="no table"):
        maintain(bench.service, ["silver.order"])
    assert maintain(bench.service) == []
