"""The files that UNLOAD leaves in S3: found by their manifest, read, and removed."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import boto3
import pyarrow as pa
import pyarrow.parquet
from botocore.config import Config

from batch_adapters.adapter import patiently
from batch_adapters.errors import RetriableAdapterError
from batch_adapters.redshift_errors import s3_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from batch_adapters.adapter import TableOptions
    from batch_adapters.redshift import RedshiftLogin

_ROWS: Final = 10_000
_DELETED_AT_ONCE: Final = 1000  # S3's limit


@dataclass(frozen=True)
class Staged:
    """One file of an UNLOAD.

    Args:
        bucket, key: where it is.
        length: its bytes, as the manifest says.
        rows: its rows, as the manifest says.
        fields: the columns' names and types that readers were promised.
    """

    bucket: str
    key: str
    length: int
    rows: int
    fields: tuple[tuple[str, pa.DataType], ...]


@dataclass
class Staging:
    """One stream's place in a bucket: ``prefix/stream/batch/unload/``.

    A back-fill beside the running stream has another place, so that neither sweeps the other's files.
    """

    bucket: str
    prefix: str
    login: RedshiftLogin
    _s3: Any = field(default=None, repr=False)

    @classmethod
    def of(cls, login: RedshiftLogin, options: TableOptions) -> Staging:
        """The place of a stream with these options."""
        assert login.staging is not None
        bucket, _, prefix = login.staging.removeprefix("s3://").rstrip("/").partition("/")
        said = json.dumps([login.database, options.table, options.key, options.cursor, options.start, options.end])
        name = re.sub(r"[^A-Za-z0-9]+", "-", options.table).strip("-").lower()
        stream = f"{name}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"
        return cls(bucket, f"{prefix}/{stream}" if prefix else stream, login)

    @property
    def _client(self) -> Any:
        if self._s3 is None:
            given = {
                "endpoint_url": self.login.s3_endpoint,
                "aws_access_key_id": self.login.s3_access_key,
                "aws_secret_access_key": self.login.s3_secret_key,
                "region_name": self.login.region or ("us-east-1" if self.login.s3_endpoint else None),
            }
            settings = Config(retries={"mode": "standard", "max_attempts": 5}, connect_timeout=10, read_timeout=60)
            self._s3 = boto3.client(
                "s3", config=settings, **{name: one for name, one in given.items() if one is not None}
            )
        return self._s3

    def folder(self, batch: str) -> str:
        """A new folder for one UNLOAD of a batch: what a killed one wrote is in another."""
        return f"s3://{self.bucket}/{self.prefix}/{batch}/{uuid.uuid4().hex[:8]}/"

    def files(self, url: str, rows: int, fields: tuple[tuple[str, pa.DataType], ...]) -> Sequence[Staged]:
        """What an UNLOAD of so many rows wrote.

        Raises:
            RetriableAdapterError: ``REDSHIFT_UNLOAD_INCOMPLETE``: the manifest does not list as many rows.
        """
        if not rows:
            return []  # and perhaps no manifest
        bucket, _, key = f"{url}manifest".removeprefix("s3://").partition("/")
        with s3_errors(bucket):
            said = json.loads(self._client.get_object(Bucket=bucket, Key=key)["Body"].read())
        files = []
        for entry in said["entries"]:
            bucket, _, key = entry["url"].removeprefix("s3://").partition("/")
            files.append(Staged(bucket, key, entry["meta"]["content_length"], entry["meta"]["record_count"], fields))
        if sum(file.rows for file in files) != rows:
            raise RetriableAdapterError("REDSHIFT_UNLOAD_INCOMPLETE", f"The manifest {url} does not list {rows} rows.")
        return files

    def read(self, file: Staged) -> Iterator[pa.RecordBatch]:
        """A file's rows, at most 10,000 at a time, the columns in the statement's order; their names may be in small
        letters. The file lies on disk meanwhile, not in memory.

        Raises:
            RetriableAdapterError: ``REDSHIFT_FILE_INCOMPLETE``, ``S3_OBJECT_MISSING``, ``S3_UNREACHABLE``.
            ConfigurationAdapterError: ``S3_ACCESS_DENIED`` or ``S3_BUCKET_UNKNOWN``.
        """
        with tempfile.TemporaryFile() as copy:
            patiently(lambda: self._download(file, copy))
            try:
                reading = pyarrow.parquet.ParquetFile(copy)
            except pa.ArrowException as error:
                raise RetriableAdapterError("REDSHIFT_FILE_INCOMPLETE", f"{file.key} is no Parquet file.") from error
            yield from reading.iter_batches(batch_size=_ROWS)

    def _download(self, file: Staged, copy: Any) -> None:
        copy.seek(0)
        copy.truncate()
        with s3_errors(file.bucket):
            self._client.download_fileobj(file.bucket, file.key, copy)
        if copy.tell() != file.length:
            raise RetriableAdapterError(
                "REDSHIFT_FILE_INCOMPLETE", f"{file.key} has {copy.tell()} bytes, its manifest says {file.length}."
            )

    def put(self, file: Path, name: str) -> None:
        """Write a file under the stream's place.

        Raises:
            RetriableAdapterError, ConfigurationAdapterError: as for `read`.
        """
        # `upload_file` hides what S3 said in an error of its own.
        with s3_errors(self.bucket), file.open("rb") as content:
            self._client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}", Body=content)

    def write(self, name: str, content: bytes) -> str:
        """Write a small file under the stream's place; gives its address."""
        with s3_errors(self.bucket):
            self._client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}", Body=content)
        return f"s3://{self.bucket}/{self.prefix}/{name}"

    def size(self, name: str) -> int:
        """A file's bytes."""
        with s3_errors(self.bucket):
            return int(self._client.head_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")["ContentLength"])

    def clean(self, batch: str | None) -> None:
        """Remove what batches whose name begins so have left; all of this stream's when None."""
        prefix = f"{self.prefix}/{batch or ''}"
        with s3_errors(self.bucket):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            keys = [{"Key": found["Key"]} for page in pages for found in page.get("Contents", ())]
            for start in range(0, len(keys), _DELETED_AT_ONCE):
                some = {"Objects": keys[start : start + _DELETED_AT_ONCE], "Quiet": True}
                self._client.delete_objects(Bucket=self.bucket, Delete=some)
