"""The in-memory twin passes the suite that all adapters pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from batch_adapters.in_memory import InMemoryLogin, InMemoryServer, InMemoryTables
from tests.suites.adapter_suite import AdapterSuite, Row

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Iterator

COLUMNS = pa.schema([("id", pa.string()), ("updated_at", pa.timestamp("us", "UTC")), ("value", pa.string())])


@dataclass
class InMemorySource:
    login: InMemoryLogin
    tables: InMemoryTables
    table = "things"
    key = "id"
    cursor = "updated_at"
    value = "value"
    deleted = None
    takes_null_cursor = True
    has_snapshots = True

    def key_of(self, number: int) -> str:
        return f"k{9 - number}"

    def put(self, rows: Iterable[Row]) -> None:
        made: list[dict[str, Any]] = [
            {"id": self.key_of(row.number), "updated_at": row.at, "value": row.value} for row in rows
        ]
        self.tables.put(self.table, made)

    def delete(self, numbers: Iterable[int]) -> None:
        self.tables.delete(self.table, [(self.key_of(number),) for number in numbers])

    def now(self) -> dt.datetime:
        return self.tables.clock()


class TestInMemory(AdapterSuite):
    examples = 10

    @pytest.fixture
    def source(self) -> Iterator[InMemorySource]:
        with InMemoryServer() as server:
            server.tables.create("things", COLUMNS, ["id"])
            yield InMemorySource(server.login, server.tables)
