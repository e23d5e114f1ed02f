"""Rows of the shop's CRM, Salesforce: accounts, contacts and opportunities around its best customers."""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from streams.local.shop_names import BY_CODE, COUNTRIES, SHARES, Addresses, as_typed, mixed_case, phone
from streams.local.shop_rows import BEGUN, FILLED, History, between, parts, written

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streams.local.purchases import Purchase
    from streams.local.shop_rows import Row

_PROSPECTS: Final = 60
_NEW_PROSPECTS: Final = 5
_BASE_62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CAPITALS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"


def case_safe_id(short: str) -> str:
    """Salesforce's 18 characters for its 15: one more for each five of them says which are capitals."""
    fives = (short[start : start + 5] for start in (0, 5, 10))
    return short + "".join(_CAPITALS[sum(sign.isupper() << place for place, sign in enumerate(five))] for five in fives)


def _ids(prefix: str, count: int, chance: random.Random) -> Iterator[str]:
    for number in sorted(chance.sample(range(62**4, 62**5), count)):
        last = "".join(_BASE_62[number // 62**place % 62] for place in range(4, -1, -1))
        yield case_safe_id(f"{prefix}8c00000{last}")


_OWNERS: Final = tuple(_ids("005", 8, random.Random("owners")))
_STAGES: Final = (  # how far a sale is, and how likely in percent
    ("Prospecting", 10),
    ("Qualification", 20),
    ("Proposal", 50),
    ("Negotiation", 75),
    ("Closed Won", 100),
    ("Closed Lost", 0),
)
_JOBS: Final = ("Buyer", "Owner", "Head of Purchasing", "Bookkeeper", "Shop Manager", "Librarian", None)
_INDUSTRIES: Final = ("Retail", "Media", "Education", "Hospitality", "Entertainment", None)
_TRADES: Final = ("Records", "Music", "Audio", "Media", "Café", "School of Music")


def accounts(bought: Sequence[Purchase], customers: Sequence[Row], chance: random.Random) -> History:
    """CRM accounts: those who bought most often, and prospects without a number, some of them new."""
    often = Counter(order.customer_id for order in bought).most_common(max(1, round(0.03 * len(customers))))
    by_number = {row["customer_id"]: row for row in customers}
    holders: list[Row | None] = [by_number[number] for number, _ in often]
    holders += [None] * (_PROSPECTS + _NEW_PROSPECTS)
    chance.shuffle(holders)
    rows = [_account(*one, chance) for one in zip(_ids("001", len(holders), chance), holders, strict=True)]
    new = [row for row in rows if row["CustomerNumber__c"] is None][-_NEW_PROSPECTS:]
    first = [row for row in rows if row not in new]
    growing, leaving = parts(first, chance, 0.05, 0.02)
    return History(
        first,
        [row | {"NumberOfEmployees": (row["NumberOfEmployees"] or 0) + chance.randrange(1, 20)} for row in growing]
        + [row | {"IsDeleted": True} for row in leaving]
        + [row | {"CreatedDate": FILLED} for row in new],
    )


def _account(number: str, customer: Row | None, chance: random.Random) -> Row:
    country = BY_CODE[customer["country"]] if customer else chance.choices(COUNTRIES, SHARES)[0]
    family = _name(customer["last_name"]) if customer else chance.choice(country.last)
    created = between(chance, customer["created_at"] if customer else BEGUN, FILLED)
    name = f"{family} {chance.choice(_TRADES)} {chance.choice(country.legal)}"
    return {
        "Id": number,
        "Name": as_typed(name, chance),
        "Type": chance.choices(("Customer", "Partner", "Former"), (90, 6, 4))[0] if customer else "Prospect",
        "Industry": chance.choice(_INDUSTRIES),
        "BillingCountry": chance.choice((*country.spellings, country.spellings[0], None)),
        "AnnualRevenue": Decimal(chance.randrange(40, 9000) * 1000) if chance.random() < 0.7 else None,
        "NumberOfEmployees": chance.randrange(1, 250) if chance.random() < 0.8 else None,
        "CustomerNumber__c": customer["customer_id"] if customer else None,
        "OwnerId": chance.choice(_OWNERS),
        "CreatedDate": created,
        "SystemModstamp": written(between(chance, max(created, BEGUN), FILLED), chance),
        "IsDeleted": False,
    }


def _name(typed: str) -> str:
    return " ".join(typed.split()).title()


def contacts(accounts: Sequence[Row], customers: Sequence[Row], chance: random.Random) -> History:
    """One to three people an account, the customer first; a few have left their account."""
    addresses, by_number = Addresses("_"), {row["customer_id"]: row for row in customers}
    counts = [chance.randrange(1, 4) for _ in accounts]
    numbers = _ids("003", sum(counts), chance)
    first = [
        _contact(
            next(numbers), account, None if place else by_number.get(account["CustomerNumber__c"]), addresses, chance
        )
        for account, count in zip(accounts, counts, strict=True)
        for place in range(count)
    ]
    refusing, leaving = parts(first, chance, 0.03, 0.01)
    return History(
        first,
        [row | {"HasOptedOutOfEmail": not row["HasOptedOutOfEmail"]} for row in refusing]
        + [row | {"IsDeleted": True} for row in leaving],
    )


def _contact(number: str, account: Row, customer: Row | None, addresses: Addresses, chance: random.Random) -> Row:
    country = BY_CODE[customer["country"]] if customer else chance.choices(COUNTRIES, SHARES)[0]
    given, family = chance.choice(country.first), chance.choice(country.last)
    if customer:
        given, family = _name(customer["first_name"]), _name(customer["last_name"])
    created = between(chance, account["CreatedDate"], FILLED)
    email = (customer and customer["email"]) or addresses.give(given, family, chance)
    return {
        "Id": number,
        "AccountId": account["Id"] if chance.random() < 0.97 else None,
        "FirstName": as_typed(given, chance) if chance.random() < 0.95 else None,
        "LastName": as_typed(family, chance),
        "Email": mixed_case(email.lower(), chance),
        "Phone": phone(country, chance),
        "Title": chance.choice(_JOBS),
        "HasOptedOutOfEmail": chance.random() < 0.15,
        "CreatedDate": created,
        "SystemModstamp": written(between(chance, max(created, BEGUN), FILLED), chance),
        "IsDeleted": False,
    }


def opportunities(accounts: Sequence[Row], chance: random.Random) -> History:
    """None to four an account; some that are open come a stage further."""
    owners = [account for account in accounts for _ in range(chance.randrange(5))]
    first = [_opportunity(*one, chance) for one in zip(_ids("006", len(owners), chance), owners, strict=True)]
    advancing, leaving = parts([row for row in first if not row["IsClosed"]], chance, 0.3, 0.02)
    stages = [stage for stage, _ in _STAGES]
    return History(
        first,
        [row | _stage(*_STAGES[stages.index(row["StageName"]) + 1]) for row in advancing]
        + [row | {"IsDeleted": True} for row in leaving],
    )


def _opportunity(number: str, account: Row, chance: random.Random) -> Row:
    created = between(chance, account["CreatedDate"], FILLED)
    what = chance.choice(("Listening station", "Yearly order", "Christmas stock", "Jukebox", "School set"))
    stage = _stage(*chance.choice(_STAGES))
    closing = created + dt.timedelta(days=chance.randrange(10, 180))
    return {
        "Id": number,
        "AccountId": account["Id"],
        "Name": f"{what}, {' '.join(account['Name'].split())}",
        **stage,
        "Amount": Decimal(chance.randrange(20_000, 2_000_000)) / 100 if chance.random() < 0.9 else None,
        "CurrencyIsoCode": chance.choice(("USD", "USD", "EUR", "GBP")),
        "CloseDate": (min(closing, FILLED) if stage["IsClosed"] else closing).date(),
        "CreatedDate": created,
        "SystemModstamp": written(between(chance, max(created, BEGUN), FILLED), chance),
        "IsDeleted": False,
    }


def _stage(name: str, percent: int) -> Row:
    closed, won = name.startswith("Closed"), name == "Closed Won"
    return {"StageName": name, "Probability": Decimal(percent), "IsClosed": closed, "IsWon": won}
