"""Salesforce's adapter over HTTP against the stand-in."""

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

from batch_adapters.adapter import TableOptions, patiently
from batch_adapters.errors import AdapterError, ConfigurationAdapterError, FatalAdapterError, RetriableAdapterError
from batch_adapters.salesforce import SalesforceLogin
from batch_adapters.window import Mark, Selection, Window
from streams.local.salesforce_server import SalesforceServer
from tests.suites.adapter_suite import AdapterSuite, Puller, Row, base

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from batch_adapters.salesforce import SalesforceTable

AT = dt.datetime(2026, 1, 6, 10, tzinfo=dt.UTC)
UNTIL = Mark("2027-01-01T00:00:00.000000000Z")
TIME = pa.timestamp("us", "UTC")
FIELDS = pa.schema(
    [
        ("Id", pa.string()),
        ("Name", pa.string()),
        ("Amount", pa.decimal128(18, 2)),
        ("Employees", pa.int64()),
        ("CloseDate", pa.date32()),
        ("SystemModstamp", TIME),
        ("IsDeleted", pa.bool_()),
    ]
)
ALL = Selection(tuple(FIELDS.names), Window(None, UNTIL))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SalesforceServer]:
    # Pages of four rows, so that a few rows are many pages, and of more than the five that are told at once.
    with SalesforceServer(tmp_path_factory.mktemp("salesforce"), result_rows=4) as running:
        yield running


@pytest.fixture(params=["rest", "bulk"])
def login(request: pytest.FixtureRequest, server: SalesforceServer) -> SalesforceLogin:
    return login_at(server, mode=request.param)


def login_at(server: SalesforceServer, **more: Any) -> SalesforceLogin:
    said = {
        "instance_url": server.url,
        "consumer_key": server.consumer_key,
        "consumer_secret": server.consumer_secret,
    }
    return SalesforceLogin(**(said | more))


@dataclass
class SalesforceSource:
    login: SalesforceLogin
    server: SalesforceServer
    table: str
    key = "Id"
    cursor = "SystemModstamp"
    value = "Name"
    deleted = "IsDeleted"
    takes_null_cursor = False
    has_snapshots = False  # a deleted row stays in what is read whole

    def key_of(self, number: int) -> str:
        return f"00100000000000{9 - number}AAA"

    def put(self, rows: Iterable[Row]) -> None:
        empty = dict.fromkeys(FIELDS.names)
        self.server.load(
            self.table,
            [
                empty | {"Id": self.key_of(r.number), "Name": r.value, "SystemModstamp": r.at, "IsDeleted": False}
                for r in rows
            ],
        )

    def delete(self, numbers: Iterable[int]) -> None:
        self.server.delete(self.table, [self.key_of(number) for number in numbers])

    def now(self) -> dt.datetime:
        """Salesforce tells its time by the second; the stand-in's is moved on, so that no test waits for one."""
        self.server.advance(1)
        table = self.login(TableOptions(self.table, (self.key,)))
        try:
            return table.clock()
        finally:
            table.close()


class TestSalesforce(AdapterSuite):
    examples = 5

    @pytest.fixture
    def source(self, server: SalesforceServer, login: SalesforceLogin) -> SalesforceSource:
        source = SalesforceSource(login, server, f"T{uuid.uuid4().hex[:8]}__c")
        server.create_object(source.table, FIELDS)
        return source


@pytest.fixture
def accounts(server: SalesforceServer) -> str:
    server.create_object("Account", FIELDS)
    server.use_api(0)
    return "Account"


def account(number: int) -> dict[str, Any]:
    sparse = number % 5 == 0
    return {
        "Id": f"001{number:012d}AAA",
        "Name": None if sparse else f'Zoë, "O\'Neil" & Söhne 東京\nLtd {number}',
        "Amount": None if sparse else Decimal(number) / 4,
        "Employees": None if sparse else number,
        "CloseDate": None if sparse else AT.date(),
        "SystemModstamp": AT + dt.timedelta(milliseconds=number // 10),
        "IsDeleted": number % 7 == 0,
    }


def options(**more: Any) -> TableOptions:
    return TableOptions("Account", **({"key": ("Id",), "cursor": "SystemModstamp"} | more))


def read(table: SalesforceTable, selection: Selection = ALL) -> list[dict[str, Any]]:
    rows = [row for part in table.parts(selection, "b") for batch in table.read(part) for row in batch.to_pylist()]
    return sorted(rows, key=lambda row: str(row["Id"]))


def test_every_kind_of_value_and_deleted_rows(server: SalesforceServer, login: SalesforceLogin, accounts: str) -> None:
    rows = [account(number) for number in range(30)]
    server.load(accounts, rows)
    before = server.jobs()
    table = login(options())
    assert table.schema() == FIELDS
    assert read(table) == rows
    table.clean("b")
    table.close()
    assert server.jobs() == before


def test_numbers_are_rounded_to_the_scale_that_they_are_shown_with(
    server: SalesforceServer, login: SalesforceLogin
) -> None:
    finer = pa.field("Amount", pa.decimal128(18, 4), metadata={"scale": "2"})
    fields = FIELDS.set(FIELDS.get_field_index("Amount"), finer)
    server.create_object("Finer__c", fields)
    told = [Decimal("0.1250"), Decimal("-7.0049"), Decimal("12345678.0000"), Decimal("0.0000"), None]
    server.load("Finer__c", [account(place) | {"Amount": value} for place, value in enumerate(told)])
    table = login(dataclasses.replace(options(), table="Finer__c"))
    assert table.schema().field("Amount").type == pa.decimal128(18, 2)
    shown = [Decimal("0.13"), Decimal("-7.00"), Decimal("12345678.00"), Decimal("0.00"), None]
    assert [row["Amount"] for row in read(table)] == shown
    table.close()


def test_a_text_longer_than_a_block_of_the_csv_reader(server: SalesforceServer, accounts: str) -> None:
    rows = [account(1) | {"Name": 1_500_000 * "long\n"}, account(2)]
    server.load(accounts, rows)
    table = login_at(server, mode="bulk")(options())
    assert read(table) == rows
    table.close()


def test_a_job_that_is_gone_is_planned_anew(server: SalesforceServer, accounts: str) -> None:
    server.load(accounts, [account(1)])
    table = login_at(server, mode="bulk")(options())
    (part,) = table.parts(ALL, "b")
    table.clean("b")
    with pytest.raises(RetriableAdapterError, match="SALESFORCE_JOB_GONE"):
        table._result(part)
    table.close()


def test_an_org_that_has_moved(server: SalesforceServer, accounts: str) -> None:
    table = login_at(server)(options())
    for path in ("token", "describe"):
        server.fail_next(path, 301)
        with pytest.raises(ConfigurationAdapterError, match="SALESFORCE_HOST_MOVED"):
            table.schema()
    table.close()


def test_few_rows_are_read_by_rest_and_many_in_bulk(tmp_path: Path) -> None:
    with SalesforceServer(tmp_path, result_rows=4000, polls=3) as server:
        server.create_object("Account", FIELDS)
        server.load("Account", [account(number) for number in range(10_001)])
        check_the_ways(login_at(server)(options()))


def check_the_ways(table: SalesforceTable) -> None:
    (few,) = table.parts(Selection(("Id",), Window(None, Mark("2026-01-06T10:00:00.010000000Z"))), "few")
    many = table.parts(Selection(("Id",), Window(None, UNTIL)), "many")
    assert (type(few).__name__, len(many), type(many[0]).__name__) == ("RestPart", 3, "ResultPage")
    # Beyond what OFFSET can skip, and beyond a page.
    mark = table.nth(Window(None, UNTIL), 5000)
    assert mark == Mark("2026-01-06T10:00:00.499000000Z", (account(4999)["Id"],))
    assert table.nth(Window(None, UNTIL), 10_002) is None
    assert len(read(table, Selection(("Id",), Window(mark, UNTIL)))) == 5001
    assert sum(batch.num_rows for part in many for batch in table.read(part)) == 10_001
    table.clean("many")
    table.close()


def test_a_session_that_ends_in_the_middle_is_renewed(
    server: SalesforceServer, login: SalesforceLogin, accounts: str
) -> None:
    server.load(accounts, [account(number) for number in range(4100)])
    selection = Selection(("Id",), Window(None, UNTIL))
    table = login(options())
    parts = table.parts(selection, "b")
    rows = 0
    for part in parts:
        for batch in table.read(part):
            rows += batch.num_rows
            server.expire_sessions()
        if rows > 4000 or (len(parts) > 1 and rows >= 20):
            break
    assert rows in (4100, 20)
    table.clean("b")
    table.close()


@pytest.mark.parametrize("how", ["bytes", "rows"])
def test_half_a_page_is_fetched_again(
    server: SalesforceServer, accounts: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    rows = [account(number) for number in range(10)]
    server.load(accounts, rows)
    table = login_at(server, mode="bulk")(options())
    server.cut_next("results", how)
    assert read(table) == rows
    table.clean("b")
    table.close()


def test_a_cut_answer_is_worth_another_try(server: SalesforceServer, accounts: str) -> None:
    server.load(accounts, [account(number) for number in range(10)])
    table = login_at(server, mode="rest")(options())
    table.schema()
    server.cut_next("queryAll")
    with pytest.raises(RetriableAdapterError, match="SALESFORCE_UNREACHABLE"):
        read(table)
    assert len(read(table)) == 10
    table.close()


@pytest.mark.parametrize(
    ("status", "code", "kind", "ours"),
    [
        (429, "", RetriableAdapterError, "SALESFORCE_BUSY"),
        (503, "SERVER_UNAVAILABLE", RetriableAdapterError, "SALESFORCE_BUSY"),
        (400, "QUERY_TIMEOUT", RetriableAdapterError, "SALESFORCE_BUSY"),
        (403, "REQUEST_LIMIT_EXCEEDED", RetriableAdapterError, "SALESFORCE_LIMIT_NEAR"),
        (403, "INSUFFICIENT_ACCESS", ConfigurationAdapterError, "SALESFORCE_GRANT_MISSING"),
        (400, "INVALID_TYPE", ConfigurationAdapterError, "SALESFORCE_OBJECT_MISSING"),
        (400, "INVALID_FIELD", ConfigurationAdapterError, "SALESFORCE_FIELD_MISSING"),
        (400, "MALFORMED_QUERY", FatalAdapterError, "SALESFORCE_FAILED"),
        (401, "INVALID_SESSION_ID", RetriableAdapterError, "SALESFORCE_SESSION_ENDED"),
    ],
)
def test_what_salesforce_refuses(
    server: SalesforceServer, accounts: str, status: int, code: str, kind: type[AdapterError], ours: str
) -> None:
    server.load(accounts, [account(1)])
    table = login_at(server, mode="rest")(options())
    table.schema()
    server.fail_next("queryAll", status, code, times=2 if status == 401 else 1)
    with pytest.raises(kind) as caught:
        read(table)
    assert caught.value.code == ours
    assert len(read(table)) == 1
    table.close()


def test_as_long_as_it_asks_for_is_waited(server: SalesforceServer, accounts: str) -> None:
    server.load(accounts, [account(1)])
    table = login_at(server, mode="rest")(options())
    table.schema()
    server.fail_next("queryAll", 429, times=2, retry_after="7")
    slept: list[float] = []
    assert len(patiently(lambda: read(table), sleep=slept.append)) == 1
    assert slept == [7.0, 7.0]
    table.close()


def test_the_day_s_calls_are_not_used_up(server: SalesforceServer, accounts: str) -> None:
    server.load(accounts, [account(1)])
    table = login_at(server)(options())
    table.schema()
    server.use_api(95_000)
    table.clock()
    with pytest.raises(RetriableAdapterError, match="SALESFORCE_LIMIT_NEAR") as caught:
        table.clock()
    assert caught.value.retry_after == 3600
    server.use_api(0)
    table.close()


def test_a_killed_run_s_job_is_aborted_by_the_next(server: SalesforceServer, accounts: str) -> None:
    table = login_at(server, mode="bulk")(options())
    call = table._session.call
    left = call("POST", "jobs/query", json={"operation": "queryAll", "query": "SELECT Id FROM Account"}).json()["id"]
    other = SalesforceSource(login_at(server, mode="bulk"), server, "Account")
    other.put([Row(1, base(other))])
    puller = Puller(other, {"reconcile_seconds": "0"})
    puller.pull()
    assert len(puller.rows()) == 1
    assert server.jobs()[left] == "Aborted"
    table.close()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"consumer_secret": "wrong"}, "SALESFORCE_LOGIN_REFUSED"),
        ({"username": "nobody", "password": "wrong"}, "SALESFORCE_LOGIN_REFUSED"),
        ({"instance_url": "http://nowhere.invalid"}, "SALESFORCE_HOST_UNKNOWN"),
        ({"mode": "other"}, "SALESFORCE_LOGIN_INVALID"),
        ({"api_version": "57.0"}, "SALESFORCE_LOGIN_INVALID"),
    ],
)
def test_a_login_that_is_wrong(server: SalesforceServer, accounts: str, change: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigurationAdapterError) as caught:
        login_at(server, **change)(options()).schema()
    assert caught.value.code == code
    assert server.consumer_secret not in str(caught.value)


def test_a_user_s_login(server: SalesforceServer, accounts: str) -> None:
    user = {"username": server.username, "password": server.password, "security_token": server.security_token}
    table = login_at(server, **user)(options())
    assert table.schema() == FIELDS
    table.close()


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"table": "Nothing"}, "SALESFORCE_OBJECT_MISSING"),
        ({"table": "Account WHERE"}, "OPTION_INVALID"),
        ({"key": ("Number",)}, "SALESFORCE_FIELD_MISSING"),
        ({"cursor": "Name"}, "SALESFORCE_FIELD_TYPE"),
    ],
)
def test_options_that_are_wrong(server: SalesforceServer, accounts: str, said: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigurationAdapterError) as caught:
        login_at(server)(dataclasses.replace(options(), **said)).schema()
    assert caught.value.code == code


def test_secrets_are_not_shown(server: SalesforceServer, accounts: str) -> None:
    login = login_at(server, mode="bulk", password=server.password, username=server.username)
    server.load(accounts, [account(1)])
    table = login_at(server, mode="bulk")(options())
    parts = table.parts(ALL, "b")
    assert table._session._token not in repr(parts)
    table.clean("b")
    table.close()
    for secret in (server.consumer_secret, server.password):
        assert secret not in repr(login)
    far = cloudpickle.loads(cloudpickle.dumps(login))
    assert far == login
    assert pickle.loads(pickle.dumps(parts)) == parts
