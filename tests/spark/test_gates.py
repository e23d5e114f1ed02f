"""The gates over whole Delta tables, with the check files that the project ships."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from streams.errors import ConfigurationError
from streams.quality.gates import GateResult, rows, run_gate

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NOON = datetime(2025, 1, 2, 12, tzinfo=UTC)
CHECKS = Path(__file__).parents[2] / "contracts" / "soda"
EVENTS = """event_id string, order_id string, sequence bigint, event_type string, occurred_at timestamp,
    customer_id string, quantity bigint, amount decimal(18,2), currency string, note string, is_deleted boolean"""
FACTS = """order_id string, status string, customer_id string, order_date date, created_at timestamp,
    paid_at timestamp, shipped_at timestamp, delivered_at timestamp, cancelled_at timestamp, refunded_at timestamp,
    quantity bigint, amount decimal(18,2), currency string, rate decimal(18,6), rate_date date,
    reporting_amount decimal(18,2), reporting_currency string, is_converted boolean, is_complete boolean,
    is_deleted boolean"""
RATES = """rate_date date, base_currency string, quote_currency string, rate decimal(18,6), published_at timestamp,
    is_deleted boolean"""


class Lake:
    """Tables of one test, and gates over them at times that the test sets."""

    def __init__(self, spark: SparkSession, root: Path) -> None:
        self.spark, self.root, self.hour = spark, root, 0

    def path(self, table: str) -> str:
        return str(self.root / table)

    def write(self, table: str, schema: str, rows: list[dict[str, Any]]) -> None:
        frame = self.spark.createDataFrame(rows, schema)
        frame.coalesce(1).write.format("delta").mode("overwrite").save(self.path(table))

    def events(self, *rows: dict[str, Any]) -> None:
        self.write("order_events", EVENTS, list(rows))

    def facts(self, *rows: dict[str, Any]) -> None:
        self.write("fact_orders", FACTS, list(rows))

    def gate(self, layer: str, *tables: str, run_id: str = "r1", **references: str) -> GateResult:
        self.hour += 1
        return run_gate(
            self.spark,
            layer,
            {table: self.path(table) for table in tables},
            CHECKS,
            str(self.root / "results"),
            run_id,
            lambda: datetime(2026, 1, 1, self.hour, tzinfo=UTC),
            references=references,
        )


def event(number: int, **changes: Any) -> dict[str, Any]:
    """A created event of order CD-{number}."""
    made = {
        "event_id": f"{number:08d}-0000-0000-0000-000000000000",
        "order_id": f"CD-{number}",
        "sequence": 1,
        "event_type": "created",
        "occurred_at": NOON,
        "customer_id": "7",
        "quantity": 1,
        "amount": Decimal("10.00"),
        "currency": "USD",
        "is_deleted": False,
    }
    return made | changes


def fact(number: int, **changes: Any) -> dict[str, Any]:
    """Order CD-{number}, converted at a rate of the day before."""
    made = {
        "order_id": f"CD-{number}",
        "status": "created",
        "customer_id": "7",
        "order_date": NOON.date(),
        "created_at": NOON,
        "quantity": 1,
        "amount": Decimal("10.00"),
        "currency": "USD",
        "rate": Decimal("1.25"),
        "rate_date": date(2025, 1, 1),
        "reporting_amount": Decimal("8.00"),
        "reporting_currency": "EUR",
        "is_converted": True,
        "is_complete": True,
        "is_deleted": False,
    }
    return made | changes


def rate(**changes: Any) -> dict[str, Any]:
    made = {
        "rate_date": NOON.date(),
        "base_currency": "EUR",
        "quote_currency": "USD",
        "rate": Decimal("1.0321"),
        "published_at": NOON,
        "is_deleted": False,
    }
    return made | changes


@pytest.fixture
def lake(spark: SparkSession, tmp_path: Path) -> Lake:
    return Lake(spark, tmp_path)


def test_good_tables_pass_and_tombstones_with_them(lake: Lake) -> None:
    gone = event(2, event_id="tombstone:CD-2", sequence=2_147_483_647, event_type="deleted", is_deleted=True)
    gone |= dict.fromkeys(("customer_id", "quantity", "amount", "currency"))
    lake.events(event(1), gone)
    lake.write("fx_rates", RATES, [rate(), rate(quote_currency="GBP")])
    result = lake.gate("silver", "order_events", "fx_rates")
    assert result.failed == ()
    assert [row for row in rows(result) if row[2] != "pass"] == []

    nothing = dict.fromkeys(set(fact(3)) - {"order_id", "status", "is_converted", "is_complete", "is_deleted"})
    deleted = fact(2, status="deleted", is_converted=False, is_complete=False, is_deleted=True) | nothing
    lake.facts(fact(1), deleted)
    assert lake.gate("gold", "fact_orders", order_events=lake.path("order_events")).failed == ()


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"order_id": "cd1"}, "order_id is a country and a number"),
        ({"sequence": 0}, "sequence begins at 1"),
        ({"event_type": "lost"}, "event_type is a known one"),
        ({"quantity": 10_001}, "quantity is between 0 and 10,000"),
        ({"amount": Decimal("-0.01")}, "amount is not negative"),
        ({"currency": "usd"}, "currency is three capital letters"),
        ({"customer_id": None}, "a created event has customer, quantity, amount and currency"),
        ({"is_deleted": True}, "only a tombstone is deleted"),
        ({"event_id": event(1)["event_id"]}, "duplicate_count(event_id) = 0"),
    ],
)
def test_each_check_of_order_events_finds_its_row(lake: Lake, changes: dict[str, Any], check: str) -> None:
    lake.events(event(1), event(2, **changes))
    assert lake.gate("silver", "order_events").failed == (f"silver.order_events: {check}",)


@pytest.mark.parametrize(
    ("changes", "checks"),
    [
        ({"rate": Decimal(0)}, {"a rate is above 0"}),
        ({"base_currency": "USD", "quote_currency": "EUR"}, {"base_currency is EUR"}),
        ({"quote_currency": "EUR"}, {"a currency is not quoted in itself, unless at 1"}),
        ({"quote_currency": "USD"}, {"duplicate_count(rate_date, base_currency, quote_currency) = 0"}),
    ],
)
def test_each_check_of_rates_finds_its_row(lake: Lake, changes: dict[str, Any], checks: set[str]) -> None:
    lake.write("fx_rates", RATES, [rate(), rate(quote_currency="GBP") | changes])
    assert lake.gate("silver", "fx_rates").failed == tuple(f"silver.fx_rates: {check}" for check in checks)


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"status": "lost"}, "status is a known one"),
        ({"customer_id": None}, "a complete order has customer, day, amount and currency"),
        ({"is_converted": False}, "an order is converted exactly when it has an amount to report"),
        ({"rate_date": date(2025, 1, 3)}, "a rate is above 0 and of the order's day or before"),
        ({"is_deleted": True}, "a deleted order keeps no customer and no amount"),
        ({"order_id": "CD-9"}, "every order has an event in silver"),
    ],
)
def test_each_check_of_orders_finds_its_row(lake: Lake, changes: dict[str, Any], check: str) -> None:
    lake.events(event(1), event(2), *([] if "order_id" in changes else [event(3)]))
    lake.facts(fact(1), fact(2), fact(3, **changes))
    assert lake.gate("gold", "fact_orders", order_events=lake.path("order_events")).failed == (
        f"gold.fact_orders: {check}",
    )


def test_an_order_of_silver_that_gold_lacks_fails(lake: Lake) -> None:
    lake.events(event(1), event(2))
    lake.facts(fact(1))
    result = lake.gate("gold", "fact_orders", order_events=lake.path("order_events"))
    assert result.failed == ("gold.fact_orders: every order of silver is in gold",)


def test_an_order_without_its_rate_only_warns(lake: Lake) -> None:
    lake.events(event(1))
    waiting = dict.fromkeys(("rate", "rate_date", "reporting_amount"))
    lake.facts(fact(1, is_converted=False) | waiting)
    result = lake.gate("gold", "fact_orders", order_events=lake.path("order_events"))
    assert result.failed == ()
    assert rows(result)[0] == ("gold.fact_orders", "every complete order is converted", "warn", "1")


def test_a_missing_table_fails_by_name_and_the_others_are_judged(lake: Lake) -> None:
    lake.events(event(1))
    result = lake.gate("silver", "fx_rates", "order_events")
    assert result.failed == ("silver.fx_rates: the table is there",)
    assert len(result.scans[1].results) > 10


def test_a_missing_reference_fails_its_checks_only(lake: Lake) -> None:
    lake.facts(fact(1))
    assert set(lake.gate("gold", "fact_orders").failed) == {
        "gold.fact_orders: every order has an event in silver",
        "gold.fact_orders: every order of silver is in gold",
    }


def test_rows_that_are_gone_fail_again_until_they_are_back(lake: Lake) -> None:
    lost = ("silver.order_events: no row has gone since the last gate that passed",)
    lake.events(event(1), event(2))
    assert lake.gate("silver", "order_events", run_id="r1").failed == ()
    lake.events(event(1))
    assert lake.gate("silver", "order_events", run_id="r2").failed == lost
    assert lake.gate("silver", "order_events", run_id="r3").failed == lost
    lake.events(event(1), event(2), event(3))
    assert lake.gate("silver", "order_events", run_id="r4").failed == ()


def test_the_results_are_kept_once_in_a_file_and_a_table(lake: Lake) -> None:
    lake.events(event(1, sequence=0))
    result = lake.gate("silver", "order_events")
    lake.gate("silver", "order_events")
    folder = lake.root / "results" / "silver"
    document = json.loads((folder / "r1.json").read_text())
    assert (document["passed"], document["failed"]) == (False, ["silver.order_events: sequence begins at 1"])
    assert len(document["tables"][0]["results"]) == len(result.scans[0].results)
    assert [path.name for path in folder.glob("*.json")] == ["r1.json"]

    kept = lake.spark.read.format("delta").load(str(folder / "results"))
    assert kept.count() == len(result.scans[0].results)
    (failed,) = kept.where("outcome = 'fail'").collect()
    assert (failed["run_id"], failed["check"], failed["value"]) == ("r1", "sequence begins at 1", 1.0)


def test_a_table_without_a_check_file_is_a_configuration_error(lake: Lake) -> None:
    with pytest.raises(ConfigurationError) as caught:
        lake.gate("silver", "no_such_table")
    assert caught.value.code == "SODA_CHECK_FILE_MISSING"


def test_a_gate_replaces_no_view_of_its_caller(lake: Lake) -> None:
    lake.events(event(1))
    lake.spark.range(3).createOrReplaceTempView("order_events")
    lake.gate("silver", "order_events")
    assert lake.spark.table("order_events").columns == ["id"]
