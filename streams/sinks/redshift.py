"""Redshift as a target: Parquet files in S3, a COPY by manifest, and a MERGE, in the client's transaction."""

from __future__ import annotations

import json
import re
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import pyarrow.parquet
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
from redshift_connector.error import Error

from batch_adapters.redshift_errors import redshift_errors
from batch_adapters.redshift_staging import Staging
from streams.errors import ConfigurationError, FatalError
from streams.sinks.warehouse import LEDGER, Limit, LoadRefusedError, warehouse_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redshift_connector.core import Connection

    from batch_adapters.redshift import RedshiftLogin
    from streams.errors import StreamsError
    from streams.sinks.warehouse import Session

_TYPES: Final[dict[type[DataType], str]] = {
    StringType: "VARCHAR(65535)",
    BooleanType: "BOOLEAN",
    IntegerType: "INTEGER",
    LongType: "BIGINT",
    DoubleType: "DOUBLE PRECISION",
    DateType: "DATE",
    TimestampType: "TIMESTAMP",
}
# Of errors that have no SQL state of their own: a value that does not fit, and what may pass by itself.
_DOES_NOT_FIT: Final = re.compile(r"length of the data|overflow|out of range|NULL value into|load_error", re.I)
_PASSES: Final = re.compile(r"SlowDown|InternalError|ServiceUnavailable|RequestTimeout|\b50[023]\b|\b1023\b", re.I)
_LIMITS: Final = (
    "SELECT column_name, character_maximum_length, numeric_precision, numeric_precision_radix, numeric_scale, "
    "is_nullable FROM information_schema.columns WHERE table_schema = ? AND table_name = ?"
)


@dataclass(frozen=True)
class _Upload:
    """Puts a file of an executor's into S3; travels pickled, so it opens no client before."""

    login: RedshiftLogin

    def __call__(self, file: Path, name: str) -> None:
        place, _, short = name.rpartition("/")
        with tempfile.NamedTemporaryFile(suffix=".parquet") as copy:
            _with_old_times(file, copy)
            _staging(self.login, place).put(Path(copy.name), short)


def _with_old_times(file: Path, copy: IO[bytes]) -> None:
    """Times as INT96: Redshift takes one that is counted in INT64 without a zone for a number, and refuses it."""
    source = pyarrow.parquet.ParquetFile(file)
    with pyarrow.parquet.ParquetWriter(copy, source.schema_arrow, use_deprecated_int96_timestamps=True) as writer:
        for batch in source.iter_batches():
            writer.write_batch(batch)
    copy.flush()


@dataclass(frozen=True)
class _Session:
    """See `streams.sinks.warehouse.Session`."""

    connection: Connection

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        with self._run(statement, values) as cursor:
            return max(0, int(cursor.rowcount))

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._run(statement, values) as cursor:
            return [tuple(row) for row in cursor.fetchall()]

    def begin(self) -> None:
        self.execute("BEGIN")

    def commit(self) -> None:
        self.execute("COMMIT")

    @contextmanager
    def _run(self, statement: str, values: Sequence[Any]) -> Iterator[Any]:
        with warehouse_errors(), redshift_errors("a load"), self.connection.cursor() as cursor:
            cursor.paramstyle = "qmark"
            try:
                cursor.execute(statement, tuple(values))
            except Error as error:
                raise _own_error(error, statement) or error from None
            yield cursor


def _own_error(error: Error, statement: str) -> StreamsError | None:
    """What an error means when it is a load that met it; None where it means to a load what it means to a pull."""
    said: Any = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    state, message = str(said.get("C", "")), str(said.get("M", ""))
    if state == "42501":
        return ConfigurationError(
            "REDSHIFT_GRANT_MISSING",
            "The user may not write to the schema or a table in it.",
            way_out="Grant it USAGE and CREATE on the schema, and let it own the tables.",
        )
    if state.startswith(("22", "23")) or (state == "XX000" and _DOES_NOT_FIT.search(message)):
        return LoadRefusedError("LOAD_REFUSED", f"Redshift refuses a value (state {state}).")
    if state != "XX000" or _PASSES.search(message):
        return None
    if statement.startswith("COPY"):
        return ConfigurationError(
            "REDSHIFT_COPY_REFUSED",
            "Redshift could not copy the staged files.",
            way_out="Check the IAM role, what it may read under the staging prefix, and the bucket's region.",
        )
    return FatalError("REDSHIFT_FAILED", f"A {statement.partition(' ')[0]} of a load failed (state {state}).")


def _roll_back(connection: Connection) -> None:
    """What was begun and not committed ends with the line; said all the same, so that locks go at once.

    Not after an interruption in the middle of a statement, which is no `Exception`: its answer would be waited for.
    """
    with suppress(Exception), connection.cursor() as cursor:
        cursor.execute("ROLLBACK")


@dataclass(frozen=True)
class RedshiftWarehouse:
    """See `streams.sinks.warehouse.Warehouse`. The login's staging prefix is this service's alone."""

    login: RedshiftLogin
    name: str = "redshift"

    @contextmanager
    def session(self) -> Iterator[Session]:
        with warehouse_errors():
            connection = self.login.connect()
        try:
            session = _Session(connection)
            session.execute(f"SET search_path TO {self.quoted(self.login.schema)}")
            try:
                yield session
            except Exception:
                _roll_back(connection)
                raise
            _roll_back(connection)
        finally:
            with suppress(Exception):
                connection.close()

    def quoted(self, name: str) -> str:
        return '"{}"'.format(name.replace('"', '""'))

    def type_of(self, kind: DataType) -> str:
        if isinstance(kind, DecimalType):
            return f"NUMERIC({kind.precision},{kind.scale})"
        if type(kind) not in _TYPES:
            raise ConfigurationError("TARGET_TYPE_INVALID", f"Redshift has no column for {kind.simpleString()}.")
        return _TYPES[type(kind)]

    def prepare_staging(self) -> None:
        with self.session() as session:
            # Asked first, for making one needs a grant even where it is there; information_schema has own ones only.
            if not session.query("SELECT 1 FROM pg_namespace WHERE nspname = ?", (self.login.schema,)):
                session.execute(f"CREATE SCHEMA IF NOT EXISTS {self.quoted(self.login.schema)}")

    def upload(self) -> _Upload:
        return _Upload(self.login)

    def copy(self, session: Session, table: str, columns: Sequence[str], place: str, files: Sequence[str]) -> None:
        staging = _staging(self.login, place)
        names = [file.rpartition("/")[2] for file in files]
        with warehouse_errors():
            # Redshift asks of a manifest how long a Parquet file is; one that is gone stops the load.
            entries = [
                {
                    "url": f"s3://{staging.bucket}/{staging.prefix}/{name}",
                    "mandatory": True,
                    "meta": {"content_length": staging.size(name)},
                }
                for name in names
            ]
            manifest = staging.write("manifest", json.dumps({"entries": entries}).encode())
        role = _literal(self.login.iam_role) if self.login.iam_role else "default"
        listed = ", ".join(self.quoted(name) for name in columns)
        session.execute(
            f"COPY {self.quoted(table)} ({listed}) FROM {_literal(manifest)} IAM_ROLE {role} FORMAT AS PARQUET MANIFEST"
        )

    def sweep(self, place: str) -> None:
        with warehouse_errors():
            _staging(self.login, place).clean(None)

    def lock_ledger(self, session: Session) -> None:
        session.execute(f"LOCK {self.quoted(LEDGER)}")

    def limits(self, session: Session, table: str) -> dict[str, Limit]:
        return {name: _limit(*said) for name, *said in session.query(_LIMITS, (self.login.schema, table))}


def _limit(length: int | None, precision: int | None, radix: int | None, scale: int | None, nullable: str) -> Limit:
    # Whole numbers are counted in bits; so are floating ones, which have no scale and no limit that matters.
    is_binary = radix == 2
    return Limit(
        length,
        None if is_binary else precision,
        None if is_binary else scale,
        nullable == "YES",
        bits=precision if is_binary and scale is not None else None,
        is_in_bytes=True,
    )


def _staging(login: RedshiftLogin, place: str) -> Staging:
    """A place under the login's prefix."""
    assert login.staging is not None  # a target's settings require it
    bucket, _, prefix = login.staging.removeprefix("s3://").rstrip("/").partition("/")
    return Staging(bucket, f"{prefix}/{place}" if prefix else place, login)


def _literal(text: str) -> str:
    return "'{}'".format(text.replace("'", "''"))
