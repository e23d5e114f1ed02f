"""The in-memory twin of the adapters: tables held in one process, read by others through a socket on the loopback.

For tests, and to try things out: ``spark.dataSource.register(in_memory(server.login))``.
"""

from __future__ import annotations

import datetime as dt
import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from batch_adapters.adapter import SourceTable, TableOptions, data_source
from batch_adapters.errors import ConfigurationAdapterError, RetriableAdapterError
from batch_adapters.window import Mark, Selection, Window, instant

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pyspark.sql.datasource import DataSource

_ROWS_AT_ONCE = 10_000


class InMemoryTables:
    """Tables by name, with a clock of their own."""

    def __init__(self) -> None:
        self._schemas: dict[str, pa.Schema] = {}
        self._keys: dict[str, tuple[str, ...]] = {}
        self._rows: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {}
        self._ahead = dt.timedelta(0)
        self._faults: list[str] = []
        self._lock = threading.Lock()

    def create(self, table: str, schema: pa.Schema, key: Sequence[str]) -> None:
        """Make an empty table, or give one other columns."""
        with self._lock:
            self._schemas[table], self._keys[table] = schema, tuple(key)
            self._rows.setdefault(table, {})

    def put(self, table: str, rows: Iterable[dict[str, Any]]) -> None:
        """Insert or replace rows by key."""
        with self._lock:
            for row in rows:
                self._rows[table][tuple(row[name] for name in self._keys[table])] = dict(row)

    def delete(self, table: str, keys: Iterable[tuple[Any, ...]]) -> None:
        """Delete rows; leaves no mark."""
        with self._lock:
            for key in keys:
                self._rows[table].pop(tuple(key), None)

    def move_clock(self, seconds: float) -> None:
        """Set the clock so far ahead of this machine's."""
        self._ahead = dt.timedelta(seconds=seconds)

    def fail_next(self, *reasons: str) -> None:
        """Let each of the next calls fail once."""
        self._faults.extend(reasons)

    def clock(self) -> dt.datetime:
        """Now."""
        self._stumble()
        return dt.datetime.now(dt.UTC) + self._ahead

    def schema(self, table: str) -> pa.Schema:
        """The table's columns; None where there is no such table."""
        self._stumble()
        return self._schemas.get(table)

    def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows, as they are now."""
        with self._lock:
            return [dict(row) for row in self._rows[table].values()]

    def select(self, table: str, cursor: str | None, key: tuple[str, ...], selection: Selection) -> list[Any]:
        """The selected rows, in the order (cursor, key), as tuples of (cursor, key, values)."""
        self._stumble()
        found = []
        for row in self.rows(table):
            at = row.get(cursor) if cursor else None
            place = (instant(at) if at is not None else "", tuple(row[name] for name in key))
            if _is_in(selection, at is None, place):
                found.append((*place, tuple(row.get(name) for name in selection.columns)))
        return sorted(found, key=lambda row: row[:2])

    def _stumble(self) -> None:
        if self._faults:
            raise ConnectionError(self._faults.pop(0))


def _is_in(selection: Selection, has_no_cursor: bool, place: tuple[str, tuple[Any, ...]]) -> bool:
    if selection.without_cursor:
        return has_no_cursor
    if selection.window is None:
        return True
    since, until = selection.window.since, selection.window.until
    return not has_no_cursor and (since is None or _is_after(place, since)) and not _is_after(place, until)


def _is_after(place: tuple[str, tuple[Any, ...]], mark: Mark) -> bool:
    """Whether a row stands after a mark; without a key the mark stands before all rows of its instant."""
    return place[0] > mark.at or (place[0] == mark.at and (mark.key is None or place[1] > mark.key))


@dataclass(frozen=True)
class InMemoryLogin:
    """Where the tables are served, and the word that lets one in."""

    host: str
    port: int
    word: bytes = field(repr=False)

    def __call__(self, options: TableOptions) -> InMemoryTable:
        """Open a table."""
        try:
            return InMemoryTable(Client((self.host, self.port), authkey=self.word), options)
        except AuthenticationError:
            raise ConfigurationAdapterError("IN_MEMORY_LOGIN_REFUSED", "The word is not the server's.") from None
        except (OSError, EOFError) as error:
            raise RetriableAdapterError("IN_MEMORY_UNREACHABLE", "The tables are not served.") from error


class InMemoryServer:
    """Serves tables on the loopback while its block lasts."""

    def __init__(self) -> None:
        self.tables = InMemoryTables()
        word = secrets.token_bytes(16)
        self._listener = Listener(("127.0.0.1", 0), authkey=word)
        host, port = self._listener.address
        self.login = InMemoryLogin(str(host), int(port), word)
        self._is_open = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="in-memory-tables", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_open = False
        with suppress(Exception):
            self.login(TableOptions("", ())).close()  # wakes the thread that accepts
        self._listener.close()

    def _accept(self) -> None:
        while self._is_open:
            with suppress(OSError, EOFError, AuthenticationError):
                threading.Thread(target=self._answer, args=(self._listener.accept(),), daemon=True).start()

    def _answer(self, line: Connection) -> None:
        with line, suppress(EOFError, OSError):
            while True:
                method, arguments = line.recv()
                try:
                    line.send(getattr(self.tables, method)(*arguments))
                except ConnectionError:
                    return  # a fault that was asked for: the line is cut


class InMemoryTable(SourceTable):
    """One table of them."""

    def __init__(self, line: Connection, options: TableOptions) -> None:
        self._line, self._options = line, options

    def clock(self) -> dt.datetime:
        """The tables' clock."""
        return self._ask("clock")  # type: ignore[no-any-return]

    def schema(self) -> pa.Schema:
        """The columns that the table was made with."""
        schema = self._ask("schema", self._options.table)
        if schema is None:
            raise ConfigurationAdapterError("TABLE_MISSING", f"There is no table {self._options.table!r}.")
        for name in (*self._options.key, *([self._options.cursor] if self._options.cursor else [])):
            if name not in schema.names:
                raise ConfigurationAdapterError("COLUMN_MISSING", f"{self._options.table!r} has no column {name!r}.")
        return schema

    def nth(self, window: Window, number: int) -> Mark | None:
        """The place of the window's row of that number."""
        rows = self._select(Selection((), window))
        return Mark(*rows[number - 1][:2]) if len(rows) >= number else None

    def parts(self, selection: Selection, batch: str) -> Sequence[Any]:
        """Every n-th row: parts need not be ranges."""
        count = self._options.parts
        return [(selection, place, count) for place in range(count)]

    def read(self, part: Any) -> Iterator[pa.RecordBatch]:
        """The part's rows, some thousand at a time."""
        selection, place, count = part
        rows = self._select(selection)[place::count]
        schema = pa.schema([self.schema().field(name) for name in selection.columns if name in self.schema().names])
        fields = [(selection.columns.index(field.name), field) for field in schema]
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            columns = list(zip(*(row[2] for row in rows[start : start + _ROWS_AT_ONCE]), strict=True))
            yield pa.record_batch([pa.array(columns[place], field.type) for place, field in fields], schema=schema)

    def _select(self, selection: Selection) -> list[Any]:
        options = self._options
        return list(self._ask("select", options.table, options.cursor, options.key, selection))

    def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            self._line.send((method, arguments))
            return self._line.recv()
        except (OSError, EOFError) as error:
            raise RetriableAdapterError("IN_MEMORY_UNREACHABLE", "The tables did not answer.") from error

    def close(self) -> None:
        """Hang up."""
        self._line.close()


def in_memory(login: InMemoryLogin) -> type[DataSource]:
    """The data source ``in_memory``."""
    return data_source("in_memory", login)
