"""What the shop's stand-in sources hold: its warehouse, its CRM and its visitors, made to fit the real purchases.

Every purchase is an order of a customer who is there; everything else is invented, by a seed. Some versions of rows
break their contract on purpose, and how many is known, so it is known what bronze and its error lane must hold.
"""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass
from decimal import Decimal
from itertools import cycle, product
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from streams.local import shop_crm, shop_rows
from streams.local.purchases import purchases
from streams.local.shop_rows import FILLED, within
from streams.quality.contract import load_contracts
from streams.settings import PROJECT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streams.local.shop_rows import History, Row
    from streams.quality.contract import Contract, ContractColumn

_CHANGED: Final = FILLED + dt.timedelta(hours=2)
_CHANGING: Final = dt.timedelta(days=5)
_CHANGE_LOADS: Final = tuple(
    _CHANGED + dt.timedelta(hours=hours, milliseconds=125 * hours) for hours in (1, 25, 26, 73, 97)
)


@dataclass(frozen=True)
class Expected:
    """What must come of a table when it is pulled once as filled and once as changed.

    Attributes:
        rows: versions of rows in all.
        sound: those that keep the contract, which bronze must hold.
        broken: those that do not, which the error lane must hold.
        keys: different keys.
        deleted: keys whose newest version says that they are deleted.
    """

    rows: int
    sound: int
    broken: int
    keys: int
    deleted: int


@dataclass(frozen=True)
class Shop:
    """What the sources hold, by the names of the bronze contracts, with their columns and keys.

    Attributes:
        tables: in the beginning.
        changes: written afterwards: a row each for keys that are new, changed or marked deleted.
        dirty: keys whose newest version breaks the contract.
        mended: keys whose first version breaks the contract, and the next does not.
        expected: how many rows of which kind there are in all.
    """

    tables: Mapping[str, pa.Table]
    changes: Mapping[str, pa.Table]
    dirty: Mapping[str, frozenset[str]]
    mended: Mapping[str, frozenset[str]]
    expected: Mapping[str, Expected]


def make_shop(seed: int = 7, orders: int | None = None) -> Shop:
    """Make it of the first `orders` purchases (all: None). The same seed gives the same shop."""
    bought = tuple(purchases(orders))

    # Each table has its own, so that a change to one leaves the others as they were.
    def chance(table: str) -> random.Random:
        return random.Random(f"{seed} {table}")

    customers = shop_rows.customers(bought, chance("customers"))
    products = shop_rows.products(chance("products"))
    accounts = shop_crm.accounts(bought, customers.first, chance("accounts"))
    histories = {
        "snowflake_customers": customers,
        "snowflake_orders": shop_rows.orders(bought, products.first, chance("orders")),
        "snowflake_products": products,
        "crm_accounts": accounts,
        "crm_contacts": shop_crm.contacts(accounts.first, customers.first, chance("contacts")),
        "crm_opportunities": shop_crm.opportunities(accounts.first, chance("opportunities")),
        "redshift_behavior": shop_rows.sessions(bought, customers.first, chance("sessions")),
    }
    contracts = load_contracts(PROJECT / "contracts" / "bronze")
    tables, changes, dirty, mended, expected = {}, {}, {}, {}, {}
    for name, history in histories.items():
        contract = contracts[name]
        broken, dirty[name], mended[name] = _soil(history, contract, chance(f"dirt in {name}"))
        _date(history.later, contract.sequence[0], chance(f"changes of {name}"))
        expected[name] = _expected(history, contract, broken)
        schema = _schema(contract)
        tables[name] = pa.Table.from_pylist(history.first, schema)
        changes[name] = pa.Table.from_pylist(history.later, schema)
    return Shop(*map(MappingProxyType, (tables, changes, dirty, mended, expected)))


def _expected(history: History, contract: Contract, broken: int) -> Expected:
    [key] = contract.primary_key
    rows = len(history.first) + len(history.later)
    keys = len({row[key] for row in (*history.first, *history.later)})
    deleted = 0
    if contract.deletion is not None:
        column, value = contract.deletion
        deleted = sum(row[column] == value for row in history.later)
    return Expected(rows, rows - broken, broken, keys, deleted)


def _schema(contract: Contract) -> pa.Schema:
    return pa.schema([(column.name, _arrow_type(column)) for column in contract.columns])


def _arrow_type(column: ContractColumn) -> pa.DataType:
    if column.decimal is not None:
        return pa.decimal128(*column.decimal)
    formats = {"date": pa.date32(), "date-time": pa.timestamp("us", "UTC")}
    kinds = {"integer": pa.int64(), "boolean": pa.bool_()}
    return kinds.get(column.json_type) or formats.get(column.format or "", pa.string())


_BREAKS: Final[dict[str, tuple[Row, ...]]] = {
    "snowflake_customers": (
        {"email": "anna.at.example.org"},
        {"country": "de"},
        {"country": "UK "},
        {"segment": "vip"},
        {"segment": None},
        {"postal_code": "unknown, will be sent later"},
    ),
    "snowflake_orders": ({"status": "teleported"}, {"status": None}, {"currency": "usd"}, {"quantity": -1}),
    "snowflake_products": ({"name": ""}, {"unit_price": Decimal("-0.01")}, {"category": None}),
    "crm_accounts": ({"Type": "Reseller"}, {"NumberOfEmployees": -1}, {"CustomerNumber__c": "K-17"}, {"Name": None}),
    "crm_contacts": ({"Email": "call me instead"}, {"LastName": None}, {"AccountId": "0038c00000AAAAA"}),
    "crm_opportunities": (
        {"StageName": "Verbal Yes"},
        {"Probability": Decimal("140.00")},
        {"Amount": Decimal("-1.00")},
        {"CurrencyIsoCode": "euro"},
    ),
    "redshift_behavior": ({"page_views": -1}, {"device": "fridge"}, {"device": None}, {"country": "us"}),
}
_PUT_RIGHT, _SPOILT, _NEVER_SOUND = "broken first, sound later", "sound first, broken later", "only ever broken"
# Rows that others refer to have a sound version sooner or later; in these tables there are rows that have none.
_LEAVES: Final = ("crm_contacts", "crm_opportunities", "redshift_behavior")


def _soil(history: History, contract: Contract, chance: random.Random) -> tuple[int, frozenset[str], frozenset[str]]:
    """Break versions of rows that do not change otherwise.

    Returns:
        How many versions, the keys whose newest it is, and those that are put right.
    """
    [key] = contract.primary_key
    fates = (_PUT_RIGHT, _SPOILT, *((_NEVER_SOUND,) if contract.name in _LEAVES else ()))
    ways = tuple(product(_BREAKS[contract.name], fates))
    changed = {row[key] for row in history.later}
    same = [place for place, row in enumerate(history.first) if row[key] not in changed]
    count = min(len(same) // 4, max(len(ways), len(same) // 250))
    newest, mended = set(), set()
    for place, (breach, fate) in zip(sorted(chance.sample(same, count)), cycle(ways)):
        row = history.first[place]
        if fate == _SPOILT:
            history.later.append(row | breach)
        else:
            history.first[place] = row | breach
        if fate == _PUT_RIGHT:
            history.later.append(dict(row))
            mended.add(row[key])
        else:
            newest.add(row[key])
    return count, frozenset(newest), frozenset(mended)


def _date(later: list[Row], cursor: str, chance: random.Random) -> None:
    """Say when the later versions are written: some together, at the very same time, the others each at its own."""
    for row in later:
        is_loaded = chance.random() < 0.6
        row[cursor] = chance.choice(_CHANGE_LOADS) if is_loaded else _CHANGED + within(chance, _CHANGING)
