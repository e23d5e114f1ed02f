"""The one place where a Spark session is built."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import threading
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from streams import class_archive, jars, worker_python
from streams.errors import ConfigurationError, FatalError, UnavailableError
from streams.small_files import require_conditions, small_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pyspark.sql import SparkSession

    from streams.errors import StreamsError
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
    # Each batch runs the same code, and Spark keeps a hundred pieces of it compiled: gold alone has more. What is
    # compiled anew each time is slow as well, for Java too compiles only what has run for a while.
    "spark.sql.codegen.cache.maxEntries": "3000",
    # Java compiles no method that is larger, so one that Spark makes of a whole stage would stay interpreted for good;
    # of a larger stage it makes several.
    "spark.sql.codegen.hugeMethodLimit": "8000",
    # PySpark notes for each column that is built which line built it: four calls of the JVM for each one of ours, a
    # third of a small run. Our errors name flow, table and column themselves.
    "spark.python.sql.dataFrameDebugging.enabled": "false",
    # By default the first upper or lower of a process walks through all of Unicode, seconds before the first row.
    "spark.sql.icu.caseMappings.enabled": "false",
    # A micro-batch is small: several jobs a query, which adaptive planning makes of it, cost more than they save.
    "spark.sql.adaptive.enabled": "false",
    # A run of a flow reads Kafka in a group of its own, so that no later one takes up its consumers, which Spark keeps
    # for five minutes, each with its sockets.
    "spark.kafka.consumer.cache.timeout": "30s",
    "spark.kafka.consumer.fetchedData.cache.timeout": "30s",
    # What every sort, hash table and broadcast takes first, however few its rows. By default it follows the heap and
    # the cores, up to 64 MB, and thirty flows of small batches fill a heap with empty pages.
    "spark.buffer.pageSize": "2m",
    # Delta's own log is checkpointed every 10 commits otherwise; a stream commits every second.
    "spark.databricks.delta.properties.defaults.checkpointInterval": "50",
    # A merge's source is computed once by us; Delta would copy it once more to be sure that it does not change.
    "spark.databricks.delta.merge.materializeSource": "none",
    # What a batch computed is let go of when the driver collects its garbage, which an idle driver seldom does.
    "spark.cleaner.periodicGC.interval": "5min",
    "spark.sql.streaming.minBatchesToRetain": "20",
    "spark.sql.streaming.metricsEnabled": "false",
    # Each query's plan is written out for a page that is not served; the long form costs more than many a query.
    "spark.sql.ui.explainMode": "simple",
    "spark.sql.maxPlanStringLength": "4096",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    # `spark.ui.enabled=false` leaves the store of finished jobs; keep it small in a process that runs for months.
    "spark.ui.retainedJobs": "200",
    "spark.ui.retainedStages": "200",
    "spark.sql.ui.retainedExecutions": "50",
}
SESSION_DEFAULTS: Final = _TUNING | _DELTA
# Java's upper, lower and messages are by its language: English everywhere, whatever the machine's is.
_ENGLISH: Final = "-Duser.language=en -Duser.country=US"
DRIVER_OPTIONS: Final = (
    f"{_ENGLISH} -Dlog4j2.configurationFile={(Path(__file__).parent / 'log4j2.properties').as_uri()}"
)
# Where the driver is all that there is.
LOCAL: Final = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    # Hadoop's own starts some ten processes for each file of a checkpoint or of Delta's log.
    "spark.hadoop.fs.file.impl": "streams.LocalFiles",
    "spark.hadoop.fs.AbstractFileSystem.file.impl": "streams.LocalFiles$Context",
}
_JAVA: Final = Path(__file__).parent / "java" / "streams"
# Delta's own log in S3 loses commits when two drivers write one table at once; the lanes and the audit are shared.
_ON_S3: Final = {
    "spark.delta.logStore.s3a.impl": "streams.ConditionalLogStore",
    # The places in which boto3 looks too, beside what Spark's driver gives its executors: roles, profiles, variables.
    "spark.hadoop.fs.s3a.aws.credentials.provider": "org.apache.hadoop.fs.s3a.TemporaryAWSCredentialsProvider,"
    "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider,"
    "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider",
}
# What runs in Python on the executors, beside packages that they must have: the adapters, and what gold's files are
# put into the warehouses with.
_PACKAGES: Final = ("streams", "batch_adapters")
_REDACTED: Final = "(?i)secret|password|token|access[.]?key"  # Spark's own default


def build_session(settings: Settings, progress: Callable[[str], None] | None = None) -> SparkSession:
    """Build the process's Spark session.

    The jars are resolved into the cache once and handed to Spark as files: a second start needs no network. A
    cluster's executors get them, and this project's own packages, from the driver.

    Raises:
        ConfigurationError: Java or a jar is missing (``JAVA_MISSING``, ``JARS_UNAVAILABLE``), or
            another session with other jars already runs in this process (``SESSION_EXISTS``).
        UnavailableError: no cluster answers (``SPARK_NOT_STARTED``).
    """
    from pyspark import SparkConf, SparkContext
    from pyspark.sql import SparkSession

    if SparkSession.getActiveSession() is not None:
        raise ConfigurationError("SESSION_EXISTS", "A Spark session is already running in this process.")
    java = jars.find_java()
    # The workers that read by adapters need this environment's packages; a cluster's images have them at one place.
    python = worker_python.path() if settings.spark.is_local else sys.executable
    os.environ.setdefault("PYSPARK_PYTHON", settings.spark.conf.get("spark.pyspark.python", python))
    public = _configuration(settings, os.environ, _jars(settings, java, progress))
    # Without the secrets: these settings stand in the command that starts the JVM, which all users can see.
    SparkContext._ensure_initialized(conf=SparkConf(loadDefaults=False).setAll(list(public.items())))
    secrets = {key: reference.resolve() for key, reference in settings.spark.secrets.items()}
    builder = SparkSession.builder
    for key, value in (public | secrets).items():
        builder = builder.config(key, value)
    try:
        spark = builder.getOrCreate()
    except Exception as error:
        raise _refused(settings.spark.master, error) from error
    # Standard output is the result's, for programs; Delta's vacuum prints sentences there.
    assert spark._jvm is not None
    spark._jvm.java.lang.System.setOut(spark._jvm.java.lang.System.err)
    if not settings.spark.is_local:
        _ship_packages(spark)
    return spark


def require_storage(settings: Settings) -> None:
    """Make sure that several may write to where the commits and the leases are.

    Raises:
        ConfigurationError: ``CONDITIONS_IGNORED``, ``STORAGE_REFUSED``.
        UnavailableError: ``STORAGE_AWAY``.
    """
    for root in (settings.lake.root, settings.checkpoints.root):
        if _is_in_s3(root):
            require_conditions(small_files(root), root)


class Session:
    """The process's Spark session, built when it is first asked for: what only waits for another process needs none.

    Args:
        settings: the configuration.
        progress: told, for people, of what takes long.
    """

    def __init__(self, settings: Settings, progress: Callable[[str], None] | None = None) -> None:
        self._settings, self._progress = settings, progress
        self._spark: SparkSession | None = None
        self._building = threading.Lock()

    def __call__(self) -> SparkSession:
        """The session; raises what `build_session` raises."""
        with self._building:
            if self._spark is None:
                self._spark = build_session(self._settings, self._progress)
            return self._spark

    def jvm_pid(self) -> int | None:
        """The process of the driver's JVM, where this one has started it."""
        return None if self._spark is None else getattr(_jvm_process(self._spark), "pid", None)

    def stop(self) -> None:
        """End it, where there is one and its JVM still runs."""
        if self._spark is not None:
            with suppress(FatalError):
                require_alive(self._spark)
                self._spark.stop()


def require_alive(spark: SparkSession) -> None:
    """Make sure that the driver's JVM, where this process has started it, still runs.

    Raises:
        FatalError: ``SPARK_GONE``. Nothing in this process can go on; a new one can.
    """
    process = _jvm_process(spark)
    if process is not None and process.poll() is not None:
        raise FatalError(
            "SPARK_GONE",
            f"Spark's JVM is gone (it ended with {process.returncode}): killed, or out of memory.",
            way_out="Start again: every flow goes on where it was. If it comes again, raise spark.driver_memory.",
        )


def close_idle_callbacks(spark: SparkSession) -> None:
    """Close the connections over which Java has called Python and does so no longer.

    Each query's thread in Java makes one of its own for `foreachBatch`, with a thread in Python that listens to it, and
    py4j keeps both when the query has ended. A query that goes on makes itself another with its next batch.
    """
    from py4j.java_gateway import JavaObject

    gateway = spark.sparkContext._gateway
    assert gateway is not None
    JavaObject("GATEWAY_SERVER", gateway._gateway_client).getCallbackClient().periodicCleanup()


def _jvm_process(spark: SparkSession) -> Any:
    """Of the driver's JVM, where this process has started it."""
    return getattr(spark.sparkContext._gateway, "proc", None)


def _refused(master: str, error: Exception) -> StreamsError:
    said = getattr(error, "java_exception", None) or error
    lines = [line for line in str(said).splitlines() if line.strip()]
    return UnavailableError(
        "SPARK_NOT_STARTED",
        f"Spark does not start on {master}: {lines[0] if lines else type(error).__name__}",
        way_out="Look at spark.master and spark.conf, at the cluster's own log, and whether its machines reach "
        "this one at spark.driver.host.",
    )


def driver_jars(progress: Callable[[str], None] | None = None) -> tuple[Path, ...]:
    """The jars on the driver's own class path, before Spark's; raises what `jars.resolve` raises."""
    return (*jars.resolve(jars.SPARK_JARS, progress), jars.compiled(_JAVA / "LocalFiles.java", ()))


def driver_java(java: str, files: Sequence[Path]) -> dict[str, str]:
    """How the driver's JVM starts: jars on its own class path, their classes from the archive, where there is one."""
    return {
        "spark.driver.extraClassPath": os.pathsep.join(map(str, files)),
        "spark.driver.extraJavaOptions": f"{DRIVER_OPTIONS} {class_archive.options(java, files)}".strip(),
    }


def _jars(settings: Settings, java: str, progress: Callable[[str], None] | None) -> dict[str, str]:
    """The client of S3 is loaded only where a path needs it."""
    files = driver_jars(progress)
    shipped: tuple[Path, ...] = () if settings.spark.is_local else files
    if _is_on_s3(settings):
        with_s3 = jars.resolve(jars.SPARK_JARS + jars.S3_JARS, progress)
        known = {file.name for file in files}
        more = [file for file in with_s3 if file.name not in known]
        shipped = (*shipped, *more, jars.compiled(_JAVA / "ConditionalLogStore.java", with_s3))
    return driver_java(java, files) | {"spark.jars": ",".join(map(str, shipped))}


def _is_on_s3(settings: Settings) -> bool:
    roots = (settings.lake.root, settings.checkpoints.root, settings.dq_results_root, settings.files.fx_rates)
    return any(map(_is_in_s3, roots))


def _is_in_s3(root: str) -> bool:
    return root.startswith(("s3://", "s3a://"))


def _configuration(settings: Settings, environ: Mapping[str, str], ours: dict[str, str]) -> dict[str, str]:
    spark = settings.spark
    local = LOCAL if spark.is_local else {}
    driver = {
        "spark.master": spark.master,
        "spark.app.name": spark.app_name,
        "spark.driver.memory": spark.driver_memory,
        "spark.executor.extraJavaOptions": _ENGLISH,
    }
    on_s3 = _ON_S3 | _s3_endpoint(environ) if _is_on_s3(settings) else {}
    # Jars of the configuration come after ours, not in their place.
    both = {
        key: between.join(filter(None, (ours[key], spark.conf.get(key, ""))))
        for key, between in (("spark.driver.extraClassPath", os.pathsep), ("spark.jars", ","))
    }
    return SESSION_DEFAULTS | local | driver | ours | on_s3 | spark.conf | both | _DELTA | _redaction(settings)


def _s3_endpoint(environ: Mapping[str, str]) -> dict[str, str]:
    """Another S3 than Amazon's is named by the variables that boto3 knows, so that all parts ask the same one."""
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    said = {"spark.hadoop.fs.s3a.endpoint.region": region} if region else {}
    if endpoint:
        said |= {"spark.hadoop.fs.s3a.endpoint": endpoint, "spark.hadoop.fs.s3a.path.style.access": "true"}
    return said


def _redaction(settings: Settings) -> dict[str, str]:
    """What Spark's pages and logs show as a row of stars: the secrets here too, whatever they are called."""
    # Hadoop's settings are shown once more, without the prefix.
    names = [re.escape(name.removeprefix("spark.hadoop.")) for name in settings.spark.secrets]
    pattern = settings.spark.conf.get("spark.redaction.regex", _REDACTED)
    return (
        {"spark.redaction.regex": "|".join([pattern, *(f"^(spark[.]hadoop[.])?{name}$" for name in names)])}
        if names
        else {}
    )


def _ship_packages(spark: SparkSession) -> None:
    # Served from where it lies for as long as the session lives: executors come and go.
    spark.sparkContext.addPyFile(str(_packed_packages()))


def _packed_packages() -> Path:
    root = Path(__file__).parents[1]
    files = sorted(file for package in _PACKAGES for file in (root / package).rglob("*.py"))
    texts = {str(file.relative_to(root)): file.read_bytes() for file in files}
    digest = hashlib.sha256(b"\0".join(part for name, text in texts.items() for part in (name.encode(), text)))
    archive = jars.cache_root() / "python" / f"lakehouse_streams-{digest.hexdigest()[:16]}.zip"
    if not archive.is_file():
        archive.parent.mkdir(parents=True, exist_ok=True)
        draft = archive.with_suffix(f".{os.getpid()}.partial")
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, text in texts.items():
                packed.writestr(name, text)
        draft.rename(archive)
    return archive
