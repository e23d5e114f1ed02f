"""Silver, the dimensions and the facts as functions of what arrived, held against a model in plain Python."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import os
import random
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from streams.sinks import merge
from tests.spark.flow_bench import HASH_KEY, Bench, at, order_event, rate
from tests.spark.histories import contract_of, history
from tests.spark.lake_model import FIRST_STATE, lake, surrogate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from pyspark.sql import SparkSession

    from tests.spark.lake_model import Bronze, Row

ALL = (
    "silver.order_events",
    "silver.fx_rates",
    "silver.customer_versions",
    "silver.customers",
    "silver.orders",
    "silver.product_versions",
    "silver.products",
    "silver.behavior",
    "silver.accounts",
    "silver.contacts",
    "silver.opportunities",
    "gold.dim_customer",
    "gold.dim_product",
    "gold.fact_orders",
)
SOURCES = (
    "order_events",
    "fx_rates",
    "snowflake_customers",
    "snowflake_orders",
    "snowflake_products",
    "redshift_behavior",
    "crm_accounts",
    "crm_contacts",
    "crm_opportunities",
)
SEED = int(os.environ.get("HISTORY_SEED", "1"))
# How often a flow runs before the last batch has come. Every run of all flows is a minute of processor time.
LAGGING = 0.08


def arrive(bench: Bench, batch: Bronze, flows: Sequence[str]) -> None:
    """Put rows into bronze, and run flows."""
    for name in SOURCES:
        table = f"bronze.{name}"
        bench.put(table, contract_of(table), [row for source, row in batch if source == table])
    bench.run(*flows)


def held(bench: Bench, table: str) -> list[Row]:
    return [{name: told(value) for name, value in row.asDict().items()} for row in bench.rows(table)]


def told(value: Any) -> Any:
    """Spark gives times in the process's own zone, without saying so."""
    return value.astimezone(dt.UTC) if isinstance(value, dt.datetime) else value


def in_order(rows: Iterable[Row]) -> list[list[tuple[str, Any]]]:
    """Rows that can be compared whatever the order of rows and columns; money by its value."""
    plain = [{name: _plain(value) for name, value in row.items()} for row in rows]
    return sorted((sorted(row.items()) for row in plain), key=repr)


def _plain(value: Any) -> Any:
    return value.normalize() if isinstance(value, Decimal) else value


def assert_holds(bench: Bench, expected: dict[str, list[Row]], *what: object) -> None:
    for table in ALL:
        assert in_order(held(bench, table)) == in_order(expected[table]), (table, *what)
    for row in bench.all_rows(bench.service.lake.audit):
        accounted = row["rows_written"] + row["rows_duplicate"] + row["rows_stale"] + row["rows_error"]
        assert row["rows_read"] == accounted, row["flow"]


def test_order_split_and_repetition_do_not_matter(spark: SparkSession, tmp_path: Path) -> None:
    """The same history once sorted, in one batch: `test_the_model_says_the_same`."""
    chance = random.Random(SEED)
    bench, arrived = Bench.at(spark, tmp_path), history(SEED)
    *first, last = arrived.shuffled(8)
    for batch in first:
        # Flows run apart from each other: any of them may lag behind the others, and finds several batches then.
        arrive(bench, batch, [flow for flow in ALL if chance.random() < LAGGING])
    arrive(bench, last, ALL)
    assert_holds(bench, lake(arrived.rows, HASH_KEY), SEED)


# --- cases, each from one sentence: what comes first, what comes second, and what must be there then ---

FIRST: Bronze = []
SECOND: Bronze = []


def comes(first: Bronze, second: Bronze | None = None) -> None:
    """Every case has keys of its own, so that all of them go through two runs of the flows, beside a history."""
    FIRST.extend(first)
    SECOND.extend(second or [])


@dataclass(frozen=True)
class Shop:
    """What the tables held after the first rows, and what they hold after the second."""

    before: dict[str, list[Row]]
    after: dict[str, list[Row]]
    bench: Bench


@pytest.fixture(scope="module")
def shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    bench = Bench.at(spark, tmp_path_factory.mktemp("shop"))
    arrive(bench, history(SEED).rows + FIRST, ALL)
    before = {table: held(bench, table) for table in ALL}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "_REWRITTEN_UP_TO", -1)  # as in large tables: by marking rows
        arrive(bench, SECOND, ALL)
    return Shop(before, {table: held(bench, table) for table in ALL}, bench)


def own(number: int) -> int:
    """A number that no key of the random history has."""
    return 900 + number


def day(number: int, hour: int = 0) -> dt.datetime:
    return dt.datetime(2025, 1, number, hour, tzinfo=dt.UTC)


def crm(kind: str, number: int) -> str:
    return f"{kind}{own(number):012d}"


def changed(table: str, key: str, value: str, sequence: str, when: dt.datetime, **columns: Any) -> tuple[str, Row]:
    return f"bronze.{table}", {key: value, "_key": value, sequence: when} | columns


def gone(table: str, key: str, value: str, when: dt.datetime) -> tuple[str, Row]:
    return f"bronze.{table}", {key: value, "_key": value, "_is_tombstone": True, "_source_time": when}


def product(number: int, when: dt.datetime, name: str = "A", **changes: Any) -> tuple[str, Row]:
    columns = {"category": "Jazz", "unit_price": Decimal("9.99"), "currency": "EUR", "is_active": True}
    columns |= {"name": name, "is_deleted": False} | changes
    return changed("snowflake_products", "product_id", f"P-{own(number)}", "updated_at", when, **columns)


def no_product(number: int, when: dt.datetime) -> tuple[str, Row]:
    return gone("snowflake_products", "product_id", f"P-{own(number)}", when)


def customer(number: int, when: dt.datetime, **changes: Any) -> tuple[str, Row]:
    columns = {"segment": "new", "marketing_consent": True, "created_at": day(1), "is_deleted": False} | changes
    return changed("snowflake_customers", "customer_id", str(own(number)), "updated_at", when, **columns)


def account(number: int, when: dt.datetime, of: int, **changes: Any) -> tuple[str, Row]:
    columns = {"Name": f"Account {number}", "CustomerNumber__c": str(own(of)), "CreatedDate": day(number)}
    columns |= {"OwnerId": crm("005", 1), "IsDeleted": False} | changes
    return changed("crm_accounts", "Id", crm("001", number), "SystemModstamp", when, **columns)


def contact(number: int, when: dt.datetime, of: int, **changes: Any) -> tuple[str, Row]:
    columns = {"AccountId": crm("001", of), "HasOptedOutOfEmail": False, "CreatedDate": day(number), "IsDeleted": False}
    return changed("crm_contacts", "Id", crm("003", number), "SystemModstamp", when, **columns | changes)


def session(number: int, of: int, started_at: dt.datetime) -> tuple[str, Row]:
    columns = {
        "customer_id": str(own(of)),
        "started_at": started_at,
        "page_views": 1,
        "cart_adds": 0,
        "device": "mobile",
    }
    return changed("redshift_behavior", "session_id", f"s-{number}", "loaded_at", day(28), **columns)


def order(number: int, ordered_at: dt.datetime, product: int | None = None, **changes: Any) -> tuple[str, Row]:
    columns: Row = {"product_id": f"P-{own(product)}" if product else None, "customer_id": "99", "status": "paid"}
    columns |= {"quantity": 1, "amount": Decimal("8.00"), "currency": "EUR"}
    columns |= {"ordered_at": ordered_at, "is_deleted": False} | changes
    return changed("snowflake_orders", "order_id", f"CD-{own(number)}", "updated_at", day(20), **columns)


def event(number: int, sequence: int, kind: str = "created", **said: Any) -> tuple[str, Row]:
    made = order_event(own(number), sequence, kind, **said)
    return "bronze.order_events", made | ({"customer_id": str(own(48))} if kind == "created" else {})


def spans(tables: dict[str, list[Row]], number: int) -> list[tuple[Any, ...]]:
    """Name, beginning and end of the versions of a product; the day alone where it is midnight."""
    rows = [row for row in tables["gold.dim_product"] if row["product_id"] == f"P-{own(number)}"]
    rows.sort(key=lambda row: row["valid_from"])
    assert [row["is_current"] for row in rows] == [row["valid_to"] is None for row in rows]
    return [(row["name"], row["valid_from"], row["valid_to"]) for row in rows]


def one(tables: dict[str, list[Row]], table: str, key: str, value: str) -> Row:
    (row,) = [row for row in tables[table] if row[key] == value]
    return row


def fact(tables: dict[str, list[Row]], number: int) -> Row:
    return one(tables, "gold.fact_orders", "order_id", f"CD-{own(number)}")


def product_of(tables: dict[str, list[Row]], number: int) -> str | None:
    """The name of the product's version that an order has."""
    names = {row["product_key"]: row["name"] for row in tables["gold.dim_product"]}
    return names.get(fact(tables, number)["product_key"])


comes([product(1, day(2)), product(1, day(8), "C"), order(1, day(5), 1)], [product(1, day(4), "B")])


def test_a_late_change_splits_a_version_and_restates_orders(shop: Shop) -> None:
    assert spans(shop.before, 1) == [("A", FIRST_STATE, day(8)), ("C", day(8), None)]
    assert spans(shop.after, 1) == [("A", FIRST_STATE, day(4)), ("B", day(4), day(8)), ("C", day(8), None)]
    assert (product_of(shop.before, 1), product_of(shop.after, 1)) == ("A", "B")


comes(
    [product(2, day(2)), product(2, day(3), "B"), product(2, day(3), "B")],
    [product(2, day(2)), product(2, day(9), "B")],
)


def test_what_is_repeated_changes_nothing(shop: Shop) -> None:
    assert spans(shop.before, 2) == spans(shop.after, 2) == [("A", FIRST_STATE, day(3)), ("B", day(3), None)]


comes([product(3, day(2), supplier="Acme"), order(3, day(3), 3), order(4, day(9), 3)], [no_product(3, day(5))])
comes([], [no_product(3, day(6)), product(30, day(2)), product(30, day(5), is_deleted=True)])


def test_a_delete_closes_and_further_deletes_change_nothing(shop: Shop) -> None:
    assert spans(shop.before, 3) == [("A", FIRST_STATE, None)]
    assert spans(shop.after, 3) == spans(shop.after, 30) == [("A", FIRST_STATE, day(5))]
    before, after = (
        one(tables, "gold.dim_product", "product_id", f"P-{own(3)}") for tables in (shop.before, shop.after)
    )
    assert [(row["is_deleted"], row["supplier"]) for row in (before, after)] == [(False, "Acme"), (True, None)]
    assert (product_of(shop.before, 4), product_of(shop.after, 4), product_of(shop.after, 3)) == ("A", None, "A")


comes([product(4, day(2)), no_product(4, day(3))], [product(4, day(6))])
comes([no_product(5, day(2)), no_product(6, day(2))], [product(5, day(3))])


def test_a_return_reopens(shop: Shop) -> None:
    assert spans(shop.before, 4) == [("A", FIRST_STATE, day(3))]
    assert spans(shop.after, 4) == [("A", FIRST_STATE, day(3)), ("A", day(6), None)]
    deleted = {
        row["valid_from"]: row["is_deleted"]
        for row in shop.after["gold.dim_product"]
        if row["product_id"] == f"P-{own(4)}"
    }
    assert deleted == {FIRST_STATE: True, day(6): False}


def test_what_is_first_known_as_deleted_begins_with_its_return(shop: Shop) -> None:
    assert spans(shop.before, 5) == spans(shop.after, 6) == []
    assert spans(shop.after, 5) == [("A", day(3), None)]


comes([product(7, day(4), "C"), product(7, day(2)), product(7, day(3), "B")], [product(7, day(1), "0")])


def test_several_changes_at_once_and_what_was_first_may_change(shop: Shop) -> None:
    later = [("B", day(3), day(4)), ("C", day(4), None)]
    assert spans(shop.before, 7) == [("A", FIRST_STATE, day(3)), *later]
    assert spans(shop.after, 7) == [("0", FIRST_STATE, day(2)), ("A", day(2), day(3)), *later]


comes([product(8, day(2), "Z"), product(8, day(3), "B"), product(8, day(4), "Y")], [product(8, day(3), "Z")])


def test_a_correction_that_makes_two_versions_alike_joins_them(shop: Shop) -> None:
    assert spans(shop.before, 8) == [("Z", FIRST_STATE, day(3)), ("B", day(3), day(4)), ("Y", day(4), None)]
    assert spans(shop.after, 8) == [("Z", FIRST_STATE, day(4)), ("Y", day(4), None)]


comes([product(9, day(2), supplier=" "), product(9, day(3), "B")], [product(9, day(4), "B", supplier=" Acme  Ltd")])


def test_overwritten_columns_show_the_newest_on_every_version(shop: Shop) -> None:
    assert spans(shop.before, 9) == spans(shop.after, 9) == [("A", FIRST_STATE, day(3)), ("B", day(3), None)]
    suppliers = [row["supplier"] for row in shop.after["gold.dim_product"] if row["product_id"] == f"P-{own(9)}"]
    assert suppliers == ["Acme Ltd"] * 2


comes([product(10, day(2)), product(10, day(5, 12), "B"), product(10, day(7), "C")])
comes([order(10 + number, day(number, 6), 10) for number in range(4, 8)])


def test_an_orders_day_picks_the_last_version_of_that_day(shop: Shop) -> None:
    assert [product_of(shop.before, 10 + number) for number in range(4, 8)] == ["A", "B", "B", "C"]


comes([event(20, 1, currency="SEK"), order(20, day(6), 20)])
comes([], [product(20, day(8)), customer(48, day(9)), ("bronze.fx_rates", rate(6, "2", currency="SEK"))])


def test_an_order_is_there_at_once_and_completed_when_its_parts_come(shop: Shop) -> None:
    names = ("is_complete", "is_converted", "is_customer_known", "is_product_known", "reporting_amount")
    before, after = ([fact(tables, 20)[name] for name in names] for tables in (shop.before, shop.after))
    assert before == [True, False, False, False, None]
    assert after == [True, True, True, True, Decimal("5.00")]
    known = one(shop.after, "gold.dim_customer", "customer_id", str(own(48)))
    assert fact(shop.after, 20)["customer_key"] == known["customer_key"] == surrogate(str(own(48)), FIRST_STATE)


comes([event(30, 2, "paid", minutes=9), order(31, day(6))], [order(30, day(3), 10, amount=Decimal("3.00"))])
comes([event(32, 1), event(33, 1)], [order(32, day(3), is_deleted=True), event(31, 1, amount="4.00", currency="EUR")])
comes([], [("bronze.order_events", {"_is_tombstone": True, "_key": f"CD-{own(33)}", "_source_time": day(9)})])


def test_events_come_first_and_the_warehouse_fills_in(shop: Shop) -> None:
    names = ("source", "status", "amount", "created_at", "paid_at", "is_complete")

    def of(tables: dict[str, list[Row]], number: int) -> list[Any]:
        return [fact(tables, number)[name] for name in names]

    assert of(shop.before, 30) == ["events", "paid", None, None, at(9), False]
    assert of(shop.after, 30) == ["both", "paid", Decimal("3.00"), day(3), at(9), True]
    assert of(shop.before, 31) == ["warehouse", "paid", Decimal("8.00"), day(6), None, True]
    assert of(shop.after, 31) == ["both", "created", Decimal("4.00"), at(0), None, True]


def test_an_order_is_deleted_when_either_source_says_so(shop: Shop) -> None:
    for number, source in ((32, "both"), (33, "events")):
        assert (fact(shop.before, number)["is_deleted"], fact(shop.after, number)["is_deleted"]) == (False, True)
        said = {name: value for name, value in fact(shop.after, number).items() if value is not None}
        flags = dict.fromkeys(("is_complete", "is_converted", "is_customer_known", "is_product_known"), False)
        identity = {"order_id": f"CD-{own(number)}", "status": "deleted", "source": source, "is_deleted": True}
        assert said == identity | flags


comes([customer(41, day(2)), customer(42, day(2)), account(1, day(2), 41), contact(1, day(2), 1)])
comes([], [account(1, day(3), 42)])


def linked(tables: dict[str, list[Row]], number: int) -> tuple[Any, ...]:
    row = one(tables, "gold.dim_customer", "customer_id", str(own(number)))
    return row["account_name"], row["contact_id"]


def test_an_account_moves_from_one_customer_to_another(shop: Shop) -> None:
    here, nowhere = ("Account 1", crm("003", 1)), (None, None)
    assert (linked(shop.before, 41), linked(shop.before, 42)) == (here, nowhere)
    assert (linked(shop.after, 41), linked(shop.after, 42)) == (nowhere, here)


comes([customer(43, day(2), email="Ann@Example.com"), account(2, day(2), 43), account(3, day(2), 43)])
comes([contact(2, day(2), 3), contact(3, day(2), 3)], [account(2, day(4), 43, IsDeleted=True)])
comes([], [contact(4, day(4), 2), contact(5, day(4), 3, Email=" ann@example.com"), contact(5, day(1), 3, Email=None)])
comes([customer(44, day(2)), account(4, day(2), 44), contact(7, day(2), 4), contact(8, day(2), 4)])
comes([], [gone("crm_contacts", "Id", crm("003", 7), day(5))])


def test_the_oldest_account_and_the_contact_with_the_customers_email(shop: Shop) -> None:
    assert (linked(shop.before, 43), linked(shop.after, 43)) == (("Account 2", None), ("Account 3", crm("003", 5)))
    assert (linked(shop.before, 44), linked(shop.after, 44)) == (
        ("Account 4", crm("003", 7)),
        ("Account 4", crm("003", 8)),
    )


comes([customer(45, day(2)), customer(45, day(3), segment="loyal"), session(1, 45, day(1))])
comes([], [session(2, 45, day(1) + dt.timedelta(microseconds=1)), session(3, 45, day(31))])


def test_sessions_within_thirty_days_of_the_last(shop: Shop) -> None:
    names = ("first_seen", "last_seen", "sessions", "sessions_30d")
    seen = [
        [[row[name] for name in names] for row in tables["gold.dim_customer"] if row["customer_id"] == str(own(45))]
        for tables in (shop.before, shop.after)
    ]
    assert seen == [[[day(1), day(1), 1, 1]] * 2, [[day(1), day(31), 3, 2]] * 2]
    nobody = one(shop.after, "gold.dim_customer", "customer_id", str(own(44)))
    assert [nobody[name] for name in names] == [None, None, 0, 0]


comes([customer(46, day(2), email=" Ann@Example.COM", phone="0049 (30) 12-34", city="\tNew \n York ", country="de ")])
comes(
    [
        account(6, day(2), 46, BillingCountry=" germany ", Name="A  B"),
        account(7, day(2), 46, BillingCountry="Erewhon"),
    ]
)


def test_cleansed_and_hashed(shop: Shop) -> None:
    def of(value: str) -> str:
        return hmac.new(HASH_KEY, value.encode(), hashlib.sha256).hexdigest()

    row = one(shop.before, "silver.customers", "customer_id", str(own(46)))
    said = [row[name] for name in ("email_hash", "phone_hash", "city", "country", "marketing_consent")]
    assert said == [of("ann@example.com"), of("+49301234"), "New York", "DE", True]
    assert not row.keys() & {"email", "phone", "first_name", "last_name", "street", "postal_code"}
    accounts = (one(shop.before, "silver.accounts", "account_id", crm("001", number)) for number in (6, 7))
    assert [(row["name"], row["billing_country"]) for row in accounts] == [("A B", "DE"), ("Account 7", None)]


comes([customer(47, day(2), email="ann@example.com", city="Köln"), account(5, day(2), 47), session(4, 47, day(2))])
comes([], [gone("snowflake_customers", "customer_id", str(own(47)), day(5))])


def test_nothing_that_is_overwritten_stays_of_a_deleted_customer(shop: Shop) -> None:
    row = one(shop.after, "gold.dim_customer", "customer_id", str(own(47)))
    said = {name for name, value in row.items() if value is not None}
    tracked = {"city", "segment", "marketing_consent"}
    assert said == tracked | {"customer_key", "customer_id", "valid_from", "valid_to", "is_current", "is_deleted"}


def test_the_model_says_the_same(shop: Shop) -> None:
    rows = history(SEED).rows + FIRST
    before = lake(rows, HASH_KEY)
    for table in ALL:
        assert in_order(shop.before[table]) == in_order(before[table]), (table, SEED)
    assert_holds(shop.bench, lake(rows + SECOND, HASH_KEY), SEED)
