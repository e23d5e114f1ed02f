"""How old rows are when they are committed: from bronze to gold, by the times that they had at their sources."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING

import pytest
from pyspark.sql import functions as F

from streams.quality.error_lane import settle
from streams.sinks.table import ensure_table
from streams.telemetry.freshness import Freshness, SourceTimes
from tests.spark.flow_bench import Bench, order_event, rate

if TYPE_CHECKING:
    from pyspark.sql import Row, SparkSession

    from streams.telemetry.audit import BatchAudit

ROOM = 1800.0  # seconds: no run of these tests takes as long


@cache
def beginning() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def ago(seconds: float) -> dt.datetime:
    return beginning() - dt.timedelta(seconds=seconds)


def run(bench: Bench, flow: str) -> BatchAudit:
    (done,) = bench.run(flow)
    (audit,) = done.audits
    return audit


def near(found: Freshness | None, **seconds: float) -> bool:
    """Whether it is what it was when these tests began, and the time since."""
    return found is not None and all(
        at_first <= getattr(found, name) < at_first + ROOM for name, at_first in seconds.items()
    )


def times(bench: Bench, table: str) -> dict[str, dt.datetime | None]:
    rows = bench.all_rows(bench.service.lake.table(table))
    return {row["order_id"]: row["_source_time"] and row["_source_time"].astimezone(dt.UTC) for row in rows}


def test_percentiles_are_of_ages_not_of_times(spark: SparkSession) -> None:
    rows = spark.range(1000).select(F.timestamp_micros(F.col("id") * 1_000_000).alias("_source_time"))
    found = rows.agg(*(column.alias(name) for name, column in SourceTimes.aggregates().items())).first()
    assert found is not None
    known = SourceTimes.of(found)
    assert known is not None
    assert vars(known.age_at(dt.datetime.fromtimestamp(1000, dt.UTC))) == pytest.approx(
        {"p50": 500, "p99": 990, "max": 1000}, abs=2
    )
    # A source whose clock is ahead.
    assert known.age_at(dt.datetime.fromtimestamp(0, dt.UTC)) == Freshness(0, 0, 0)


@pytest.fixture(scope="module")
def bench(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench.at(spark, tmp_path_factory.mktemp("freshness"))
    # As an older version of the service left it, its gold without the column.
    ensure_table(
        spark, bench.service.lake.table("gold.fact_orders"), spark.createDataFrame([], "order_id string").schema
    )
    return bench


def test_a_rows_own_time_goes_with_it_into_gold(bench: Bench) -> None:
    ages = {1: 60.0, 2: 40_000.0, 3: 90_000.0}
    events = [order_event(number, 1) | {"_source_time": ago(age)} for number, age in ages.items()]
    bench.put("bronze.order_events", "kafka_events", events)
    for flow in ("silver.order_events", "gold.fact_orders"):
        audit = run(bench, flow)
        assert near(audit.freshness, p50=40_000, p99=90_000, max=90_000), (flow, audit.freshness)
    kept = {row["flow"]: row for row in bench.all_rows(bench.service.lake.audit)}
    assert near(Freshness(**kept["gold.fact_orders"]["freshness"]), p50=40_000, p99=90_000, max=90_000)
    assert times(bench, "gold.fact_orders") == {f"CD-{number}": ago(age) for number, age in ages.items()}


def test_what_is_restated_has_the_time_of_what_restates_it(bench: Bench) -> None:
    before = times(bench, "gold.fact_orders")
    bench.put("bronze.fx_rates", "fx_rates", [rate(3, "2") | {"_source_time": ago(30)}])
    run(bench, "silver.fx_rates")
    audit = run(bench, "gold.fact_orders")
    assert audit.counts.rows_written == 3
    assert near(audit.freshness, p50=30, max=30)
    assert set(times(bench, "gold.fact_orders").values()) == {ago(30)}
    # Of an order that is touched by both it is the newer one.
    assert before != times(bench, "gold.fact_orders")
    bench.put("bronze.order_events", "kafka_events", [order_event(1, 2, "paid") | {"_source_time": ago(20)}])
    bench.put("bronze.fx_rates", "fx_rates", [rate(4, "3") | {"_source_time": ago(50)}])
    run(bench, "silver.order_events")
    run(bench, "silver.fx_rates")
    assert near(run(bench, "gold.fact_orders").freshness, max=50)
    assert times(bench, "gold.fact_orders") == {"CD-1": ago(20), "CD-2": ago(50), "CD-3": ago(50)}


def test_what_was_sent_back_from_a_lane_is_not_measured(bench: Bench) -> None:
    late = order_event(4, 1) | {"_source_time": ago(90_000), "_replay_of": "0123456789abcdef"}
    bench.put("bronze.order_events", "kafka_events", [late, order_event(5, 1) | {"_source_time": ago(10)}])
    assert near(run(bench, "silver.order_events").freshness, max=10)
    assert near(run(bench, "gold.fact_orders").freshness, max=10)
    assert times(bench, "gold.fact_orders")["CD-4"] is None
    # Nor what a lane further down held.
    odd = order_event(6, 1) | {"quantity": 99_999, "_source_time": ago(90_000)}
    bench.put("bronze.order_events", "kafka_events", [odd])
    run(bench, "silver.order_events")
    lane = bench.service.lake.lane("silver")
    (waiting,) = _waiting(bench, lane)
    mended = bytes(waiting["payload"]).replace(b"99999", b"9")
    assert settle(bench.spark, lane, "replayed", ids=[waiting["error_id"]], payload=mended) == 1
    audit = run(bench, "silver.order_events")
    assert (audit.counts.rows_written, audit.freshness) == (1, None)


def _waiting(bench: Bench, lane: str) -> list[Row]:
    return bench.spark.read.format("delta").load(lane).where("status = 'waiting'").collect()


def test_a_dimensions_versions_have_the_time_of_their_change(bench: Bench) -> None:
    product = {"product_id": "P-1", "name": "Record", "category": "Pop", "unit_price": Decimal(9), "currency": "EUR"}
    product["is_active"] = True
    first = product | {"updated_at": ago(80), "_source_time": ago(80)}
    second = product | {"name": "Record, old", "updated_at": ago(40), "_source_time": ago(40)}
    bench.put("bronze.snowflake_products", "snowflake_products", [first])
    run(bench, "silver.product_versions")
    assert near(run(bench, "gold.dim_product").freshness, max=80)
    bench.put("bronze.snowflake_products", "snowflake_products", [second])
    run(bench, "silver.product_versions")
    # Two rows are made: the old version ends by the change that begins the new one.
    assert near(run(bench, "gold.dim_product").freshness, p50=40, max=40)
    rows = bench.all_rows(bench.service.lake.table("gold.dim_product"))
    assert [row["_source_time"].astimezone(dt.UTC) for row in rows] == [ago(40), ago(40)]
