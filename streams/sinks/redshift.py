"""Redshift as a target: Parquet files in S3, a COPY by manifest, and a MERGE, in the client's transaction."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
from redshift_connector.error import Error

from batch_adapters.redshift_errors import redshift_errors
from batch_adapters.redshift_staging import Staging
from streams.errors import ConfigurationError
from streams.sinks.warehouse import LEDGER, Limit, LoadRefusedError, warehouse_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from redshift_connector.core import Connection

    from batch_adapters.redshift import RedshiftLogin
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
# What COPY says of a value that does not fit, which has no SQL state of its own.
_DOES_NOT_FIT: Final = re.compile(r"length of the data|overflow|out of range|incompatible Parquet|load_error", re.I)
_LIMITS: Final = (
    "SELECT column_name, character_maximum_length, numeric_precision, numeric_scale, is_nullable "
    "FROM information_schema.columns WHERE table_schema = ? AND table_name = ?"
)


@dataclass(frozen=True)
class _Upload:
    """Puts a file of an executor's into S3; travels pickled, so it opens no client before."""

    login: RedshiftLogin

    def __call__(self, file: Path, name: str) -> None:
        _staging(self.login).put(file, name)


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

    @contextmanager
    def _run(self, statement: str, values: Sequence[Any]) -> Iterator[Any]:
        with warehouse_errors(), redshift_errors("a load"), self.connection.cursor() as cursor:
            cursor.paramstyle = "qmark"
            try:
                cursor.execute(statement, tuple(values))
            except Error as error:
                _raise_refusal(error)
                raise
            yield cursor


def _raise_refusal(error: Error) -> None:
    said: Any = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    state, message = str(said.get("C", "")), str(said.get("M", ""))
    if state.startswith(("22", "23")) or (state == "XX000" and _DOES_NOT_FIT.search(message)):
        raise LoadRefusedError("LOAD_REFUSED", f"Redshift refuses a value (state {state}).") from None
    if state == "XX000" and not re.search(r"SlowDown|InternalError|ServiceUnavailable|\b50[023]\b|1023", message):
        raise ConfigurationError(
            "REDSHIFT_COPY_REFUSED",
            "Redshift could not copy the staged files.",
            way_out="Check the IAM role, what it may read under the staging prefix, and the bucket's region.",
        ) from None


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
            yield session
        finally:
            # What was begun and not committed ends with the line; said all the same, so that locks go at once.
            with suppress(Exception), connection.cursor() as cursor:
                cursor.execute("ROLLBACK")
            with suppress(Exception):
                connection.close()

    def quoted(self, name: str) -> str:
        return '"{}"'.format(name.replace('"', '""'))

    def type_of(self, kind: DataType) -> str:
        if isinstance(kind, DecimalType):
            return f"NUMERIC({kind.precision},{kind.scale})"
        return _TYPES[type(kind)]

    def prepare_staging(self) -> None:
        with self.session() as session:
            known = session.query(
                "SELECT 1 FROM information_schema.schemata WHERE schema_name = ?", (self.login.schema,)
            )
            if not known:
                session.execute(f"CREATE SCHEMA IF NOT EXISTS {self.quoted(self.login.schema)}")

    def upload(self) -> _Upload:
        return _Upload(self.login)

    def copy(self, session: Session, table: str, columns: Sequence[str], place: str, files: Sequence[str]) -> None:
        staging = _staging(self.login)
        with warehouse_errors():
            entries = [
                {
                    "url": f"s3://{staging.bucket}/{staging.prefix}/{file}",
                    "mandatory": True,
                    "meta": {"content_length": staging.size(file)},
                }
                for file in files
            ]
            manifest = staging.write(f"{place}/manifest", json.dumps({"entries": entries}).encode())
        role = f"'{self.login.iam_role}'" if self.login.iam_role else "default"
        listed = ", ".join(self.quoted(name) for name in columns)
        session.execute(
            f"COPY {self.quoted(table)} ({listed}) FROM '{manifest}' IAM_ROLE {role} FORMAT AS PARQUET MANIFEST"
        )

    def sweep(self, place: str) -> None:
        with warehouse_errors():
            _staging(self.login).clean(f"{place}/")

    def lock_ledger(self, session: Session) -> None:
        session.execute(f"LOCK {self.quoted(LEDGER)}")

    def limits(self, session: Session, table: str) -> dict[str, Limit]:
        rows = session.query(_LIMITS, (self.login.schema, table))
        return {
            name.lower(): Limit(length, precision, scale, nullable == "YES")
            for name, length, precision, scale, nullable in rows
        }


def _staging(login: RedshiftLogin) -> Staging:
    assert login.staging is not None  # a target's settings require it
    bucket, _, prefix = login.staging.removeprefix("s3://").rstrip("/").partition("/")
    return Staging(bucket, prefix, login)
