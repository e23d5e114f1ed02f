"""Redshift's adapter, over redshift-connector, boto3 and the wire, against PostgreSQL and moto."""

from __future__ import annotations

import dataclasses
import datetime as dt
import pickle
import socket
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from pyspark import cloudpickle

from batch_adapters.adapter import TableOptions
from batch_adapters.errors import ConfigurationAdapterError, FatalAdapterError, RetriableAdapterError
from batch_adapters.redshift import RedshiftLogin
from batch_adapters.redshift_staging import Staged
from batch_adapters.window import Mark, Selection, Window, instant
from streams.local.redshift_server import RedshiftServer
from streams.local.s3_server import S3Server
from tests.suites.adapter_suite import AdapterSuite, Puller, Row, base

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batch_adapters.redshift import RedshiftTable

pytestmark = pytest.mark.usefixtures("lines_closed")
BUCKET = "staging"
AT = dt.datetime(2026, 1, 6, 10, tzinfo=dt.UTC)
UNTIL = Mark("2027-01-01T00:00:00.000000000Z")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as running:
        running.make_bucket(BUCKET)
        yield running


@pytest.fixture(scope="module")
def server(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedshiftServer]:
    with RedshiftServer(tmp_path_factory.mktemp("redshift"), s3) as running:
        yield running


@pytest.fixture(params=["unload", "direct"])
def login(request: pytest.FixtureRequest, server: RedshiftServer, s3: S3Server) -> RedshiftLogin:
    return login_at(server, s3, mode=request.param)


def login_at(server: RedshiftServer, s3: S3Server, **more: Any) -> RedshiftLogin:
    said = {
        "host": server.host,
        "port": server.port,
        "database": server.database,
        "user": server.user,
        "password": server.password,
        "ssl": False,
        "staging": f"s3://{BUCKET}/pulls",
        "s3_endpoint": s3.endpoint,
        "s3_access_key": s3.access_key,
        "s3_secret_key": s3.secret_key,
    }
    return RedshiftLogin(**(said | more))


@dataclass
class RedshiftSource:
    login: RedshiftLogin
    server: RedshiftServer
    table: str
    zone: dt.tzinfo | None
    key = "id"
    cursor = "updated_at"
    value = "value"
    deleted = None
    takes_null_cursor = True
    has_snapshots = True

    def key_of(self, number: int) -> str:
        return f"k'\\{9 - number}"

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


class TestRedshift(AdapterSuite):
    examples = 5

    @pytest.fixture(params=["timestamptz", "timestamp"])
    def source(self, request: pytest.FixtureRequest, server: RedshiftServer, login: RedshiftLogin) -> RedshiftSource:
        zone = dt.UTC if request.param == "timestamptz" else None
        source = RedshiftSource(login, server, f"t_{uuid.uuid4().hex[:8]}", zone)
        time = pa.timestamp("us", "UTC" if zone else None)
        columns = pa.schema([("id", pa.string()), ("updated_at", time), ("value", pa.string())])
        server.create_table(source.table, columns, ["id"])
        return source


ORDERS = pa.schema(
    [
        ("shop_id", pa.int64()),
        ("Order Id", pa.string()),
        ("amount", pa.decimal128(18, 2)),
        ("is_deleted", pa.bool_()),
        ("ordered_on", pa.date32()),
        ("weight", pa.float64()),
        ("updated_at", pa.timestamp("us", "UTC")),
    ]
)


@pytest.fixture
def orders(server: RedshiftServer) -> str:
    server.create_table("orders", ORDERS, ["shop_id", "Order Id"])
    return "orders"


def options(table: str, **more: Any) -> TableOptions:
    return TableOptions(table, **({"key": ("shop_id", "Order Id"), "cursor": "updated_at"} | more))


def order(number: int) -> dict[str, Any]:
    sparse = number % 5 == 0
    return {
        "shop_id": number % 3,
        "Order Id": f"DE-{number:06d}",
        "amount": None if sparse else Decimal(number) / 100,
        "is_deleted": None if sparse else number % 7 == 0,
        "ordered_on": None if sparse else AT.date(),
        "weight": None if sparse else number / 8,
        "updated_at": AT + dt.timedelta(seconds=number // 10, microseconds=number // 10),
    }


def read(table: RedshiftTable, selection: Selection, batch: str = "b") -> list[dict[str, Any]]:
    return [row for part in table.parts(selection, batch) for rows in table.read(part) for row in rows.to_pylist()]


def test_a_large_window_is_read_in_parts_of_bounded_batches(
    server: RedshiftServer, login: RedshiftLogin, orders: str
) -> None:
    rows = [order(number) for number in range(70_000)]
    server.load(orders, rows)
    table = login(options(orders, parts=4))
    assert table.schema() == ORDERS
    parts = table.parts(Selection(tuple(ORDERS.names), Window(None, UNTIL)), "b")
    assert len(parts) >= 4
    table.close()
    far = login(options(orders))
    batches = [batch for part in pickle.loads(pickle.dumps(parts)) for batch in far.read(part)]
    far.close()
    assert max(batch.num_rows for batch in batches) <= 10_000
    found = pa.Table.from_batches(batches)
    assert found.schema == ORDERS
    assert sorted(found.to_pylist(), key=lambda row: row["Order Id"]) == rows


def test_windows_over_a_composite_key_meet(server: RedshiftServer, login: RedshiftLogin, orders: str) -> None:
    server.load(orders, [order(number) for number in range(25)])
    table = login(options(orders))
    since, seen = None, []
    while True:
        cut = table.nth(Window(since, UNTIL), 4)
        got = read(table, Selection(("shop_id", "Order Id"), Window(since, cut or UNTIL)))
        assert len(got) == 4 or cut is None
        seen += [row["Order Id"] for row in got]
        if cut is None:
            break
        since = cut
    table.close()
    assert sorted(seen) == [order(number)["Order Id"] for number in range(25)]


def test_a_cursor_without_a_zone_is_in_the_zone_of_the_options(server: RedshiftServer, login: RedshiftLogin) -> None:
    columns = pa.schema([("id", pa.string()), ("updated_at", pa.timestamp("us"))])
    server.create_table("local_times", columns, ["id"])
    server.load("local_times", [{"id": "a", "updated_at": dt.datetime(2026, 7, 1, 12)}])  # noqa: DTZ001
    table = login(options("local_times", key=("id",), time_zone="Europe/Berlin"))
    at = dt.datetime(2026, 7, 1, 10, tzinfo=dt.UTC)
    mark = table.nth(Window(None, UNTIL), 1)
    assert mark == Mark(instant(at), ("a",))
    assert table.nth(Window(Mark(instant(at)), UNTIL), 1) == mark
    assert table.nth(Window(mark, UNTIL), 1) is None
    assert read(table, Selection(("updated_at",), Window(None, mark))) == [{"updated_at": at}]
    table.close()


def test_a_type_that_can_not_be_read_matters_only_where_it_is_wanted(server: RedshiftServer, s3: S3Server) -> None:
    server.execute("DROP TABLE IF EXISTS odd; CREATE TABLE odd (id int, place point); GRANT ALL ON odd TO loader;")
    table = login_at(server, s3)(TableOptions("odd", ("id",), columns=("id",)))
    assert table.schema().names == ["id"]
    table.close()


def test_what_a_killed_run_unloaded_is_swept_by_the_next(server: RedshiftServer, s3: S3Server) -> None:
    login = login_at(server, s3)
    columns = pa.schema([("id", pa.string()), ("updated_at", pa.timestamp("us", "UTC")), ("value", pa.string())])
    server.create_table("swept", columns, ["id"])
    source = RedshiftSource(login, server, "swept", dt.UTC)
    source.put([Row(number, base(source)) for number in range(5)])

    def left(table: str) -> list[str]:
        return [key for key in s3.keys(BUCKET) if key.startswith(f"pulls/{table}-")]

    fill = Puller(source, {"start": "2020-01-01T00:00:00Z", "end": instant(source.now())})
    fill.pull("planned")
    killed = Puller(source, {"reconcile_seconds": "0"})
    killed.pull("half")
    of_both = left("swept")
    killed.pull("written")
    # What the killed run left is gone; the back-fill beside it is another stream.
    assert len(left("swept")) == len(of_both)
    killed.pull()
    fill.pull()
    assert left("swept") == []
    assert len(killed.count()) == len(fill.count()) == 5


def test_a_file_of_the_manifest_that_is_missing_or_short_is_no_data(
    server: RedshiftServer, s3: S3Server, orders: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    server.load(orders, [order(number) for number in range(50)])
    table = login_at(server, s3)(options(orders))
    short, missing, *_ = table.parts(Selection(tuple(ORDERS.names), Window(None, UNTIL)), "b")
    whole = s3.client().get_object(Bucket=BUCKET, Key=short.key)["Body"].read()
    s3.client().put_object(Bucket=BUCKET, Key=short.key, Body=whole[:-10])
    s3.client().delete_object(Bucket=BUCKET, Key=missing.key)
    for part, code in ((short, "REDSHIFT_FILE_INCOMPLETE"), (missing, "S3_OBJECT_MISSING")):
        with pytest.raises(RetriableAdapterError) as caught:
            list(table.read(part))
        assert caught.value.code == code
    table.clean(None)
    table.close()


def test_a_file_as_redshift_writes_it(server: RedshiftServer, s3: S3Server, orders: str) -> None:
    """Names in small letters, and a time with a zone as nanoseconds without one, in UTC."""
    rows = pa.table({"order id": ["DE-1"], "updated_at": pa.array([AT.replace(tzinfo=None)], pa.timestamp("ns"))})
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(rows, sink)
    content = sink.getvalue().to_pybytes()
    s3.client().put_object(Bucket=BUCKET, Key="one", Body=content)
    fields = tuple((name, ORDERS.field(name).type) for name in ("Order Id", "updated_at"))
    part = Staged(BUCKET, "one", len(content), 1, fields)
    table = login_at(server, s3, password="not needed")(options(orders, time_zone="Asia/Tokyo"))
    (batch,) = table.read(part)
    assert batch.to_pylist() == [{"Order Id": "DE-1", "updated_at": AT}]
    s3.client().delete_object(Bucket=BUCKET, Key="one")


def test_a_manifest_that_lists_less_than_was_unloaded_is_no_data(
    server: RedshiftServer, s3: S3Server, orders: str
) -> None:
    server.load(orders, [order(number) for number in range(5)])
    table = login_at(server, s3)(options(orders))
    (part, *_) = table.parts(Selection(("shop_id",), Window(None, UNTIL)), "b")
    url = f"s3://{BUCKET}/{part.key.rsplit('/', 1)[0]}/"
    with pytest.raises(RetriableAdapterError, match="REDSHIFT_UNLOAD_INCOMPLETE"):
        table._staging.files(url, 6, part.fields)
    table.clean(None)
    table.close()


@pytest.mark.filterwarnings("ignore:ssl:DeprecationWarning")  # the client's
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"password": "wrong"}, "REDSHIFT_LOGIN_REFUSED"),
        ({"password": None}, "REDSHIFT_LOGIN_INVALID"),
        ({"database": "nowhere"}, "REDSHIFT_DATABASE_UNKNOWN"),
        ({"host": "nowhere.invalid"}, "REDSHIFT_HOST_UNKNOWN"),
        ({"ssl": True}, "REDSHIFT_LOGIN_INVALID"),
        ({"mode": "other"}, "REDSHIFT_LOGIN_INVALID"),
    ],
)
def test_a_login_that_is_wrong(
    server: RedshiftServer, s3: S3Server, orders: str, change: dict[str, Any], code: str
) -> None:
    with pytest.raises(ConfigurationAdapterError) as caught:
        login_at(server, s3, **change)(options(orders)).schema()
    assert caught.value.code == code
    assert server.password not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"table": "nowhere"}, "REDSHIFT_TABLE_MISSING"),
        ({"table": "forbidden"}, "REDSHIFT_GRANT_MISSING"),
        ({"table": "a.b.c"}, "OPTION_INVALID"),
        ({"table": "orders; drop table orders"}, "OPTION_INVALID"),
        ({"key": ("nothing",)}, "REDSHIFT_COLUMN_MISSING"),
        ({"key": ("amount",)}, "REDSHIFT_COLUMN_TYPE"),
        ({"cursor": "amount"}, "REDSHIFT_COLUMN_TYPE"),
        ({"table": "odd", "cursor": None}, "REDSHIFT_COLUMN_TYPE"),
        ({"time_zone": "Europe/Nowhere"}, "OPTION_INVALID"),
    ],
)
def test_options_that_are_wrong(
    server: RedshiftServer, s3: S3Server, orders: str, said: dict[str, Any], code: str
) -> None:
    server.execute("DROP TABLE IF EXISTS forbidden, odd; CREATE TABLE forbidden (id int);")
    server.execute("CREATE TABLE odd (id int, place point); GRANT ALL ON odd TO loader;")
    given = dataclasses.replace(options(orders), **({"key": ("id",)} if "table" in said else {}) | said)
    with pytest.raises(ConfigurationAdapterError) as caught:
        login_at(server, s3)(given).schema()
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("state", "message", "kind", "code"),
    [
        ("57014", "canceled", RetriableAdapterError, "REDSHIFT_TIMEOUT"),
        ("57P01", "shutting down", RetriableAdapterError, "REDSHIFT_BUSY"),
        ("53400", "no room", RetriableAdapterError, "REDSHIFT_BUSY"),
        ("40001", "conflict", RetriableAdapterError, "REDSHIFT_BUSY"),
        ("XX000", "S3ServiceException:SlowDown", RetriableAdapterError, "REDSHIFT_BUSY"),
        ("XX000", "S3ServiceException:Access Denied", ConfigurationAdapterError, "REDSHIFT_UNLOAD_REFUSED"),
        ("42501", "permission denied", ConfigurationAdapterError, "REDSHIFT_GRANT_MISSING"),
        ("42601", "syntax error at secret-value", FatalAdapterError, "REDSHIFT_FAILED"),
    ],
)
def test_what_redshift_refuses(
    server: RedshiftServer, s3: S3Server, orders: str, state: str, message: str, kind: type[Exception], code: str
) -> None:
    server.load(orders, [order(1)])
    table = login_at(server, s3)(options(orders))
    table.schema()
    server.refuse_next(state, message, what="UNLOAD")
    with pytest.raises(kind) as caught:
        table.parts(Selection(("shop_id",), Window(None, UNTIL)), "b")
    assert caught.value.code == code  # type: ignore[attr-defined]
    assert "secret-value" not in str(caught.value)
    assert len(read(table, Selection(("shop_id",), Window(None, UNTIL)))) == 1
    table.clean(None)
    table.close()


def test_a_line_that_is_cut_in_the_middle_of_the_rows(server: RedshiftServer, s3: S3Server, orders: str) -> None:
    server.load(orders, [order(number) for number in range(30_000)])
    login = login_at(server, s3, mode="direct")
    table = login(options(orders, parts=1))
    (part,) = table.parts(Selection(tuple(ORDERS.names), Window(None, UNTIL)), "b")
    table.close()
    server.cut_next(500_000)
    far = login(options(orders))
    with pytest.raises(RetriableAdapterError, match="REDSHIFT_UNREACHABLE"):
        list(far.read(part))
    far.close()
    again = login(options(orders))
    assert sum(batch.num_rows for batch in again.read(part)) == 30_000
    again.close()


def test_a_server_that_takes_the_line_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch_adapters.redshift._PATIENCE", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        login = RedshiftLogin(
            host="127.0.0.1",
            port=silent.getsockname()[1],
            user="loader",
            password="secret",
            database="shop",
            ssl=False,
            mode="direct",
            statement_timeout_seconds=1,
        )
        with pytest.raises(RetriableAdapterError, match="REDSHIFT_UNREACHABLE"):
            login.connect()


def test_secrets_are_not_shown(server: RedshiftServer, s3: S3Server, orders: str) -> None:
    login = login_at(server, s3)
    server.load(orders, [order(number) for number in range(5)])
    table = login(options(orders))
    parts = table.parts(Selection(("shop_id",), Window(None, UNTIL)), "b")
    table.clean(None)
    table.close()
    for secret in (server.password, s3.secret_key):
        assert secret not in repr(login)
        assert secret not in repr(parts)
        assert secret.encode() not in pickle.dumps(parts)
    far = cloudpickle.loads(cloudpickle.dumps(login))
    assert far == dataclasses.replace(login)
