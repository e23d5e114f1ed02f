"""Tables of Snowflake, read by its own connector.

The driver runs a window as one statement, which Snowflake answers from one state of the table, and hands out the
connector's result batches: addresses of finished pieces of the result, good for six hours. Executors fetch them as
Arrow and never log in. What the adapter needs is USAGE on warehouse, database and schema, and SELECT on the table.
"""

from __future__ import annotations

import datetime as dt
import io
import re
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pyarrow as pa
import pyarrow.compute as pc
from snowflake import connector
from snowflake.connector.arrow_context import ArrowConverterContext
from snowflake.connector.constants import FIELD_ID_TO_NAME
from snowflake.connector.errors import Error
from snowflake.connector.nanoarrow_arrow_iterator import PyArrowRowIterator
from snowflake.connector.result_batch import ArrowResultBatch, ResultBatch
from snowflake.connector.vendored.requests.exceptions import RequestException

from batch_adapters.adapter import SourceTable, TableOptions, data_source
from batch_adapters.errors import ConfigurationAdapterError, FatalAdapterError, RetriableAdapterError
from batch_adapters.snowflake_errors import snowflake_errors
from batch_adapters.window import Mark, Selection, Window, condition

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyspark.sql.datasource import DataSource
    from snowflake.connector import SnowflakeConnection
    from snowflake.connector.cursor import ResultMetadata, SnowflakeCursor

_UNQUOTED: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")
_NAME_PART: Final = re.compile(r'"((?:[^"]|"")+)"|([A-Za-z_][A-Za-z0-9_$]*)')
_AWARE_TYPES: Final = ("TIMESTAMP_TZ", "TIMESTAMP_LTZ")
_NAIVE_TYPES: Final = ("TIMESTAMP_NTZ", "TIMESTAMP")
_TYPES: Final = {
    "TEXT": pa.string(),
    "REAL": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "DATE": pa.date32(),
    "TIME": pa.string(),
    "BINARY": pa.binary(),
    # JSON's text, as the connector gives them
    "VARIANT": pa.string(),
    "OBJECT": pa.string(),
    "ARRAY": pa.string(),
    **dict.fromkeys((*_AWARE_TYPES, *_NAIVE_TYPES), pa.timestamp("us", "UTC")),
}
_DIGITS: Final = "'YYYY-MM-DD\"T\"HH24:MI:SS.FF9'"
_SLICE_ROWS: Final = 10_000


def _read_a_first_result() -> None:
    """Have the connector's C++ part make its logger now, while modules are imported, which one thread does at a time.

    It makes it with the first result, under a lock of C++ (`std::call_once`), in Python, which may let another thread
    have the interpreter meanwhile. If that one reads a first result too, it waits for the lock with the interpreter in
    its hand, and the process stands still for good: so three tables do that are asked at the same moment (4.8.1).
    """
    stream, table = io.BytesIO(), pa.table({"ONE": pa.array([1], pa.int64())})
    with pa.ipc.new_stream(stream, table.schema) as out:
        out.write_table(table)
    PyArrowRowIterator(None, stream.getvalue(), ArrowConverterContext(), False, False, False, True)


_read_a_first_result()


@dataclass(frozen=True)
class SnowflakeLogin:
    """Opens tables; pickled to where they are read. Give one of password, private key and token.

    Args:
        account: the account's identifier, such as ``organisation-account``.
        user: the user.
        password: its password; also a programmatic access token.
        private_key: its private key, PEM.
        passphrase: of the private key, if it has one.
        token: an OAuth token.
        warehouse, role, database, schema: of the session; the user's defaults where None.
        query_tag: what the warehouse's history shows for these statements.
        statement_timeout_seconds: after which Snowflake ends a statement.
        login_timeout_seconds: how long a login is tried.
        host, port, protocol: only to reach Snowflake at another address than its account's own.
    """

    account: str
    user: str
    password: str | None = field(default=None, repr=False)
    private_key: str | None = field(default=None, repr=False)
    passphrase: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    warehouse: str | None = None
    role: str | None = None
    database: str | None = None
    schema: str | None = None
    query_tag: str = "batch-adapters"
    statement_timeout_seconds: int = 3600
    login_timeout_seconds: int = 30
    host: str | None = None
    port: int | None = None
    protocol: str | None = None

    def __call__(self, options: TableOptions) -> SnowflakeTable:
        """Open a table; the login itself waits until it is needed.

        Raises:
            ConfigurationAdapterError: ``OPTION_INVALID``.
        """
        return SnowflakeTable(self, options)

    def connect(self, *, autocommit: bool = True) -> SnowflakeConnection:
        """Log in.

        Args:
            autocommit: whether what changes rows outside a transaction is one of its own, or begins one.

        Raises:
            ConfigurationAdapterError: ``SNOWFLAKE_LOGIN_REFUSED``, ``_LOGIN_INVALID``, ``_TOKEN_EXPIRED``,
                ``_ACCOUNT_UNKNOWN`` or ``_HOST_UNKNOWN``.
            RetriableAdapterError: ``SNOWFLAKE_UNREACHABLE`` or ``_BUSY``.
        """
        given = {
            "host": self.host,
            "port": self.port,
            "protocol": self.protocol,
            "warehouse": self.warehouse,
            "role": self.role,
            "database": self.database,
            "schema": self.schema,
        }
        try:
            with snowflake_errors(f"the account {self.account!r}"):
                return connector.connect(
                    account=self.account,
                    user=self.user,
                    **self._proof(),
                    **{name: value for name, value in given.items() if value is not None},
                    login_timeout=self.login_timeout_seconds,
                    platform_detection_timeout_seconds=0.0,  # no probing for a cloud that this machine may be in
                    network_timeout=self.statement_timeout_seconds + 60,
                    autocommit=autocommit,
                    paramstyle="qmark",  # values are bound by the server, never written into a statement
                    arrow_number_to_decimal=True,  # NUMBER(18,2) as a decimal; the default is a float
                    session_parameters=self._session(),
                )
        except RetriableAdapterError:
            self._check_host()
            raise

    def _proof(self) -> dict[str, Any]:
        if (self.password is not None) + (self.private_key is not None) + (self.token is not None) != 1:
            raise ConfigurationAdapterError(
                "SNOWFLAKE_LOGIN_INVALID", "A login has exactly one of password, private key and token."
            )
        if self.private_key is not None:
            return {"private_key": _private_key(self.private_key, self.passphrase), "authenticator": "SNOWFLAKE_JWT"}
        if self.token is not None:
            return {"token": self.token, "authenticator": "oauth"}
        return {"password": self.password}

    def _session(self) -> dict[str, Any]:
        """What an account's or a user's own defaults must not change."""
        return {
            "QUERY_TAG": self.query_tag,
            "STATEMENT_TIMEOUT_IN_SECONDS": self.statement_timeout_seconds,
            "TIMEZONE": "UTC",
            "TIMESTAMP_INPUT_FORMAT": "AUTO",
            "ROWS_PER_RESULTSET": 0,  # with a limit here a result ends early and says nothing
            "QUOTED_IDENTIFIERS_IGNORE_CASE": False,
            "PYTHON_CONNECTOR_QUERY_RESULT_FORMAT": "ARROW",
            "CLIENT_TELEMETRY_ENABLED": False,
        }

    def _check_host(self) -> None:
        host = self.host or f"{self.account}.snowflakecomputing.com"
        try:
            socket.getaddrinfo(host, None)
        except socket.gaierror as error:
            if error.errno == socket.EAI_NONAME:  # not EAI_AGAIN, which says that the name server is away
                raise ConfigurationAdapterError(
                    "SNOWFLAKE_HOST_UNKNOWN", f"There is no host {host!r}.", "Check the account's identifier."
                ) from None
        except UnicodeError:
            raise ConfigurationAdapterError("SNOWFLAKE_HOST_UNKNOWN", f"{host!r} is not a host's name.") from None


def _private_key(pem: str, passphrase: str | None) -> bytes:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - only for this kind of login

    try:
        key = serialization.load_pem_private_key(pem.encode(), passphrase.encode() if passphrase else None)
        return key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    except (ValueError, TypeError):  # not their text: it may show a part of the key
        raise ConfigurationAdapterError(
            "SNOWFLAKE_LOGIN_INVALID", "The private key is not a PEM key, or its passphrase is wrong."
        ) from None


@dataclass(frozen=True)
class _Column:
    """A column as Snowflake spells it, and how it is read."""

    name: str
    kind: str
    type: pa.DataType


@dataclass(frozen=True)
class SnowflakePart:
    """Some result batches of one statement. They hold keys to the result: nothing of them is shown.

    Args:
        batches: fetched one after the other.
        fields: the columns' names and types, in the result's order.
    """

    batches: tuple[ArrowResultBatch, ...] = field(repr=False)
    fields: tuple[tuple[str, pa.DataType], ...]


class SnowflakeTable(SourceTable):
    """One table, view or dynamic table.

    A cursor of TIMESTAMP_NTZ is in the option ``time_zone``. In a zone with summer time such a cursor repeats an
    hour each autumn: ``lookback_seconds`` above 3600 reads what was written in it twice. UTC needs none of this.

    Args:
        login: the login.
        options: the stream's; ``table`` is ``TABLE``, ``SCHEMA.TABLE`` or ``DATABASE.SCHEMA.TABLE``, and a name in
            double quotes is taken as it is spelled. Unquoted names are read in small letters.
    """

    def __init__(self, login: SnowflakeLogin, options: TableOptions) -> None:
        self._login, self._options = login, options
        self._from = _quoted_table(options.table)
        try:
            self._zone = ZoneInfo(options.time_zone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ConfigurationAdapterError("OPTION_INVALID", f"There is no time zone {options.time_zone!r}.") from None
        self._connection: SnowflakeConnection | None = None
        self._described: dict[str, _Column] | None = None

    def clock(self) -> dt.datetime:
        """The server's time."""
        (now,) = self._row("SELECT CURRENT_TIMESTAMP()", ()) or (None,)
        assert isinstance(now, dt.datetime)
        return now.astimezone(dt.UTC)

    def schema(self) -> pa.Schema:
        """The table's columns now, those that are wanted; asks for no warehouse.

        Raises:
            ConfigurationAdapterError: ``SNOWFLAKE_TABLE_MISSING``, ``_COLUMN_MISSING`` (of the options),
                ``_COLUMN_TYPE`` (a key that is neither text nor a whole number, a cursor that is no timestamp, a
                type that can't be read) or ``_COLUMNS_COLLIDE`` (names that differ by case alone).
        """
        with snowflake_errors(f"the table {self._options.table!r}"):
            described = self._open().cursor().describe(f"SELECT * FROM {self._from}")  # noqa: S608 - quoted
        self._described = _columns(described, self._options)
        self._check_options()
        return pa.schema([(name, column.type) for name, column in self._described.items()])

    def nth(self, window: Window, number: int) -> Mark | None:
        """See `SourceTable`. A null in a key column is ``SNOWFLAKE_KEY_NULL``, which is fatal."""
        cursor, keys = self._cursor, self._keys
        shown = (
            f"CONVERT_TIMEZONE('UTC', {_quoted(cursor)})"
            if cursor.kind in _AWARE_TYPES
            else f"CAST({_quoted(cursor)} AS TIMESTAMP_NTZ)"
        )
        listed = ", ".join(_quoted(key) for key in keys)
        where, values = self._condition(window)
        row = self._row(
            f"SELECT TO_CHAR({shown}, {_DIGITS}), {listed} FROM {self._from} WHERE {where} "  # noqa: S608 - quoted
            f"ORDER BY {_quoted(cursor)}, {listed} LIMIT 1 OFFSET {number - 1:d}",
            values,
        )
        if row is None:
            return None
        if None in row[1:]:
            raise FatalAdapterError(
                "SNOWFLAKE_KEY_NULL", f"A key column of {self._options.table!r} has no value in some row."
            )
        return Mark(self._instant(row[0]), tuple(key if isinstance(key, str) else int(key) for key in row[1:]))

    def parts(self, selection: Selection, batch: str) -> Sequence[SnowflakePart]:
        """Run the selection as one statement and share its result out. The statement has the batch's name."""
        columns = [self._column(name) for name in selection.columns]
        statement = f"SELECT {', '.join(_quoted(column) for column in columns)} FROM {self._from}"  # noqa: S608 - quoted
        values: tuple[Any, ...] = ()
        if selection.window is not None:
            where, values = self._condition(selection.window)
            statement += f" WHERE {where}"
        elif selection.without_cursor:
            statement += f" WHERE {_quoted(self._cursor)} IS NULL"
        with snowflake_errors(f"the table {self._options.table!r}"):
            cursor = self._execute(f"{statement} /* batch {re.sub(r'[^0-9A-Za-z-]', '', batch)} */", values)
            batches = list(cursor.get_result_batches() or ())
        if cursor.rowcount == 0:
            return []
        # By the result's own description: a type may have been widened since the stream began.
        kinds = [_column_of(metadata).type for metadata in cursor.description]
        fields = tuple(zip(selection.columns, kinds, strict=True))
        return [SnowflakePart(group, fields) for group in _groups(batches, self._options.parts)]

    def read(self, part: SnowflakePart) -> Iterator[pa.RecordBatch]:
        """Fetch a part's rows, at most 10,000 at a time, one result batch in memory; needs no login.

        The connector itself fetches a result batch again when the line was cut, ten times.

        Raises:
            RetriableAdapterError: ``SNOWFLAKE_UNREACHABLE``; also when the result has been kept for six hours, and
                then only a newly planned batch helps.
            FatalAdapterError: ``SNOWFLAKE_VALUE_UNFIT``.
        """
        for batch in part.batches:
            with snowflake_errors("a part of a result"):
                table = batch.to_arrow(force_microsecond_precision=True)
            if table is not None:
                rows = _arranged(table, part.fields, self._options.time_zone)
                yield from rows.to_batches(max_chunksize=_SLICE_ROWS)

    def close(self) -> None:
        """End the session."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Error, RequestException, OSError):
                connection.close(retry=False)

    def _open(self) -> SnowflakeConnection:
        if self._connection is None:
            self._connection = self._login.connect()
        return self._connection

    def _execute(self, statement: str, values: Sequence[Any]) -> SnowflakeCursor:
        cursor = self._open().cursor()
        cursor.execute(statement, values or None)
        return cursor

    def _row(self, statement: str, values: Sequence[Any]) -> tuple[Any, ...] | None:
        with snowflake_errors(f"the table {self._options.table!r}"):
            row = self._execute(statement, values).fetchone()
        assert row is None or isinstance(row, tuple)
        return row

    def _column(self, name: str) -> _Column:
        if self._described is None:
            self.schema()
        assert self._described is not None
        if name not in self._described:
            raise ConfigurationAdapterError(
                "SNOWFLAKE_COLUMN_MISSING",
                f"The table {self._options.table!r} has no column {name!r}.",
                f"There are: {', '.join(self._described)}.",
            )
        return self._described[name]

    @property
    def _cursor(self) -> _Column:
        assert self._options.cursor is not None
        return self._column(self._options.cursor)

    @property
    def _keys(self) -> list[_Column]:
        return [self._column(name) for name in self._options.key]

    def _check_options(self) -> None:
        for key in self._keys:
            if key.kind != "TEXT" and key.type != pa.int64():
                raise ConfigurationAdapterError(
                    "SNOWFLAKE_COLUMN_TYPE", f"The key column {key.name!r} is neither text nor a whole number."
                )
        if self._options.cursor is not None and self._cursor.kind not in (*_AWARE_TYPES, *_NAIVE_TYPES):
            raise ConfigurationAdapterError(
                "SNOWFLAKE_COLUMN_TYPE", f"The cursor column {self._cursor.name!r} is no timestamp."
            )

    def _condition(self, window: Window) -> tuple[str, tuple[Any, ...]]:
        """A window's condition, and the values that are bound to its question marks."""
        values: list[Any] = []

        def at(mark: Mark) -> str:
            literal, value = self._literal(mark)
            values.append(value)
            return literal

        def key(value: str | int) -> str:
            values.append(value)
            return "?"

        text = condition(window, _quoted(self._cursor), [_quoted(column) for column in self._keys], at, key)
        return text, tuple(values)

    def _literal(self, mark: Mark) -> tuple[str, str]:
        """A mark's time as the cursor's type has it; nine digits."""
        if self._cursor.kind in _AWARE_TYPES:
            return "CAST(? AS TIMESTAMP_TZ)", f"{mark.at.removesuffix('Z')}+00:00"
        seconds, fraction = mark.at.removesuffix("Z").split(".")
        there = dt.datetime.fromisoformat(f"{seconds}+00:00").astimezone(self._zone)
        return "CAST(? AS TIMESTAMP_NTZ)", f"{there:%Y-%m-%dT%H:%M:%S}.{fraction}"

    def _instant(self, text: str) -> str:
        """What the cursor reads, as an instant."""
        seconds, fraction = text.split(".")
        if self._cursor.kind in _AWARE_TYPES:
            return f"{seconds}.{fraction}Z"
        wall = dt.datetime.fromisoformat(seconds)
        utc = wall.replace(tzinfo=self._zone).astimezone(dt.UTC)
        if utc.astimezone(self._zone).replace(tzinfo=None) != wall:
            raise FatalAdapterError(
                "SNOWFLAKE_TIME_UNREAL",
                f"The cursor of {self._options.table!r} has a time that {self._options.time_zone} skipped.",
                "Check the option 'time_zone'.",
            )
        return f"{utc:%Y-%m-%dT%H:%M:%S}.{fraction}Z"


def _quoted(column: _Column) -> str:
    escaped = column.name.replace('"', '""')
    return f'"{escaped}"'


def _quoted_table(name: str) -> str:
    """A table's name, each part quoted; unquoted parts in capitals, as Snowflake keeps them."""
    parts, rest = [], name
    while (found := _NAME_PART.match(rest)) is not None:
        parts.append(f'"{found[1]}"' if found[1] else f'"{found[2].upper()}"')
        rest = rest[found.end() :]
        if not rest:
            break
        if not rest.startswith("."):
            parts = []
            break
        rest = rest[1:]
    if not 1 <= len(parts) <= 3 or rest:
        raise ConfigurationAdapterError(
            "OPTION_INVALID", f"{name!r} is not a table's name such as DATABASE.SCHEMA.TABLE."
        )
    return ".".join(parts)


def _column_of(metadata: ResultMetadata) -> _Column:
    kind = FIELD_ID_TO_NAME.get(metadata.type_code, str(metadata.type_code))
    if kind == "FIXED":
        made = pa.int64() if not metadata.scale else pa.decimal128(metadata.precision or 38, metadata.scale)
    elif kind in _TYPES:
        made = _TYPES[kind]
    else:
        raise ConfigurationAdapterError(
            "SNOWFLAKE_COLUMN_TYPE",
            f"The column {metadata.name!r} is of the type {kind}, which is not read.",
            "Read a view that leaves it out or casts it.",
        )
    return _Column(metadata.name, kind, made)


def _columns(described: Sequence[ResultMetadata], options: TableOptions) -> dict[str, _Column]:
    """Columns by the names that readers see: small letters, but for names that were quoted when they were made."""
    columns: dict[str, _Column] = {}
    for metadata in described:
        spelled = metadata.name
        unquoted = _UNQUOTED.fullmatch(spelled) is not None and spelled == spelled.upper()
        name = spelled.lower() if unquoted else spelled
        if not options.wants(name):
            continue
        if name in columns:
            raise ConfigurationAdapterError(
                "SNOWFLAKE_COLUMNS_COLLIDE", f"Two columns are called {name!r} but for their case.", "Read a view."
            )
        columns[name] = _column_of(metadata)
    return columns


def _groups(batches: Sequence[ResultBatch], parts: int) -> Iterator[tuple[ArrowResultBatch, ...]]:
    """Share result batches out into at most so many groups of about as many rows."""
    share = max(sum(max(batch.rowcount, 0) for batch in batches) / parts, 1)
    group: list[ArrowResultBatch] = []
    rows, full = 0, share
    for batch in batches:
        if not isinstance(batch, ArrowResultBatch):
            raise FatalAdapterError("SNOWFLAKE_FAILED", "Snowflake gave a result that is not Arrow.")
        group.append(batch)
        rows += batch.rowcount
        if rows >= full:
            yield tuple(group)
            group, full = [], (rows // share + 1) * share
    if group:
        yield tuple(group)


def _arranged(table: pa.Table, fields: Sequence[tuple[str, pa.DataType]], time_zone: str) -> pa.Table:
    """The connector's columns by the names and of the types that were promised."""
    columns = []
    for column, (name, kind) in zip(table.columns, fields, strict=True):
        try:
            if pa.types.is_timestamp(kind) and column.type.tz is None:
                # As `datetime` reads it, and so `SnowflakeTable._instant`.
                aware = pc.assume_timezone(column, time_zone, ambiguous="earliest", nonexistent="latest")
                columns.append(pc.cast(aware, kind, safe=False))
            else:
                # What is finer than a microsecond is cut off.
                columns.append(pc.cast(column, kind, safe=not pa.types.is_timestamp(kind)))
        except pa.ArrowException:  # not its text, which may quote a value
            raise FatalAdapterError(
                "SNOWFLAKE_VALUE_UNFIT",
                f"The column {name!r} has a value that {kind} can't hold.",
                "Whole numbers are read as 64 bits: read a view that casts the column.",
            ) from None
    return pa.table(columns, schema=pa.schema(list(fields)))


def snowflake(login: SnowflakeLogin) -> type[DataSource]:
    """Spark's data source ``snowflake`` for one login."""
    return data_source("snowflake", login)
