"""The real data, and the sums that gold must hold."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from decimal import Decimal

from streams.local.purchases import Month, Purchase, expected_months, purchases, reference_rates


def test_sums_are_those_that_the_data_is_known_for() -> None:
    months = expected_months(purchases())
    assert sum(month.orders for month in months) == 69_659
    assert sum(month.usd for month in months) == Decimal("2500315.63")
    assert sum(month.eur for month in months) == Decimal("2252202.60")
    assert [months[0].month, months[-1].month, len(months)] == ["2025-01", "2026-06", 18]


def test_line_number_is_the_order_and_28_years_keep_the_weekday() -> None:
    first, second, third = purchases(limit=3)
    assert first == Purchase("CD-000001", "00001", dt.date(2025, 1, 1), 1, Decimal("11.77"))
    assert (second.order_id, second.day, third.order_id, third.customer_id) == (
        "CD-000002",
        dt.date(2025, 1, 12),
        "CD-000003",
        "00002",
    )
    assert dt.date(1997, 1, 12).weekday() == second.day.weekday()


def test_orders_are_told_apart_even_where_their_lines_are_the_same() -> None:
    everything = list(purchases())
    assert len({order.order_id for order in everything}) == 69_659
    lines = Counter((order.customer_id, order.day, order.quantity, order.amount) for order in everything)
    assert max(lines.values()) > 1


def test_order_of_a_day_without_rate_takes_the_last_rate_before_it() -> None:
    friday, sunday = dt.date(2025, 1, 10), dt.date(2025, 1, 12)
    days = {rate.day for rate in reference_rates(friday, sunday)}
    assert days == {friday}
    [dollar] = [rate.value for rate in reference_rates(friday, friday) if rate.currency == "USD"]
    # The dollars that just make half a cent: half up makes a cent of them, half even would make none.
    half_cent = dollar * Decimal("0.005")
    [month] = expected_months([Purchase("CD-1", "1", sunday, 1, half_cent)])
    assert month == Month("2025-01", 1, half_cent, Decimal("0.01"))


def test_rates_leave_out_currencies_without_one() -> None:
    rates = list(reference_rates(dt.date(2026, 6, 30), dt.date(2026, 6, 30)))
    currencies = {rate.currency for rate in rates}
    assert {"USD", "GBP", "JPY"} <= currencies
    assert "CYP" not in currencies
    assert all(rate.value > 0 for rate in rates)
