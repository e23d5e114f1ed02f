"""What the log of a Delta table says, without a Spark job."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py4j.java_gateway import JavaObject
    from pyspark.sql import SparkSession


def has_table(spark: SparkSession, path: str) -> bool:
    """Whether there is a table. Delta's own ``isDeltaTable`` takes what a killed creation leaves for one."""
    return table_version(spark, path) >= 0


def table_version(spark: SparkSession, path: str) -> int:
    """The table's newest version; -1 where there is no table. Lists the log's tail, runs no job."""
    return int(_snapshot(spark, path).version())


def table_identity(spark: SparkSession, path: str) -> list[object] | None:
    """Which table it is and its newest version; a table that was made anew is another. None where there is none."""
    snapshot = _snapshot(spark, path)
    version = int(snapshot.version())
    return None if version < 0 else [str(snapshot.metadata().id()), version]


def table_size(spark: SparkSession, path: str) -> tuple[int, int] | None:
    """How many files the newest version has, and their bytes together; None where there is no table."""
    snapshot = _snapshot(spark, path)
    return None if int(snapshot.version()) < 0 else (int(snapshot.numOfFiles()), int(snapshot.sizeInBytes()))


def _snapshot(spark: SparkSession, path: str) -> JavaObject:
    assert spark._jvm is not None
    log = spark._jvm.org.apache.spark.sql.delta.DeltaLog.forTable(spark._jsparkSession, path)
    return log.update(False, getattr(log, "update$default$2")(), getattr(log, "update$default$3")())
