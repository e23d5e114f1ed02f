"""What a quiet batch costs: Spark jobs, the figures of the README, so that none is added unseen; and what it leaves."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.spark.flow_bench import Bench, order_event, rate

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

# A batch of a few rows into tables that are there, nothing wrong with it, by a flow that has run before.
JOBS = {"silver.order_events": 7, "gold.fact_orders": 17, "bronze.fx_rates": 3, "silver.fx_rates": 7}


@pytest.fixture(scope="module")
def jobs(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    folder: Path = tmp_path_factory.mktemp("jobs")
    bench = Bench.at(spark, folder)
    (folder / "fx").mkdir()
    counted: dict[str, int] = {}
    for number in range(3):  # the first batches after a table is made cost one job more
        day = f"2025-02-0{number + 1}"
        record = {"rate_date": day, "base_currency": "EUR", "quote_currency": "USD", "rate": 1.1}
        (folder / "fx" / f"{day}.json").write_text(json.dumps(record | {"published_at": f"{day}T15:00:00Z"}))
        bench.put("bronze.order_events", "kafka_events", [order_event(number, 1), order_event(0, number + 1, "paid")])
        # Rates come last: in most of gold's batches no rate has changed.
        for flow in JOBS:
            before = jobs_so_far(spark)
            (run,) = bench.run(flow)
            assert len(run.audits) <= 1, flow
            counted[flow] = jobs_so_far(spark) - before
        bench.run("gold.fact_orders")
    return counted


def jobs_so_far(spark: SparkSession) -> int:
    return int(spark.sparkContext._jsc.sc().dagScheduler().numTotalJobs())


@pytest.mark.parametrize("flow", JOBS)
def test_a_quiet_batch_costs_so_many_jobs(jobs: dict[str, int], flow: str) -> None:
    assert jobs[flow] == JOBS[flow]


def test_a_run_with_nothing_new_costs_none(spark: SparkSession, tmp_path: Path) -> None:
    bench = Bench.at(spark, tmp_path)
    bench.put("bronze.fx_rates", "fx_rates", [rate(6, "1.1")])
    bench.run("silver.fx_rates")
    bench.run("silver.fx_rates")
    before = jobs_so_far(spark)
    bench.run("silver.fx_rates")
    # Not of the flow: Delta reads its tables' newest commits anew when the streams start.
    assert jobs_so_far(spark) - before <= 2


def test_a_few_rows_take_little_memory(spark: SparkSession) -> None:
    # Each sort, hash table and broadcast takes a page first; by default one of up to 64 MB.
    assert spark._jvm is not None
    assert spark._jvm.org.apache.spark.SparkEnv.get().memoryManager().pageSizeBytes() <= 2 << 20


def test_runs_leave_no_thread_and_no_connection(spark: SparkSession, tmp_path: Path) -> None:
    bench, me = Bench.at(spark, tmp_path), psutil.Process()

    def run() -> None:
        bench.put("bronze.fx_rates", "fx_rates", [rate(6, "1.1")])
        (ran,) = bench.run("silver.fx_rates")
        assert len(ran.audits) == 1

    run()
    threads, files = me.num_threads(), me.num_fds()
    for _ in range(3):
        run()
    # A thread of Python's ends a moment after its connection.
    deadline = time.monotonic() + 10
    while me.num_threads() > threads and time.monotonic() < deadline:
        time.sleep(0.05)
    assert me.num_threads() <= threads
    assert me.num_fds() <= files
