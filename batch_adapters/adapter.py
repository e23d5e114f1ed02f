"""What all adapters share: a pull from a database as a Spark stream whose offsets are windows over a cursor.

An adapter is a `SourceTable`: it says what its source's clock reads, where a window is cut, which parts a
selection has, and how one part is read. `data_source` makes a Spark data source of it.

One pull goes ``window, window, ..., reconciliation``: windows from where the last pull ended (less the lookback)
to the source's own clock (less the safety lag), each cut after ``max_rows`` rows at a place in (cursor, key);
then, when it is due, a reconciliation: the keys that there are, and the rows without a cursor value. A table
without a cursor is a snapshot: every pull reads it whole. What a batch reads stands in its end offset, so that
a killed batch is asked for again as it was.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
import hashlib
import json
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import tenacity
from pyspark.sql.datasource import DataSource, DataSourceStreamReader, InputPartition
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
from pyspark.sql.streaming.datasource import (
    ReadAllAvailable,
    ReadLimit,
    ReadMaxRows,
    SupportsTriggerAvailableNow,
)
from pyspark.sql.types import StringType, StructField, StructType, TimestampType

from batch_adapters.errors import AdapterError, ConfigurationAdapterError, FatalAdapterError, RetriableAdapterError
from batch_adapters.window import Mark, Selection, Window, instant, moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

T = TypeVar("T")
# What is read beside the table's own columns.
CHANGE: Final = "_change"
PULLED: Final = "_pulled_at"
WINDOW: Final = "_window"
ADDED: Final = StructType(
    [
        # row: as it is at the source · snapshot: the same, of a table read whole · key: a key that there is,
        # its other columns null · complete: no row, but says that all rows or keys of a pull are in this batch
        StructField(CHANGE, StringType()),
        StructField(PULLED, TimestampType()),  # the source's clock, less the lag, when the pull began
        StructField(WINDOW, StringType()),  # which window, for people
    ]
)
_ATTEMPTS: Final = 5
_LONGEST_PAUSE: Final = 60.0  # seconds


@dataclass(frozen=True)
class TableOptions:
    """The options of a stream; all arrive as text.

    Args:
        table: the table's name at the source.
        key: its key columns, separated by commas.
        cursor: the column that a change of the row moves forward; none makes the table a snapshot.
        start: an instant; older rows are not pulled.
        end: an instant; rows from it on are not pulled. With ``start``: a back-fill, with a checkpoint of its own.
        lag_seconds: how far behind the source's clock a window ends: longer than the clocks of writers differ.
        lookback_seconds: how far before its predecessor's end a pull begins: longer than a transaction lasts.
        max_rows: how many rows a batch has at the most.
        parts: how many parts a batch is read in, where the source leaves the choice.
        reconcile_seconds: how often the keys are compared, for deletes that leave no mark; 0 for never.
        time_zone: of a cursor column without a zone.
        columns: the only ones to read beside key and cursor, as far as they are there; all where none are named.
    """

    table: str
    key: tuple[str, ...]
    cursor: str | None = None
    start: str | None = None
    end: str | None = None
    lag_seconds: float = 60.0
    lookback_seconds: float = 600.0
    max_rows: int | None = None
    parts: int = 2
    reconcile_seconds: float = 86400.0
    time_zone: str = "UTC"
    columns: tuple[str, ...] = ()

    def wants(self, column: str) -> bool:
        """Whether a column is to be read."""
        return not self.columns or column in (*self.columns, *self.key, self.cursor)

    @classmethod
    def parse(cls, options: Mapping[str, str]) -> TableOptions:
        """Read a stream's options.

        Raises:
            ConfigurationAdapterError: ``OPTION_UNKNOWN``, ``OPTION_MISSING`` or ``OPTION_INVALID``.
        """
        known = {field.name: field for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for name, text in options.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}."
                raise ConfigurationAdapterError("OPTION_UNKNOWN", f"There is no option {name!r}.", hint)
            values[name] = _option(name, text)
        for name in ("table", "key"):
            if not values.get(name):
                raise ConfigurationAdapterError("OPTION_MISSING", f"The option {name!r} is not given.")
        return cls(**values)


def _option(name: str, text: str) -> Any:
    try:
        if name in ("key", "columns"):
            return tuple(part.strip() for part in text.split(",") if part.strip())
        if name in ("start", "end"):
            return instant(moment(text))
        if name in ("max_rows", "parts"):
            number = int(text)
            if number < 1:
                raise ValueError(f"{number} is less than 1")  # noqa: TRY301
            return number
        if name.endswith("_seconds"):
            seconds = float(text)
            if not 0 <= seconds < float("inf"):
                raise ValueError(f"{seconds} is not a number of seconds")  # noqa: TRY301
            return seconds
    except ValueError as error:
        raise ConfigurationAdapterError("OPTION_INVALID", f"The option {name!r} is wrong: {error}.") from error
    return text


class SourceTable(ABC):
    """One table at one source, through one login. Not shared between processes; opened anew in each.

    Every method raises `AdapterError`: retriable ones are tried again by the caller (`patiently`), so a method
    must be safe to be called again.
    """

    @abstractmethod
    def clock(self) -> dt.datetime:
        """What the source's own clock reads now; aware."""

    @abstractmethod
    def schema(self) -> pa.Schema:
        """The table's columns as they are at the source now; times are aware (UTC, microseconds)."""

    @abstractmethod
    def nth(self, window: Window, number: int) -> Mark | None:
        """The mark just after the window's row of that number (from 1) in the order (cursor, key).

        None when the window has fewer rows.
        """

    @abstractmethod
    def parts(self, selection: Selection, batch: str) -> Sequence[Any]:
        """Split a selection into parts that other processes can read, each at most once a batch; picklable.

        Args:
            selection: what is read.
            batch: names the batch, the same when it is asked for again; safe in a path. What is left at the
                source for it (staged files, jobs) carries it.
        """

    @abstractmethod
    def read(self, part: Any) -> Iterator[pa.RecordBatch]:
        """The part's rows, a bounded number at a time, with the selection's columns by name."""

    def clean(self, batch: str | None) -> None:  # noqa: B027 - most sources keep nothing
        """Remove what a batch has left at the source: all whose name begins so. Of this stream's all when None."""

    def close(self) -> None:  # noqa: B027
        """Let the login go."""


def patiently(
    call: Callable[[], T],
    attempts: int = _ATTEMPTS,
    sleep: Callable[[float], None] = tenacity.nap.sleep,
    longest: float = _LONGEST_PAUSE,
) -> T:
    """Call, and call again after a retriable error: growing pauses with jitter, or as long as the source asks for."""
    growing = tenacity.wait_random_exponential(multiplier=0.5, max=longest)

    def pause(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = getattr(error, "retry_after", None)
        return min(float(asked), longest) if asked is not None else growing(state)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(RetriableAdapterError),
        stop=tenacity.stop_after_attempt(attempts),
        wait=pause,
        sleep=sleep,
        reraise=True,
    )
    return retrying(call)


@dataclass(frozen=True)
class Offset:
    """Where a stream stands, and what the batch that ends here has read.

    Args:
        kind: ``start`` (nothing yet), ``window``, ``reconciliation`` or ``snapshot``.
        closing: the instant at which the pull closes; empty at the start.
        since: where the batch's window begins; None for the first row.
        until: where it ends. The pull goes on until this is ``closing``.
        reconciled: the closing of the last pull whose keys were compared; empty before the first.
    """

    kind: str = "start"
    closing: str = ""
    since: Mark | None = None
    until: Mark | None = None
    reconciled: str = ""

    @property
    def is_done(self) -> bool:
        """Whether the pull has no more windows."""
        return self.until is None or self.until == Mark(self.closing)

    def as_dict(self) -> dict[str, Any]:
        """As Spark's checkpoint keeps it."""
        marks = {"since": self.since, "until": self.until}
        plain = {"kind": self.kind, "closing": self.closing, "reconciled": self.reconciled}
        return plain | {name: mark.as_dict() for name, mark in marks.items() if mark is not None}

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Offset:
        """What `as_dict` made."""
        marks = {name: Mark.of(said[name]) for name in ("since", "until") if name in said}
        return cls(said["kind"], said["closing"], reconciled=said["reconciled"], **marks)


class Pull:
    """Which batch comes next. Holds no state but what the offsets say.

    Args:
        table: the table.
        options: the stream's.
    """

    def __init__(self, table: SourceTable, options: TableOptions) -> None:
        self.table, self.options = table, options

    def target(self) -> str:
        """The instant at which a pull that begins now closes."""
        closing = instant(self.table.clock() - dt.timedelta(seconds=self.options.lag_seconds))
        return min(closing, self.options.end) if self.options.end else closing

    def next(self, start: Offset, target: str, max_rows: int | None) -> Offset:
        """The end of the batch that comes after `start`; `start` itself when there is nothing to read."""
        if self.options.cursor is None:
            # A clock that goes back, or has not moved: nothing until it has passed where it was.
            return Offset("snapshot", closing=target) if target > start.closing else start
        if not start.is_done:
            return self._window(start, start.until, start.closing, max_rows) or dataclasses.replace(
                start, since=start.until, until=Mark(start.closing)
            )
        if target > start.closing:
            window = self._window(start, self._since(start), target, max_rows)
            if window is not None:
                return window
        # No rows: the pull is not even begun, but what is due is due.
        if self._is_reconciliation_due(start, target):
            closing = max(start.closing, target)
            return Offset("reconciliation", closing, start.until, Mark(closing), reconciled=target)
        return start

    def _since(self, start: Offset) -> Mark | None:
        first = self.options.start
        if not start.closing:
            return Mark(first) if first else None
        back = instant(moment(start.closing) - dt.timedelta(seconds=self.options.lookback_seconds))
        return Mark(max(back, first) if first else back)

    def _window(self, start: Offset, since: Mark | None, closing: str, max_rows: int | None) -> Offset | None:
        whole = Window(since, Mark(closing))
        if self.table.nth(whole, 1) is None:
            return None
        cut = self.table.nth(whole, max_rows) if max_rows else None
        return Offset("window", closing, since, cut or whole.until, start.reconciled)

    def _is_reconciliation_due(self, start: Offset, target: str) -> bool:
        every = self.options.reconcile_seconds
        # A range that is filled again beside the running cursor has no say in what was deleted.
        if not every or self.options.end or target <= start.reconciled:
            return False
        return not start.reconciled or (moment(target) - moment(start.reconciled)).total_seconds() >= every


@dataclass
class Part(InputPartition):
    """One part of a batch, as Spark hands it to an executor. ``part`` is None for the batch's last word."""

    part: Any
    change: str
    closing: str
    window: str


class TableStreamReader(DataSourceStreamReader, SupportsTriggerAvailableNow):
    """Spark's side of a `SourceTable`.

    Args:
        open_table: opens the table; runs in every process that reads, so it carries the login.
        options: the stream's.
        schema: the columns that Spark was promised.
    """

    def __init__(
        self, open_table: Callable[[TableOptions], SourceTable], options: TableOptions, schema: StructType
    ) -> None:
        self._open, self._options, self._schema = open_table, options, schema
        self._table: SourceTable | None = None
        self._target: str | None = None
        self._swept = False
        self._committed: dict[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_table": None}  # a login does not travel

    @property
    def _source(self) -> SourceTable:
        if self._table is None:
            self._table = self._open(self._options)
        return self._table

    def _ask(self, question: Callable[[SourceTable], T]) -> T:
        """Ask patiently; after a failure through a new login, for the old one's line may be cut."""

        def attempt() -> T:
            try:
                return question(self._source)
            except RetriableAdapterError:
                with suppress(AdapterError):
                    self.stop()
                raise

        return patiently(attempt)

    def initialOffset(self) -> dict[str, Any]:  # noqa: N802 - Spark's name
        """Nothing read yet."""
        return Offset().as_dict()

    def getDefaultReadLimit(self) -> ReadLimit:  # noqa: N802
        """The option ``max_rows``."""
        return ReadMaxRows(self._options.max_rows) if self._options.max_rows else ReadAllAvailable()

    def prepareForTriggerAvailableNow(self) -> None:  # noqa: N802
        """Fix where this run ends."""
        self._target = self._ask(lambda table: Pull(table, self._options).target())

    def latestOffset(self, start: dict[str, Any], limit: ReadLimit) -> dict[str, Any]:  # noqa: N802
        """The end of the next batch."""
        max_rows = limit.max_rows if isinstance(limit, ReadMaxRows) else None
        # Spark asks this once the batch before is done for good, and tells of a run's last batch in no other way.
        self.commit(start)

        def following(table: SourceTable) -> Offset:
            pull = Pull(table, self._options)
            return pull.next(Offset.of(start), self._target or pull.target(), max_rows)

        return self._ask(following).as_dict()

    def partitions(self, start: dict[str, Any], end: dict[str, Any]) -> Sequence[InputPartition]:
        """The parts of the batch that ends at `end`."""
        if start == end:
            return []
        return self._ask(lambda table: list(self._plan(table, Offset.of(end))))

    def _plan(self, table: SourceTable, end: Offset) -> Iterator[Part]:
        batch = _batch_name(end)
        if not self._swept:
            # A killed run's staged files and jobs: none of this table is read now but by this very batch.
            table.clean(None)
            self._swept = True
        for change, selection, shown in self._selections(end):
            for part in table.parts(selection, f"{batch}-{change}"):
                yield Part(part, change, end.closing, shown)
        if end.kind != "window":
            yield Part(None, "complete", end.closing, end.kind)

    def _selections(self, end: Offset) -> Iterator[tuple[str, Selection, str]]:
        columns = tuple(name for name in self._schema.names if name not in ADDED.names)
        if end.kind == "window":
            assert end.until is not None
            window = Window(end.since, end.until)
            yield "row", Selection(columns, window), str(window)
        elif end.kind == "snapshot":
            yield "snapshot", Selection(columns), f"snapshot of {end.closing}"
        else:
            shown = f"reconciliation of {end.closing}"
            yield "row", Selection(columns, without_cursor=True), shown
            yield "key", Selection(self._options.key), shown

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """The rows of one part, as Arrow."""
        assert isinstance(partition, Part)
        promised = to_arrow_schema(self._schema, timezone="UTC")
        if partition.part is None:
            yield _complete(promised, partition)
            return
        rows = self._rows(partition.part)
        for batch in rows:
            if batch.num_rows:
                yield conform(batch, promised, partition)

    def _rows(self, part: Any) -> Iterator[pa.RecordBatch]:
        """Begun again after a failure until the first rows have come; after that Spark asks for the batch anew."""

        def begin(table: SourceTable) -> tuple[Iterator[pa.RecordBatch], list[pa.RecordBatch]]:
            rows = iter(table.read(part))
            first = next(rows, None)
            return rows, [] if first is None else [first]

        try:
            rows, first = self._ask(begin)
            yield from first
            yield from rows
        finally:
            self.stop()

    def commit(self, end: dict[str, Any]) -> None:
        """Spark has this batch for good: what was staged for it can go."""
        if end != self._committed and end != self.initialOffset():
            self._ask(lambda table: table.clean(_batch_name(Offset.of(end))))
            self._committed = end

    def stop(self) -> None:
        """Let the login go."""
        table, self._table = self._table, None
        if table is not None:
            table.close()


def _batch_name(end: Offset) -> str:
    return hashlib.sha256(json.dumps(end.as_dict(), sort_keys=True).encode()).hexdigest()[:16]


def conform(batch: pa.RecordBatch, promised: pa.Schema, partition: Part) -> pa.RecordBatch:
    """Bring what a source gave into the columns that Spark was promised.

    A column that was added since is left out until the stream is started again. A type that was widened since
    is taken as long as its values fit.

    Raises:
        FatalAdapterError: ``SOURCE_COLUMN_DROPPED``.
        RetriableAdapterError: ``SOURCE_TYPE_CHANGED``: a new start reads with the new type.
    """
    added = _added(partition, batch.num_rows)
    columns = []
    for field in promised:
        place = batch.schema.get_field_index(field.name)
        if field.name in added:
            columns.append(pa.array(added[field.name], field.type))
        elif place >= 0:
            columns.append(_cast(batch.column(place), field))
        elif partition.change == "key":
            columns.append(pa.nulls(batch.num_rows, field.type))
        else:
            raise FatalAdapterError(
                "SOURCE_COLUMN_DROPPED",
                f"The source no longer gives the column {field.name!r}.",
                "Start the stream again to read without it, if its contract lets it.",
            )
    return pa.record_batch(columns, schema=promised)


def _cast(column: pa.Array, field: pa.Field) -> pa.Array:
    if column.type == field.type:
        return column
    try:
        return pc.cast(column, field.type)
    except pa.ArrowException:
        # Not the exception's own text, which may quote a value.
        raise RetriableAdapterError(
            "SOURCE_TYPE_CHANGED",
            f"The column {field.name!r} now has values of {column.type}, which {field.type} can't hold.",
        ) from None


def _added(partition: Part, rows: int) -> dict[str, list[Any]]:
    return {
        CHANGE: [partition.change] * rows,
        PULLED: [moment(partition.closing)] * rows,
        WINDOW: [partition.window] * rows,
    }


def _complete(promised: pa.Schema, partition: Part) -> pa.RecordBatch:
    added = _added(partition, 1)
    return pa.record_batch([pa.array(added.get(f.name, [None]), f.type) for f in promised], schema=promised)


def stream_schema(table: SourceTable, options: TableOptions) -> StructType:
    """The columns that are wanted, as Spark's, and those that every stream has beside them (`ADDED`)."""
    own = [field for field in from_arrow_schema(patiently(table.schema)) if options.wants(field.name)]
    return StructType([*(StructField(field.name, field.dataType) for field in own), *ADDED.fields])


def data_source(name: str, open_table: Callable[[TableOptions], SourceTable]) -> type[DataSource]:
    """Make a Spark data source: ``spark.dataSource.register(data_source(...))``.

    The login is bound here and travels with the class, pickled: no option, plan, log or page of Spark's has it.

    Args:
        name: for ``spark.readStream.format(name)``.
        open_table: opens a table by a stream's options.
    """

    class TableDataSource(DataSource):
        @classmethod
        def name(cls) -> str:
            return name

        def schema(self) -> StructType:
            options = TableOptions.parse(self.options)
            table = patiently(lambda: open_table(options))
            try:
                return stream_schema(table, options)
            finally:
                table.close()

        def streamReader(self, schema: StructType) -> TableStreamReader:  # noqa: N802
            return TableStreamReader(open_table, TableOptions.parse(self.options), schema)

    return TableDataSource


__all__ = ["ADDED", "AdapterError", "Pull", "SourceTable", "TableOptions", "TableStreamReader", "data_source"]
