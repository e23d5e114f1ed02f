"""Tables of Redshift, read by UNLOAD through S3, or directly by redshift-connector.

``unload``: the driver runs a window as one UNLOAD into a folder of its own under the staging prefix, as Parquet with
a manifest, and holds the manifest against the count that Redshift gives. Executors read the files; they never log in
at Redshift. The folder is removed once the batch is committed, and what killed runs left when the next run begins.
``direct``: the window is cut into ranges, and each executor fetches one through a server-side cursor.

What the adapter needs is USAGE on the schema and SELECT on the table; for ``unload`` a role that may write under the
staging prefix, and for this side's own S3 login leave to read, list and delete there.
"""

from __future__ import annotations

import datetime as dt
import re
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pyarrow as pa
import pyarrow.compute as pc
import redshift_connector
from redshift_connector.error import Error

from batch_adapters.adapter import SourceTable, TableOptions, data_source
from batch_adapters.errors import ConfigurationAdapterError, FatalAdapterError
from batch_adapters.redshift_errors import redshift_errors
from batch_adapters.redshift_staging import Staged, Staging
from batch_adapters.window import Mark, Selection, Window, condition

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyspark.sql.datasource import DataSource
    from redshift_connector.core import Connection

_NAME_PART: Final = re.compile(r'"((?:[^"]|"")+)"|([A-Za-z_][A-Za-z0-9_$]*)')
_AWARE, _NAIVE = "timestamp with time zone", "timestamp without time zone"
_TYPES: Final = {
    "boolean": pa.bool_(),
    "smallint": pa.int64(),
    "integer": pa.int64(),
    "bigint": pa.int64(),
    "real": pa.float64(),
    "double precision": pa.float64(),
    "date": pa.date32(),
    "character varying": pa.string(),
    "character": pa.string(),
    "text": pa.string(),
    _AWARE: pa.timestamp("us", "UTC"),
    _NAIVE: pa.timestamp("us"),
}
_TIME: Final = pa.timestamp("us", "UTC")
_FETCH_ROWS: Final = 10_000
# Below so many rows one range is enough.
_ROWS_A_RANGE: Final = 50_000

_PATIENCE: Final = 60  # seconds in which the server says that a statement has taken too long


@dataclass(frozen=True)
class RedshiftLogin:
    """Opens tables; pickled to where they are read. Give a password, or a cluster or workgroup for IAM.

    Args:
        database: the database.
        schema: of tables that are named without one.
        host, port: where it listens; with IAM they may be left to AWS to say.
        user, password: a database user's; with a cluster and IAM the user is the database user to become.
        cluster_identifier: the cluster whose temporary password IAM gives out.
        workgroup: the same, of a serverless workgroup.
        region: of cluster, workgroup and bucket.
        ssl: whether the line is encrypted, and the server's name checked.
        mode: ``unload`` or ``direct``.
        staging: ``s3://bucket/prefix`` for ``unload``; this service's alone.
        iam_role: which Redshift takes on to write there; the cluster's default role where None.
        s3_endpoint, s3_access_key, s3_secret_key: only where the environment's own S3 login is not the one.
        statement_timeout_seconds: after which Redshift ends a statement.
        application_name: what the system tables show for these statements.
    """

    database: str
    schema: str = "public"
    host: str | None = None
    port: int = 5439
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    cluster_identifier: str | None = None
    workgroup: str | None = None
    region: str | None = None
    ssl: bool = True
    mode: str = "unload"
    staging: str | None = None
    iam_role: str | None = None
    s3_endpoint: str | None = None
    s3_access_key: str | None = field(default=None, repr=False)
    s3_secret_key: str | None = field(default=None, repr=False)
    statement_timeout_seconds: int = 3600
    application_name: str = "batch-adapters"

    def __call__(self, options: TableOptions) -> RedshiftTable:
        """Open a table; the login itself waits until it is needed.

        Raises:
            ConfigurationAdapterError: ``OPTION_INVALID`` or ``REDSHIFT_LOGIN_INVALID``.
        """
        if self.mode not in ("unload", "direct") or (self.mode == "unload" and not self.staging):
            raise ConfigurationAdapterError(
                "REDSHIFT_LOGIN_INVALID", "The mode is 'unload', which needs a staging prefix, or 'direct'."
            )
        return RedshiftTable(self, options)

    def connect(self) -> Connection:
        """Log in; the session's times are UTC.

        Raises:
            ConfigurationAdapterError: ``REDSHIFT_LOGIN_REFUSED``, ``_LOGIN_INVALID``, ``_DATABASE_UNKNOWN`` or
                ``_HOST_UNKNOWN``.
            RetriableAdapterError: ``REDSHIFT_UNREACHABLE``.
        """
        with redshift_errors(f"the database {self.database!r}"):
            connection = redshift_connector.connect(
                database=self.database,
                ssl=self.ssl,
                # A long statement is silent, so the line waits longer than it may take; a dead peer is found by asking.
                timeout=self.statement_timeout_seconds + _PATIENCE,
                tcp_keepalive_idle=30,
                tcp_keepalive_interval=10,
                tcp_keepalive_count=6,
                application_name=self.application_name,
                **{name: value for name, value in self._proof().items() if value is not None},
            )
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"SET statement_timeout TO {self.statement_timeout_seconds * 1000:d}")
                cursor.execute("SET timezone TO 'UTC'")
        return connection

    def _proof(self) -> dict[str, Any]:
        if (self.password is not None) + (self.cluster_identifier is not None) + (self.workgroup is not None) != 1:
            raise ConfigurationAdapterError(
                "REDSHIFT_LOGIN_INVALID", "A login has exactly one of password, cluster and workgroup."
            )
        place = {"host": self.host, "port": self.port if self.host else None}
        if self.password is not None:
            return place | {"user": self.user, "password": self.password}
        iam = {"iam": True, "region": self.region}
        if self.workgroup is not None:
            return place | iam | {"is_serverless": True, "serverless_work_group": self.workgroup}
        return place | iam | {"cluster_identifier": self.cluster_identifier, "db_user": self.user}


@dataclass(frozen=True)
class RedshiftRange:
    """What one executor fetches directly: a statement, and its columns' types in order."""

    statement: str
    fields: tuple[tuple[str, pa.DataType], ...]


class RedshiftTable(SourceTable):
    """One table or view.

    A cursor of TIMESTAMP is in the option ``time_zone``. In a zone with summer time such a cursor repeats an hour
    each autumn: ``lookback_seconds`` above 3600 reads what was written in it twice. UTC needs none of this.

    Args:
        login: the login.
        options: the stream's; ``table`` is ``TABLE`` or ``SCHEMA.TABLE``, and a name in double quotes is taken as it
            is spelled. Unquoted names are small letters.
    """

    def __init__(self, login: RedshiftLogin, options: TableOptions) -> None:
        self._login, self._options = login, options
        self._name = _names(options.table, login.schema)
        try:
            self._zone = ZoneInfo(options.time_zone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ConfigurationAdapterError("OPTION_INVALID", f"There is no time zone {options.time_zone!r}.") from None
        self._connection: Connection | None = None
        self._staging = Staging.of(login, options) if login.mode == "unload" else None
        self._fields: dict[str, pa.DataType] | None = None

    @property
    def _from(self) -> str:
        return ".".join(map(_quoted, self._name))

    def clock(self) -> dt.datetime:
        """The server's time, to the microsecond."""
        (now,) = self._rows("SELECT SYSDATE")[0]
        assert isinstance(now, dt.datetime)
        return now.replace(tzinfo=dt.UTC)

    def schema(self) -> pa.Schema:
        """The table's columns now, those that are wanted.

        Raises:
            ConfigurationAdapterError: ``REDSHIFT_TABLE_MISSING``, ``_GRANT_MISSING``, ``_COLUMN_MISSING`` (of the
                options) or ``_COLUMN_TYPE`` (a key that is neither text nor a whole number, a cursor that is no
                timestamp, a type that can't be read).
        """
        schema, table = map(_literal, self._name)
        described = self._rows(
            "SELECT column_name, data_type, numeric_precision, numeric_scale FROM information_schema.columns "  # noqa: S608
            f"WHERE table_schema = {schema} AND table_name = {table} ORDER BY ordinal_position"
        )
        if not described:
            self._rows(f"SELECT 1 FROM {self._from} LIMIT 0")  # noqa: S608 - quoted; says what is wrong with it
            raise ConfigurationAdapterError(
                "REDSHIFT_TABLE_MISSING",
                f"The columns of {self._options.table!r} are not listed.",
                "Read a plain view.",
            )
        self._fields = {name: _type(name, *said) for name, *said in described if self._options.wants(name)}
        self._check_options()
        return pa.schema(
            [(name, _TIME if pa.types.is_timestamp(kind) else kind) for name, kind in self._fields.items()]
        )

    def nth(self, window: Window, number: int) -> Mark | None:
        """See `SourceTable`. A null in a key column is ``REDSHIFT_KEY_NULL``, which is fatal."""
        listed = ", ".join(map(_quoted, self._ordered()))
        rows = self._rows(
            f"SELECT {listed} FROM {self._from} WHERE {self._condition(window)} "  # noqa: S608 - quoted
            f"ORDER BY {listed} LIMIT 1 OFFSET {number - 1:d}"
        )
        return self._mark(rows[0]) if rows else None

    def parts(self, selection: Selection, batch: str) -> Sequence[Staged | RedshiftRange]:
        """Unload the selection, or cut it into ranges."""
        fields = tuple((name, self._type(name)) for name in selection.columns)
        if self._staging is None:
            return [RedshiftRange(self._select(selection, part), fields) for part in self._ranges(selection)]
        url = self._staging.folder(batch)
        role = _literal(self._login.iam_role) if self._login.iam_role else "default"
        unload = (
            f"UNLOAD ({_literal(self._select(selection, selection.window))}) TO {_literal(url)} IAM_ROLE {role} "
            "FORMAT PARQUET MANIFEST VERBOSE MAXFILESIZE 128 MB"
        )
        self._run(unload)
        ((rows,),) = self._rows("SELECT PG_LAST_UNLOAD_COUNT()")
        return self._staging.files(url, int(rows), fields)

    def read(self, part: Staged | RedshiftRange) -> Iterator[pa.RecordBatch]:
        """A part's rows, at most 10,000 at a time."""
        if isinstance(part, Staged):
            assert self._staging is not None
            yield from (self._aware(batch.columns, part.fields) for batch in self._staging.read(part))
            return
        # A transaction of its own, for the cursor lives no longer.
        with redshift_errors(self._what), self._open().cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(f"DECLARE pulled NO SCROLL CURSOR FOR {part.statement}")
        while True:
            with redshift_errors(self._what), self._open().cursor() as cursor:
                rows = cursor.execute(f"FETCH FORWARD {_FETCH_ROWS} FROM pulled").fetchall()
            if not rows:
                break
            yield self._aware(_as_arrow(rows, part.fields), part.fields)
        self._run("COMMIT")

    def clean(self, batch: str | None) -> None:
        """Remove a batch's files from the staging prefix; all of this stream's when None."""
        if self._staging is not None:
            self._staging.clean(batch)

    def close(self) -> None:
        """End the session."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Error, OSError):
                connection.close()

    @property
    def _what(self) -> str:
        return f"the table {self._options.table!r}"

    def _open(self) -> Connection:
        if self._connection is None:
            self._connection = self._login.connect()
        return self._connection

    def _run(self, statement: str) -> None:
        with redshift_errors(self._what), self._open().cursor() as cursor:
            cursor.execute(statement)

    def _rows(self, statement: str) -> list[Any]:
        with redshift_errors(self._what), self._open().cursor() as cursor:
            return list(cursor.execute(statement).fetchall())

    def _type(self, name: str) -> pa.DataType:
        """A column's type; a time without a zone has none here."""
        if self._fields is None:
            self.schema()
        assert self._fields is not None
        if name not in self._fields:
            raise ConfigurationAdapterError(
                "REDSHIFT_COLUMN_MISSING",
                f"The table {self._options.table!r} has no column {name!r}.",
                f"There are: {', '.join(self._fields)}.",
            )
        return self._fields[name]

    def _check_options(self) -> None:
        for name in self._options.key:
            if self._type(name) not in (pa.string(), pa.int64()):
                raise ConfigurationAdapterError(
                    "REDSHIFT_COLUMN_TYPE", f"The key column {name!r} is neither text nor a whole number."
                )
        cursor = self._options.cursor
        if cursor is not None and not pa.types.is_timestamp(self._type(cursor)):
            raise ConfigurationAdapterError("REDSHIFT_COLUMN_TYPE", f"The cursor column {cursor!r} is no timestamp.")

    def _ordered(self) -> list[str]:
        assert self._options.cursor is not None
        return [self._options.cursor, *self._options.key]

    def _mark(self, row: Sequence[Any]) -> Mark:
        at, *key = row
        if None in key:
            raise FatalAdapterError(
                "REDSHIFT_KEY_NULL", f"A key column of {self._options.table!r} has no value in some row."
            )
        if at.tzinfo is None:
            wall, at = at, at.replace(tzinfo=self._zone)
            if at.astimezone(dt.UTC).astimezone(self._zone).replace(tzinfo=None) != wall:
                raise FatalAdapterError(
                    "REDSHIFT_TIME_UNREAL",
                    f"The cursor of {self._options.table!r} has a time that {self._options.time_zone} skipped.",
                    "Check the option 'time_zone'.",
                )
        utc = at.astimezone(dt.UTC)
        return Mark(f"{utc:%Y-%m-%dT%H:%M:%S.%f}000Z", tuple(key))

    def _select(self, selection: Selection, window: Window | None) -> str:
        statement = f"SELECT {', '.join(map(_quoted, selection.columns))} FROM {self._from}"  # noqa: S608 - quoted
        if window is not None:
            return f"{statement} WHERE {self._condition(window)}"
        if selection.without_cursor:
            assert self._options.cursor is not None
            return f"{statement} WHERE {_quoted(self._options.cursor)} IS NULL"
        return statement

    def _ranges(self, selection: Selection) -> list[Window | None]:
        """The window, cut at rows into about as many pieces as there are parts, by one sort of it."""
        window, parts = selection.window, self._options.parts
        if window is None or parts == 1:
            return [window]
        listed = ", ".join(map(_quoted, self._ordered()))
        cuts = self._rows(
            f"SELECT {listed} FROM (SELECT {listed}, ROW_NUMBER() OVER (ORDER BY {listed}) AS place, "  # noqa: S608
            f"COUNT(*) OVER () AS amount FROM {self._from} WHERE {self._condition(window)}) AS counted "
            f"WHERE amount > {_ROWS_A_RANGE:d} AND place < amount AND MOD(place, amount / {parts:d} + 1) = 0 "
            f"ORDER BY {listed}"
        )
        marks = [window.since, *(self._mark(cut) for cut in cuts), window.until]
        return [Window(since, until) for since, until in pairwise(marks) if until is not None]

    def _condition(self, window: Window) -> str:
        cursor, *keys = map(_quoted, self._ordered())
        return condition(window, cursor, keys, self._instant, _literal)

    def _instant(self, mark: Mark) -> str:
        """A mark's time as the cursor's type has it, which counts microseconds: the one at it or just after."""
        assert self._options.cursor is not None
        seconds, fraction = mark.at.removesuffix("Z").split(".")
        at = dt.datetime.fromisoformat(f"{seconds}+00:00") + dt.timedelta(microseconds=-(-int(fraction) // 1000))
        if self._type(self._options.cursor).tz is not None:
            return f"TIMESTAMPTZ '{at:%Y-%m-%d %H:%M:%S.%f}+00'"
        return f"TIMESTAMP '{at.astimezone(self._zone):%Y-%m-%d %H:%M:%S.%f}'"

    def _aware(self, columns: Sequence[pa.Array], fields: Sequence[tuple[str, pa.DataType]]) -> pa.RecordBatch:
        """The columns by name; times in UTC."""
        made = [
            _in_utc(column, kind, self._options.time_zone) for column, (_, kind) in zip(columns, fields, strict=True)
        ]
        return pa.RecordBatch.from_arrays(made, names=[name for name, _ in fields])


def _in_utc(column: pa.Array, kind: pa.DataType, zone: str) -> pa.Array:
    if not pa.types.is_timestamp(column.type):
        return column
    if column.type.tz is None:
        # A column with a zone is in UTC where a file has left the zone out. One without is in the option's, and
        # read as `datetime` reads it, and so `RedshiftTable._mark`.
        column = pc.assume_timezone(column, "UTC" if kind.tz else zone, ambiguous="earliest", nonexistent="latest")
    return pc.cast(column, _TIME, safe=False)  # files may count nanoseconds, which Redshift does not


def _as_arrow(rows: Sequence[Sequence[Any]], fields: Sequence[tuple[str, pa.DataType]]) -> list[pa.Array]:
    columns = []
    for values, (name, kind) in zip(zip(*rows, strict=True), fields, strict=True):
        try:
            columns.append(pa.array(values, kind))
        except (pa.ArrowException, OverflowError):  # not its text, which may quote a value
            raise FatalAdapterError(
                "REDSHIFT_VALUE_UNFIT", f"The column {name!r} has a value that {kind} can't hold."
            ) from None
    return columns


def _type(name: str, kind: str, precision: int | None, scale: int | None) -> pa.DataType:
    if kind == "numeric":
        return pa.decimal128(precision or 38, scale or 0)
    if kind not in _TYPES:
        raise ConfigurationAdapterError(
            "REDSHIFT_COLUMN_TYPE",
            f"The column {name!r} is of the type {kind}, which is not read.",
            "Read a view that leaves it out or casts it.",
        )
    return _TYPES[kind]


def _names(text: str, schema: str) -> tuple[str, str]:
    """Schema and table, as the catalogue spells them."""
    parts, rest = [], text
    while (found := _NAME_PART.match(rest)) is not None:
        parts.append(found[1].replace('""', '"') if found[1] else found[2].lower())
        rest = rest[found.end() :]
        if not rest.startswith("."):
            break
        rest = rest[1:]
    if rest or not 1 <= len(parts) <= 2:
        raise ConfigurationAdapterError("OPTION_INVALID", f"{text!r} is not a table's name such as SCHEMA.TABLE.")
    return (schema, parts[0]) if len(parts) == 1 else (parts[0], parts[1])


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def _literal(value: str | int) -> str:
    """A value as a literal: UNLOAD and DECLARE take no bound ones.

    Redshift reads a backslash in a literal as the beginning of an escape, PostgreSQL does not: it is spelled out.
    """
    if isinstance(value, int):
        return str(value)
    pieces = ["'{}'".format(piece.replace("'", "''")) for piece in value.split("\\")]
    return pieces[0] if len(pieces) == 1 else f"({' || CHR(92) || '.join(pieces)})"


def redshift(login: RedshiftLogin) -> type[DataSource]:
    """Spark's data source ``redshift`` for one login."""
    return data_source("redshift", login)
