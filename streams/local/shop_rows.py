"""Rows of the shop's warehouse and of the visits to it, made to fit the purchases.

Every maker gives sound rows: those that are there first, and those that are written later.
"""

from __future__ import annotations

import datetime as dt
import uuid
from bisect import bisect
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice, product
from typing import TYPE_CHECKING, Any, Final

from streams.local.shop_names import BY_CODE, COUNTRIES, SHARES, Addresses, as_typed, digits, mixed_case, phone

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

    from streams.local.purchases import Purchase
    from streams.local.shop_names import Country

Row = dict[str, Any]

FILLED: Final = dt.datetime(2026, 7, 1, 0, 30, tzinfo=dt.UTC)  # until then what is held first, then what changes
BEGUN: Final = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
_FIRST_LOAD: Final = dt.datetime(2025, 1, 6, 2, 30, 15, 250_000, tzinfo=dt.UTC)
_DAY: Final = dt.timedelta(days=1)
_WEEK: Final = 7 * _DAY
_SHORTEST_VISIT: Final = dt.timedelta(minutes=2)
_TEST_ORDERS: Final = 50


@dataclass
class History:
    """A table's rows as they are first, and the newer versions and new rows that are written later."""

    first: list[Row]
    later: list[Row] = field(default_factory=list)


def within(chance: random.Random, span: dt.timedelta) -> dt.timedelta:
    """Some of a span, in whole milliseconds."""
    return dt.timedelta(milliseconds=int(chance.random() * (span / dt.timedelta(milliseconds=1))))


def between(chance: random.Random, first: dt.datetime, last: dt.datetime) -> dt.datetime:
    """A time from the first to just before the last."""
    return first + within(chance, last - first)


def written(at: dt.datetime, chance: random.Random) -> dt.datetime:
    """When a source writes what happened: mostly in the week's load, whose rows all have the very same time."""
    load = _FIRST_LOAD + _WEEK * -((_FIRST_LOAD - at) // _WEEK)
    return load if load < FILLED and chance.random() < 0.8 else at


def parts(rows: Sequence[Row], chance: random.Random, *shares: float) -> Iterator[list[Row]]:
    """Some of the rows for each share, at least one, none in two."""
    counts = [max(1, round(share * len(rows))) for share in shares]
    picked = iter(chance.sample(rows, min(len(rows), sum(counts))))
    return (list(islice(picked, count)) for count in counts)


# The warehouse


def customers(bought: Sequence[Purchase], chance: random.Random) -> History:
    """Everyone who bought, there since before; a few are deleted or move."""
    addresses = Addresses(".")
    days: dict[str, list[dt.date]] = {}
    for order in bought:
        days.setdefault(order.customer_id, []).append(order.day)
    first = [_customer(number, sorted(days[number]), addresses, chance) for number in days]
    leaving, moving = parts(first, chance, 0.01, 0.02)
    return History(
        first,
        [row | {"is_deleted": True} for row in leaving]
        + [row | _home(BY_CODE[row["country"]], chance) for row in moving],
    )


def _customer(number: str, days: list[dt.date], addresses: Addresses, chance: random.Random) -> Row:
    [country] = chance.choices(COUNTRIES, SHARES)
    given, family = chance.choice(country.first), chance.choice(country.last)
    created = dt.datetime.combine(days[0], dt.time(), dt.UTC) - within(chance, dt.timedelta(days=400))
    return {
        "customer_id": number,
        "email": mixed_case(addresses.give(given, family, chance), chance) if chance.random() < 0.99 else None,
        "first_name": as_typed(given, chance),
        "last_name": as_typed(family, chance),
        "phone": phone(country, chance),
        **_home(country, chance),
        "country": country.code,
        "segment": _segment(days),
        "marketing_consent": chance.random() < 0.6,
        "created_at": created,
        "updated_at": written(between(chance, max(created, BEGUN), FILLED), chance),
        "is_deleted": False,
    }


def _home(country: Country, chance: random.Random) -> Row:
    city, postal_code = chance.choice(country.cities)
    street, number = chance.choice(country.streets), chance.randrange(1, 200)
    line = f"{number} {street}" if country.number_first else f"{street} {number}"
    return {"street": line, "city": as_typed(city, chance), "postal_code": digits(postal_code, chance)}


def _segment(days: list[dt.date]) -> str:
    if days[-1] < dt.date(2025, 7, 1):
        return "dormant"
    if len(days) >= 10:
        return "loyal"
    return "regular" if len(days) > 2 else "new"


_GENRES: Final = ("Rock", "Pop", "Jazz", "Classical", "Blues", "Country", "Electronic", "Folk", "Hip-Hop", "World")
_BANDS: Final = (
    "The Paper Lanterns",
    "Ida Holm Quartet",
    "Copper Kite",
    "Salt & Signal",
    "Orquesta Mirador",
    "Low Tide Choir",
    "Marlow Pike",
    "Nachtzug 9",
    "Les Oiseaux Gris",
    "Quiet Harbour Ensemble",
)
_TITLES: Final = (
    "Northern Light",
    "Half Past Winter",
    "Río Abajo",
    "Letters Never Sent",
    "Glass Orchard",
    "Été Indien",
    "The Long Way Down",
    "Seven Small Rooms",
    "Überfahrt",
    "Live in Tromsø",
)
_FORMS: Final = (("CD", 1399), ("2 CD", 2149), ("LP", 2499), ("Single", 499))
_SUPPLIERS: Final = ("Halyard Distribution", "Blue Door Records", "Musikhaus Löwe", "Éditions du Canal", None)
_PRODUCTS: Final = 200
_NEW_PRODUCTS: Final = 6
_ANNOUNCED: Final = 6  # of those that are there first the last, which nobody has ordered


def products(chance: random.Random) -> History:
    """Albums; some get dearer or are no longer sold, two that nobody bought are deleted, and new ones come."""
    albums = list(product(_BANDS, _TITLES, _FORMS))
    rows = [
        _product(1001 + number, *album, chance)
        for number, album in enumerate(chance.sample(albums, _PRODUCTS + _NEW_PRODUCTS))
    ]
    first, new = rows[:_PRODUCTS], rows[_PRODUCTS:]
    dearer, ending = parts(first[:-_ANNOUNCED], chance, 0.06, 0.02)
    return History(
        first,
        [row | {"unit_price": row["unit_price"] + 1} for row in dearer]
        + [row | {"is_active": False} for row in ending]
        + [row | {"is_deleted": True} for row in first[-2:]]
        + new,
    )


def _product(number: int, band: str, title: str, form: tuple[str, int], chance: random.Random) -> Row:
    name, cents = form
    return {
        "product_id": f"P-{number}",
        "name": as_typed(f"{band} – {title} ({name})", chance),
        "category": _GENRES[number % len(_GENRES)],
        "unit_price": Decimal(cents + 50 * chance.randrange(-6, 7)) / 100,
        "currency": "USD",
        "supplier": chance.choice(_SUPPLIERS),
        "is_active": True,
        "updated_at": written(between(chance, BEGUN, FILLED), chance),
        "is_deleted": False,
    }


_STEPS: Final = (  # what becomes of an order, and the longest that it waits for it
    ("paid", dt.timedelta(hours=10)),
    ("shipped", dt.timedelta(days=3)),
    ("delivered", dt.timedelta(days=6)),
)
_NEXT: Final = {"created": "paid", "paid": "shipped", "shipped": "delivered"}


def orders(bought: Sequence[Purchase], products: Sequence[Row], chance: random.Random) -> History:
    """An order a purchase, of a product of about its price, and test orders, which are deleted later."""
    by_price = sorted(products[:-_ANNOUNCED], key=lambda row: row["unit_price"])
    prices = [row["unit_price"] for row in by_price]

    def like(price: Decimal) -> str:
        place = bisect(prices, price) + chance.randrange(-8, 9)
        return str(by_price[max(0, min(place, len(by_price) - 1))]["product_id"])

    first = [_order(order, order.order_id, like(order.amount / order.quantity), chance) for order in bought]
    models = chance.sample(bought, min(_TEST_ORDERS, -(-len(bought) // 10)))
    tests = [
        _order(order, f"CD-9{number:05d}", like(order.amount / order.quantity), chance)
        for number, order in enumerate(models, start=1)
    ]
    going_on = [row | {"status": _NEXT[row["status"]]} for row in first if row["status"] in _NEXT]
    return History(first + tests, going_on + [row | {"is_deleted": True} for row in tests])


def _order(order: Purchase, order_id: str, product_id: str, chance: random.Random) -> Row:
    ordered = dt.datetime.combine(order.day, dt.time(), dt.UTC) + within(chance, dt.timedelta(days=1))
    status, at = "created", ordered + dt.timedelta(seconds=1)
    for step, longest in _STEPS:
        taken = at + dt.timedelta(minutes=5) + within(chance, longest)
        if taken >= FILLED:
            break
        status, at = step, taken
    return {
        "order_id": order_id,
        "customer_id": order.customer_id,
        "product_id": product_id,
        "ordered_at": ordered,
        "quantity": order.quantity,
        "amount": order.amount,
        "currency": "USD",
        "status": status,
        "updated_at": written(at, chance),
        "is_deleted": False,
    }


# The visits

_DEVICES: Final = ("desktop", "mobile", "tablet", "unknown")
_REFERRERS: Final = (
    None,
    "https://search.example.com/?q=vinyl+records",
    "https://SEARCH.example.com/?q=caf%C3%A9%20jazz&page=2",
    "https://news.example.org/reviews/?utm_source=newsletter&utm_medium=email&utm_campaign=spring",
    "http://www.example.net/Forum/thread.php?id=4711#post-12",
    "https://example.com",
    "android-app://com.example.player/",
)


def sessions(bought: Sequence[Purchase], customers: Sequence[Row], chance: random.Random) -> History:
    """Visits of customers near their purchases, and of strangers on any day; the last still go on at first."""
    countries = {row["customer_id"]: row["country"] for row in customers}
    count = max(20, 2 * len(bought) // 7)
    going_on, new = max(2, count // 150), max(1, count // 200)

    visitors = [chance.choice(bought) if chance.random() < 0.85 else None for _ in range(count + new)]
    # Those that began no longer ago than the shortest visit lasts are still there.
    starts = [_near(visitor, chance) for visitor in visitors[: count - going_on]]
    starts += [FILLED - within(chance, _SHORTEST_VISIT) for _ in range(going_on)]
    starts += [FILLED + within(chance, _SHORTEST_VISIT) for _ in range(new)]
    rows = [_session(*one, countries, chance) for one in zip(starts, visitors, strict=True)]
    before, later = rows[: count - going_on], rows[count - going_on :]
    still_there = {"ended_at": None, "page_views": 1, "cart_adds": 0, "loaded_at": FILLED}
    return History(before + [row | still_there for row in later[:going_on]], later)


def _near(visitor: Purchase | None, chance: random.Random) -> dt.datetime:
    """A time up to two days before the day of a purchase, or on it; any time for a stranger."""
    if visitor is None:
        return between(chance, BEGUN, FILLED - _DAY)
    day = dt.datetime.combine(visitor.day, dt.time(), dt.UTC) - chance.randrange(3) * _DAY
    return max(BEGUN, day) + within(chance, 0.95 * _DAY)


def _session(started: dt.datetime, visitor: Purchase | None, countries: dict[str, str], chance: random.Random) -> Row:
    ended = started + _SHORTEST_VISIT + within(chance, dt.timedelta(minutes=40))
    country = countries[visitor.customer_id] if visitor else chance.choices(COUNTRIES, SHARES)[0].code
    return {
        "session_id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        "customer_id": visitor.customer_id if visitor else None,
        "started_at": started,
        "ended_at": ended,
        "page_views": 1 + int(chance.expovariate(1 / 6)),
        "cart_adds": int(chance.expovariate(1)),
        "device": chance.choices(_DEVICES, (45, 42, 10, 3))[0],
        "referrer": chance.choice(_REFERRERS),
        "country": country if chance.random() < 0.97 else None,
        "loaded_at": written(ended, chance),
    }
