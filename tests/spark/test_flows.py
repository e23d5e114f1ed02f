"""What becomes of batches on their way to gold: restated, counted, refused. See `test_history` for whole histories."""

from __future__ import annotations

import datetime as dt
import shutil
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from streams.errors import FatalError, RetriableError
from streams.micro_batch import BatchHeldError
from streams.settings import PROJECT
from tests.spark.flow_bench import Bench, at, order_event, rate

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

ALL = ("silver.order_events", "silver.fx_rates", "gold.fact_orders")


def test_a_late_and_a_corrected_rate_restate_what_they_touch(spark: SparkSession, tmp_path: Path) -> None:
    bench = Bench.at(spark, tmp_path)
    bench.put("bronze.fx_rates", "fx_rates", [rate(3, "2")])
    bench.put("bronze.order_events", "kafka_events", [order_event(1, 1), order_event(2, 1, minutes=2880)])
    bench.run(*ALL)
    assert amounts(bench) == {"CD-1": Decimal("5.00"), "CD-2": Decimal("5.00")}
    bench.put("bronze.fx_rates", "fx_rates", [rate(6, "4")])  # late: of both orders' day or before
    bench.put("bronze.fx_rates", "fx_rates", [rate(7, "5")])  # of the second's only
    (_, _, made) = bench.run(*ALL)
    assert amounts(bench) == {"CD-1": Decimal("2.50"), "CD-2": Decimal("2.00")}
    assert made.total("rows_written") == 2
    bench.put("bronze.fx_rates", "fx_rates", [rate(7, "10", revision=1)])  # corrected
    (_, _, made) = bench.run(*ALL)
    assert amounts(bench) == {"CD-1": Decimal("2.50"), "CD-2": Decimal("1.00")}
    assert (made.total("rows_read"), made.total("rows_written")) == (1, 1)


def amounts(bench: Bench) -> dict[str, Decimal | None]:
    return {row["order_id"]: row["reporting_amount"] for row in bench.rows("gold.fact_orders")}


def test_rows_read_are_written_duplicate_or_stale(spark: SparkSession, tmp_path: Path) -> None:
    bench = Bench.at(spark, tmp_path)
    bench.put("bronze.order_events", "kafka_events", [order_event(1, 1, minutes=5), order_event(2, 1)])
    bench.run("silver.order_events")
    newer, older = order_event(2, 1, minutes=9), order_event(1, 1, minutes=1)
    bench.put(
        "bronze.order_events", "kafka_events", [order_event(1, 1, minutes=5), older, newer, newer, order_event(3, 1)]
    )
    (run,) = bench.run("silver.order_events")
    found = {
        name: run.total(name) for name in ("rows_read", "rows_written", "rows_duplicate", "rows_stale", "rows_error")
    }
    assert found == {"rows_read": 5, "rows_written": 2, "rows_duplicate": 2, "rows_stale": 1, "rows_error": 0}


def test_nothing_new_writes_nothing(spark: SparkSession, tmp_path: Path) -> None:
    bench = Bench.at(spark, tmp_path)
    bench.put("bronze.order_events", "kafka_events", [order_event(1, 1)])
    bench.run(*ALL)
    before = [
        len(bench.spark.sql(f"DESCRIBE HISTORY delta.`{bench.service.lake.table(table)}`").collect()) for table in ALL
    ]
    assert [len(run.audits) for run in bench.run(*ALL)] == [0, 0, 0]
    assert before == [
        len(bench.spark.sql(f"DESCRIBE HISTORY delta.`{bench.service.lake.table(table)}`").collect()) for table in ALL
    ]


CHECKS = """
checks for order_events:
  - invalid_count(amount) = 0:
      name: amount is not above 50
      valid max: 50
  - row_count < 3
"""


@pytest.fixture
def contracts(tmp_path: Path) -> Path:
    """The project's contracts with other checks for the order events."""
    import shutil
    from pathlib import Path as P

    copy = tmp_path / "contracts"
    shutil.copytree(P(__file__).parents[2] / "contracts", copy)
    (copy / "soda/silver/order_events.yml").write_text(CHECKS)
    return copy


def test_a_row_that_a_check_names_waits_and_the_others_go_on(
    spark: SparkSession, tmp_path: Path, contracts: Path
) -> None:
    bench = Bench.at(spark, tmp_path, contracts_root=str(contracts))
    odd = order_event(2, 1, amount="51.00") | {"occurred_at": at(0) + dt.timedelta(microseconds=123457)}
    bench.put("bronze.order_events", "kafka_events", [order_event(1, 1), odd])
    (run,) = bench.run("silver.order_events")
    assert (run.total("rows_written"), run.total("rows_error")) == (1, 1)
    (waiting,) = bench.all_rows(bench.service.lake.lane("silver"))
    assert (waiting["status"], waiting["violations"][0]["value"]) == ("waiting", "amount is not above 50")
    (contracts / "soda/silver/order_events.yml").write_text(CHECKS.replace("50", "60"))
    from streams.quality.error_lane import settle

    assert settle(bench.spark, bench.service.lake.lane("silver"), "replayed", ids=[waiting["error_id"]]) == 1
    assert settle(bench.spark, bench.service.lake.lane("silver"), "replayed", ids=[waiting["error_id"]]) == 0
    (run,) = bench.run("silver.order_events")
    assert run.total("rows_written") == 1
    found = {row["order_id"]: row for row in bench.rows("silver.order_events")}
    assert {order: row["amount"] for order, row in found.items()} == {
        "CD-1": Decimal("10.00"),
        "CD-2": Decimal("51.00"),
    }
    assert found["CD-2"]["occurred_at"].microsecond == 123457


@pytest.mark.parametrize(("on_breach", "error"), [("stop", FatalError), ("hold", BatchHeldError)])
def test_a_breach_of_the_whole_batch(
    spark: SparkSession, tmp_path: Path, contracts: Path, on_breach: str, error: type[Exception]
) -> None:
    bench = Bench.at(
        spark, tmp_path, contracts_root=str(contracts), flows={"silver.order_events": {"on_breach": on_breach}}
    )
    bench.put("bronze.order_events", "kafka_events", [order_event(order, 1) for order in range(1, 5)])
    with pytest.raises(error):
        bench.run("silver.order_events")
    assert bench.rows("silver.order_events") == []
    (contracts / "soda/silver/order_events.yml").write_text(CHECKS.replace("row_count < 3", "row_count < 9"))
    bench.run("silver.order_events")
    assert len(bench.rows("silver.order_events")) == 4


def test_a_breach_that_only_warns(spark: SparkSession, tmp_path: Path, contracts: Path) -> None:
    bench = Bench.at(
        spark, tmp_path, contracts_root=str(contracts), flows={"silver.order_events": {"on_breach": "warn"}}
    )
    bench.put("bronze.order_events", "kafka_events", [order_event(order, 1) for order in range(1, 5)])
    bench.run("silver.order_events")
    assert len(bench.rows("silver.order_events")) == 4
    (audit,) = bench.all_rows(bench.service.lake.audit)
    assert {check["outcome"] for check in audit["checks"]} == {"pass", "fail"}
    assert at(0) < audit["finished_at"].replace(tzinfo=dt.UTC)


def test_gold_that_other_rows_fail_when_its_batch_comes_again(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contracts = tmp_path / "contracts"
    shutil.copytree(PROJECT / "contracts", contracts)
    checks = contracts / "soda" / "gold" / "fact_orders.yml"
    dear = "\n  - invalid_count(reporting_amount) = 0:\n      name: not dear\n      valid max: 100\n"
    checks.write_text(checks.read_text().rstrip("\n") + dear)
    bench = Bench.at(spark, tmp_path, contracts_root=str(contracts))
    amounts = {1: "200.00", 2: "300.00", 3: "10.00", 4: "20.00"}
    events = [order_event(order, 1, amount=amount, currency="EUR") for order, amount in amounts.items()]
    bench.put("bronze.order_events", "kafka_events", events)
    bench.run("silver.order_events")
    with monkeypatch.context() as failing:
        failing.setenv("STREAMS_FAILPOINT", "gold.fact_orders:lane_written:1:raise")
        with pytest.raises(RetriableError):
            bench.run("gold.fact_orders")
    # Meanwhile two of the dear ones become cheap, and a cheap one dear.
    changed = {1: "1.00", 2: "2.00", 3: "400.00"}
    events = [order_event(order, 2, amount=amount, currency="EUR") for order, amount in changed.items()]
    bench.put("bronze.order_events", "kafka_events", events)
    bench.run("silver.order_events", "gold.fact_orders")
    assert {row["order_id"] for row in bench.rows("gold.fact_orders")} == {"CD-1", "CD-2", "CD-4"}
    again, _ = sorted(
        (row for row in bench.all_rows(bench.service.lake.audit) if row["flow"] == "gold.fact_orders"),
        key=lambda row: row["batch_id"],
    )
    counts = [again[f"rows_{name}"] for name in ("read", "written", "duplicate", "stale", "error")]
    assert counts == [4, 3, 0, 0, 1]
    assert {row["key"] for row in bench.all_rows(bench.service.lake.lane("gold"))} == {"CD-1", "CD-2", "CD-3"}
