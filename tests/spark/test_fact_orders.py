"""gold.fact_orders as a function of events, the warehouse's orders, rates and dimensions."""

from __future__ import annotations

import datetime as dt
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from streams.transforms.fact_orders import convert, fact_orders, merged_orders, versions_of

if TYPE_CHECKING:
    from pyspark.sql import Row, SparkSession

EVENTS = (
    "event_id string, order_id string, sequence bigint, event_type string, occurred_at timestamp, customer_id string, "
    "quantity bigint, amount decimal(18,2), currency string, is_deleted boolean, _source_time timestamp"
)
RATES = "rate_date date, base_currency string, quote_currency string, rate decimal(18,6), is_deleted boolean"
ORDERS = (
    "order_id string, customer_id string, product_id string, ordered_at timestamp, quantity bigint, "
    "amount decimal(18,2), currency string, status string, is_deleted boolean, _source_time timestamp"
)
VALIDITY = "valid_from timestamp, valid_to timestamp"

amounts = st.decimals(min_value=0, max_value=Decimal("9999999999.99"), places=2, allow_nan=False)
rates = st.decimals(min_value=Decimal("0.000001"), max_value=Decimal("99999.999999"), places=6, allow_nan=False)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(amounts, rates, rates, st.booleans()), min_size=20, max_size=200))
def test_convert_is_exact(spark: SparkSession, cases: list[tuple[Decimal, Decimal, Decimal, bool]]) -> None:
    signed = [(-a if negative else a, r, to) for a, r, to, negative in cases]
    limit = Decimal("9999999999999999.99")
    fitting = [(a, r, to) for a, r, to in signed if abs(a) / r * to < limit]
    if not fitting:
        return
    frame = spark.createDataFrame(fitting, "a decimal(18,2), r decimal(18,6), t decimal(18,6)")
    found = [row[0] for row in frame.select(convert(F.col("a"), F.col("r"), F.col("t"))).collect()]
    # Half up, away from zero, of the exact quotient: Decimal's context would round it before.
    expected = [_half_up(a * to, r) for a, r, to in fitting]
    assert found == expected


def _half_up(numerator: Decimal, denominator: Decimal) -> Decimal:
    top, bottom = abs(numerator).as_integer_ratio(), denominator.as_integer_ratio()
    cents = (200 * top[0] * bottom[1] + top[1] * bottom[0]) // (2 * top[1] * bottom[0])
    return Decimal(cents).scaleb(-2).quantize(Decimal("0.01"), ROUND_HALF_UP) * (-1 if numerator < 0 else 1)


def at(day: str, hour: int = 12) -> dt.datetime:
    return dt.datetime.fromisoformat(f"{day}T{hour:02d}:00:00+00:00")


def event(
    sequence: int, kind: str, day: str, amount: str | None = None, currency: str = "USD", order: str = "CD-1"
) -> tuple[object, ...]:
    made = ("7", 2, Decimal(amount), currency) if amount else (None, None, None, None)
    return (f"{order}-{sequence}", order, sequence, kind, at(day), *made, kind == "deleted", None)


def stored(order: str = "CD-1", day: str = "2025-01-02", **changes: object) -> dict[str, object]:
    """The warehouse's row of an order."""
    row = {
        "order_id": order,
        "customer_id": "8",
        "product_id": "P-1",
        "ordered_at": at(day),
        "quantity": 3,
        "amount": Decimal("30.00"),
        "currency": "EUR",
        "status": "paid",
        "is_deleted": False,
    }
    return row | changes


def version(of: str, key: str, valid_from: str, valid_to: str | None = None) -> tuple[object, ...]:
    moments = [None if one is None else dt.datetime.fromisoformat(f"{one}+00:00") for one in (valid_from, valid_to)]
    return (of, key, *moments)


def facts(
    spark: SparkSession,
    events: list[tuple[object, ...]],
    quotes: list[tuple[str, str, str]] = (),  # type: ignore[assignment]
    to: str = "EUR",
    *,
    warehouse: list[dict[str, object]] = (),  # type: ignore[assignment]
    customers: list[tuple[object, ...]] = (),  # type: ignore[assignment]
    products: list[tuple[object, ...]] = (),  # type: ignore[assignment]
) -> dict[str, Row]:
    rows = [(dt.date.fromisoformat(day), "EUR", currency, Decimal(rate), False) for day, currency, rate in quotes]
    orders = merged_orders(spark.createDataFrame(events, EVENTS), spark.createDataFrame(list(warehouse), ORDERS))
    dimensions = (
        versions_of(spark.createDataFrame(list(versions), f"{name}_id string, {name}_key string, {VALIDITY}"), name)
        for name, versions in (("customer", customers), ("product", products))
    )
    made = fact_orders(orders, spark.createDataFrame(rows, RATES), *dimensions, to)
    return {row["order_id"]: row for row in made.collect()}


def test_events_come_first_and_the_warehouse_fills_in(spark: SparkSession) -> None:
    events = [
        event(1, "created", "2025-01-03", "10.00", order="CD-1"),
        event(2, "cancelled", "2025-01-04", order="CD-1"),
        event(2, "shipped", "2025-01-05", order="CD-2"),
        event(1, "created", "2025-01-03", "10.00", order="CD-4"),
    ]
    found = facts(
        spark, events, warehouse=[stored("CD-1"), stored("CD-2"), stored("CD-3"), stored("CD-5", is_deleted=True)]
    )
    assert {
        key: (row["source"], row["status"], row["customer_id"], row["product_id"], row["amount"], row["order_date"].day)
        for key, row in found.items()
        if key != "CD-5"
    } == {
        "CD-1": ("both", "cancelled", "7", "P-1", Decimal("10.00"), 3),
        "CD-2": ("both", "shipped", "8", "P-1", Decimal("30.00"), 2),
        "CD-3": ("warehouse", "paid", "8", "P-1", Decimal("30.00"), 2),
        "CD-4": ("events", "created", "7", None, Decimal("10.00"), 3),
    }
    assert found["CD-2"]["shipped_at"].day == 5
    assert (found["CD-5"]["status"], found["CD-5"]["is_deleted"], found["CD-5"]["product_id"]) == (
        "deleted",
        True,
        None,
    )


def test_the_version_that_was_valid_on_the_orders_day(spark: SparkSession) -> None:
    customers = [
        version("8", "first", "1900-01-01T00:00", "2025-01-03T10:00"),
        version("8", "second", "2025-01-03T10:00", "2025-01-05T00:00"),
        version("8", "after a delete", "2025-01-08T00:00"),
        version("9", "of another", "1900-01-01T00:00"),
    ]
    products = [version("P-1", "only", "2025-01-05T23:59:59.999999")]
    days = {f"CD-{day}": f"2025-01-0{day}" for day in range(2, 10)}
    found = facts(spark, [], warehouse=[stored(*one) for one in days.items()], customers=customers, products=products)
    assert {key: row["customer_key"] for key, row in found.items()} == {
        "CD-2": "first",
        "CD-3": "second",  # of those valid at any moment of the day, the last
        "CD-4": "second",
        "CD-5": None,  # it ended as the day began
        "CD-6": None,
        "CD-7": None,
        "CD-8": "after a delete",
        "CD-9": "after a delete",
    }
    assert [found[key]["is_product_known"] for key in days] == [False] * 3 + [True] * 5
    assert [found[key]["is_customer_known"] for key in days] == [True] * 3 + [False] * 3 + [True] * 2


def test_state_is_by_sequence_not_by_arrival(spark: SparkSession) -> None:
    events = [
        event(3, "shipped", "2025-01-04"),
        event(1, "created", "2025-01-02", "10.00"),
        event(2, "paid", "2025-01-03"),
    ]
    order = facts(spark, events, [("2025-01-02", "USD", "1.25")])["CD-1"]
    assert (order["status"], order["reporting_amount"], order["rate"]) == (
        "shipped",
        Decimal("8.00"),
        Decimal("1.250000"),
    )
    assert (order["order_date"], order["is_complete"], order["is_converted"]) == (dt.date(2025, 1, 2), True, True)


def test_last_rate_on_or_before_the_day(spark: SparkSession) -> None:
    quotes = [("2025-01-03", "USD", "2"), ("2025-01-06", "USD", "4"), ("2025-01-04", "GBP", "9")]
    events = [
        event(1, "created", day, "8.00", order=f"CD-{day[-1]}")
        for day in ("2025-01-02", "2025-01-03", "2025-01-05", "2025-01-06", "2025-01-09")
    ]
    found = facts(spark, events, quotes)
    assert {key: row["reporting_amount"] for key, row in found.items()} == {
        "CD-2": None,
        "CD-3": Decimal("4.00"),
        "CD-5": Decimal("4.00"),
        "CD-6": Decimal("2.00"),
        "CD-9": Decimal("2.00"),
    }
    assert not found["CD-2"]["is_converted"]
    assert found["CD-5"]["rate_date"] == dt.date(2025, 1, 3)


def test_other_reporting_currency_and_its_own_orders(spark: SparkSession) -> None:
    quotes = [("2025-01-02", "USD", "1.10"), ("2025-01-02", "GBP", "0.80")]
    events = [
        event(1, "created", "2025-01-02", "11.00", "USD", "CD-1"),
        event(1, "created", "2025-01-02", "11.00", "EUR", "CD-2"),
        event(1, "created", "2024-01-02", "11.00", "GBP", "CD-3"),
    ]
    found = facts(spark, events, quotes, to="GBP")
    assert [found[key]["reporting_amount"] for key in sorted(found)] == [
        Decimal("8.00"),
        Decimal("8.80"),
        Decimal("11.00"),
    ]
    assert all(row["is_converted"] for row in found.values())


def test_an_order_without_its_first_event_is_there_and_marked(spark: SparkSession) -> None:
    order = facts(spark, [event(2, "paid", "2025-01-03")], [("2025-01-02", "USD", "1.25")])["CD-1"]
    assert (order["status"], order["is_complete"], order["is_converted"], order["amount"]) == (
        "paid",
        False,
        False,
        None,
    )


def test_a_deleted_order_keeps_its_key_only(spark: SparkSession) -> None:
    events = [event(1, "created", "2025-01-02", "10.00"), event(2147483647, "deleted", "2025-01-02")]
    order = facts(spark, events, [("2025-01-02", "USD", "1.25")])["CD-1"]
    assert (order["status"], order["is_deleted"]) == ("deleted", True)
    assert [
        order[name] for name in ("customer_id", "amount", "currency", "reporting_amount", "created_at", "order_date")
    ] == [None] * 6
