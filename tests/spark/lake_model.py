"""What silver and gold must hold, in plain Python: written from the words, to hold the flows against.

Bronze is a list of (table, row), rows as `Bench.put` takes them. Silver and gold are rows as dicts; times are
aware datetimes, money is Decimal. Nothing here is fast, and nothing here knows about batches.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from streams.local import shop_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Row = dict[str, Any]
Bronze = list[tuple[str, Row]]

FIRST_STATE = dt.datetime(1900, 1, 1, tzinfo=dt.UTC)
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
LAST_SEQUENCE = 2**31 - 1  # contracts give events one less at the most
BASE_CURRENCY = "EUR"
COUNTRIES = {"germany": "DE", "france": "FR", "united kingdom": "GB", "united states": "US"}
COUNTRIES |= {spelling.lower(): country.code for country in shop_names.COUNTRIES for spelling in country.spellings}

PRODUCT_TRACKED = ("name", "category", "unit_price", "currency", "is_active")
CUSTOMER_TRACKED = ("city", "country", "segment", "marketing_consent")
EVENT_COLUMNS = ("order_id", "event_type", "customer_id", "quantity", "amount", "currency", "note", "is_deleted")
STEPS = ("paid", "shipped", "delivered", "cancelled", "refunded")
OF_THE_ORDER = ("customer_id", "quantity", "amount", "currency", "created_at")


# --- cleansing ---


def text(value: str | None) -> str | None:
    """Trimmed, inner runs of white space one blank, empty null."""
    return None if value is None else re.sub(r"\s+", " ", value).strip() or None


def email(value: str | None) -> str | None:
    cleansed = text(value)
    return cleansed and cleansed.lower()


def phone(value: str | None) -> str | None:
    """Digits with a leading +; "00" at the start becomes "+"; a number of the country alone gets none."""
    cleansed = text(value) or ""
    digits = re.sub(r"[^0-9]", "", cleansed)
    if digits.startswith("00"):
        return f"+{digits[2:]}"
    return (f"+{digits}" if cleansed.startswith("+") else digits) if digits else None


def code(value: str | None) -> str | None:
    cleansed = text(value)
    return cleansed and cleansed.upper()


def typed_country(value: str | None) -> str | None:
    return COUNTRIES.get((text(value) or "").lower())


def as_it_is(value: Any) -> Any:
    return value


def hashed(cleanse: Callable[[str | None], str | None]) -> Callable[[str | None, bytes], str | None]:
    def of(value: str | None, key: bytes) -> str | None:
        cleansed = cleanse(value)
        return None if cleansed is None else hmac.new(key, cleansed.encode(), hashlib.sha256).hexdigest()

    return of


# --- silver ---


@dataclass(frozen=True)
class Table:
    """A silver table of a pulled one: its first column is the key, its last but is_deleted the sequence."""

    bronze: str
    columns: str  # name[=bronze's name][:cleansing], in the table's order
    deleted: str | None

    def plan(self) -> list[tuple[str, str, str]]:
        """Name, bronze's name and cleansing of each column but is_deleted."""
        found = re.findall(r"(\w+)(?:=(\w+))?(?::(\w+))?", self.columns)
        return [(name, source or name, cleansing) for name, source, cleansing in found]

    @property
    def key(self) -> str:
        return self.plan()[0][0]

    @property
    def sequence(self) -> str:
        return self.plan()[-1][0]


CLEANSING: dict[str, Callable[[Any], Any]] = {
    "": as_it_is,
    "text": text,
    "code": code,
    "typed_country": typed_country,
}
HASHING = {"email": hashed(email), "phone": hashed(phone)}

TABLES = {
    "silver.customers": Table(
        "bronze.snowflake_customers",
        "customer_id email_hash=email:email phone_hash=phone:phone city:text country:code segment:text "
        "marketing_consent created_at updated_at",
        "is_deleted",
    ),
    "silver.orders": Table(
        "bronze.snowflake_orders",
        "order_id customer_id:text product_id:text ordered_at quantity amount currency:code status:text updated_at",
        "is_deleted",
    ),
    "silver.products": Table(
        "bronze.snowflake_products",
        "product_id name:text category:text unit_price currency:code supplier:text is_active updated_at",
        "is_deleted",
    ),
    "silver.behavior": Table(
        "bronze.redshift_behavior",
        "session_id customer_id:text started_at ended_at page_views cart_adds device:text referrer:text country:code "
        "loaded_at",
        None,
    ),
    "silver.accounts": Table(
        "bronze.crm_accounts",
        "account_id=Id name=Name:text type=Type:text industry=Industry:text "
        "billing_country=BillingCountry:typed_country annual_revenue=AnnualRevenue "
        "number_of_employees=NumberOfEmployees customer_id=CustomerNumber__c:text owner_id=OwnerId:text "
        "created_at=CreatedDate modified_at=SystemModstamp",
        "IsDeleted",
    ),
    "silver.contacts": Table(
        "bronze.crm_contacts",
        "contact_id=Id account_id=AccountId:text email_hash=Email:email phone_hash=Phone:phone title=Title:text "
        "has_opted_out_of_email=HasOptedOutOfEmail created_at=CreatedDate modified_at=SystemModstamp",
        "IsDeleted",
    ),
    "silver.opportunities": Table(
        "bronze.crm_opportunities",
        "opportunity_id=Id account_id=AccountId:text name=Name:text stage_name=StageName:text amount=Amount "
        "currency=CurrencyIsoCode:code probability=Probability close_date=CloseDate is_closed=IsClosed is_won=IsWon "
        "created_at=CreatedDate modified_at=SystemModstamp",
        "IsDeleted",
    ),
}


def silver_row(table: Table, row: Row, hash_key: bytes) -> Row:
    """Named, cleansed and hashed; of a deleted key only key, sequence and is_deleted."""
    names = [name for name, _, _ in table.plan()]
    if row.get("_is_tombstone"):
        known = {table.key: row["_key"], table.sequence: row["_source_time"], "is_deleted": True}
        return dict.fromkeys(names) | known
    made = {
        name: HASHING[how](row.get(source), hash_key) if how in HASHING else CLEANSING[how](row.get(source))
        for name, source, how in table.plan()
    }
    if table.deleted and row[table.deleted]:
        return dict.fromkeys(names) | {name: made[name] for name in (table.key, table.sequence)} | {"is_deleted": True}
    return made | {"is_deleted": False}


def greatness(row: Row, names: Iterable[str]) -> tuple[Any, ...]:
    """Columns one after the other; null is smallest, false is smaller than true."""
    return tuple((row[name] is not None, 0 if row[name] is None else row[name]) for name in names)


def newest(rows: Iterable[Row], key: Sequence[str], sequence: Sequence[str], others: Sequence[str]) -> list[Row]:
    """One row a key: the greatest sequence, then the greatest other columns."""
    kept: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        of = tuple(row[name] for name in key)
        kept[of] = max(kept.get(of, row), row, key=lambda row: greatness(row, (*sequence, *others)))
    return list(kept.values())


def pulled(name: str, bronze: Bronze, hash_key: bytes) -> tuple[list[Row], list[Row]]:
    """Every version of each key, and the current rows."""
    table = TABLES[name]
    rows = [silver_row(table, row, hash_key) for source, row in bronze if source == table.bronze]
    others = [column for column, _, _ in table.plan()[1:-1]] + ["is_deleted"]
    versions = newest(rows, [table.key, table.sequence], [], others)
    return versions, newest(versions, [table.key], [table.sequence], others)


def order_events(bronze: Bronze) -> list[Row]:
    """One row an event; a tombstone is an event of its own, after all others of its order."""
    rows = []
    for row in (row for source, row in bronze if source == "bronze.order_events"):
        event = dict.fromkeys(("event_id", "sequence", "occurred_at", *EVENT_COLUMNS)) | {"is_deleted": False}
        if row.get("_is_tombstone"):
            event |= {"event_id": f"tombstone:{row['_key']}", "order_id": row["_key"], "sequence": LAST_SEQUENCE}
            event |= {"event_type": "deleted", "occurred_at": row["_source_time"], "is_deleted": True}
        else:
            event |= {name: value for name, value in row.items() if not name.startswith("_")}
        rows.append(event)
    return newest(rows, ["event_id"], ["sequence", "occurred_at"], EVENT_COLUMNS)


def fx_rates(bronze: Bronze) -> list[Row]:
    rows = [row | {"is_deleted": False} for source, row in bronze if source == "bronze.fx_rates"]
    return newest(rows, ["rate_date", "base_currency", "quote_currency"], ["published_at"], ["rate"])


# --- dimensions ---


def surrogate(key: str, valid_from: dt.datetime) -> str:
    micros = (valid_from - EPOCH) // dt.timedelta(microseconds=1)
    return hashlib.sha256(f"{key}|{micros}".encode()).hexdigest()[:32]


def history(versions: list[Row], tracked: Sequence[str]) -> list[Row]:
    """The spans of one key from its versions: tracked columns, valid_from, valid_to, is_deleted."""
    spans: list[Row] = []
    is_open = False
    for number, version in enumerate(sorted(versions, key=lambda version: version["updated_at"])):
        when, seen = version["updated_at"], {name: version[name] for name in tracked}
        if version["is_deleted"]:
            if is_open:
                spans[-1] |= {"valid_to": when, "is_deleted": True}
            is_open = False
            continue
        if is_open and all(spans[-1][name] == seen[name] for name in tracked):
            continue
        if is_open:
            spans[-1]["valid_to"] = when
        valid_from = FIRST_STATE if number == 0 else when
        spans.append(seen | {"valid_from": valid_from, "valid_to": None, "is_deleted": False})
        is_open = True
    return spans


def dimension(name: str, versions: list[Row], tracked: Sequence[str], overwritten: Callable[[Row], Row]) -> list[Row]:
    """Every key's spans; `overwritten` says, of a key's newest version, what all of them show."""
    key = f"{name}_id"
    keys: dict[str, list[Row]] = {}
    for version in versions:
        keys.setdefault(version[key], []).append(version)
    rows = []
    for value, of in keys.items():
        shown = overwritten(max(of, key=lambda version: version["updated_at"]))
        for span in history(of, tracked):
            made = {f"{name}_key": surrogate(value, span["valid_from"]), key: value}
            rows.append(made | span | shown | {"is_current": span["valid_to"] is None})
    return rows


def dim_product(versions: list[Row]) -> list[Row]:
    return dimension("product", versions, PRODUCT_TRACKED, lambda newest: {"supplier": newest["supplier"]})


def dim_customer(versions: list[Row], accounts: list[Row], contacts: list[Row], sessions: list[Row]) -> list[Row]:
    def overwritten(newest: Row) -> Row:
        account = account_of(newest["customer_id"], accounts)
        shown = {name: newest[name] for name in ("email_hash", "phone_hash", "created_at")}
        shown |= of_account(account) | of_contact(contact_of(account, newest["email_hash"], contacts))
        shown |= of_sessions([row for row in sessions if row["customer_id"] == newest["customer_id"]])
        return dict.fromkeys(shown) if newest["is_deleted"] else shown

    return dimension("customer", versions, CUSTOMER_TRACKED, overwritten)


def account_of(customer_id: str, accounts: list[Row]) -> Row | None:
    """The oldest that is not deleted."""
    of = [row for row in accounts if not row["is_deleted"] and row["customer_id"] == customer_id]
    return min(of, key=lambda row: (row["created_at"], row["account_id"]), default=None)


def contact_of(account: Row | None, email_hash: str | None, contacts: list[Row]) -> Row | None:
    """One with the customer's e-mail comes first, then the oldest; deleted ones do not count."""
    of = [row for row in contacts if account and not row["is_deleted"] and row["account_id"] == account["account_id"]]

    def rank(row: Row) -> tuple[Any, ...]:
        is_the_customers = email_hash is not None and row["email_hash"] == email_hash
        return not is_the_customers, row["created_at"], row["contact_id"]

    return min(of, key=rank, default=None)


def of_account(account: Row | None) -> Row:
    names = {"account_id": "account_id", "account_name": "name", "account_type": "type"}
    names |= {name: name for name in ("industry", "billing_country", "annual_revenue", "number_of_employees")}
    return {name: account[source] if account else None for name, source in names.items()}


def of_contact(contact: Row | None) -> Row:
    names = {"contact_id": "contact_id", "contact_email_hash": "email_hash", "contact_title": "title"}
    names |= {"has_opted_out_of_email": "has_opted_out_of_email"}
    return {name: contact[source] if contact else None for name, source in names.items()}


def of_sessions(sessions: list[Row]) -> Row:
    starts = [row["started_at"] for row in sessions if not row["is_deleted"]]
    recent = [start for start in starts if start > max(starts) - dt.timedelta(days=30)]
    return {
        "first_seen": min(starts, default=None),
        "last_seen": max(starts, default=None),
        "sessions": len(starts),
        "sessions_30d": len(recent),
    }


# --- facts ---


def fact_orders(events: list[Row], orders: list[Row], rates: list[Row], dimensions: dict[str, list[Row]]) -> list[Row]:
    booked = {row["order_id"]: row for row in orders}
    told: dict[str, list[Row]] = {}
    for event in events:
        told.setdefault(event["order_id"], []).append(event)
    return [
        fact(order_id, told.get(order_id, []), booked.get(order_id), rates, dimensions)
        for order_id in booked.keys() | told.keys()
    ]


def fact(
    order_id: str, events: list[Row], booked: Row | None, rates: list[Row], dimensions: dict[str, list[Row]]
) -> Row:
    source = "both" if events and booked else "events" if events else "warehouse"
    known: Row = {"order_id": order_id, "source": source, "is_deleted": False}
    if any(event["event_type"] == "deleted" for event in events) or (booked and booked["is_deleted"]):
        flags = dict.fromkeys(("is_complete", "is_converted", "is_customer_known", "is_product_known"), False)
        names = ("product_id", *OF_THE_ORDER, *(f"{step}_at" for step in STEPS), "order_date", "customer_key")
        names += ("product_key", "rate", "rate_date", "reporting_amount", "reporting_currency")
        return dict.fromkeys(names) | known | flags | {"status": "deleted", "is_deleted": True}
    made = known | state(events, booked)
    made["order_date"] = made["created_at"].date() if made["created_at"] else None
    made["is_complete"] = made["created_at"] is not None
    made |= conversion(made, rates)
    for name in ("customer", "product"):
        made[f"{name}_key"] = version_of_the_day(name, made[f"{name}_id"], made["order_date"], dimensions[name])
        made[f"is_{name}_known"] = made[f"{name}_key"] is not None
    return made


def state(events: list[Row], booked: Row | None) -> Row:
    """Events come first; the warehouse fills in what no event says."""

    def last(events: list[Row]) -> Row | None:
        return max(events, key=lambda event: (event["sequence"], event["occurred_at"], event["event_id"]), default=None)

    def of_type(kind: str) -> Row | None:
        return last([event for event in events if event["event_type"] == kind])

    made: Row = dict.fromkeys(OF_THE_ORDER)
    if created := of_type("created"):
        made |= {name: created[name] for name in OF_THE_ORDER[:-1]} | {"created_at": created["occurred_at"]}
    elif booked:
        made |= {name: booked[name] for name in OF_THE_ORDER[:-1]} | {"created_at": booked["ordered_at"]}
    for step in STEPS:
        event = of_type(step)
        made[f"{step}_at"] = event and event["occurred_at"]
    newest_event = last(events)
    status = newest_event["event_type"] if newest_event else booked and booked["status"]
    return made | {"status": status, "product_id": booked and booked["product_id"]}


def conversion(order: Row, rates: list[Row]) -> Row:
    """At the last rate on or before the order's day, in whole cents, half up."""
    made: Row = {"rate": None, "rate_date": None, "reporting_amount": None, "is_converted": False}
    made["reporting_currency"] = BASE_CURRENCY if order["is_complete"] else None
    if not order["is_complete"]:
        return made
    base = {"rate_date": order["order_date"], "rate": Decimal(1), "quote_currency": BASE_CURRENCY}
    quotes = [rate for rate in [*rates, base] if rate["quote_currency"] == order["currency"]]
    quote = max(
        (rate for rate in quotes if rate["rate_date"] <= order["order_date"]),
        key=lambda rate: rate["rate_date"],
        default=None,
    )
    if quote is None:
        return made
    cents = (200 * order["amount"] + quote["rate"]) // (2 * quote["rate"])
    made |= {"rate": quote["rate"], "rate_date": quote["rate_date"]}
    return made | {"reporting_amount": Decimal(int(cents)) / 100, "is_converted": True}


def version_of_the_day(name: str, value: str | None, day: dt.date | None, rows: list[Row]) -> str | None:
    """The key of the last version that was valid at any moment of the UTC day."""
    if value is None or day is None:
        return None
    begin = dt.datetime.combine(day, dt.time(), dt.UTC)
    valid = [
        row
        for row in rows
        if row[f"{name}_id"] == value
        and row["valid_from"] < begin + dt.timedelta(days=1)
        and (row["valid_to"] is None or row["valid_to"] > begin)
    ]
    return max(valid, key=lambda row: row["valid_from"])[f"{name}_key"] if valid else None


def lake(bronze: Bronze, hash_key: bytes) -> dict[str, list[Row]]:
    """Every silver table, the dimensions and the facts."""
    made: dict[str, list[Row]] = {"silver.order_events": order_events(bronze), "silver.fx_rates": fx_rates(bronze)}
    versions = {}
    for name in TABLES:
        versions[name], made[name] = pulled(name, bronze, hash_key)
    made["silver.customer_versions"] = versions["silver.customers"]
    made["silver.product_versions"] = versions["silver.products"]
    parts = (made[f"silver.{name}"] for name in ("accounts", "contacts", "behavior"))
    made["gold.dim_customer"] = dim_customer(versions["silver.customers"], *parts)
    made["gold.dim_product"] = dim_product(versions["silver.products"])
    dimensions = {"customer": made["gold.dim_customer"], "product": made["gold.dim_product"]}
    made["gold.fact_orders"] = fact_orders(
        made["silver.order_events"], made["silver.orders"], made["silver.fx_rates"], dimensions
    )
    return made
