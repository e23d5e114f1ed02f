"""Loading gold into a warehouse: staged Parquet files, then one transaction that merges them and says so in a ledger.

The ledger's row (flow, checkpoint, batch) is written in the transaction of the rows, so a batch that comes again
after a kill changes nothing, and a new checkpoint loses nothing. Times are stored in UTC, without a zone.
"""

# ruff: noqa: S608 - names are checked and quoted, values bound

from __future__ import annotations

import re
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql.types import (
    BooleanType,
    DecimalType,
    IntegralType,
    LongType,
    StringType,
    StructField,
    StructType,
    TimestampNTZType,
    TimestampType,
)

from batch_adapters.errors import AdapterError, ConfigurationAdapterError, RetriableAdapterError
from streams.errors import ConfigurationError, FatalError, RetriableError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import DataType

    from streams.checkpoint import BatchIdentity

GONE: Final = "_is_gone"
LEDGER: Final = "lakehouse_loads"
_STAGED: Final = "lakehouse_staged"
_BYTES_A_FILE: Final = 128 << 20  # in memory; text of any length must not fill it
_MOST_DIGITS: Final = 38  # of a decimal, here and there
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)
_preparing = threading.Lock()
_LEDGER_COLUMNS: Final = StructType(
    [
        StructField("flow", StringType()),
        StructField("checkpoint_id", StringType()),
        StructField("batch_id", LongType()),
        StructField("rows_merged", LongType()),
        StructField("rows_deleted", LongType()),
        StructField("loaded_at", TimestampType()),
    ]
)


_GONE: Final = StructField(GONE, BooleanType())


@dataclass(frozen=True)
class Target:
    """A table in a warehouse, as gold declares it.

    Args:
        name: its name there.
        columns: its columns with their types, in order; identifiers of small letters, digits and ``_``.
        key: what identifies a row.
    """

    name: str
    columns: StructType
    key: tuple[str, ...]


@dataclass(frozen=True)
class Loaded:
    """What a load did, now or, for a repeated batch, when it was done."""

    rows_merged: int
    rows_deleted: int
    is_repeated: bool = False


class LoadRefusedError(FatalError):
    """The warehouse does not take a value: what `Session` raises then. `refused` tells which."""


@dataclass(frozen=True)
class Limit:
    """What a column of a warehouse can hold; None where it has no such limit.

    Args:
        length: of text: characters, or bytes of UTF-8 where ``is_in_bytes``.
        precision, scale: digits of a number, in all and behind the point.
        is_nullable: whether it takes null.
        bits: of a binary whole number, which has no digits.
        is_in_bytes: see ``length``.
    """

    length: int | None
    precision: int | None
    scale: int | None
    is_nullable: bool
    bits: int | None = None
    is_in_bytes: bool = False


class Session(Protocol):
    """A line to a warehouse. What changes rows is said between `begin` and `commit`."""

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run a statement with bound values (``?`` in its text); gives how many rows it changed."""
        ...

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a query."""
        ...

    def begin(self) -> None:
        """Begin a transaction."""
        ...

    def commit(self) -> None:
        """Commit all that was done since `begin`, or raise: never a part of it."""
        ...


class Warehouse(Protocol):
    """What differs from one warehouse to the other. Errors are those of `streams.errors`."""

    @property
    def name(self) -> str:
        """As flows and errors call it."""
        ...

    def session(self) -> AbstractContextManager[Session]:
        """Log in, for as long as the context lasts; a transaction that is still open at its end is rolled back."""
        ...

    def quoted(self, name: str) -> str:
        """An identifier as it stands in a statement, such that people need not quote it in theirs."""
        ...

    def type_of(self, kind: DataType) -> str:
        """The type of a column."""
        ...

    def prepare_staging(self) -> None:
        """Make what files are staged in, where this service makes it."""
        ...

    def upload(self) -> Callable[[Path, str], None]:
        """What an executor puts a file with (its path here, its name under the staging place); it is pickled."""
        ...

    def copy(self, session: Session, table: str, columns: Sequence[str], place: str, files: Sequence[str]) -> None:
        """Load the staged files, all of them or none, into a table (a name, not quoted yet) inside the transaction."""
        ...

    def sweep(self, place: str) -> None:
        """Remove every staged file whose name begins with ``place/``."""
        ...

    def lock_ledger(self, session: Session) -> None:
        """Inside the transaction, make a second one on the ledger wait, where the warehouse needs to be told."""
        ...

    def limits(self, session: Session, table: str) -> dict[str, Limit]:
        """The columns of a table by their names in small letters; empty where there is no such table."""
        ...


@contextmanager
def warehouse_errors() -> Iterator[None]:
    """Errors of the logins that adapters and sinks share, as this service's own."""
    try:
        yield
    except ConfigurationAdapterError as error:
        raise ConfigurationError(error.code, error.message, way_out=error.way_out) from error
    except RetriableAdapterError as error:
        # A statement that takes too long may do so for ever, which is not the warehouse being away.
        kind = RetriableError if error.code.endswith("_TIMEOUT") else UnavailableError
        raise kind(error.code, error.message, way_out=error.way_out) from error
    except AdapterError as error:
        raise FatalError(error.code, error.message, way_out=error.way_out) from error


def prepare(warehouse: Warehouse, target: Target) -> None:
    """Make the ledger and the table, or bring the table up to its declaration: new columns are added.

    Raises:
        ConfigurationError: ``TARGET_NAME_INVALID``.
        FatalError: ``TARGET_NARROWER``: a column there has fewer digits behind the point than gold declares.
    """
    for name in (target.name, *target.columns.names):
        if name in (LEDGER, _STAGED, GONE) or not _NAME.fullmatch(name):
            raise ConfigurationError("TARGET_NAME_INVALID", f"{name!r} is no name for a table or column.")
    # One after the other: the flows of a warehouse share its ledger and its stage, and begin together.
    with _preparing:
        warehouse.prepare_staging()
        with warehouse.session() as session:
            _fit(warehouse, session, target)


def _fit(warehouse: Warehouse, session: Session, target: Target) -> None:
    if not warehouse.limits(session, LEDGER):
        _create(warehouse, session, Target(LEDGER, _LEDGER_COLUMNS, ()))
    there = warehouse.limits(session, target.name)
    if not there:
        _create(warehouse, session, target)
        return
    for field in target.columns:
        limit = there.get(field.name)
        if limit is not None:
            _check_scale(target, field, limit)
        else:
            session.execute(
                f"ALTER TABLE {warehouse.quoted(target.name)} "
                f"ADD COLUMN {warehouse.quoted(field.name)} {warehouse.type_of(field.dataType)}"
            )


def _check_scale(target: Target, field: StructField, limit: Limit) -> None:
    """What is too large is refused when it is loaded; digits behind the point would be rounded away in silence."""
    if isinstance(field.dataType, DecimalType) and limit.scale is not None and limit.scale < field.dataType.scale:
        raise FatalError(
            "TARGET_NARROWER",
            f"{target.name}.{field.name} has {limit.scale} digits behind the point there, {field.dataType.scale} here.",
            way_out="Widen the column there, or drop the table and publish it anew: streams resume --accept-loss.",
            table=target.name,
            column=field.name,
        )


def _create(warehouse: Warehouse, session: Session, target: Target) -> None:
    columns = _declared(warehouse, target.columns)
    session.execute(f"CREATE TABLE IF NOT EXISTS {warehouse.quoted(target.name)} ({columns})")


def _declared(warehouse: Warehouse, columns: Iterable[StructField]) -> str:
    return ", ".join(f"{warehouse.quoted(field.name)} {warehouse.type_of(field.dataType)}" for field in columns)


def stage(warehouse: Warehouse, rows: DataFrame, place: str) -> tuple[list[str], int]:
    """Write rows as Parquet files under a place, from the executors; gives the files' names and how many rows.

    The place is emptied first: what a killed run left there is not loaded with it.
    """
    warehouse.sweep(place)
    naive = [
        F.col(f.name).cast(TimestampNTZType()) if isinstance(f.dataType, TimestampType) else F.col(f.name)
        for f in rows.schema
    ]
    upload = warehouse.upload()

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        context = TaskContext.get()
        part = 0 if context is None else context.partitionId()
        for number, table in enumerate(_files(batches)):
            # A task that is tried again writes the same names.
            name = f"{place}/part-{part:05d}-{number:05d}.parquet"
            _upload(table, name, upload)
            yield pa.RecordBatch.from_pydict({"name": [name], "rows": [table.num_rows]})

    # What is collected are the files' names.
    written = rows.select(naive).mapInArrow(write, "name string, rows bigint").collect()
    return sorted(row["name"] for row in written), sum(row["rows"] for row in written)


def _files(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    kept: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        if batch.num_rows:
            kept.append(batch)
            size += batch.nbytes
        if size >= _BYTES_A_FILE:
            yield pa.Table.from_batches(kept)
            kept, size = [], 0
    if kept:
        yield pa.Table.from_batches(kept)


def _upload(table: pa.Table, name: str, upload: Callable[[Path, str], None]) -> None:
    import pyarrow.parquet

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name.rpartition("/")[2]
        pyarrow.parquet.write_table(table, file)
        upload(file, name)


def load(
    warehouse: Warehouse,
    target: Target,
    batch: BatchIdentity,
    place: str,
    files: Sequence[str],
    *,
    is_whole: bool,
    passes: Callable[[str], None] = lambda _: None,
) -> Loaded:
    """Merge staged files into the table, in one transaction with the ledger's row.

    Args:
        warehouse: where to.
        target: the table, prepared. The files have its columns in their order, and then `GONE`, true for keys
            that are to be deleted.
        batch: whose rows they are. A batch that the ledger has is not loaded again.
        place: where the files are.
        files: their names.
        is_whole: the files hold all rows that there are, so that any other row of the table is deleted.
        passes: told of each step of the transaction (see `streams.failpoints`).

    Raises:
        LoadRefusedError: a value does not fit the table.
    """
    quoted = warehouse.quoted
    table, staged, ledger = quoted(target.name), quoted(_STAGED), quoted(LEDGER)
    columns = [quoted(name) for name in target.columns.names]
    same_key = " AND ".join(f"{table}.{quoted(name)} = {staged}.{quoted(name)}" for name in target.key)
    same_batch = f"{quoted('flow')} = ? AND {quoted('checkpoint_id')} = ? AND {quoted('batch_id')} = ?"
    identity = (batch.flow, batch.checkpoint_id, batch.batch_id)
    with warehouse.session() as session:
        # Of the types that the files have, which a COPY of Parquet insists on; what the table does not hold is
        # refused by the merge. Before the transaction, which making a table would end in Snowflake.
        session.execute(f"CREATE TEMPORARY TABLE {staged} ({_declared(warehouse, [*target.columns, _GONE])})")
        session.begin()
        warehouse.lock_ledger(session)
        passes("load_opened")
        said = f"SELECT {quoted('rows_merged')}, {quoted('rows_deleted')} FROM {ledger} WHERE {same_batch}"
        if known := session.query(said, identity):
            session.execute("ROLLBACK")
            return Loaded(int(known[0][0]), int(known[0][1]), is_repeated=True)
        if files:
            warehouse.copy(session, _STAGED, (*target.columns.names, GONE), place, files)
        passes("load_copied")
        deleted = session.execute(f"DELETE FROM {table} USING {staged} WHERE {same_key} AND {staged}.{quoted(GONE)}")
        session.execute(f"DELETE FROM {staged} WHERE {quoted(GONE)}")
        if is_whole:
            deleted += session.execute(
                f"DELETE FROM {table} WHERE NOT EXISTS (SELECT 1 FROM {staged} WHERE {same_key})"
            )
        session.execute(_merge(table, staged, columns, [quoted(name) for name in target.key], same_key))
        ((merged,),) = session.query(f"SELECT COUNT(*) FROM {staged}")
        passes("load_merged")
        session.execute(
            f"INSERT INTO {ledger} ({', '.join(quoted(name) for name in _LEDGER_COLUMNS.names)}) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (*identity, int(merged), deleted, datetime.now(UTC).replace(tzinfo=None)),
        )
        passes("load_begun")
        session.commit()
        passes("load_committed")
        # A COMMIT of nothing is no error, where the transaction was ended in the moment before it.
        if not session.query(said, identity):
            raise RetriableError("LOAD_ENDED", f"{warehouse.name} has ended the load's transaction.")
    return Loaded(int(merged), deleted)


def _merge(table: str, staged: str, columns: Sequence[str], key: Sequence[str], same_key: str) -> str:
    # Redshift wants both clauses, so that a table of nothing but its key sets that.
    changed = [name for name in columns if name not in key] or columns
    changes = ", ".join(f"{name} = {staged}.{name}" for name in changed)
    return (
        f"MERGE INTO {table} USING {staged} ON {same_key} WHEN MATCHED THEN UPDATE SET {changes} "
        f"WHEN NOT MATCHED THEN INSERT ({', '.join(columns)}) VALUES ({', '.join(f'{staged}.{c}' for c in columns)})"
    )


def misfit(rows: DataFrame, key: Sequence[str], limits: dict[str, Limit]) -> str | None:
    """Which column of which row a table refuses, in words and without the value; None when all of them fit.

    For a load that was refused: warehouses tell it in many ways, or not at all.
    """
    said_when = [one for field in rows.schema if field.name in limits for one in _unfit(field, limits[field.name])]
    if not said_when:
        return None
    # A row that is deleted is not written, so that it may hold anything.
    rows = rows.where(~F.col(GONE)) if GONE in rows.columns else rows
    found = F.coalesce(*(F.when(condition, F.lit(said)) for said, condition in said_when))
    row = rows.select(found.alias("found"), F.concat_ws("|", *key).alias("key")).where("found IS NOT NULL").first()
    return None if row is None else f"{row['found']} (first in the row {row['key']!r})"


def _unfit(field: StructField, limit: Limit) -> Iterator[tuple[str, Column]]:
    """What can be wrong with a column's values, and when it is."""
    value, kind = F.col(field.name), field.dataType
    if not limit.is_nullable:
        yield f"{field.name} is null, which the table does not take", value.isNull()
    if isinstance(kind, StringType) and limit.length is not None:
        length = F.octet_length(value) if limit.is_in_bytes else F.char_length(value)
        yield f"{field.name} is longer than {limit.length}", length > limit.length
    if not isinstance(kind, DecimalType | IntegralType):
        return
    if limit.bits is not None:
        most = 2 ** (limit.bits - 1)
        yield f"{field.name} is no whole number of {limit.bits} bits", ~value.between(-most, most - 1)
    elif limit.precision is not None:
        whole = limit.precision - (limit.scale or 0)
        if whole < _MOST_DIGITS:
            yield (
                f"{field.name} has more than {whole} digits before the point",
                F.abs(value) >= Decimal("1" + "0" * whole),
            )


def refused(warehouse: Warehouse, target: Target, rows: DataFrame, error: Exception) -> FatalError | None:
    """A refused load as an error that names column and row; None when the rows fit the table, so it is not they."""
    with warehouse.session() as session:
        said = misfit(rows, target.key, warehouse.limits(session, target.name))
    if said is None:
        return None
    return FatalError(
        "LOAD_REFUSED",
        f"{warehouse.name} does not take a row of {target.name}: {said}.",
        way_out="Widen the column there, or mend the row in gold's sources; nothing of the batch was loaded.",
        table=target.name,
        cause=type(error).__name__,
    )
