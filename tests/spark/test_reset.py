"""A table made anew beside the live one: what differs is put right in one commit, and nothing else is touched."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from delta.tables import DeltaTable

from streams.errors import ConfigurationError, RetriableError
from streams.small_files import small_files
from streams.supervisor.lease import Holder, LeaseLostError, Leases
from streams.supervisor.reset import reset
from tests.spark.flow_bench import Bench, order_event, rate, tombstone

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ALL = ("silver.order_events", "silver.fx_rates", "gold.fact_orders")


@pytest.fixture(scope="module")
def bench(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A lake with a few orders, one of which a check refuses."""
    bench = Bench.at(spark, tmp_path_factory.mktemp("reset"))
    orders = [order_event(number, 1) for number in range(1, 6)]
    odd = order_event(9, 1) | {"quantity": 99_999}
    bench.put("bronze.order_events", "kafka_events", [*orders, tombstone(5), odd])
    bench.put("bronze.fx_rates", "fx_rates", [rate(3, "2")])
    bench.run(*ALL)
    return bench


def test_what_was_spoilt_is_put_right_and_readers_see_only_that(bench: Bench) -> None:
    facts = bench.service.lake.table("gold.fact_orders")
    before, version = bench.rows("gold.fact_orders"), newest_version(bench, facts)
    table = DeltaTable.forPath(bench.spark, facts)
    table.update("order_id = 'CD-1'", {"amount": "CAST(1 AS DECIMAL(18,2))"})
    table.delete("order_id = 'CD-2'")
    bench.spark.read.format("delta").load(facts).where("order_id = 'CD-3'").selectExpr(
        "'CD-777' AS order_id", "* EXCEPT (order_id)"
    ).write.format("delta").mode("append").save(facts)
    done = reset("gold.fact_orders", bench.service)
    assert (done.inserted, done.updated, done.deleted) == (1, 1, 1)
    assert bench.rows("gold.fact_orders") == before
    feed = bench.spark.read.format("delta").option("readChangeFeed", "true").option("startingVersion", version + 4)
    changes = {(row["order_id"], row["_change_type"]) for row in feed.load(facts).collect()}
    assert changes == {
        ("CD-1", "update_preimage"),
        ("CD-1", "update_postimage"),
        ("CD-2", "insert"),
        ("CD-777", "delete"),
    }
    # The flow goes on where the new table stands.
    bench.put("bronze.order_events", "kafka_events", [order_event(6, 1)])
    (_, made) = bench.run("silver.order_events", "gold.fact_orders")
    assert made.total("rows_read") == 1
    assert [row["order_id"] for row in bench.rows("gold.fact_orders")] == [f"CD-{number}" for number in range(1, 7)]


def newest_version(bench: Bench, path: str) -> int:
    return int(DeltaTable.forPath(bench.spark, path).history(1).first()["version"])


def test_rows_of_the_lane_are_judged_anew_and_wait_once(bench: Bench) -> None:
    before = bench.rows("silver.order_events")
    done = reset("silver.order_events", bench.service)
    assert (done.inserted, done.updated, done.deleted) == (0, 0, 0)
    assert bench.rows("silver.order_events") == before
    lane = bench.all_rows(bench.service.lake.lane("silver"))
    assert sorted((row["status"], row["key"]) for row in lane) == [
        ("discarded", order_event(9, 1)["event_id"]),
        ("waiting", order_event(9, 1)["event_id"]),
    ]
    (made,) = bench.run("gold.fact_orders")
    assert made.total("rows_read") == 0, "nothing differs, so nothing is told"


def test_a_flow_that_another_process_holds_is_left_as_it_is(bench: Bench) -> None:
    files = small_files(bench.service.settings.checkpoints.root)
    mine, others = (Leases(files, Holder(name, "etl-1", 7), 20) for name in ("mine", "others"))
    with closing(mine), closing(others):
        service = replace(bench.service, leases=mine)
        with others.held("silver.order_events"), pytest.raises(RetriableError) as caught:
            reset("silver.order_events", service)
        assert caught.value.code == "FLOW_RUNNING"
        assert reset("silver.order_events", service).inserted == 0


def test_who_was_taken_over_from_meanwhile_leaves_the_checkpoint(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    files = small_files(bench.service.settings.checkpoints.root)
    checkpoint = bench.service.checkpoint("silver.order_events")
    with closing(Leases(files, Holder("slow", "etl-1", 7), 20)) as slow:
        service = replace(bench.service, leases=slow)

        def sleep_at(_: str, point: str) -> None:
            if point == "table_replaced":
                slow._valid_until = -1.0  # as after a suspend

        with monkeypatch.context() as patched:
            patched.setattr("streams.supervisor.reset.failpoint", sleep_at)
            before = checkpoint.identity()
            with pytest.raises(LeaseLostError):
                reset("silver.order_events", service)
        assert checkpoint.identity() == before
        assert reset("silver.order_events", service).inserted == 0
        assert checkpoint.identity() != before


@pytest.mark.parametrize(
    ("flow", "code"), [("gold.nothing", "FLOW_UNKNOWN"), ("bronze.fx_rates", "RESET_NOT_POSSIBLE")]
)
def test_what_has_no_such_table(bench: Bench, flow: str, code: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        reset(flow, bench.service)
    assert caught.value.code == code
