"""The one place where a Spark session is built."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from streams import jars
from streams.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import SparkSession

    from streams.settings import Settings

# What every session of ours needs, whatever the cluster; configuration may override all but Delta's own.
_DELTA = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}
_TUNING = {
    # VACUUM lists a table by that many tasks, however small it is; the default is 10,000.
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "16",
    # Days, instants and their text are UTC everywhere; a machine's time zone must not move an order to another day.
    "spark.sql.session.timeZone": "UTC",
    "spark.scheduler.mode": "FAIR",
    # The defaults (200 and 50) cost seconds in a batch of a few thousand rows.
    "spark.sql.shuffle.partitions": "2",
    "spark.databricks.delta.snapshotPartitions": "1",
    # A micro-batch is small: several jobs a query, which adaptive planning makes of it, cost more than they save.
    "spark.sql.adaptive.enabled": "false",
    # Delta's own log is checkpointed every 10 commits otherwise; a stream commits every second.
    "spark.databricks.delta.properties.defaults.checkpointInterval": "50",
    # A merge's source is computed once by us; Delta would copy it once more to be sure that it does not change.
    "spark.databricks.delta.merge.materializeSource": "none",
    # What a batch computed is let go of when the driver collects its garbage, which an idle driver seldom does.
    "spark.cleaner.periodicGC.interval": "5min",
    "spark.sql.streaming.minBatchesToRetain": "20",
    "spark.sql.streaming.metricsEnabled": "false",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    # `spark.ui.enabled=false` leaves the store of finished jobs; keep it small in a process that runs for months.
    "spark.ui.retainedJobs": "200",
    "spark.ui.retainedStages": "200",
    "spark.sql.ui.retainedExecutions": "50",
}
SESSION_DEFAULTS: Final = _TUNING | _DELTA
LOGGING: Final = f"-Dlog4j2.configurationFile={(Path(__file__).parent / 'log4j2.properties').as_uri()}"
_LOOPBACK = {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}


def build_session(settings: Settings, progress: Callable[[str], None] | None = None) -> SparkSession:
    """Build (or return) the process's Spark session.

    The jars are resolved into the cache once and handed to Spark as files: a second start needs no network.

    Raises:
        ConfigurationError: Java or a jar is missing (``JAVA_MISSING``, ``JARS_UNAVAILABLE``), or
            another session with other jars already runs in this process (``SESSION_EXISTS``).
    """
    from pyspark.sql import SparkSession

    if SparkSession.getActiveSession() is not None:
        raise ConfigurationError("SESSION_EXISTS", "A Spark session is already running in this process.")
    jars.find_java()
    # The workers that read by adapters need this environment's packages. A cluster's is the cluster's to say.
    if settings.spark.master.startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    files = jars.resolve(_coordinates(settings), progress)
    builder = SparkSession.builder.appName(settings.spark.app_name).master(settings.spark.master)
    for key, value in (_configuration(settings) | {"spark.jars": ",".join(str(file) for file in files)}).items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    # Standard output is the result's, for programs; Delta's vacuum prints sentences there.
    assert spark._jvm is not None
    spark._jvm.java.lang.System.setOut(spark._jvm.java.lang.System.err)
    return spark


def jvm_pid(spark: SparkSession) -> int | None:
    """The process of the driver's JVM, where this one has started it."""
    return getattr(getattr(spark.sparkContext._gateway, "proc", None), "pid", None)


def _coordinates(settings: Settings) -> tuple[str, ...]:
    """The AWS bundle is some 600 MB, so it is loaded only where a path needs it."""
    roots = (settings.lake.root, settings.checkpoints.root, settings.dq_results_root)
    on_s3 = any(root.startswith(("s3://", "s3a://")) for root in roots)
    return jars.SPARK_JARS + (jars.S3_JARS if on_s3 else ())


def _configuration(settings: Settings) -> dict[str, str]:
    local = _LOOPBACK if settings.spark.master.startswith("local") else {}
    driver = {"spark.driver.memory": settings.spark.driver_memory, "spark.driver.extraJavaOptions": LOGGING}
    return SESSION_DEFAULTS | local | driver | dict(settings.spark.conf) | _DELTA
