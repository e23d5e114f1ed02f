"""A stand-in for Redshift on the loopback: a real PostgreSQL behind a proxy that speaks Redshift's dialect.

See `streams.local.redshift_proxy` for what the proxy does. Nothing is kept when it ends, but in a PostgreSQL that is
there already.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import pyarrow as pa
import pyarrow.csv

from streams.errors import FatalError
from streams.local.child import LOOPBACK, Child, Listen

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from redshift_connector.core import Connection

    from streams.local.s3_server import S3Login, S3Server

DATABASE: Final = "shop"
_DECLARED: Final = (
    (pa.types.is_boolean, "boolean"),
    (pa.types.is_date, "date"),
    (pa.types.is_integer, "bigint"),
    (pa.types.is_floating, "double precision"),
)


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL that is there already, in place of one of the stand-in's own.

    Args:
        host: its name, or the folder of its socket.
        port: its port.
        password: of its owner, ``postgres``.
        files: a folder that it sees at the same path as the stand-in: what COPY reads lies there for a moment.
    """

    host: str
    port: int
    password: str
    files: Path


class RedshiftServer:
    """The stand-in, while the context lasts.

    Args:
        folder: where its files lie; made if it is not there.
        s3: what UNLOAD writes to and COPY reads from.
        listen: where it listens.
        password: the user's; any, if none is given.
        postgres: the database behind; one of its own, if none is given.

    Attributes:
        host, port, database, user, password: the only login that it takes, on this machine; without TLS.

    Raises:
        FatalError: ``STAND_IN_FAILED``, with the end of its log.
    """

    def __init__(
        self,
        folder: Path,
        s3: S3Server | S3Login,
        *,
        listen: Listen = LOOPBACK,
        password: str | None = None,
        postgres: Postgres | None = None,
    ) -> None:
        self.host, self.port, self.database = "127.0.0.1", 0, DATABASE
        self.user, self.password = "loader", password or secrets.token_urlsafe(16)
        self._psql: list[str] = []
        self._owner = {"PGPASSWORD": postgres.password} if postgres else {}
        behind = (
            {
                "STAND_IN_POSTGRES": f"{postgres.host} {postgres.port} {postgres.files}",
                "STAND_IN_OWNER": postgres.password,
            }
            if postgres
            else {}
        )
        self._keys: dict[str, tuple[pa.Schema, tuple[str, ...]]] = {}
        self._child = Child(
            "streams.local.redshift_proxy",
            folder,
            {
                "STAND_IN_PASSWORD": self.password,
                "STAND_IN_USER": self.user,
                "STAND_IN_S3": f"{s3.endpoint} {s3.access_key} {s3.secret_key}",
                **listen.variables(),
                **behind,
            },
        )

    def __enter__(self) -> Self:
        said = self._child.__enter__().said
        self.port, self._psql = said["port"], said["psql"]
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close()

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self._child.is_running

    def connect(self) -> Connection:
        """Log in by the real client."""
        import redshift_connector

        return redshift_connector.connect(
            host=self.host, port=self.port, database=DATABASE, user=self.user, password=self.password, ssl=False
        )

    def create_table(self, name: str, columns: pa.Schema, key: Sequence[str], *, replace: bool = True) -> None:
        """Make a table.

        Args:
            name: the table's name.
            columns: aware times become TIMESTAMPTZ, others TIMESTAMP; whole numbers BIGINT.
            key: the columns by which `load` replaces rows.
            replace: make it anew where there is one of that name.
        """
        listed = ", ".join(f"{_quoted(field.name)} {_declared(field.type)}" for field in columns)
        table = _quoted(name)
        if replace:
            self.execute(f"DROP TABLE IF EXISTS {table}")
        self.execute(f"CREATE TABLE IF NOT EXISTS {table} ({listed}); GRANT ALL ON {table} TO loader")
        self._keys[name] = (columns, tuple(key))

    def load(self, table: str, rows: pa.Table | Iterable[dict[str, Any]]) -> None:
        """Insert rows, or replace those of the same key, as one transaction.

        Args:
            table: the table's name.
            rows: a table whose keys are unique, or rows of which the last of a key counts.
        """
        columns, key = self._keys[table]
        if not isinstance(rows, pa.Table):
            last = {tuple(row[name] for name in key): row for row in rows}
            rows = pa.Table.from_pylist(list(last.values()), columns)
        insert = f"INSERT INTO {_quoted(table)} SELECT * FROM incoming;"  # noqa: S608 - our own names
        self._with_incoming(table, rows.select(columns.names), insert)

    def delete(self, table: str, keys: Iterable[Sequence[Any]]) -> None:
        """Delete rows for good, as one transaction."""
        columns, key = self._keys[table]
        rows = [dict(zip(key, values, strict=True)) for values in keys]
        self._with_incoming(table, pa.Table.from_pylist(rows, pa.schema([columns.field(name) for name in key])), "")

    def _with_incoming(self, table: str, rows: pa.Table, then: str) -> None:
        key, target = self._keys[table][1], _quoted(table)
        same = " AND ".join(f"there.{_quoted(name)} = incoming.{_quoted(name)}" for name in key)
        listed = ", ".join(map(_quoted, rows.schema.names))
        file = self._child.folder / f"{uuid.uuid4().hex}.csv"
        pyarrow.csv.write_csv(rows, file, pyarrow.csv.WriteOptions(include_header=False))
        try:
            self.execute(
                f"BEGIN; CREATE TEMP TABLE incoming ON COMMIT DROP AS SELECT {listed} FROM {target} LIMIT 0;\n"  # noqa: S608
                f"\\copy incoming FROM '{file}' (FORMAT csv)\n"
                f"DELETE FROM {target} AS there USING incoming WHERE {same}; {then} COMMIT;"
            )
        finally:
            file.unlink()

    def count(self, table: str) -> int:
        """How many rows a table holds."""
        with self.connect() as connection, connection.cursor() as cursor:
            ((rows,),) = cursor.execute(f"SELECT COUNT(*) FROM {_quoted(table)}").fetchall()  # noqa: S608
        return int(rows)

    def execute(self, script: str) -> str:
        """Run statements as the database's owner, past the proxy; what they print.

        Raises:
            FatalError: ``STAND_IN_FAILED``, with the database's words.
        """
        ran = subprocess.run(
            [*self._psql, "-U", "postgres", DATABASE],
            input=script,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | self._owner | {"PGOPTIONS": "-c timezone=UTC -c client_min_messages=warning"},
        )
        if ran.returncode:
            raise FatalError("STAND_IN_FAILED", f"The stand-in for Redshift refused: {ran.stderr[:500]}")
        return ran.stdout

    def refuse_next(self, state: str, message: str, times: int = 1, what: str = "") -> None:
        """Answer the next statements with an error.

        Args:
            state: its SQL state.
            message: its sentence.
            times: how many statements are refused; 0 takes an earlier refusal back.
            what: only statements that a regular expression is found in.
        """
        self._child.ask("refuse", state=state, message=message, times=times, what=what)

    def cut_next(self, after_bytes: int, times: int = 1) -> None:
        """Cut the next lines once so many bytes have gone to the client."""
        self._child.ask("cut", after_bytes=after_bytes, times=times)


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def _declared(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "timestamptz" if kind.tz else "timestamp"
    if pa.types.is_decimal(kind):
        return f"numeric({kind.precision},{kind.scale})"
    return next((name for fits, name in _DECLARED if fits(kind)), "varchar(65535)")
