"""Snowflake's adapter, over its real connector and HTTP, against the stand-in."""

from __future__ import annotations

import dataclasses
import datetime as dt
import pickle
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pyspark import cloudpickle

from batch_adapters.adapter import TableOptions
from batch_adapters.errors import ConfigurationAdapterError, RetriableAdapterError
from batch_adapters.snowflake import SnowflakeLogin
from batch_adapters.window import Mark, Selection, Window, instant
from streams.local.snowflake_server import DATABASE, SCHEMA, SnowflakeServer
from tests.suites.adapter_suite import AdapterSuite, Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

AT = dt.datetime(2026, 1, 6, 10, tzinfo=dt.UTC)
UNTIL = Mark("2027-01-01T00:00:00.000000000Z")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SnowflakeServer]:
    with SnowflakeServer(tmp_path_factory.mktemp("snowflake")) as running:
        yield running


@pytest.fixture
def login(server: SnowflakeServer) -> SnowflakeLogin:
    return SnowflakeLogin(
        server.account,
        server.user,
        password=server.password,
        database=DATABASE,
        schema=SCHEMA,
        host=server.host,
        port=server.port,
        protocol="http",
        login_timeout_seconds=3,
    )


@dataclass
class SnowflakeSource:
    login: SnowflakeLogin
    server: SnowflakeServer
    table: str
    zone: dt.tzinfo | None
    key = "id"
    cursor = "updated_at"
    value = "value"
    deleted = None
    takes_null_cursor = True
    has_snapshots = True

    def key_of(self, number: int) -> str:
        return f"k'{9 - number}"

    def put(self, rows: Iterable[Row]) -> None:
        made: list[dict[str, Any]] = [
            {"id": self.key_of(row.number), "updated_at": self._at(row.at), "value": row.value} for row in rows
        ]
        self.server.load(self.table, made)

    def _at(self, at: dt.datetime | None) -> dt.datetime | None:
        return at if at is None or self.zone else at.replace(tzinfo=None)

    def delete(self, numbers: Iterable[int]) -> None:
        self.server.delete(self.table, [(self.key_of(number),) for number in numbers])

    def now(self) -> dt.datetime:
        table = self.login(TableOptions(self.table, (self.key,)))
        try:
            return table.clock()
        finally:
            table.close()


class TestSnowflake(AdapterSuite):
    examples = 5

    @pytest.fixture(params=["TIMESTAMP_TZ", "TIMESTAMP_NTZ"])
    def source(self, request: pytest.FixtureRequest, server: SnowflakeServer, login: SnowflakeLogin) -> SnowflakeSource:
        zone = dt.UTC if request.param == "TIMESTAMP_TZ" else None
        source = SnowflakeSource(login, server, f"t_{uuid.uuid4().hex[:8]}", zone)
        time = pa.timestamp("us", "UTC" if zone else None)
        columns = pa.schema([("id", pa.string()), ("updated_at", time), ("value", pa.string())])
        server.create_table(source.table, columns, ["id"])
        return source


ORDERS = pa.schema(
    [
        ("shop_id", pa.int64()),
        ("order_id", pa.string()),
        ("amount", pa.decimal128(18, 2)),
        ("is_deleted", pa.bool_()),
        ("ordered_on", pa.date32()),
        ("updated_at", pa.timestamp("us", "UTC")),
    ]
)


@pytest.fixture
def orders(server: SnowflakeServer) -> str:
    server.create_table("orders", ORDERS, ["shop_id", "order_id"])
    return "orders"


def options(table: str, **more: Any) -> TableOptions:
    return TableOptions(table, **({"key": ("shop_id", "order_id"), "cursor": "updated_at"} | more))


def order(number: int) -> dict[str, Any]:
    return {
        "shop_id": number % 3,
        "order_id": f"DE-{number:06d}",
        "amount": Decimal(number) / 100,
        "is_deleted": number % 7 == 0,
        "ordered_on": AT.date(),
        "updated_at": AT + dt.timedelta(seconds=number // 10),
    }


def test_a_large_result_is_fetched_in_parts_without_a_login(
    server: SnowflakeServer, login: SnowflakeLogin, orders: str
) -> None:
    rows = [order(number) for number in range(70_000)]
    server.load(orders, rows)
    table = login(options(orders, parts=4))
    assert table.schema() == ORDERS
    parts = table.parts(Selection(tuple(ORDERS.names), Window(None, UNTIL)), "b")
    table.close()
    assert len(parts) == 4
    server.refuse_next("390100", "no login is needed", times=1, what="login")
    far = dataclasses.replace(login, password="wrong")(options(orders))
    batches = [batch for part in pickle.loads(pickle.dumps(parts)) for batch in far.read(part)]
    server.refuse_next("", "", times=0, what="login")
    assert max(batch.num_rows for batch in batches) <= 10_000
    read = pa.Table.from_batches(batches)
    assert read.schema == ORDERS
    assert sorted(read.to_pylist(), key=lambda row: row["order_id"]) == rows


def test_windows_over_a_composite_key_meet(server: SnowflakeServer, login: SnowflakeLogin, orders: str) -> None:
    server.load(orders, [order(number) for number in range(25)])
    table = login(options(orders))
    since, seen = None, []
    while True:
        cut = table.nth(Window(since, UNTIL), 4)
        window = Window(since, cut or UNTIL)
        parts = table.parts(Selection(("shop_id", "order_id"), window), "b")
        got = [row["order_id"] for part in parts for batch in table.read(part) for row in batch.to_pylist()]
        assert len(got) == 4 or cut is None
        seen += got
        if cut is None:
            break
        since = cut
    table.close()
    assert sorted(seen) == [order(number)["order_id"] for number in range(25)]


def test_a_cursor_without_a_zone_is_in_the_zone_of_the_options(server: SnowflakeServer, login: SnowflakeLogin) -> None:
    columns = pa.schema([("id", pa.string()), ("updated_at", pa.timestamp("us"))])
    server.create_table("local_times", columns, ["id"])
    server.load("local_times", [{"id": "a", "updated_at": dt.datetime(2026, 7, 1, 12)}])  # noqa: DTZ001
    table = login(options("local_times", key=("id",), time_zone="Europe/Berlin"))
    at = dt.datetime(2026, 7, 1, 10, tzinfo=dt.UTC)
    mark = table.nth(Window(None, UNTIL), 1)
    assert mark == Mark(instant(at), ("a",))
    assert table.nth(Window(Mark(instant(at)), UNTIL), 1) == mark
    assert table.nth(Window(mark, UNTIL), 1) is None
    (part,) = table.parts(Selection(("updated_at",), Window(None, mark)), "b")
    assert next(table.read(part)).to_pylist() == [{"updated_at": at}]
    table.close()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"password": "wrong"}, "SNOWFLAKE_LOGIN_REFUSED"),
        ({"password": None}, "SNOWFLAKE_LOGIN_INVALID"),
        ({"password": None, "private_key": "no key"}, "SNOWFLAKE_LOGIN_INVALID"),
        ({"host": "nowhere.invalid"}, "SNOWFLAKE_HOST_UNKNOWN"),
    ],
)
def test_a_login_that_is_wrong(login: SnowflakeLogin, orders: str, change: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigurationAdapterError) as caught:
        dataclasses.replace(login, **change)(options(orders)).clock()
    assert caught.value.code == code
    assert login.password is not None
    assert login.password not in str(caught.value)


def test_a_host_that_does_not_answer(login: SnowflakeLogin, orders: str) -> None:
    with pytest.raises(RetriableAdapterError) as caught:
        dataclasses.replace(login, port=9)(options(orders)).clock()
    assert caught.value.code == "SNOWFLAKE_UNREACHABLE"


@pytest.mark.parametrize(
    ("table", "change", "code"),
    [
        ("nowhere", {}, "SNOWFLAKE_TABLE_MISSING"),
        ("orders", {"cursor": "changed_at"}, "SNOWFLAKE_COLUMN_MISSING"),
        ("orders", {"key": ("id",)}, "SNOWFLAKE_COLUMN_MISSING"),
        ("orders", {"key": ("is_deleted",)}, "SNOWFLAKE_COLUMN_TYPE"),
        ("orders", {"cursor": "ordered_on"}, "SNOWFLAKE_COLUMN_TYPE"),
        ("orders; drop", {}, "OPTION_INVALID"),
        ("a.b.c.d", {}, "OPTION_INVALID"),
        ("orders", {"time_zone": "Europe/Nowhere"}, "OPTION_INVALID"),
    ],
)
def test_options_that_do_not_fit_the_table(
    login: SnowflakeLogin, orders: str, table: str, change: dict[str, Any], code: str
) -> None:
    with pytest.raises(ConfigurationAdapterError) as caught:
        login(options(table, **change)).schema()
    assert caught.value.code == code


@pytest.mark.parametrize("name", ["orders", "public.orders", 'shop.PUBLIC."ORDERS"'])
def test_a_table_by_its_full_name(login: SnowflakeLogin, orders: str, name: str) -> None:
    table = login(options(name))
    assert table.schema() == ORDERS
    table.close()


@pytest.mark.parametrize(
    ("number", "state", "kind", "code"),
    [
        ("000606", "57P03", "retriable", "SNOWFLAKE_WAREHOUSE_AWAY"),
        ("000630", "57014", "retriable", "SNOWFLAKE_TIMEOUT"),
        ("000604", "57014", "retriable", "SNOWFLAKE_CANCELLED"),
        ("390114", "08001", "retriable", "SNOWFLAKE_SESSION_ENDED"),
        ("003001", "42501", "configuration", "SNOWFLAKE_GRANT_MISSING"),
        ("000904", "42000", "configuration", "SNOWFLAKE_COLUMN_MISSING"),
        ("001003", "42000", "fatal", "SNOWFLAKE_FAILED"),
    ],
)
def test_a_statement_that_is_refused(
    server: SnowflakeServer, login: SnowflakeLogin, orders: str, number: str, state: str, kind: str, code: str
) -> None:
    table = login(options(orders))
    table.clock()
    server.refuse_next(number, "value 'private' is wrong", state)
    with pytest.raises(Exception, match=code) as caught:
        table.clock()
    server.refuse_next("", "", times=0)
    assert getattr(caught.value, "kind", None) == kind
    assert "private" not in str(caught.value)
    assert caught.value.__cause__ is None
    table.clock()
    table.close()


def test_a_token_that_has_expired(server: SnowflakeServer, login: SnowflakeLogin, orders: str) -> None:
    server.refuse_next("390318", "OAuth access token expired.", what="login")
    with pytest.raises(ConfigurationAdapterError) as caught:
        dataclasses.replace(login, password=None, token="a-token")(options(orders)).clock()
    server.refuse_next("", "", times=0, what="login")
    assert caught.value.code == "SNOWFLAKE_TOKEN_EXPIRED"


def test_no_secret_is_shown(server: SnowflakeServer, login: SnowflakeLogin, orders: str) -> None:
    secret = "s3cr3t-value"
    full = dataclasses.replace(login, password=secret, private_key=secret, passphrase=secret, token=secret)
    again = cloudpickle.loads(cloudpickle.dumps(full))
    assert again == full
    assert secret not in repr(full) + repr(again) + str(full(options(orders)))
    server.load(orders, [order(1)])
    table = login(options(orders))
    parts = table.parts(Selection(("order_id",)), "b")
    table.close()
    assert login.password is not None
    assert login.password.encode() not in pickle.dumps(parts)
    assert "DE-000001" not in repr(parts)
