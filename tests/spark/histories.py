"""Random histories of a shop, over few keys, so that much happens to each: what bronze tables may be given.

One seed makes one history. A generator with a seed stands here in place of strategies that shrink: one history
runs every flow many times, which is too slow for looking for a smaller one, and many keys in one history find
more than many small histories.
"""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tests.spark.flow_bench import at

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.spark.lake_model import Bronze, Row

DAYS = 7
# On a day's boundary, a microsecond to either side of it, and within the day; few, so that times are often equal.
MOMENTS = (
    dt.timedelta(0),
    dt.timedelta(microseconds=-1),
    dt.timedelta(microseconds=1),
    dt.timedelta(hours=9),
    dt.timedelta(hours=17, microseconds=123_457),
)
CONTRACTS = {"bronze.order_events": "kafka_events"}
EMAILS = (None, " ", "Ann@Example.com", " ann@example.com ", "bob@example.com", "Jörg.B@Example.com")
PHONES = (None, "+49 (30) 12-34", "0049 30 1234", "+4930 12 35", " - ")
CITIES = (None, "", "Köln", " New\t York ", "New York", "Zürich")
TYPED_COUNTRIES = (None, "Germany", " germany", "FRANCE", "United  Kingdom", "Nowhereland")
KINDS = ("created", "paid", "shipped", "delivered", "cancelled", "refunded")
REPEATED = 0.15


def contract_of(table: str) -> str:
    return CONTRACTS.get(table, table.removeprefix("bronze."))


@dataclass(frozen=True)
class History:
    """The rows in the order in which they happened, and how they may come."""

    seed: int
    rows: Bronze

    def shuffled(self, batches: int) -> list[Bronze]:
        """The same rows and repetitions of some, in any order, in so many batches."""
        chance = random.Random(self.seed)
        rows = self.rows + chance.sample(self.rows, round(len(self.rows) * REPEATED))
        chance.shuffle(rows)
        return [rows[start::batches] for start in range(batches)]


def history(seed: int) -> History:
    made = _Maker(random.Random(seed))
    for add in (made.customers, made.products, made.orders, made.events, made.rates):
        add()
    for add in (made.accounts, made.contacts, made.opportunities, made.sessions):
        add()
    return History(seed, [(table, row) for _, table, row in sorted(made.rows, key=lambda row: row[0])])


class _Maker:
    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.rows: list[tuple[dt.datetime, str, Row]] = []

    def moment(self) -> dt.datetime:
        return at(0) + dt.timedelta(days=self.chance.randrange(DAYS)) + self.chance.choice(MOMENTS)

    def money(self) -> Decimal:
        return Decimal(self.chance.choice(["0.00", "0.01", "9.99", "10.00", "123.45"]))

    def keep(self, table: str, key: str, sequence: str, deleted: str | None, make: Callable[[], Row]) -> None:
        """One to seven changes of one key; a fifth are deletes, marked or found by reconciliation."""
        first = self.moment() - dt.timedelta(days=self.chance.choice([0, 400]))
        name, value = key.split("=")
        for _ in range(self.chance.choice([1, 2, 3, 4, 5, 7])):
            when = self.moment()
            row = {name: value, "_key": value, "created_at": first, "CreatedDate": first, sequence: when} | make()
            if deleted:
                row[deleted] = False
            if self.chance.random() < 0.2:
                if deleted and self.chance.random() < 0.5:
                    row[deleted] = True
                else:
                    row = {name: value, "_key": value, "_is_tombstone": True, "_source_time": when}
            self.rows.append((when, table, row))

    def customers(self) -> None:
        chance = self.chance
        for number in range(30):
            self.keep(
                "bronze.snowflake_customers",
                f"customer_id={number}",
                "updated_at",
                "is_deleted",
                lambda: {
                    "email": chance.choice(EMAILS),
                    "first_name": chance.choice([None, "Ann"]),
                    "phone": chance.choice(PHONES),
                    "city": chance.choice(CITIES),
                    "country": chance.choice([None, "DE", "de "]),
                    "segment": chance.choice(["new", "loyal"]),
                    "marketing_consent": chance.random() < 0.5,
                },
            )

    def products(self) -> None:
        chance = self.chance
        for number in range(12):
            self.keep(
                "bronze.snowflake_products",
                f"product_id=P-{number}",
                "updated_at",
                "is_deleted",
                lambda: {
                    "name": chance.choice(["Blue Train", " Blue  Train"]),
                    "category": chance.choice(["Jazz", "Rock"]),
                    "unit_price": chance.choice([Decimal("9.99"), Decimal("10.00")]),
                    "currency": chance.choice(["EUR", "eur"]),
                    "supplier": chance.choice([None, "  ", "Acme", "Bolt "]),
                    "is_active": chance.random() < 0.8,
                },
            )

    def orders(self) -> None:
        chance = self.chance
        for number in range(60):
            self.keep(
                "bronze.snowflake_orders",
                f"order_id=CD-{number}",
                "updated_at",
                "is_deleted",
                lambda: (
                    self.purchase()
                    | {
                        "product_id": chance.choice([None, *(f"P-{product}" for product in range(14))]),
                        "ordered_at": self.moment(),
                        "status": chance.choice(KINDS),
                    }
                ),
            )

    def purchase(self) -> Row:
        """Some customers and a currency are never heard of elsewhere."""
        return {
            "customer_id": str(self.chance.randrange(33)),
            "quantity": self.chance.randrange(3),
            "amount": self.money(),
            "currency": self.chance.choice(["USD", "GBP", "EUR", "CHF"]),
        }

    def events(self) -> None:
        """Of some orders that the warehouse has, and of some that it has not."""
        for order in range(30, 80):
            for _ in range(self.chance.randrange(1, 7)):
                self.event(order)
            while self.chance.random() < 0.15:
                when = self.moment()
                gone = {"_is_tombstone": True, "_key": f"CD-{order}", "_source_time": when}
                self.rows.append((when, "bronze.order_events", gone))

    def event(self, order: int) -> None:
        kind = self.chance.choice(["created", *KINDS])
        when, number = self.moment(), self.chance.randrange(1, 7)
        event = {
            "event_id": f"00000000-0000-0000-{number:04d}-{order:012d}",
            "order_id": f"CD-{order}",
            "sequence": self.chance.choice([number, 1, 2]),
            "event_type": kind,
            "occurred_at": when,
            "note": self.chance.choice([None, "a", "b"]),
        }
        self.rows.append((when, "bronze.order_events", event | (self.purchase() if kind == "created" else {})))

    def rates(self) -> None:
        for currency in ("USD", "GBP"):
            for _ in range(9):
                published = self.moment()
                row: dict[str, Any] = {
                    "rate_date": published.date() - dt.timedelta(days=self.chance.randrange(3)),
                    "base_currency": "EUR",
                    "quote_currency": currency,
                    "rate": Decimal(self.chance.choice(["1.05", "1.25", "2", "0.333333"])),
                    "published_at": published,
                }
                self.rows.append((published, "bronze.fx_rates", row))

    def accounts(self) -> None:
        """More than one of some customers; which customer an account is of may change."""
        chance = self.chance
        for number in range(20):
            home = number * 2 // 3
            self.keep(
                "bronze.crm_accounts",
                f"Id=001{number:012d}",
                "SystemModstamp",
                "IsDeleted",
                lambda home=home: {  # type: ignore[misc]
                    "Name": chance.choice(["Acme", " Acme  Ltd"]),
                    "Type": chance.choice([None, "Customer", "Former"]),
                    "Industry": chance.choice([None, " Music", "Retail"]),
                    "BillingCountry": chance.choice(TYPED_COUNTRIES),
                    "AnnualRevenue": chance.choice([None, Decimal("1000.00"), Decimal("2000.50")]),
                    "NumberOfEmployees": chance.choice([None, 0, 12]),
                    "CustomerNumber__c": chance.choice([None, *[str(home)] * 4, str(chance.randrange(33))]),
                    "OwnerId": f"005{chance.randrange(3):012d}",
                },
            )

    def contacts(self) -> None:
        chance = self.chance
        for number in range(40):
            home = number // 2
            self.keep(
                "bronze.crm_contacts",
                f"Id=003{number:012d}",
                "SystemModstamp",
                "IsDeleted",
                lambda home=home: {  # type: ignore[misc]
                    "AccountId": chance.choice([None, *[f"001{home:012d}"] * 4, f"001{chance.randrange(22):012d}"]),
                    "LastName": "Lee",
                    "Email": chance.choice(EMAILS),
                    "Phone": chance.choice(PHONES),
                    "Title": chance.choice([None, "Head  of Sales "]),
                    "HasOptedOutOfEmail": chance.random() < 0.5,
                },
            )

    def opportunities(self) -> None:
        chance = self.chance
        for number in range(10):
            self.keep(
                "bronze.crm_opportunities",
                f"Id=006{number:012d}",
                "SystemModstamp",
                "IsDeleted",
                lambda: {
                    "AccountId": chance.choice([None, f"001{chance.randrange(22):012d}"]),
                    "Name": chance.choice(["Records", " Re  cords"]),
                    "StageName": chance.choice(["Proposal", "Closed Won"]),
                    "Amount": chance.choice([None, self.money()]),
                    "CurrencyIsoCode": "USD",
                    "Probability": chance.choice([None, Decimal("12.50")]),
                    "CloseDate": self.moment().date(),
                    "IsClosed": True,
                    "IsWon": chance.random() < 0.5,
                },
            )

    def sessions(self) -> None:
        """Some of nobody who is known; some that began just within 30 days of the last, and just without."""
        chance = self.chance
        for number in range(60):
            self.keep(
                "bronze.redshift_behavior",
                f"session_id=00000000-0000-0000-0000-{number:012d}",
                "loaded_at",
                None,
                lambda: {
                    "customer_id": chance.choice([None, *(str(chance.randrange(20)) for _ in range(5))]),
                    "started_at": self.moment() - dt.timedelta(days=chance.choice([0, 27, 30, 33])),
                    "ended_at": chance.choice([None, self.moment()]),
                    "page_views": chance.randrange(3),
                    "cart_adds": chance.randrange(2),
                    "device": chance.choice(["desktop", "mobile"]),
                    "referrer": chance.choice([None, " example.com "]),
                    "country": chance.choice([None, "DE", "de"]),
                },
            )
