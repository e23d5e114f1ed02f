"""The real purchases and exchange rates, and what gold must hold of them, in plain Python."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_DATA: Final = Path(__file__).parent / "data"
YEARS_MOVED: Final = 28  # the weekdays are the same again
CENT: Final = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Purchase:
    """One order of the shop; the amount is in USD."""

    order_id: str
    customer_id: str
    day: dt.date
    quantity: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Rate:
    """How much of a currency one euro bought on a day."""

    day: dt.date
    currency: str
    value: Decimal


@dataclass(frozen=True, slots=True)
class Month:
    """What gold must hold for one month: orders, and their sums in USD and EUR."""

    month: str
    orders: int
    usd: Decimal
    eur: Decimal


def purchases(limit: int | None = None) -> Iterator[Purchase]:
    """The purchases in the file's order, moved 28 years on; a line's number is its order's id."""
    with gzip.open(_DATA / "cdnow_master.txt.gz", "rt", encoding="ascii") as lines:
        next(lines)
        for number, line in enumerate(lines, start=1):
            if limit is not None and number > limit:
                return
            customer, day, quantity, amount = line.split()
            bought = dt.date(int(day[:4]) + YEARS_MOVED, int(day[4:6]), int(day[6:8]))
            yield Purchase(f"CD-{number:06d}", customer, bought, int(quantity), Decimal(amount))


def reference_rates(first: dt.date, last: dt.date) -> Iterator[Rate]:
    """The European Central Bank's rates of some days, newest day first."""
    with gzip.open(_DATA / "eurofxref-hist.csv.gz", "rt", encoding="ascii") as lines:
        for row in csv.DictReader(lines):
            day = dt.date.fromisoformat(row.pop("Date"))
            if first <= day <= last:
                yield from (
                    Rate(day, name, Decimal(text)) for name, text in row.items() if name and text not in ("", "N/A")
                )


def expected_months(orders: Iterable[Purchase]) -> list[Month]:
    """Per month: each order at the last USD rate on or before its day, rounded half up to cents, then summed."""
    days, values = _dollar_rates()
    counted: dict[str, list[tuple[Decimal, Decimal]]] = defaultdict(list)
    for order in orders:
        rate = values[bisect_right(days, order.day) - 1]
        counted[f"{order.day:%Y-%m}"].append((order.amount, (order.amount / rate).quantize(CENT, ROUND_HALF_UP)))
    return [
        Month(month, len(sums), sum((usd for usd, _ in sums), Decimal(0)), sum((eur for _, eur in sums), Decimal(0)))
        for month, sums in sorted(counted.items())
    ]


@cache
def _dollar_rates() -> tuple[list[dt.date], list[Decimal]]:
    rates = sorted(
        (rate.day, rate.value) for rate in reference_rates(dt.date.min, dt.date.max) if rate.currency == "USD"
    )
    return [day for day, _ in rates], [value for _, value in rates]
