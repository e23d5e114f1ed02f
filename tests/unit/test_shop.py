"""What the shop's sources are filled with: it fits the purchases, and what is broken in it is known."""

from __future__ import annotations

import datetime as dt
import json
import random
import re
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from jsonschema import Draft202012Validator

from streams.local.purchases import Purchase, purchases
from streams.local.shop import Shop, make_shop
from streams.local.shop_crm import case_safe_id
from streams.quality.contract import Contract, load_contracts
from streams.settings import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator

BRONZE = Path(PROJECT) / "contracts" / "bronze"
CONTRACTS = load_contracts(BRONZE)
TABLES = (
    "snowflake_customers",
    "snowflake_orders",
    "snowflake_products",
    "crm_accounts",
    "crm_contacts",
    "crm_opportunities",
    "redshift_behavior",
)


@pytest.fixture(scope="module")
def shop() -> Shop:
    return make_shop()


@pytest.fixture(scope="module")
def small() -> Shop:
    return make_shop(seed=3, orders=1_500)


def key_of(name: str) -> str:
    [key] = CONTRACTS[name].primary_key
    return key


def rows(table: pa.Table, name: str) -> dict[str, dict[str, Any]]:
    return {row[key_of(name)]: row for row in table.to_pylist()}


def newest_sound(shop: Shop, name: str) -> dict[str, dict[str, Any]]:
    """By key, the last version that keeps the contract, for those keys that ever have one."""
    verdict, dirty = is_sound(name), shop.dirty[name]
    first, later = rows(shop.tables[name], name), rows(shop.changes[name], name)
    newest = {key: row for key, row in (first | later).items() if key not in dirty}
    return newest | {key: first[key] for key in dirty if verdict(first[key])}


def is_sound(name: str) -> Any:
    schema = json.loads((BRONZE / f"{name}.schema.json").read_text())
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    return lambda row: validator.is_valid({column: as_json(value) for column, value in row.items()})


def as_json(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, dt.date):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value


def test_same_seed_gives_the_same_shop_and_another_another() -> None:
    one, same, other = make_shop(7, 300), make_shop(7, 300), make_shop(8, 300)
    assert list(one.tables) == list(TABLES)
    for name in TABLES:
        assert one.tables[name].equals(same.tables[name])
        assert one.changes[name].equals(same.changes[name])
        assert not one.tables[name].equals(other.tables[name])
    assert (one.dirty, one.expected) == (same.dirty, same.expected)


@pytest.mark.parametrize("name", TABLES)
def test_columns_are_the_contract_s(shop: Shop, name: str) -> None:
    contract: Contract = CONTRACTS[name]
    for table in (shop.tables[name], shop.changes[name]):
        assert table.schema.names == [column.name for column in contract.columns]
        for column in contract.columns:
            kind = table.schema.field(column.name).type
            if column.format == "date-time":
                assert kind == pa.timestamp("us", "UTC")
                table[column.name].cast(pa.timestamp("ms", "UTC"))  # raises where it would lose something
            elif column.decimal is not None:
                assert kind == pa.decimal128(*column.decimal)


@pytest.mark.parametrize("name", TABLES)
def test_keys_are_unique_and_changes_are_newer(shop: Shop, name: str) -> None:
    cursor = CONTRACTS[name].sequence[0]
    first, later = rows(shop.tables[name], name), rows(shop.changes[name], name)
    assert (len(first), len(later)) == (len(shop.tables[name]), len(shop.changes[name]))
    assert None not in first
    times = [row[cursor] for row in (*first.values(), *later.values())]
    assert dt.datetime(2025, 1, 1, tzinfo=dt.UTC) <= min(times) <= max(times) < dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
    assert max(row[cursor] for row in first.values()) < min(row[cursor] for row in later.values())


def test_loads_give_hundreds_of_rows_the_same_time(shop: Shop) -> None:
    for name in ("snowflake_customers", "snowflake_orders", "redshift_behavior"):
        cursor = CONTRACTS[name].sequence[0]
        ties = Counter(shop.tables[name][cursor].to_pylist())
        assert max(ties.values()) > 200
        assert sum(count == 1 for count in ties.values()) > 1_000
        assert max(Counter(shop.changes[name][cursor].to_pylist()).values()) > 20


def test_sound_orders_that_are_not_deleted_are_the_purchases(shop: Shop) -> None:
    orders = [row for row in newest_sound(shop, "snowflake_orders").values() if not row["is_deleted"]]
    made = [
        Purchase(row["order_id"], row["customer_id"], row["ordered_at"].date(), row["quantity"], row["amount"])
        for row in sorted(orders, key=lambda row: row["order_id"])
    ]
    assert made == list(purchases())
    assert {row["status"] for row in orders} <= {"created", "paid", "shipped", "delivered"}
    assert all(row["updated_at"] > row["ordered_at"] for row in orders)


def test_customers_are_those_who_bought_and_came_before(shop: Shop) -> None:
    customers = newest_sound(shop, "snowflake_customers")
    assert set(customers) == {order.customer_id for order in purchases()}
    for order in purchases():
        assert customers[order.customer_id]["created_at"].date() <= order.day
    assert len({row["country"] for row in customers.values()}) >= 15


def test_references_resolve(shop: Shop) -> None:
    held = {name: newest_sound(shop, name) for name in TABLES}
    customers, accounts = held["snowflake_customers"], held["crm_accounts"]
    orders = held["snowflake_orders"].values()
    assert {row["product_id"] for row in orders} <= {
        key for key, row in held["snowflake_products"].items() if not row["is_deleted"]
    }
    assert {row["customer_id"] for row in orders} <= set(customers)
    numbers = [row["CustomerNumber__c"] for row in accounts.values() if row["CustomerNumber__c"]]
    assert len(numbers) == len(set(numbers)) == round(0.03 * len(customers))
    assert set(numbers) <= set(customers)
    for name in ("crm_contacts", "crm_opportunities"):
        referred = [row["AccountId"] for row in held[name].values()]
        assert set(referred) - {None} <= set(accounts)
    assert None in {row["AccountId"] for row in held["crm_contacts"].values()}
    visitors = [row["customer_id"] for row in held["redshift_behavior"].values()]
    assert set(visitors) - {None} <= set(customers)
    assert 0.13 < visitors.count(None) / len(visitors) < 0.17


def test_visits_that_went_on_have_ended_in_the_changes(shop: Shop) -> None:
    first, later = (rows(tables["redshift_behavior"], "redshift_behavior") for tables in (shop.tables, shop.changes))
    going_on = {key for key, row in first.items() if row["ended_at"] is None}
    assert len(going_on) > 100
    assert all(later[key]["ended_at"] is not None for key in going_on)
    for row in (first | later).values():
        assert row["ended_at"] is None or row["started_at"] <= row["ended_at"] <= row["loaded_at"]


@pytest.mark.parametrize("name", TABLES)
def test_counts_of_a_small_shop_are_jsonschema_s(small: Shop, name: str) -> None:
    check_counts(small, name, small.tables[name].to_pylist())


@pytest.mark.parametrize("name", TABLES)
def test_counts_of_the_whole_shop_are_jsonschema_s(shop: Shop, name: str) -> None:
    # Everything that changes or is said to be dirty, and some of the rest, which must be sound.
    keys = {*rows(shop.changes[name], name), *shop.dirty[name]}
    every = shop.tables[name].to_pylist()
    rest = [row for row in every if row[key_of(name)] not in keys]
    some = random.Random(1).sample(rest, min(len(rest), 500))
    check_counts(shop, name, [row for row in every if row[key_of(name)] in keys] + some)


def check_counts(shop: Shop, name: str, first: list[dict[str, Any]]) -> None:
    verdict, key = is_sound(name), key_of(name)
    later = shop.changes[name].to_pylist()
    broken = [row for row in (*first, *later) if not verdict(row)]
    newest = {row[key]: row for row in (*first, *later)}
    assert {kept for kept, row in newest.items() if not verdict(row)} == shop.dirty[name]
    expected = shop.expected[name]
    assert len(broken) == expected.broken > len(shop.dirty[name]) > 0
    assert expected.sound + expected.broken == expected.rows == len(shop.tables[name]) + len(later)
    assert expected.keys == len({*rows(shop.tables[name], name), *rows(shop.changes[name], name)})
    deletion = CONTRACTS[name].deletion
    assert expected.deleted == (sum(row[deletion[0]] for row in newest.values()) if deletion else 0)
    # A fault is one of several kinds: told by the values that broken rows have and no sound row has.
    assert len({fault for row in broken for fault in faults(row, name)}) >= 3


def faults(row: dict[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    schema = json.loads((BRONZE / f"{name}.schema.json").read_text())
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    for error in validator.iter_errors({column: as_json(value) for column, value in row.items()}):
        yield str(error.absolute_path[0]), error.instance


def test_counts_are_those_that_the_seed_is_known_for(shop: Shop) -> None:
    keys = {name: expected.keys for name, expected in shop.expected.items()}
    assert keys["snowflake_customers"] == 23_570
    assert keys["snowflake_orders"] == 69_659 + 50
    assert shop.expected["snowflake_orders"].deleted == 50
    assert keys["snowflake_products"] == 206
    assert keys["crm_accounts"] == 707 + 65
    assert 19_500 < keys["redshift_behavior"] < 20_500
    assert 0.005 < shop.expected["snowflake_customers"].deleted / 23_570 < 0.02


def test_salesforce_ids_end_as_salesforce_s_do(shop: Shop) -> None:
    assert case_safe_id("001D000000IRFma") == "001D000000IRFmaIAH"
    assert case_safe_id("000000000000000") == "000000000000000AAA"
    assert case_safe_id("AAAAAAAAAAAAAAA") == "AAAAAAAAAAAAAAA555"
    for name, prefix in (("crm_accounts", "001"), ("crm_contacts", "003"), ("crm_opportunities", "006")):
        ids = list(rows(shop.tables[name], name))
        assert all(one.startswith(prefix) and one == case_safe_id(one[:15]) for one in ids)
        assert len({one.lower() for one in ids}) == len(ids)


def test_nothing_is_there_twice_by_another_name(shop: Shop) -> None:
    for name, columns in {
        "snowflake_customers": ["email"],
        "snowflake_products": ["name"],
        "crm_contacts": ["Email"],
        "redshift_behavior": ["customer_id", "started_at", "referrer", "page_views"],
    }.items():
        found = [
            tuple(str(row[column]).lower().split() for column in columns)
            for row in newest_sound(shop, name).values()
            if row[columns[0]] is not None or len(columns) > 1
        ]
        assert len({str(one) for one in found}) == len(found)


def test_people_are_invented_and_written_as_people_write(shop: Shop) -> None:
    customers = newest_sound(shop, "snowflake_customers").values()
    emails = [row["email"] for row in customers if row["email"]]
    assert all(re.search(r"^[^@\s]+@example\.(org|com|net)$", email.lower()) for email in emails)
    assert sum(email != email.lower() for email in emails) > 1_000
    families = [row["last_name"] for row in customers]
    for is_messy in (str.isupper, str.islower, lambda name: name != name.strip(), lambda name: not name.isascii()):
        assert sum(map(is_messy, families)) > 200
    for row in customers:
        if row["country"] in ("US", "CA") and row["phone"]:
            assert re.search(r"555-?01\d\d$", row["phone"])
    typed = {row["BillingCountry"] for row in newest_sound(shop, "crm_accounts").values()}
    assert {"Germany", "DE", "deutschland", "U.S.A.", "USA", None} <= typed


@pytest.mark.parametrize("orders", [1, 2, 40])
def test_shop_of_few_orders_can_be_made(orders: int) -> None:
    shop = make_shop(orders=orders)
    for name in TABLES:
        assert len(shop.tables[name]) > 0
        assert shop.expected[name].rows == len(shop.tables[name]) + len(shop.changes[name])
