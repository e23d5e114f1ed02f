"""The gates over whole Delta tables, with the check files that the project ships."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from streams.delta_log import table_identity
from streams.errors import ConfigurationError
from streams.flows.gold import GOLD_TABLES
from streams.flows.silver import SILVER_TABLES
from streams.quality.contract import load_contracts
from streams.quality.gates import GateResult, rows, run_gate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pyspark.sql import SparkSession
    from pyspark.sql.types import StructType

    Row = dict[str, Any]

NOON = datetime(2025, 1, 2, 12, tzinfo=UTC)
NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=3)
CHECKS = Path(__file__).parents[2] / "contracts" / "soda"


def schemas() -> dict[str, StructType]:
    contracts = load_contracts(CHECKS.parent / "bronze")
    silver = {
        name.partition(".")[2]: table.schema(contracts[table.contract])
        for table in SILVER_TABLES
        for name in (table.flow, table.versions)
        if name
    }
    return silver | {table.flow.partition(".")[2]: table.schema for table in GOLD_TABLES}


SCHEMAS = schemas()
GOLD = tuple(table.flow.partition(".")[2] for table in GOLD_TABLES)
SILVER = tuple(table for table in SCHEMAS if table not in GOLD)


class Lake:
    """Tables of one test, and gates over them at times that the test sets."""

    def __init__(self, spark: SparkSession, root: Path) -> None:
        self.spark, self.root, self.hour = spark, root, 0

    def path(self, table: str) -> str:
        return str(self.root / table)

    def write(self, tables: Mapping[str, Iterable[Row]]) -> None:
        for table, made in tables.items():
            frame = self.spark.createDataFrame(list(made), SCHEMAS[Path(table).name]).coalesce(1)
            frame.write.format("delta").mode("overwrite").save(self.path(table))

    def events(self, *numbers: int, **changes: Any) -> None:
        self.write({"order_events": [row("order_events", number, **changes) for number in numbers]})

    def gate(
        self, layer: str, *tables: str, run_id: str = "r1", others: Iterable[str] = (), at: str = ""
    ) -> GateResult:
        """Judge tables of the folder `at`, with others of it there to be compared with."""
        self.hour += 1
        return run_gate(
            self.spark,
            layer,
            {table: self.path(f"{at}{table}") for table in tables},
            CHECKS,
            str(self.root / "results"),
            run_id,
            lambda: datetime(2026, 1, 1, self.hour, tzinfo=UTC),
            references={table: self.path(f"{at}{table}") for table in others},
            position=lambda path: table_identity(self.spark, path),
        )


def row(table: str, number: int, **changes: Any) -> Row:
    """A row of that number that every check of its table accepts, and that refers to customer, product or account 7."""
    customer: Row = {"customer_id": str(number), "segment": "new", "country": "CD", "marketing_consent": True}
    product: Row = {"product_id": f"P-{number}", "name": "Mug", "category": "Cups", "currency": "USD"}
    product |= {"unit_price": Decimal("9.50"), "is_active": True}
    order: Row = {
        "order_id": f"CD-{number}",
        "customer_id": "7",
        "quantity": 1,
        "amount": Decimal(10),
        "currency": "USD",
    }
    hashed = {"email_hash": "0a" * 32, "phone_hash": "f9" * 32}
    known: Row = {"created_at": NOON, "modified_at": NOON}
    version: Row = {"valid_from": datetime(1900, 1, 1, tzinfo=UTC), "valid_to": NOON, "is_current": False}
    made: dict[str, Row] = {
        "customers": customer | hashed | {"created_at": NOON, "updated_at": NOON},
        "products": product | {"updated_at": NOON},
        "orders": order | {"product_id": "P-7", "ordered_at": NOON, "status": "paid", "updated_at": NOON},
        "behavior": {
            "session_id": f"{number:08d}-0000-0000-0000-000000000000",
            "started_at": NOON,
            "ended_at": NOON,
            "page_views": 3,
            "cart_adds": 0,
            "device": "mobile",
            "loaded_at": NOON,
        },
        "accounts": known | {"account_id": crm("001", number), "name": "Shop", "owner_id": crm("005", 1)},
        "contacts": known
        | {"contact_id": crm("003", number), "account_id": crm("001", 7)}
        | hashed
        | {"has_opted_out_of_email": False},
        "opportunities": known
        | {"opportunity_id": crm("006", number), "account_id": crm("001", 7), "name": "Mugs", "currency": "USD"}
        | {"stage_name": "Proposal", "close_date": NOON.date(), "is_closed": False, "is_won": False},
        "order_events": order
        | {"event_id": f"{number:08d}-0000-0000-0000-000000000000", "event_type": "created", "sequence": 1}
        | {"occurred_at": NOON},
        "fx_rates": {"rate_date": date(2025, 1, 2) + timedelta(days=number), "base_currency": "EUR"}
        | {"quote_currency": "USD", "rate": Decimal("1.0321"), "published_at": NOON + timedelta(days=number)},
        "dim_customer": customer | version | {"customer_key": key(number), "sessions": 0, "sessions_30d": 0},
        "dim_product": product | version | {"product_key": key(number)},
        "fact_orders": order
        | {"product_id": "P-7", "customer_key": key(2), "product_key": key(2), "status": "created", "source": "both"}
        | {"order_date": NOON.date(), "created_at": NOON, "rate": Decimal("1.25"), "rate_date": date(2025, 1, 1)}
        | {"reporting_amount": Decimal(8), "reporting_currency": "EUR"}
        | dict.fromkeys(("is_converted", "is_customer_known", "is_product_known", "is_complete"), True),
    }
    made |= {"customer_versions": made["customers"], "product_versions": made["products"]}
    return made[table] | {"is_deleted": False} | ({} if table in GOLD else {"_ingested_at": NOW}) | changes


def crm(kind: str, number: int) -> str:
    return f"{kind}{number:012d}"


def key(number: int) -> str:
    return f"{number:032x}"


def gone(table: str, number: int, *kept: str) -> Row:
    """A deleted row: what is kept of it, and that it is deleted."""
    kept = (*kept, "_ingested_at") if table in SILVER else kept
    whole = row(table, number)
    return {name: whole[name] for name in kept} | {"is_deleted": True}


def day(month: int) -> datetime:
    return datetime(2024, month, 1, tzinfo=UTC)


def history(table: str, name: str, ids: tuple[Any, Any, Any]) -> list[Row]:
    """Versions of three: one that changed, one that was deleted, and one that came back after that."""
    now: Row = {"valid_to": None, "is_current": True}
    return [
        row(table, 1, valid_to=day(6), **{name: ids[0]}),
        row(table, 2, valid_from=day(6), **{name: ids[0]} | now),
        row(table, 3, is_deleted=True, **{name: ids[1]}),
        row(table, 4, valid_to=day(1), is_deleted=True, **{name: ids[2]}),
        row(table, 5, valid_from=day(3), **{name: ids[2]} | now),
    ]


def whole_lake() -> dict[str, list[Row]]:
    """Tables that agree with each other: customers and products 7 and 9 live, 8 deleted; orders 1 to 3."""
    unknown = dict.fromkeys(("is_converted", "is_customer_known", "is_product_known", "is_complete"), False)
    return {
        "customers": [row("customers", 7), gone("customers", 8, "customer_id", "updated_at"), row("customers", 9)],
        "customer_versions": [row("customer_versions", 7), row("customer_versions", 7, updated_at=day(1))],
        "products": [row("products", 7), gone("products", 8, "product_id", "updated_at"), row("products", 9)],
        "product_versions": [row("product_versions", 7), gone("product_versions", 8, "product_id", "updated_at")],
        "orders": [row("orders", 1), row("orders", 2, product_id=None), gone("orders", 3, "order_id", "updated_at")],
        "behavior": [row("behavior", 1), row("behavior", 2, customer_id="7")],
        "accounts": [row("accounts", 7, customer_id="7"), gone("accounts", 8, "account_id", "modified_at")],
        "contacts": [row("contacts", 1), row("contacts", 2, account_id=None)],
        "opportunities": [row("opportunities", 1), gone("opportunities", 2, "opportunity_id", "modified_at")],
        "order_events": [
            row("order_events", 1),
            gone("order_events", 4, "event_id", "order_id", "sequence", "occurred_at") | {"event_type": "deleted"},
        ],
        "fx_rates": [row("fx_rates", 1), row("fx_rates", 1, quote_currency="GBP")],
        "dim_customer": history("dim_customer", "customer_id", ("7", "8", "9")),
        "dim_product": history("dim_product", "product_id", ("P-7", "P-8", "P-9")),
        "fact_orders": [
            row("fact_orders", 1),
            row("fact_orders", 2, product_id=None, product_key=None, is_product_known=False),
            *(
                gone("fact_orders", number, "order_id") | unknown | {"status": "deleted", "source": "both"}
                for number in (3, 4)
            ),
        ],
    }


@dataclass(frozen=True)
class Bad:
    """A row that breaks the named checks; ``warn:`` in front of one that only warns."""

    checks: tuple[str, ...]
    changes: Row


def bad(*checks: str, **changes: Any) -> Bad:
    return Bad(checks, changes)


COUNTRY = bad("country is two capital letters", country="cd")
CURRENCY = bad("currency is three capital letters", currency="usd")
EMAIL = bad("email_hash is a hash", email_hash="someone@example.org")
PHONE = bad("phone_hash is a hash", phone_hash="F9" * 32)
PRICE = bad("unit_price is not negative", unit_price=Decimal("-0.01"))
AMOUNT = bad("amount is not negative", amount=Decimal("-0.01"))
QUANTITY = bad("quantity is between 0 and 10,000", quantity=10_001)
COMPLETE = "an order is complete once it is known when it was made, unless it is deleted"
KEPT = bad("a deleted row keeps key and time only", is_deleted=True)
CUSTOMERS = (
    bad("missing_count(updated_at) = 0", updated_at=None),
    bad("customer_id is a number", customer_id="C7"),
    bad("segment is a known one", segment="lost"),
    bad("a customer that is not deleted is whole", created_at=None),
    bad("warn: no updated_at is later than tomorrow", updated_at=LATER),
    *(COUNTRY, EMAIL, PHONE, KEPT),
)
PRODUCTS = (
    bad("missing_count(is_deleted) = 0", is_deleted=None),
    bad("product_id is P and a number", product_id="7"),
    bad("a product that is not deleted is whole", category=None),
    bad("warn: no updated_at is later than tomorrow", updated_at=LATER),
    *(PRICE, CURRENCY, KEPT),
)
SPOILED: dict[str, tuple[Bad, ...]] = {
    "customers": (*CUSTOMERS, bad("duplicate_count(customer_id) = 0", customer_id="7")),
    "customer_versions": (*CUSTOMERS, bad("duplicate_count(customer_id, updated_at) = 0", customer_id="7")),
    "products": (*PRODUCTS, bad("duplicate_count(product_id) = 0", product_id="P-7")),
    "product_versions": (*PRODUCTS, bad("duplicate_count(product_id, updated_at) = 0", product_id="P-7")),
    "orders": (
        bad("missing_count(order_id) = 0", order_id=None),
        bad("order_id is a country and a number", order_id="cd1"),
        bad("customer_id is a number", "warn: every order's customer is there", customer_id="K7"),
        bad("product_id is P and a number", "warn: every order's product is there", product_id="P7"),
        bad("status is a known one", status="deleted"),
        bad("an order that is not deleted is whole", ordered_at=None),
        bad("duplicate_count(order_id) = 0", order_id="CD-1"),
        bad("warn: every order's customer is there", customer_id="8"),
        bad("warn: every order's product is there", product_id="P-404"),
        *(QUANTITY, AMOUNT, CURRENCY, KEPT),
    ),
    "behavior": (
        bad("customer_id is a number", "warn: every visitor who is known is a customer", customer_id="K7"),
        bad("page_views is between 0 and 100,000", page_views=100_001),
        bad("cart_adds is between 0 and 10,000", cart_adds=-1),
        bad("device is a known one", device="watch"),
        bad("a visit that is not deleted is whole", started_at=None),
        bad("duplicate_count(session_id) = 0", session_id=row("behavior", 1)["session_id"]),
        bad("warn: no visit ends before it begins", ended_at=day(1)),
        bad("warn: every visitor who is known is a customer", customer_id="404"),
        *(COUNTRY, KEPT),
    ),
    "accounts": (
        bad("account_id is one of Salesforce's", account_id=crm("003", 7)),
        bad("customer_id is a number", "warn: every account's customer is there", customer_id="K7"),
        bad("owner_id is one of Salesforce's", owner_id="me"),
        bad("type is a known one", type="Reseller"),
        bad("billing_country is two capital letters", billing_country="France"),
        bad("annual_revenue is not negative", annual_revenue=Decimal(-1)),
        bad("number_of_employees is between 0 and 10,000,000", number_of_employees=10_000_001),
        bad("an account that is not deleted is whole", name=None),
        bad("duplicate_count(account_id) = 0", account_id=crm("001", 7)),
        bad("warn: every account's customer is there", customer_id="404"),
        KEPT,
    ),
    "contacts": (
        bad("contact_id is one of Salesforce's", contact_id=crm("001", 1)),
        bad("account_id is one of Salesforce's", "warn: every contact's account is there", account_id="7"),
        bad("a contact that is not deleted is whole", has_opted_out_of_email=None),
        bad("duplicate_count(contact_id) = 0", contact_id=crm("003", 1)),
        bad("warn: every contact's account is there", account_id=crm("001", 8)),
        *(EMAIL, PHONE, KEPT),
    ),
    "opportunities": (
        bad("opportunity_id is one of Salesforce's", opportunity_id=crm("001", 1)),
        bad("account_id is one of Salesforce's", "warn: every opportunity's account is there", account_id="7"),
        bad("stage_name is a known one", stage_name="Lost"),
        bad("probability is between 0 and 100", probability=Decimal(101)),
        bad("an opportunity that is not deleted is whole", close_date=None),
        bad("duplicate_count(opportunity_id) = 0", opportunity_id=crm("006", 1)),
        bad("warn: every opportunity's account is there", account_id=crm("001", 404)),
        *(AMOUNT, CURRENCY, KEPT),
    ),
    "order_events": (
        bad("order_id is a country and a number", order_id="cd1"),
        bad("sequence begins at 1", sequence=0),
        bad("event_type is a known one", event_type="lost"),
        bad("a created event has customer, quantity, amount and currency", customer_id=None),
        bad("only a tombstone is deleted", is_deleted=True),
        bad("duplicate_count(event_id) = 0", event_id=row("order_events", 1)["event_id"]),
        bad("warn: an order's events have a sequence each", order_id="CD-1"),
        bad("warn: no event is of a later day than tomorrow", occurred_at=LATER),
        *(QUANTITY, AMOUNT, CURRENCY),
    ),
    "fx_rates": (
        bad("a rate is above 0", rate=Decimal(0)),
        bad("base_currency is EUR", base_currency="USD", quote_currency="EUR"),
        bad("a currency is not quoted in itself, unless at 1", quote_currency="EUR"),
        bad("duplicate_count(rate_date, base_currency, quote_currency) = 0", rate_date=date(2025, 1, 3)),
        bad("warn: no rate is published before its day", published_at=NOON),
    ),
    "dim_customer": (
        bad("segment is a known one", segment="lost"),
        bad("no one was seen first after being seen last", first_seen=day(2), last_seen=day(1)),
        bad("a version is whole", segment=None),
        COUNTRY,
    ),
    "dim_product": (PRICE, CURRENCY, bad("a version is whole", is_active=None)),
    "fact_orders": (
        bad("status is a known one", status="lost"),
        bad("source is a known one", source="hearsay"),
        bad("reporting_amount is not negative", reporting_amount=Decimal(-1)),
        bad("a complete order has customer, day, amount and currency", quantity=None),
        bad(
            "an order is converted exactly when it has an amount to report",
            "warn: every complete order is converted",
            is_converted=False,
        ),
        bad("a converted order has its reporting currency", reporting_currency=None),
        bad("a rate is above 0 and of the order's day or before", rate_date=date(2025, 1, 3)),
        bad("a deleted order keeps no customer, no product and no amount", COMPLETE, is_deleted=True),
        bad(COMPLETE, is_complete=False),
        bad(
            "who is known has a version, and who is not has none",
            "warn: every complete order's customer is known",
            is_customer_known=False,
        ),
        bad("duplicate_count(order_id) = 0", order_id="CD-1"),
        bad("every order of gold is in silver", order_id="CD-404"),
        bad("an order's customer is a version that was valid on its day", customer_key=key(404)),
        bad("an order's customer is a version that was valid on its day", customer_key=key(1)),
        bad("an order's product is a version that was valid on its day", product_id="P-9"),
        bad("warn: every complete order's customer is known", customer_key=None, is_customer_known=False),
        bad("warn: every complete order's product is known", product_key=None, is_product_known=False),
        bad("warn: every complete order is converted", is_converted=False, rate=None, reporting_amount=None),
        bad("warn: no order is paid, shipped or delivered before it was created", paid_at=day(1)),
        *(QUANTITY, AMOUNT),
    ),
}


NEWEST: Row = {"valid_to": None, "is_current": True}
LEFT_OUT = {
    "dim_customer": "every customer of silver that is not deleted has a current version",
    "dim_product": "every product of silver that is not deleted has a current version",
    "fact_orders": "every order of silver is in gold",
}


def versions(thing: str, ids: tuple[Any, Any, Any]) -> tuple[Bad, ...]:
    """What a table of versions may have wrong, beside `history` of the three ids."""
    name, left_over = f"{thing}_id", f"no {thing} that silver does not have has a current version"
    overlap, gap = f"no two versions of a {thing} are valid at once", f"a {thing}'s versions follow each other, "
    return (
        bad(f"missing_count({name}) = 0", **{name: None}),
        bad(f"{thing}_key is a hash", **{f"{thing}_key": "7"}),
        bad(f"duplicate_count({thing}_key) = 0", **{f"{thing}_key": key(1)}),
        bad("a version begins before it ends", valid_from=NOON),
        bad("the current version is the one that has not ended", left_over, is_current=True),
        bad("what was deleted has ended", left_over, is_deleted=True, **NEWEST),
        bad(overlap, valid_from=day(7), **{name: ids[0]} | NEWEST),
        bad(overlap, valid_from=day(1), **{name: ids[1]}),
        bad(f"{gap}unless it was deleted", valid_from=day(1), valid_to=day(2), **{name: ids[2]}),
        bad(left_over, **NEWEST),
    )


SPOILED["dim_customer"] += versions("customer", ("7", "8", "9"))
SPOILED["dim_product"] += versions("product", ("P-7", "P-8", "P-9"))
Found = dict[str, dict[str, tuple[str, float | None]]]


def troubles(result: GateResult) -> Found:
    """Table → the checks that did not pass → outcome and value."""
    return {
        scan.table.partition(".")[2]: {
            found.check: (found.outcome.value, found.value) for found in scan.results if found.outcome.value != "pass"
        }
        for scan in result.scans
    }


@dataclass(frozen=True)
class Days:
    """What the gates found on three days in the tables of one lake."""

    whole: Found
    spoiled: Found
    whole_again: Found


@pytest.fixture(scope="module")
def days(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Days:
    """A lake that is whole, then old rows and many bad ones in it, then without those again."""
    lake, whole = Lake(spark, tmp_path_factory.mktemp("lake")), whole_lake()

    def silver(at: str, run_id: str, *tables: str) -> Found:
        return troubles(lake.gate("silver", *tables, run_id=run_id, at=at))

    def gold(at: str, run_id: str, *tables: str) -> Found:
        return troubles(lake.gate("gold", *tables, run_id=run_id, at=at, others=SILVER))

    old: Row = {"_ingested_at": NOW - timedelta(days=30)}
    for table, made in whole.items():
        others = [row(table, number, **one.changes) for number, one in enumerate(SPOILED[table], 101)]
        both = [*made, *others]
        lake.write({table: made, f"spoiled/{table}": both if table in GOLD else [one | old for one in both]})
    first = silver("", "monday", *SILVER) | gold("", "monday", *GOLD)
    second = silver("spoiled/", "tuesday", *SILVER)
    lake.write({f"spoiled/{table}": made for table, made in silver_of_spoiled_gold(whole).items()})
    second |= gold("spoiled/", "tuesday", *GOLD)
    # Two of the tables say enough, and each costs seconds.
    third = silver("", "wednesday", "customers") | gold("", "wednesday", "dim_product")
    return Days(first, second, third)


def silver_of_spoiled_gold(whole: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """Silver tables that know all of the spoiled facts but one, and one thing of each kind that gold lacks."""
    numbered = enumerate(SPOILED["fact_orders"], 101)
    orders = {one.changes.get("order_id", f"CD-{number}") for number, one in numbered} - {"CD-404"} | {"CD-405"}
    return {
        "customers": [*whole["customers"], row("customers", 405)],
        "products": [*whole["products"], row("products", 405)],
        "orders": whole["orders"],
        "order_events": whole["order_events"]
        + [row("order_events", number, order_id=order) for number, order in enumerate(sorted(orders), 101)],
    }


def test_a_whole_lake_passes_and_warns_of_nothing(days: Days) -> None:
    assert days.whole == {table: {} for table in (*SILVER, *GOLD)}


@pytest.mark.parametrize("table", SPOILED)
def test_each_check_finds_its_rows(days: Days, table: str) -> None:
    found = dict(days.spoiled[table])
    doubled = found.pop("not more than twice the rows of the last gate that passed")
    assert doubled == ("warn", float(len(whole_lake()[table]) + len(SPOILED[table])))
    if table in SILVER:
        (stale,) = [found.pop(check) for check in list(found) if check.startswith("rows came within the last ")]
        assert (stale[0], round((stale[1] or 0) / 24)) == ("warn", 30)
    broken = Counter(check for one in SPOILED[table] for check in one.checks)
    broken.update([LEFT_OUT[table]] if table in LEFT_OUT else [])
    assert found == {
        check.removeprefix("warn: "): ("warn" if check.startswith("warn: ") else "fail", float(rows))
        for check, rows in broken.items()
    }


def test_rows_that_are_gone_fail_but_versions_may_collapse(days: Days) -> None:
    lost = {"no row has gone since the last gate that passed": ("fail", 3.0)}
    assert days.whole_again == {"customers": lost, "dim_product": {}}


@pytest.fixture
def lake(spark: SparkSession, tmp_path: Path) -> Lake:
    return Lake(spark, tmp_path)


def test_a_terminal_shows_what_failed_before_what_warned(lake: Lake) -> None:
    lake.write({"order_events": [row("order_events", 1), row("order_events", 1, sequence=0, occurred_at=LATER)]})
    assert [shown[1:] for shown in rows(lake.gate("silver", "order_events")) if shown[2] != "pass"] == [
        ("duplicate_count(event_id) = 0", "fail", "1"),
        ("sequence begins at 1", "fail", "1"),
        ("no event is of a later day than tomorrow", "warn", "1"),
    ]


def test_a_missing_table_fails_by_name_and_the_others_are_judged(lake: Lake) -> None:
    lake.events(1)
    result = lake.gate("silver", "fx_rates", "order_events")
    assert result.failed == ("silver.fx_rates: the table is there",)
    assert len(result.scans[1].results) > 10


def test_a_missing_reference_fails_its_checks_only(lake: Lake) -> None:
    whole = whole_lake()
    lake.write({table: whole[table] for table in ("fact_orders", "dim_customer", "dim_product", "orders")})
    result = lake.gate("gold", "fact_orders", others=("dim_customer", "dim_product", "orders", "order_events"))
    assert set(result.failed) == {
        "gold.fact_orders: every order of gold is in silver",
        "gold.fact_orders: every order of silver is in gold",
    }


def test_rows_that_are_gone_fail_again_until_they_are_back(lake: Lake) -> None:
    lost = ("silver.order_events: no row has gone since the last gate that passed",)
    lake.events(1, 2)
    assert lake.gate("silver", "order_events", run_id="r1").failed == ()
    lake.events(1)
    assert lake.gate("silver", "order_events", run_id="r2").failed == lost
    assert lake.gate("silver", "order_events", run_id="r3").failed == lost
    lake.events(1, 2, 3)
    assert lake.gate("silver", "order_events", run_id="r4").failed == ()


def test_what_has_not_moved_is_not_read_again_but_for_what_the_time_changes(lake: Lake) -> None:
    whole = whole_lake()
    lake.write({table: whole[table] for table in ("orders", "customers", "products")})

    def gate(run_id: str) -> tuple[int, dict[str, tuple[str, float | None]]]:
        result = lake.gate("silver", "orders", run_id=run_id, others=("customers", "products"))
        (found,) = result.scans
        return found.queries, {one.check: (one.outcome.value, one.value) for one in found.results}

    age = "rows came within the last 2 days"
    queries, first = gate("r1")
    assert queries > 2
    once, second = gate("r2")
    assert once == 1
    assert second.keys() == first.keys()
    (was, now) = (found.pop(age)[1] for found in (first, second))
    assert (was or 0) <= (now or 0)
    assert second == first

    lake.write({"customers": [row("customers", 8)]})  # the orders' customer is gone, the orders stand as they stood
    again, third = gate("r3")
    assert (again, third["every order's customer is there"][0]) == (queries, "warn")


def test_what_failed_is_looked_at_again(lake: Lake) -> None:
    lake.events(1, sequence=0)
    first = lake.gate("silver", "order_events", run_id="r1").scans[0]
    assert first.failed
    second = lake.gate("silver", "order_events", run_id="r2").scans[0]
    assert (second.queries, second.failed) == (first.queries, first.failed)


def test_a_table_made_anew_is_another(lake: Lake) -> None:
    lake.events(1)
    queries = lake.gate("silver", "order_events", run_id="r1").scans[0].queries
    shutil.rmtree(lake.path("order_events"))
    lake.events(2)
    assert lake.gate("silver", "order_events", run_id="r2").scans[0].queries == queries


def test_the_results_are_kept_once_in_a_file_and_a_table(lake: Lake) -> None:
    lake.events(1, sequence=0)
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
    lake.events(1)
    lake.spark.range(3).createOrReplaceTempView("order_events")
    lake.gate("silver", "order_events")
    assert lake.spark.table("order_events").columns == ["id"]
