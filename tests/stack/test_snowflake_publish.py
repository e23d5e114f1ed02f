"""Snowflake as a target, over its real connector and HTTP, against the stand-in."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest

from batch_adapters.snowflake import SnowflakeLogin
from streams.errors import FatalError, RetriableError, StreamsError
from streams.local.snowflake_server import DATABASE, SCHEMA, SnowflakeServer
from streams.sinks.snowflake import SnowflakeWarehouse
from streams.sinks.snowflake import _Session as Session
from streams.sinks.warehouse import LEDGER, Loaded
from tests.suites.warehouse_suite import Table, WarehouseSuite, plain, row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SnowflakeServer]:
    with SnowflakeServer(tmp_path_factory.mktemp("snowflake")) as running:
        yield running


class TestSnowflake(WarehouseSuite):
    @pytest.fixture
    def warehouse(self, server: SnowflakeServer) -> SnowflakeWarehouse:
        login = SnowflakeLogin(
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
        return SnowflakeWarehouse(login)

    @pytest.fixture
    def read(self, warehouse: SnowflakeWarehouse) -> Callable[[str], list[dict[str, Any]]]:
        def rows(table: str) -> list[dict[str, Any]]:
            with warehouse.login.connect() as connection, connection.cursor() as cursor:
                cursor.execute(f"SELECT * FROM {warehouse.quoted(table)}")
                names = [column[0].lower() for column in cursor.description]
                return [dict(zip(names, one, strict=True)) for one in cursor.fetchall()]

        return rows

    @pytest.fixture
    def cut(self, server: SnowflakeServer) -> Iterator[Callable[[], None]]:
        yield lambda: server.refuse_next("390104", "User must login again to access the service.")
        server.refuse_next("", "", times=0)

    def test_people_need_not_quote_names(self, table: Table, warehouse: SnowflakeWarehouse) -> None:
        table.put(0, [row(1, clicks=7)])
        with warehouse.login.connect() as connection, connection.cursor() as cursor:
            assert cursor.execute(f"select Clicks from {table.target.name}").fetchall() == [(7,)]

    def test_files_that_were_not_all_loaded_stop_the_load(self, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
        batch = table.batch(0)
        files = table.stage(batch, table.frame([row(number) for number in range(20)]).repartition(2))
        assert len(files) == 2
        copy = SnowflakeWarehouse.copy

        def one_less(self: Any, session: Any, into: str, columns: Sequence[str], place: str, names: Any) -> None:
            class Session:
                """A COPY that says of its last file that it was loaded before."""

                def query(self, statement: str) -> list[tuple[Any, ...]]:
                    done = session.query(statement)
                    return [*done[:-1], (done[-1][0], "LOAD_SKIPPED", *done[-1][2:])]

            copy(self, Session(), into, columns, place, names)

        monkeypatch.setattr(SnowflakeWarehouse, "copy", one_less)
        with pytest.raises(FatalError) as caught:
            table.load(batch, files)
        assert caught.value.code == "LOAD_INCOMPLETE"
        assert table.rows == []
        monkeypatch.undo()
        assert table.load(batch, files) == Loaded(20, 0)

    @pytest.mark.parametrize(
        ("number", "code"), [("606", "SNOWFLAKE_WAREHOUSE_AWAY"), ("3001", "SNOWFLAKE_GRANT_MISSING")]
    )
    def test_what_snowflake_refuses_leaves_nothing(
        self, table: Table, server: SnowflakeServer, number: str, code: str
    ) -> None:
        table.put(0, [row(1)])
        with pytest.raises(StreamsError) as caught:
            table.put(1, [row(2)], passes=lambda _: server.refuse_next(number, "value 'private' is wrong"))
        server.refuse_next("", "", times=0)
        assert caught.value.code == code
        assert "private" not in str(caught.value)
        assert table.rows == plain([row(1)])
        assert len(table.ledger) == 1

    def test_a_transaction_that_snowflake_ended_leaves_nothing(
        self, table: Table, server: SnowflakeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        table.put(0, [row(1)])
        batch = table.batch(1)
        files = table.stage(batch, table.frame([row(2)], gone=["k1"]))
        execute, ended = Session.execute, []

        def slow(self: Session, statement: str, values: Sequence[Any] = ()) -> int:
            # The process is stopped for long before its MERGE, and before its COMMIT.
            if statement.startswith(("MERGE", "COMMIT")) and statement[:5] not in ended:
                ended.append(statement[:5])
                server.end_transaction()
            return execute(self, statement, values)

        monkeypatch.setattr(Session, "execute", slow)
        for count in (1, 2):
            with pytest.raises(RetriableError) as caught:
                table.load(batch, files)
            assert (caught.value.code, len(ended)) == ("LOAD_ENDED", count)
            assert table.rows == plain([row(1)])
            assert len(table.ledger) == 1
        assert table.load(batch, files) == Loaded(1, 1)
        assert table.rows == plain([row(2)])

    def test_the_ledger_tells_when_in_utc(self, table: Table) -> None:
        table.put(0, [row(1)])
        (at,) = [one["loaded_at"] for one in table.read(LEDGER) if one["flow"] == table.flow]
        assert abs(at.replace(tzinfo=dt.UTC) - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=5)
