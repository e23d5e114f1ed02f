"""What every adapter must do, asked of it over its real client. An adapter gets all of it by one class:

    class TestMyAdapter(AdapterSuite):
        @pytest.fixture
        def source(self): ...   # a `Source` whose table is empty

No Spark is needed: `Puller` does to an adapter what Spark's micro-batches do, killing included.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark import cloudpickle
from pyspark.sql.streaming.datasource import ReadAllAvailable

from batch_adapters.adapter import ADDED, CHANGE, TableOptions, TableStreamReader, stream_schema
from batch_adapters.window import instant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batch_adapters.adapter import SourceTable

MINUTE = dt.timedelta(minutes=1)


@dataclass(frozen=True)
class Row:
    """A row of the suite's table: the adapter's test says which columns stand for key, cursor and value."""

    number: int
    at: dt.datetime | None
    value: str = "a"


class Source(Protocol):
    """A source under test and its one table.

    Attributes:
        login: opens the table, as `batch_adapters.adapter.data_source` takes it.
        table, key, cursor, value: the table's name and the columns that stand for a row's parts.
        deleted: the column by which the source marks deleted rows; None where it does not mark them.
        takes_null_cursor: whether its cursor column may be null.
        has_snapshots: whether a table can be read without a cursor.
    """

    login: Callable[[TableOptions], SourceTable]
    table: str
    key: str
    cursor: str
    value: str
    deleted: str | None
    takes_null_cursor: bool
    has_snapshots: bool

    def key_of(self, number: int) -> Any:
        """The key of a row of that number; the order of keys need not be that of numbers."""
        ...

    def put(self, rows: Iterable[Row]) -> None:
        """Insert, or replace by key; the cursor is exactly the row's (to the millisecond)."""
        ...

    def delete(self, numbers: Iterable[int]) -> None:
        """Delete rows: marked, where the source marks them, with the cursor at its clock."""
        ...

    def now(self) -> dt.datetime:
        """The source's own clock."""
        ...


class KilledError(Exception):
    """Where a process would have been killed."""


@dataclass
class Puller:
    """Spark's part: journals the end of a batch, has it planned and read, writes it once, commits it.

    A reader is made anew for each process; its parts are read by a copy that went through pickle.
    """

    source: Source
    options: dict[str, str] = field(default_factory=dict)
    committed: dict[str, Any] | None = None
    journaled: dict[str, Any] | None = None
    batches: list[list[dict[str, Any]]] = field(default_factory=list)
    written: bool = False  # the journaled batch is in bronze already

    def reader(self) -> TableStreamReader:
        source = self.source
        said = {"table": source.table, "key": source.key, "cursor": source.cursor, "lag_seconds": "0"}
        options = TableOptions.parse({name: text for name, text in (said | self.options).items() if text})
        table = source.login(options)
        try:
            return TableStreamReader(source.login, options, stream_schema(table, options))
        finally:
            table.close()

    def pull(self, kill: str | None = None, after: int = 0) -> None:
        """Run until there is nothing new. `kill` at batch `after`: planned, half, read, or written."""
        reader = self.reader()
        try:
            self._run(reader, kill, after)
        except KilledError:
            pass
        finally:
            reader.stop()  # of a killed process the system closes the lines

    def _run(self, reader: TableStreamReader, kill: str | None, after: int) -> None:
        reader.prepareForTriggerAvailableNow()
        for number in range(10_000):
            start = self.committed or reader.initialOffset()
            end = self.journaled or reader.latestOffset(start, reader.getDefaultReadLimit())
            if end == start:
                return
            self.journaled = end
            self._batch(reader, start, end, kill if number == after else None)
            self.committed, self.journaled, self.written = end, None, False
            reader.commit(end)
        raise AssertionError("the pull has no end")

    def _batch(self, reader: TableStreamReader, start: dict[str, Any], end: dict[str, Any], kill: str | None) -> None:
        parts = reader.partitions(start, end)
        if kill == "planned":
            raise KilledError
        rows: list[dict[str, Any]] = []
        for part in parts:
            far, there = cloudpickle.loads(cloudpickle.dumps((reader, part)))
            for batch in far.read(there):
                rows.extend(batch.to_pylist())
                if kill == "half":
                    raise KilledError
        if kill == "read":
            raise KilledError
        if not self.written:
            self.batches.append(rows)
            self.written = True
        if kill == "written":
            raise KilledError

    def rows(self) -> list[dict[str, Any]]:
        """All rows that came, without those that only tell of keys."""
        return [row for batch in self.batches for row in batch if row[CHANGE] in ("row", "snapshot")]

    def count(self) -> Counter[Any]:
        """How often each key came as a row."""
        return Counter(row[self.source.key] for row in self.rows())

    def state(self) -> dict[Any, Any]:
        """Bronze replayed: for each key its newest value, without those that were deleted."""
        newest: dict[Any, dict[str, Any]] = {}
        source = self.source
        for batch in self.batches:
            keys = {row[source.key] for row in batch if row[CHANGE] in ("key", "snapshot")}
            for row in batch:
                if row[CHANGE] in ("row", "snapshot"):
                    known = newest.get(row[source.key])
                    if known is None or row[CHANGE] == "snapshot" or _cursor(row, source) >= _cursor(known, source):
                        newest[row[source.key]] = row
            if any(row[CHANGE] == "complete" for row in batch):
                newest = {key: row for key, row in newest.items() if key in keys}
        return {key: row[source.value] for key, row in newest.items() if not (source.deleted and row[source.deleted])}


def _cursor(row: dict[str, Any], source: Source) -> str:
    at = row[source.cursor]
    return "" if at is None else instant(at)


def eventually(source: Source, past: dt.datetime) -> None:
    """Wait until the source's clock has passed a moment."""
    deadline = time.monotonic() + 10
    while source.now() <= past:
        assert time.monotonic() < deadline, "the source's clock stands still"
        time.sleep(0.002)


def base(source: Source, ago: int = 120) -> dt.datetime:
    """A whole minute in the source's past."""
    return (source.now() - ago * MINUTE).replace(second=0, microsecond=0)


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(st.integers(0, 7), min_size=1, max_size=5, unique=True)),
        st.tuples(st.just("delete"), st.lists(st.integers(0, 7), min_size=1, max_size=2, unique=True)),
        st.tuples(st.just("pull"), st.just([])),
        st.tuples(
            st.sampled_from(["planned", "half", "read", "written"]), st.lists(st.integers(0, 2), min_size=1, max_size=1)
        ),
    ),
    min_size=2,
    max_size=8,
)


class AdapterSuite:
    """Subclass it with a fixture ``source``."""

    examples = 10  # random histories; each is a few dozen requests

    def test_every_row_once(self, source: Source) -> None:
        first = base(source)
        source.put(Row(n, first + n * MINUTE, f"v{n}") for n in range(10))
        puller = Puller(source, {"reconcile_seconds": "0"})
        puller.pull()
        assert puller.count() == {source.key_of(n): 1 for n in range(10)}
        assert puller.state() == {source.key_of(n): f"v{n}" for n in range(10)}

    def test_times_and_texts_arrive_as_they_are(self, source: Source) -> None:
        at = base(source) + dt.timedelta(seconds=1.234)
        source.put([Row(1, at, 'Zoë, "the" 東京\nsecond line')])
        puller = Puller(source, {"reconcile_seconds": "0"})
        puller.pull()
        (row,) = puller.rows()
        assert (row[source.cursor], row[source.value]) == (at, 'Zoë, "the" 東京\nsecond line')

    def test_only_the_columns_that_are_wanted(self, source: Source) -> None:
        source.put([Row(1, base(source))])
        puller = Puller(source, {"columns": f"{source.key},no_such_column", "reconcile_seconds": "0"})
        puller.pull()
        (row,) = puller.rows()
        assert row[source.key] == source.key_of(1)
        assert set(row) == {source.key, source.cursor, *ADDED.names}

    @pytest.mark.parametrize("max_rows", [1, 4, 25])
    def test_ties_beyond_a_batch(self, source: Source, max_rows: int) -> None:
        at = base(source)
        source.put(Row(n, at) for n in range(9))
        puller = Puller(source, {"max_rows": str(max_rows), "reconcile_seconds": "0"})
        puller.pull()
        assert puller.count() == {source.key_of(n): 1 for n in range(9)}
        assert max(len(batch) for batch in puller.batches) <= max_rows

    def test_nothing_new_is_no_batch(self, source: Source) -> None:
        source.put([Row(1, base(source))])
        puller = Puller(source, {"reconcile_seconds": "0"})
        for _ in range(3):
            puller.pull()
        assert len(puller.batches) == 1

    def test_an_empty_source(self, source: Source) -> None:
        puller = Puller(source, {"reconcile_seconds": "0"})
        puller.pull()
        assert puller.batches == []
        source.put([Row(1, base(source))])
        puller.pull()
        assert puller.state() == {source.key_of(1): "a"}

    def test_only_what_has_changed_comes_again(self, source: Source) -> None:
        first = base(source)
        source.put(Row(n, first) for n in range(5))
        puller = Puller(source, {"lookback_seconds": "0", "reconcile_seconds": "0"})
        puller.pull()
        at = _milliseconds(source.now())
        source.put([Row(3, at, "b")])
        eventually(source, at)
        puller.pull()
        assert puller.count()[source.key_of(3)] == 2
        assert sum(puller.count().values()) == 6
        assert puller.state()[source.key_of(3)] == "b"

    def test_a_row_that_became_visible_late(self, source: Source) -> None:
        source.put([Row(1, base(source))])
        puller = Puller(source, {"lookback_seconds": "600", "reconcile_seconds": "0"})
        puller.pull()
        source.put([Row(2, _milliseconds(source.now() - 5 * MINUTE), "late")])
        puller.pull()
        assert puller.state() == {source.key_of(1): "a", source.key_of(2): "late"}

    def test_the_lag_holds_back_what_is_too_young(self, source: Source) -> None:
        source.put([Row(1, base(source)), Row(2, _milliseconds(source.now() - MINUTE))])
        puller = Puller(source, {"lag_seconds": "3600", "reconcile_seconds": "0"})
        puller.pull()
        assert set(puller.state()) == {source.key_of(1)}
        puller.options["lag_seconds"] = "0"
        puller.pull()
        assert set(puller.state()) == {source.key_of(1), source.key_of(2)}

    def test_the_first_run_begins_where_it_is_told(self, source: Source) -> None:
        first = base(source)
        source.put(Row(n, first + n * MINUTE) for n in range(4))
        puller = Puller(source, {"start": _second(first + 2 * MINUTE), "reconcile_seconds": "0"})
        puller.pull()
        assert set(puller.count()) == {source.key_of(2), source.key_of(3)}

    def test_a_range_filled_again_beside_the_running_cursor(self, source: Source) -> None:
        first = base(source)
        source.put(Row(n, first + n * MINUTE) for n in range(5))
        running = Puller(source, {"reconcile_seconds": "0"})
        running.pull()
        reached = running.committed
        again = Puller(source, {"start": _second(first + MINUTE), "end": _second(first + 3 * MINUTE), "max_rows": "1"})
        again.pull()
        again.pull()
        assert again.count() == {source.key_of(1): 1, source.key_of(2): 1}
        running.pull()
        assert running.committed == reached

    @pytest.mark.parametrize("kill", ["planned", "half", "read", "written"])
    def test_killed_in_the_middle_of_a_batch(self, source: Source, kill: str) -> None:
        first = base(source)
        source.put(Row(n, first + (n // 3) * MINUTE, f"v{n}") for n in range(9))
        puller = Puller(source, {"max_rows": "4", "reconcile_seconds": "0"})
        puller.pull(kill, after=1)
        assert puller.journaled is not None
        puller.pull()
        assert puller.count() == {source.key_of(n): 1 for n in range(9)}

    def test_a_batch_planned_anew_is_the_same(self, source: Source) -> None:
        first = base(source)
        source.put(Row(n, first + (n % 2) * MINUTE) for n in range(7))
        puller = Puller(source, {"reconcile_seconds": "0"})
        reader = puller.reader()
        start = reader.initialOffset()
        end = reader.latestOffset(start, ReadAllAvailable())
        twice = []
        for _ in range(2):
            parts = reader.partitions(start, end)
            keys = [key for part in parts for batch in reader.read(part) for key in batch[source.key].to_pylist()]
            twice.append(sorted(keys))
        reader.stop()
        assert twice[0] == twice[1] == sorted(source.key_of(n) for n in range(7))
        assert reader.partitions(end, end) == []

    def test_the_source_changes_while_a_batch_waits(self, source: Source) -> None:
        first = base(source)
        source.put(Row(n, first, "old") for n in range(4))
        puller = Puller(source, {"reconcile_seconds": "0", "lookback_seconds": "60"})
        puller.pull("planned")
        at = _milliseconds(source.now())
        source.put([Row(2, at, "new")])
        eventually(source, at)
        puller.pull()
        assert puller.state() == {source.key_of(n): "new" if n == 2 else "old" for n in range(4)}

    def test_a_deleted_row(self, source: Source) -> None:
        source.put(Row(n, base(source)) for n in range(4))
        puller = Puller(source, {"reconcile_seconds": "0.000001"})
        puller.pull()
        source.delete([1, 3])
        eventually(source, source.now())
        puller.pull()
        assert set(puller.state()) == {source.key_of(0), source.key_of(2)}
        source.put([Row(1, _milliseconds(source.now()), "back")])
        eventually(source, source.now() + dt.timedelta(milliseconds=2))
        puller.pull()
        assert puller.state()[source.key_of(1)] == "back"

    def test_the_clock_goes_back(self, source: Source) -> None:
        source.put([Row(1, base(source))])
        puller = Puller(source, {"reconcile_seconds": "0"})
        puller.pull()
        reached = puller.committed
        puller.options["lag_seconds"] = "3600"  # as if the source's clock had been set back by an hour
        puller.pull()
        assert puller.committed == reached
        puller.options["lag_seconds"] = "0"
        source.put([Row(2, _milliseconds(source.now() - dt.timedelta(seconds=1)), "b")])
        puller.pull()
        assert set(puller.state()) == {source.key_of(1), source.key_of(2)}

    def test_a_row_without_a_cursor_comes_with_the_reconciliation(self, source: Source) -> None:
        if not source.takes_null_cursor:
            pytest.skip("the source's cursor is never null")
        source.put([Row(1, base(source)), Row(2, None, "nowhere")])
        puller = Puller(source)
        puller.pull()
        assert puller.state() == {source.key_of(1): "a", source.key_of(2): "nowhere"}
        puller.pull()
        assert puller.count()[source.key_of(2)] == 1

    def test_a_table_without_a_cursor_is_read_whole(self, source: Source) -> None:
        if not source.has_snapshots:
            pytest.skip("every table of the source has a cursor")
        source.put(Row(n, base(source)) for n in range(4))
        puller = Puller(source, {"cursor": ""})
        puller.pull()
        source.delete([0])
        eventually(source, source.now())
        puller.pull()
        assert set(puller.state()) == {source.key_of(n) for n in (1, 2, 3)}

    def test_any_history(self, source: Source) -> None:
        """Whatever is inserted, updated and deleted, and whenever a pull is killed: bronze replayed is the source."""

        @settings(
            max_examples=self.examples,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            derandomize=True,
        )
        @given(steps=_STEPS, max_rows=st.sampled_from(["", "1", "3"]))
        def holds(steps: list[tuple[str, list[int]]], max_rows: str) -> None:
            source.delete(range(8))
            puller = Puller(source, {"reconcile_seconds": "0.000001", "lookback_seconds": "60", "max_rows": max_rows})
            there: dict[Any, Any] = {}
            for place, (step, numbers) in enumerate(steps):
                if step == "put":
                    at = _milliseconds(source.now())
                    source.put(Row(n, at, f"{place}.{n}") for n in numbers)
                    there |= {source.key_of(n): f"{place}.{n}" for n in numbers}
                    eventually(source, at)
                elif step == "delete":
                    source.delete(numbers)
                    there = {key: value for key, value in there.items() if key not in map(source.key_of, numbers)}
                elif step == "pull":
                    puller.pull()
                else:
                    puller.pull(step, after=numbers[0])
            eventually(source, source.now() + dt.timedelta(milliseconds=2))
            puller.pull()
            assert puller.state() == there

        holds()


def _milliseconds(at: dt.datetime) -> dt.datetime:
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def _second(at: dt.datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
