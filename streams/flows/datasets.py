"""What flows read and write, by names that mean the same everywhere: OpenLineage's naming of datasets.

Kafka's topics are named by the first broker that is configured. Salesforce is not in the specification: its instance is
the namespace, its object the name.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlparse

from streams.sources.adapters import AdapterSource
from streams.sources.files import FileSource
from streams.sources.kafka import KafkaSource
from streams.telemetry.lineage import Dataset, DatasetField

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

    from streams.lake import Lake
    from streams.settings import Settings
    from streams.source_settings import RedshiftSource, RedshiftTarget, SnowflakeSource, SnowflakeTarget
    from streams.sources.envelope import Source

# Which fields of what arrives fill a row's provenance (see `streams.sources`).
KAFKA_FIELDS: Final = {
    "payload": "value",
    "key": "key",
    "_source": "topic",
    "_partition": "partition",
    "_offset": "offset",
    "_source_time": "timestamp",
}
FILE_FIELDS: Final = {"payload": "content", "_source": "path", "_source_time": "modificationTime"}
# name.account.region.redshift.amazonaws.com, and redshift-serverless
_REDSHIFT_HOST: Final = re.compile(
    r"^([\w-]+)\.(?:\w+\.)?([a-z]{2}(?:-[a-z]+)+-\d)\.redshift(?:-serverless)?\.amazonaws\."
)


def table_of(lake: Lake, path: str, schema: StructType | None = None) -> Dataset:
    """A Delta table of the lake, by where it lies; what it is called in the lake is kept beside that."""
    namespace, name = place(path)
    inner = path.removeprefix(f"{lake.root.rstrip('/')}/")
    logical = inner.replace("/", ".") if inner != path else None
    return Dataset(namespace, name, logical, path, fields=fields_of(schema) if schema else ())


def lane_of(lane: str, flow: str, schema: StructType) -> Dataset:
    """A flow's own rows of its layer's error lane, which share a table with those of others.

    Named like a partition: were the table one dataset, every flow of a layer would seem to be fed by every other.
    """
    namespace, name = place(lane)
    return Dataset(namespace, f"{name}/flow={flow}", None, lane, fields=fields_of(schema))


def source_of(source: Source, settings: Settings, fields: tuple[DatasetField, ...]) -> Dataset:
    """What a flow into bronze reads, with the fields of its records (see `KAFKA_FIELDS`, `FILE_FIELDS`)."""
    if isinstance(source, KafkaSource):
        broker = source.kafka.bootstrap_servers.split(",")[0].strip()
        host, _, port = broker.rpartition(":")
        told = (*fields, *(DatasetField(name, "metadata") for name in KAFKA_FIELDS.values()))
        return Dataset(f"kafka://{host or port}:{port if host else 9092}", source.topic, kind="TOPIC", fields=told)
    if isinstance(source, FileSource):
        namespace, name = place(source.path)
        told = (*fields, *(DatasetField(name, "metadata") for name in FILE_FIELDS.values()))
        return Dataset(namespace, name, kind="FILE", fields=told)
    assert isinstance(source, AdapterSource)  # there are no other sources of bronze's
    return replace(_pulled(source, settings), fields=fields)


def warehouse_table(system: str, table: str, settings: Settings, schema: StructType) -> Dataset:
    """A table that gold is published to."""
    targets = settings.targets
    if system == "snowflake":
        assert targets.snowflake is not None
        return replace(_snowflake(targets.snowflake, table.upper()), fields=_capitals(fields_of(schema)))
    assert targets.redshift is not None
    return replace(_redshift(targets.redshift, table), fields=fields_of(schema))


def place(path: str) -> tuple[str, str]:
    """A path → namespace and name: ``s3://bucket`` and the key, ``hdfs://host:port`` and the path, ``file`` and it."""
    location = urlparse(path)
    if location.scheme in ("", "file"):
        return "file", location.path.rstrip("/") or "/"
    scheme = {"s3a": "s3", "s3n": "s3"}.get(location.scheme, location.scheme)
    # A key of an object store has no root; a path of a file system has.
    inner = location.path.rstrip("/")
    return f"{scheme}://{location.netloc}", inner if scheme in ("hdfs", "viewfs") else inner.lstrip("/")


def fields_of(schema: StructType) -> tuple[DatasetField, ...]:
    """The columns of a table."""
    return tuple(DatasetField(one.name, one.dataType.simpleString()) for one in schema)


def _capitals(fields: tuple[DatasetField, ...]) -> tuple[DatasetField, ...]:
    return tuple(replace(one, name=one.name.upper()) for one in fields)


def _pulled(source: AdapterSource, settings: Settings) -> Dataset:
    sources = settings.sources
    if source.system == "snowflake":
        assert sources.snowflake is not None
        return _snowflake(sources.snowflake, source.table)
    if source.system == "redshift":
        assert sources.redshift is not None
        return _redshift(sources.redshift, source.table)
    assert sources.salesforce is not None
    return Dataset(sources.salesforce.instance_url, source.table)


def _snowflake(login: SnowflakeSource | SnowflakeTarget, table: str) -> Dataset:
    return Dataset(f"snowflake://{login.account}", f"{login.database}.{login.schema_name}.{table}")


def _redshift(login: RedshiftSource | RedshiftTarget, table: str) -> Dataset:
    name = f"{login.database}.{login.schema_name}.{table}"
    named = _REDSHIFT_HOST.match(login.host or "")
    cluster = login.cluster_identifier or login.workgroup or (named and named[1])
    region = login.region or (named and named[2])
    authority = f"{cluster}.{region}" if cluster and region else cluster or login.host
    return Dataset(f"redshift://{authority}:{login.port}", name)
