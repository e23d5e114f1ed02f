"""A stand-in for Snowflake on the loopback: fakesnow's HTTP server, in a process of its own, for the real connector.

It answers what Snowflake answers, and adds what fakesnow leaves out and a reader must cope with: the password is
checked, session parameters are taken, large results come in chunks that are fetched by URL, and a request can be
refused with any of Snowflake's error numbers (`SnowflakeServer.refuse_next`). Tables are kept when it ends only where
it is told a folder for them.
The folder holds ``port`` and ``server.log``.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import http.client
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlencode

import pyarrow as pa

from streams.errors import FatalError
from streams.local.child import LOOPBACK, Listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from snowflake.connector import SnowflakeConnection
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

DATABASE: Final = "SHOP"
SCHEMA: Final = "PUBLIC"
_START_SECONDS: Final = 30.0
_CHUNK_ROWS: Final = 10_000
_GONE_SECONDS: Final = 0.5  # after which a line that was cut has not been made anew
_SILENT_SECONDS: Final = 60.0  # of a transaction that another waits for
_BEGINS: Final = re.compile(r"\s*(BEGIN|START\s+TRANSACTION)\b", re.I)
_CHANGES: Final = re.compile(r"\s*(INSERT|UPDATE|DELETE|MERGE|COPY|TRUNCATE)\b", re.I)
_ENDS: Final = re.compile(r"\s*(COMMIT|ROLLBACK|CREATE|ALTER|DROP)\b", re.I)
_WRITES: Final = re.compile(rf"{_BEGINS.pattern}|{_CHANGES.pattern}|\s*(CREATE|ALTER|DROP)\b", re.I)
_CURRENT: Final = re.compile(r"\s*SELECT\s+CURRENT_TRANSACTION\(\)\s*", re.I)
_REMOVE: Final = re.compile(r"\s*(?:REMOVE|RM)\s+@(\w+)/(\S*)\s*", re.I)
_INCORRECT_LOGIN: Final = ("390100", "Incorrect username or password was specified.", "08001")
_DECLARED: Final = (
    (pa.types.is_boolean, "BOOLEAN"),
    (pa.types.is_date, "DATE"),
    (pa.types.is_integer, "NUMBER(18,0)"),
    (pa.types.is_floating, "FLOAT"),
)


def _declared(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP_TZ" if kind.tz else "TIMESTAMP_NTZ"
    if pa.types.is_decimal(kind):
        return f"NUMBER({kind.precision},{kind.scale})"
    return next((name for fits, name in _DECLARED if fits(kind)), "VARCHAR")


class SnowflakeServer:
    """The stand-in, while the context lasts.

    Args:
        folder: where its port and its log lie; made if it is not there.
        listen: where it listens.
        password: the user's; any, if none is given.
        tables: the folder of the files that its tables are kept in; in memory, if none is given.
        stages: the folder of its internal stages, into which clients write by themselves: a client on another machine
            must have it at the same path. One in the folder of temporary files, if none is given.

    Attributes:
        host, port: where it listens, by plain HTTP, on this machine.
        account, user, password: the only login that it takes.

    Raises:
        FatalError: ``SNOWFLAKE_STAND_IN_FAILED``, with the end of its log.
    """

    def __init__(
        self,
        folder: Path,
        *,
        listen: Listen = LOOPBACK,
        password: str | None = None,
        tables: Path | None = None,
        stages: Path | None = None,
    ) -> None:
        self.folder = folder
        self.host, self.port = "127.0.0.1", 0
        self.account, self.user, self.password = "shop", "loader", password or secrets.token_urlsafe(16)
        kept = {"STAND_IN_TABLES": tables, "STAND_IN_STAGES": stages}
        self._told = listen.variables() | {name: str(place) for name, place in kept.items() if place is not None}
        self._process: subprocess.Popen[bytes] | None = None
        self._schemas: dict[str, tuple[pa.Schema, tuple[str, ...]]] = {}

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        said = self.folder / "port"
        said.unlink(missing_ok=True)
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(said)],
                stdin=subprocess.PIPE,  # when we are gone, so is this pipe, and the server ends
                stdout=log,
                stderr=log,
                env=os.environ | self._told | {"STAND_IN_PASSWORD": self.password, "STAND_IN_USER": self.user},
                start_new_session=True,
            )
        try:
            self._await(said)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _await(self, said: Path) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if said.exists():
                self.port = int(said.read_text())
                with suppress(OSError, http.client.HTTPException):
                    self._control("ready", {}, b"")
                    return
            time.sleep(0.05)
        shown = (self.folder / "server.log").read_text(errors="replace").splitlines()[-12:]
        raise FatalError(
            "SNOWFLAKE_STAND_IN_FAILED", "The stand-in for Snowflake did not start.", way_out="\n".join(shown)
        )

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdin is not None
            process.stdin.close()

    def connect(self) -> SnowflakeConnection:
        """Log in by the real connector; database and schema are those of the shop."""
        import snowflake.connector

        return snowflake.connector.connect(
            account=self.account,
            user=self.user,
            password=self.password,
            host=self.host,
            port=self.port,
            protocol="http",
            database=DATABASE,
            schema=SCHEMA,
            login_timeout=10,
            network_timeout=60,
            session_parameters={"CLIENT_OUT_OF_BAND_TELEMETRY_ENABLED": False},
        )

    def create_table(self, name: str, columns: pa.Schema, key: Sequence[str], *, replace: bool = True) -> None:
        """Make a table; its columns are unquoted, so Snowflake spells them in capitals.

        Args:
            name: the table's name.
            columns: aware times become TIMESTAMP_TZ, others TIMESTAMP_NTZ; whole numbers NUMBER(18,0).
            key: the columns by which `load` replaces rows.
            replace: make it anew where there is one of that name.
        """
        listed = ", ".join(f"{field.name} {_declared(field.type)}" for field in columns)
        table = f"OR REPLACE TABLE {name}" if replace else f"TABLE IF NOT EXISTS {name}"
        with self.connect() as connection:
            connection.cursor().execute(f"CREATE {table} ({listed})")
        self._schemas[name.upper()] = (columns, tuple(key))

    def load(self, table: str, rows: pa.Table | Iterable[dict[str, Any]]) -> None:
        """Insert rows, or replace those of the same key, as one transaction.

        Args:
            table: the table's name.
            rows: a table whose keys are unique, or rows of which the last of a key counts.
        """
        columns, key = self._schemas[table.upper()]
        if isinstance(rows, pa.Table):
            self._change(table, rows.select(columns.names).cast(columns), insert=True)
            return
        last = {tuple(row[name] for name in key): row for row in rows}
        self._change(table, pa.Table.from_pylist(list(last.values()), columns), insert=True)

    def delete(self, table: str, keys: Iterable[Sequence[Any]]) -> None:
        """Delete rows for good, as one transaction."""
        columns, key = self._schemas[table.upper()]
        rows = [dict(zip(key, values, strict=True)) for values in keys]
        self._change(table, pa.Table.from_pylist(rows, pa.schema([columns.field(name) for name in key])), insert=False)

    def count(self, table: str) -> int:
        """How many rows a table holds."""
        with self.connect() as connection:
            (found,) = connection.cursor().execute(f"SELECT COUNT(*) FROM {table}").fetchall()  # type: ignore[union-attr]  # noqa: S608
        return int(found[0])

    def _change(self, table: str, rows: pa.Table, insert: bool) -> None:
        key = self._schemas[table.upper()][1]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        said = {"table": table, "key": ",".join(key), "insert": "1" if insert else ""}
        self._control("load", said, sink.getvalue().to_pybytes())

    def refuse_next(self, code: str, message: str, state: str = "", times: int = 1, what: str = "query") -> None:
        """Answer the next requests with an error of Snowflake's.

        Args:
            code: Snowflake's number, such as ``000606``.
            message: its sentence.
            state: its SQL state.
            times: how many requests are refused; 0 takes an earlier refusal back.
            what: ``query``, ``login``, or ``chunk``, where the code is an HTTP status.
        """
        said = {"code": code, "message": message, "state": state, "times": str(times), "what": what}
        self._control("refuse", said, b"")

    def end_transaction(self) -> None:
        """Roll back the transaction that is open, as Snowflake does with one whose client is silent for long."""
        self._control("end-transaction", {}, b"")

    def _control(self, verb: str, said: dict[str, str], body: bytes) -> None:
        line = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            line.request("POST", f"/stand-in/{verb}?{urlencode(said)}", body)
            answer = line.getresponse()
            text = answer.read().decode(errors="replace")
        finally:
            line.close()
        if answer.status != http.client.OK:
            raise FatalError("SNOWFLAKE_STAND_IN_FAILED", f"The stand-in for Snowflake failed to {verb}: {text[:500]}")


class _StandIn:
    """The server's side: what is laid around fakesnow's own routes."""

    def __init__(self, user: str, password: str) -> None:
        self.user, self.password = user, password
        self.refusals: dict[str, list[tuple[str, str, str]]] = {"query": [], "login": [], "chunk": []}
        self.chunks: dict[str, bytes] = {}
        self.transactions = _Transactions()

    def application(self) -> Starlette:
        from fakesnow.server import routes
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(
            routes=[
                Route("/stand-in/ready", self.ready, methods=["POST"]),
                Route("/stand-in/load", self.load, methods=["POST"]),
                Route("/stand-in/refuse", self.refuse, methods=["POST"]),
                Route("/stand-in/end-transaction", self.end_transaction, methods=["POST"]),
                Route("/stand-in/chunk/{name}", self.chunk, methods=["GET"]),
                Route("/session/v1/login-request", self.login, methods=["POST"]),
                Route("/queries/v1/query-request", self.query, methods=["POST"]),
                *routes,
            ]
        )

    async def ready(self, request: Request) -> Response:
        from starlette.responses import Response

        return Response()

    async def refuse(self, request: Request) -> Response:
        from starlette.responses import Response

        said = request.query_params
        refusal = (said["code"], said["message"], said["state"])
        self.refusals[said["what"]] = [refusal] * int(said["times"])
        return Response()

    async def end_transaction(self, request: Request) -> Response:
        from starlette.responses import Response

        await self.transactions.end()
        return Response()

    async def load(self, request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import Response

        rows = pa.ipc.open_stream(await request.body()).read_all()
        said = request.query_params
        await run_in_threadpool(_load, said["table"], said["key"].split(","), rows, bool(said["insert"]))
        return Response()

    async def chunk(self, request: Request) -> Response:
        from starlette.responses import Response

        if self.refusals["chunk"]:
            return Response(status_code=int(self.refusals["chunk"].pop()[0]))
        content = self.chunks.get(request.path_params["name"])
        # What a blob store says to an address that it no longer takes.
        return Response(status_code=403) if content is None else Response(content)

    async def login(self, request: Request) -> Response:
        from fakesnow.server import login_request

        said = (await _json(request))["data"]
        if self.refusals["login"]:
            return _refusal(*self.refusals["login"].pop())
        if (said.get("LOGIN_NAME"), said.get("PASSWORD")) != (self.user, self.password):
            return _refusal(*_INCORRECT_LOGIN)
        return await login_request(request)

    async def query(self, request: Request) -> Response:
        from fakesnow.server import query_request

        if self.refusals["query"]:
            return _refusal(*self.refusals["query"].pop())
        asked = await _json(request)
        text = asked.get("sqlText", "")
        # What fakesnow does not know.
        if removed := _REMOVE.fullmatch(text):
            _remove(removed[1], removed[2])
            _ask_instead(request, asked, "SELECT 'removed' AS result")
        elif _CURRENT.fullmatch(text):
            number = self.transactions.current(request)
            _ask_instead(request, asked, "SELECT {} AS current".format("NULL" if number is None else f"'{number}'"))
        async with self.transactions.statement(request, text):
            answer = await query_request(request)
        if answer.status_code >= 500:  # which the client would take for a server that is away
            return _refusal("000603", "SQL execution internal error: see the stand-in's log.", "XX000")
        said = json.loads(bytes(answer.body))
        if not _is_large(said):
            return answer
        return self._in_chunks(request, said)

    def _in_chunks(self, request: Request, said: dict[str, Any]) -> Response:
        """The first rows in the answer itself, the others by URL: as Snowflake does with a large result."""
        from starlette.responses import JSONResponse

        rows = pa.ipc.open_stream(base64.b64decode(said["data"]["rowsetBase64"])).read_all()
        slices = [rows.slice(place, _CHUNK_ROWS) for place in range(0, rows.num_rows, _CHUNK_ROWS)]
        listed = []
        for rest in slices[1:]:
            name, content = secrets.token_hex(8), _stream(rest)
            self.chunks[name] = content
            listed.append(
                {
                    "url": f"{request.url.scheme}://{request.url.netloc}/stand-in/chunk/{name}",
                    "rowCount": rest.num_rows,
                    "uncompressedSize": len(content),
                    "compressedSize": len(content),
                }
            )
        first = base64.b64encode(_stream(slices[0])).decode()
        said["data"] |= {"rowsetBase64": first, "chunks": listed, "chunkHeaders": {}}
        return JSONResponse(said)


class _Transactions:
    """What writes waits until no other transaction does, as on one table; DuckDB would refuse it what it writes.

    A transaction that another waits for is rolled back when its client's line is gone or it has said nothing for long:
    Snowflake gives it five minutes.
    """

    def __init__(self) -> None:
        self._holder: str | None = None
        self._is_begun = self._at_work = False
        self._number = 0
        self._last_said = self._line_gone = 0.0
        self._line: int | None = None

    def current(self, request: Request) -> str | None:
        """The transaction of a session, if it has one."""
        return str(self._number) if self._is_begun and _token(request) == self._holder else None

    def line_lost(self, port: int) -> None:
        if port == self._line:
            self._line_gone = time.monotonic()

    async def end(self) -> None:
        """Roll back the open transaction, as if its time were over."""
        from fakesnow.server import sessions
        from starlette.concurrency import run_in_threadpool

        was = self._holder
        if was is not None and was in sessions:
            await run_in_threadpool(sessions[was].rollback)
        if self._holder == was:
            self._holder, self._is_begun = None, False

    @asynccontextmanager
    async def statement(self, request: Request, text: str) -> AsyncIterator[None]:
        token = _token(request)
        if _WRITES.match(text):
            await self._wait(token)
        if token != self._holder:
            yield
            return
        self._at_work, self._line, self._line_gone = True, request.client and request.client.port, 0.0
        try:
            yield
        finally:
            self._at_work, self._last_said = False, time.monotonic()
            if _BEGINS.match(text) or (_CHANGES.match(text) and not _is_autocommit(token)):
                self._is_begun = True
            elif _ENDS.match(text):
                self._is_begun = False
            if not self._is_begun:
                self._holder = None

    async def _wait(self, token: str) -> None:
        while self._holder not in (None, token):
            now = time.monotonic()
            is_over = now - self._last_said > _SILENT_SECONDS or 0 < self._line_gone < now - _GONE_SECONDS
            if not self._at_work and is_over:
                await self.end()
            else:
                await asyncio.sleep(0.02)
        if self._holder is None:
            self._holder, self._number, self._last_said = token, self._number + 1, time.monotonic()


def _token(request: Request) -> str:
    return request.headers.get("Authorization", "")[17:-1]


def _is_autocommit(token: str) -> bool:
    from fakesnow.server import sessions

    return token not in sessions or bool(sessions[token]._autocommit)


def _staged_files(others: Callable[[str, list[str]], list[str]]) -> Callable[[str, list[str]], list[str]]:
    """COPY's FILES of an internal stage, which fakesnow knows of addresses only."""
    from fakesnow.transforms.stage import is_internal

    def urls(source: str, files: list[str]) -> list[str]:
        return [f"{source.rstrip('/')}/{file}" for file in files] if is_internal(source) else others(source, files)

    return urls


def _merged(statement: Any) -> list[Any]:
    import sqlglot

    is_merge = isinstance(statement, sqlglot.exp.Merge)
    # What is run last is what the client gets: how many rows there were is not told.
    return [statement, sqlglot.parse_one("SELECT 'merged' AS status", read="duckdb")] if is_merge else [statement]


def _described(table: Any, duck_conn: Any, *_: object) -> list[tuple[str, str]]:
    """A table's columns, which fakesnow finds of tables that are not temporary only."""
    found = duck_conn.execute(f'DESCRIBE "{table.name}"').fetchall()
    return [(row[0], row[1]) for row in found]


def _remove(stage: str, path: str) -> None:
    """Every file of a stage whose name begins so."""
    from fakesnow.transforms.stage import internal_dir

    root = Path(internal_dir(f"{DATABASE}.{SCHEMA}.{stage.upper()}"))
    for file in [one for one in root.rglob("*") if one.is_file()]:
        if str(file.relative_to(root)).startswith(path):
            file.unlink()


def _is_large(said: dict[str, Any]) -> bool:
    data = said.get("data") or {}
    return bool(data.get("rowsetBase64")) and (data.get("total") or 0) > _CHUNK_ROWS


def _stream(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows.combine_chunks())
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _ask_instead(request: Request, asked: dict[str, Any], text: str) -> None:
    request._body = gzip.compress(json.dumps(asked | {"sqlText": text}).encode())


async def _json(request: Request) -> Any:
    body = await request.body()
    return json.loads(gzip.decompress(body) if request.headers.get("content-encoding") == "gzip" else body)


def _refusal(code: str, message: str, state: str) -> Response:
    from starlette.responses import JSONResponse

    data = {"errorCode": code, "sqlState": state}
    return JSONResponse({"data": data, "code": code, "message": message, "success": False})


_loading = threading.Lock()


def _load(table: str, key: Sequence[str], rows: pa.Table, insert: bool) -> None:
    """Change a table underneath fakesnow: its INSERT takes about a millisecond a row."""
    from fakesnow.server import shared_fs

    same = " AND ".join(f"there.{name} = incoming.{name}" for name in key)
    target = f"{DATABASE}.{SCHEMA}.{table}"
    cursor = shared_fs.duck_conn.cursor()
    with _loading:  # two writers of one table would be a conflict
        cursor.register("incoming", rows)
        try:
            cursor.execute("BEGIN")
            cursor.execute(f"DELETE FROM {target} AS there USING incoming WHERE {same}")  # noqa: S608 - our own names
            if insert:
                cursor.execute(f"INSERT INTO {target} BY NAME SELECT * FROM incoming")  # noqa: S608
            cursor.execute("COMMIT")
        finally:
            cursor.close()


def _timestamps(times: pa.Array | pa.ChunkedArray) -> pa.StructArray:
    """Times as Snowflake's structs; fakesnow's own conversion makes 1970 of NULL."""
    import pyarrow.compute as pc

    if isinstance(times, pa.ChunkedArray):
        times = times.combine_chunks()
    count = pc.fill_null(times.cast(pa.timestamp("us", times.type.tz)).cast(pa.int64()), 0)
    # Whole numbers: a float has not the digits for the microseconds of 1583. Their division cuts towards zero.
    cut = pc.divide(count, 1_000_000)
    is_before = pc.less(pc.subtract(count, pc.multiply(cut, 1_000_000)), 0)
    epoch = pc.subtract(cut, is_before.cast(pa.int64()))
    fraction = pc.multiply(pc.subtract(count, pc.multiply(epoch, 1_000_000)), 1000).cast(pa.int32())
    parts = {"epoch": epoch, "fraction": fraction}
    if times.type.tz:
        parts["timezone"] = pa.array([1440] * len(times), pa.int32())  # minutes, counted from -24 h: UTC
    fields = [pa.field(name, part.type, nullable=False) for name, part in parts.items()]
    return pa.StructArray.from_arrays(list(parts.values()), fields=fields, mask=times.is_null())


def _end_with_parent() -> None:
    os.read(0, 1)  # answers when the pipe breaks
    os._exit(0)


def _keep() -> None:
    """Have tables and stages where we are told to, if anywhere."""
    from fakesnow.instance import FakeSnow
    from fakesnow.transforms import stage

    if tables := os.environ.get("STAND_IN_TABLES"):
        Path(tables).mkdir(parents=True, exist_ok=True)
        # By its name: the package has a function that is called so too.
        import_module("fakesnow.server").shared_fs = FakeSnow(db_path=tables)  # type: ignore[attr-defined]
    if stages := os.environ.get("STAND_IN_STAGES"):
        Path(stages).mkdir(parents=True, exist_ok=True)
        stage.LOCAL_BUCKET_PATH = stages


def _serve(said: Path) -> None:
    """Serve until the parent is gone; the port is written once it is bound."""
    import fakesnow.arrow
    import fakesnow.copy_into
    import fakesnow.transforms
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    fakesnow.arrow.timestamp_to_sf_struct = _timestamps  # type: ignore[assignment]
    # DuckDB has a MERGE of its own by now; fakesnow's takes it apart, and can't inside a transaction.
    fakesnow.transforms.merge = _merged  # type: ignore[assignment]
    fakesnow.copy_into._describe_table = _described  # type: ignore[assignment]
    fakesnow.copy_into._source_urls = _staged_files(fakesnow.copy_into._source_urls)  # type: ignore[assignment]
    _keep()
    stand_in = _StandIn(os.environ.pop("STAND_IN_USER"), os.environ.pop("STAND_IN_PASSWORD"))
    listen, listening = Listen.said(), socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # asyncio does it only where the socket names its protocol; without it each answer waits some 40 ms.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.bind((listen.host, listen.port))
    part = said.with_suffix(".part")
    part.write_text(str(listening.getsockname()[1]))
    part.replace(said)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    class Line(H11Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            if self.client is not None:
                stand_in.transactions.line_lost(self.client[1])
            super().connection_lost(exc)

    # The server must not end idle lines: a line's end tells that its client is gone.
    config = uvicorn.Config(
        stand_in.application(), http=Line, timeout_keep_alive=3600, log_level="warning", access_log=False
    )
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
