"""What the log of a Delta table says, without a Spark job."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlparse

if TYPE_CHECKING:
    from py4j.java_gateway import JavaObject
    from pyspark.sql import SparkSession


def has_table(spark: SparkSession, path: str) -> bool:
    """Whether there is a table. Delta's own ``isDeltaTable`` takes what a killed creation leaves for one."""
    return table_version(spark, path) >= 0


def table_version(spark: SparkSession, path: str) -> int:
    """The table's newest version; -1 where there is no table. Lists the log's tail, runs no job."""
    return int(_snapshot(spark, path).version())


# By path: when the log's folder was changed, and the version that it had long after that.
_settled: dict[str, tuple[int, int]] = {}
_SETTLED_AFTER: Final = 10 * 10**9  # nanoseconds: more than a file system's clock is coarse, or another's is off


def polled_version(spark: SparkSession, path: str) -> int:
    """As `table_version`, for those that ask every second: a local folder in which nothing moves is not listed again.

    Thirty flows ask of some seventy tables; to list each would keep a tenth of a core busy with nothing to do.
    """
    changed = _changed(path)
    if changed is not None and _settled.get(path, (-1, -1))[0] == changed:
        return _settled[path][1]
    asked = time.time_ns()
    version = table_version(spark, path)
    if changed is not None and asked - changed > _SETTLED_AFTER:
        _settled[path] = (changed, version)
    return version


def _changed(path: str) -> int | None:
    place = urlparse(path)
    if place.scheme not in ("", "file"):
        return None
    try:
        return Path(place.path, "_delta_log").stat().st_mtime_ns
    except OSError:
        return None


def table_identity(spark: SparkSession, path: str) -> list[object] | None:
    """Which table it is and its newest version; a table that was made anew is another. None where there is none."""
    snapshot = _snapshot(spark, path)
    version = int(snapshot.version())
    return None if version < 0 else [str(snapshot.metadata().id()), version]


def last_transaction(spark: SparkSession, path: str, app_id: str) -> int | None:
    """The version of the newest ``txn`` action of an application; None where it has none. Reads the table's state."""
    found = _snapshot(spark, path).transactions().get(app_id)
    return int(found.get()) if found.isDefined() else None


def table_size(spark: SparkSession, path: str) -> tuple[int, int] | None:
    """How many files the newest version has, and their bytes together; None where there is no table."""
    snapshot = _snapshot(spark, path)
    return None if int(snapshot.version()) < 0 else (int(snapshot.numOfFiles()), int(snapshot.sizeInBytes()))


def _snapshot(spark: SparkSession, path: str) -> JavaObject:
    assert spark._jvm is not None
    log = spark._jvm.org.apache.spark.sql.delta.DeltaLog.forTable(spark._jsparkSession, path)
    return log.update(False, getattr(log, "update$default$2")(), getattr(log, "update$default$3")())
