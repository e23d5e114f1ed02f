"""gold.fact_orders as a function of events and rates."""

from __future__ import annotations

import datetime as dt
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from streams.transforms.fact_orders import convert, fact_orders

if TYPE_CHECKING:
    from pyspark.sql import Row, SparkSession

EVENTS = (
    "event_id string, order_id string, sequence bigint, event_type string, occurred_at timestamp, customer_id string, "
    "quantity bigint, amount decimal(18,2), currency string, is_deleted boolean"
)
RATES = "rate_date date, base_currency string, quote_currency string, rate decimal(18,6), is_deleted boolean"

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
    return (f"{order}-{sequence}", order, sequence, kind, at(day), *made, kind == "deleted")


def facts(
    spark: SparkSession, events: list[tuple[object, ...]], quotes: list[tuple[str, str, str]], to: str = "EUR"
) -> dict[str, Row]:
    rows = [(dt.date.fromisoformat(day), "EUR", currency, Decimal(rate), False) for day, currency, rate in quotes]
    made = fact_orders(spark.createDataFrame(events, EVENTS), spark.createDataFrame(rows, RATES), to)
    return {row["order_id"]: row for row in made.collect()}


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
