"""Snowflake as a target: Parquet files PUT into an internal stage, COPY INTO, and a MERGE, in one transaction."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from pyspark.sql.types import (
    BooleanType,
    DataType,
    DateType,
    DecimalType,
    DoubleType,
    IntegerType,
    LongType,
    StringType,
    TimestampType,
)
from snowflake.connector.errors import Error

from batch_adapters.snowflake_errors import snowflake_errors
from streams.errors import FatalError, RetriableError
from streams.sinks.warehouse import Limit, LoadRefusedError, warehouse_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from snowflake.connector import SnowflakeConnection

    from batch_adapters.snowflake import SnowflakeLogin
    from streams.sinks.warehouse import Session

_TYPES: Final[dict[type[DataType], str]] = {
    StringType: "VARCHAR",
    BooleanType: "BOOLEAN",
    IntegerType: "NUMBER(10,0)",
    LongType: "NUMBER(19,0)",
    DoubleType: "FLOAT",
    DateType: "DATE",
    TimestampType: "TIMESTAMP_NTZ(6)",
}
_FILES_AT_ONCE: Final = 1000  # Snowflake's limit for FILES
_LIMITS: Final = (
    "SELECT column_name, character_maximum_length, numeric_precision, numeric_scale, is_nullable "
    "FROM information_schema.columns WHERE table_schema = CURRENT_SCHEMA() AND table_name = ?"
)


@dataclass(frozen=True)
class _Upload:
    """Puts a file of an executor's into the stage; travels pickled, so it logs in there."""

    login: SnowflakeLogin
    stage: str

    def __call__(self, file: Path, name: str) -> None:
        folder = name.rpartition("/")[0]
        path = str(file).replace("\\", "\\\\").replace("'", "\\'")
        with warehouse_errors(), self.login.connect() as connection:
            _Session(connection).query(
                f"PUT 'file://{path}' @{self.stage}/{folder}/ AUTO_COMPRESS=FALSE OVERWRITE=TRUE"
            )


@dataclass(frozen=True)
class _Session:
    """See `streams.sinks.warehouse.Session`.

    Snowflake rolls back a transaction whose client has been silent for minutes (a process that was stopped, a machine
    that slept), and takes what the client says next. Without autocommit that begins another transaction, whose
    number tells: what is left of the load can't be committed.
    """

    connection: SnowflakeConnection
    transactions: list[Any] = field(default_factory=list)

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        with self._run(statement, values) as cursor:
            return max(0, int(cursor.rowcount or 0))

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._run(statement, values) as cursor:
            return [tuple(row) for row in cursor.fetchall()]

    def begin(self) -> None:
        self.execute("BEGIN")
        self.transactions[:] = self.query("SELECT CURRENT_TRANSACTION()")

    def commit(self) -> None:
        if self.query("SELECT CURRENT_TRANSACTION()") != self.transactions:
            raise RetriableError("LOAD_ENDED", "Snowflake has ended the load's transaction, which was idle for long.")
        self.execute("COMMIT")

    @contextmanager
    def _run(self, statement: str, values: Sequence[Any]) -> Iterator[Any]:
        with warehouse_errors(), snowflake_errors("a load"), self.connection.cursor() as cursor:
            try:
                cursor.execute(statement, tuple(values) or None)
            except Error as error:
                # Data exceptions and broken constraints; 100000 and above are values that do not fit.
                if str(error.sqlstate or "").startswith(("22", "23")) or 100_000 <= (error.errno or 0) < 101_000:
                    raise LoadRefusedError(
                        "LOAD_REFUSED", f"Snowflake refuses a value (number {error.errno}, query {error.sfqid})."
                    ) from None
                raise
            yield cursor


@dataclass(frozen=True)
class SnowflakeWarehouse:
    """See `streams.sinks.warehouse.Warehouse`. Names are in capitals there, so that people need not quote them."""

    login: SnowflakeLogin
    stage: str = "LAKEHOUSE_STREAMS"
    name: str = "snowflake"

    @contextmanager
    def session(self) -> Iterator[Session]:
        with warehouse_errors():
            connection = self.login.connect(autocommit=False)
        try:
            yield _Session(connection)
        finally:
            with suppress(Exception):
                connection.rollback()
            with suppress(Exception):
                connection.close()

    def quoted(self, name: str) -> str:
        return '"{}"'.format(name.upper().replace('"', '""'))

    def type_of(self, kind: DataType) -> str:
        if isinstance(kind, DecimalType):
            return f"NUMBER({kind.precision},{kind.scale})"
        return _TYPES[type(kind)]

    def prepare_staging(self) -> None:
        with self.session() as session:
            session.execute(f"CREATE STAGE IF NOT EXISTS {self.stage}")

    def upload(self) -> _Upload:
        return _Upload(self.login, self.stage)

    def copy(self, session: Session, table: str, columns: Sequence[str], place: str, files: Sequence[str]) -> None:
        names = iter(file.rpartition("/")[2] for file in files)
        while some := list(islice(names, _FILES_AT_ONCE)):
            listed = ", ".join(f"'{name}'" for name in some)
            # FORCE: what a rolled back transaction had loaded is not taken for loaded.
            loaded = session.query(
                f"COPY INTO {self.quoted(table)} FROM '@{self.stage}/{place}/' FILES = ({listed}) "
                "FILE_FORMAT = (TYPE = PARQUET USE_LOGICAL_TYPE = TRUE) MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE "
                "ON_ERROR = ABORT_STATEMENT FORCE = TRUE"
            )
            done = [row for row in loaded if len(row) > 1 and row[1] == "LOADED"]
            if len(done) != len(some):
                raise FatalError(
                    "LOAD_INCOMPLETE",
                    f"Snowflake loaded {len(done)} of {len(some)} files of {place}.",
                    way_out="Nothing of the batch was committed; see the account's COPY_HISTORY.",
                )

    def sweep(self, place: str) -> None:
        with self.session() as session:
            session.query(f"REMOVE @{self.stage}/{place}/")

    def lock_ledger(self, session: Session) -> None:
        """Snowflake's ledger row is held against the others when it is written: see `streams.sinks.warehouse.load`."""

    def limits(self, session: Session, table: str) -> dict[str, Limit]:
        rows = session.query(_LIMITS, (table.upper(),))
        return {
            name.lower(): Limit(length, precision, scale, nullable == "YES")
            for name, length, precision, scale, nullable in rows
        }
