"""Soda, made to run inside this process: over a live Spark session, silent, and from many threads.

Importing this module imports Soda, which takes most of a second: import it where a scan begins, not before.

What Soda does on its own, and is kept from doing here: its import writes ``~/.soda/config.yml`` and sets up
usage telemetry; its first scan loads a ``.env`` file over the environment; a variable of the environment wins
over the one that was handed in; all scans of a process share one log; and failing rows are fetched as samples.
"""

from __future__ import annotations

import logging
import re
import threading
import warnings
from typing import TYPE_CHECKING, Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from streams.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyspark.sql import DataFrame, Row, SparkSession
    from soda.execution.check.check import Check as Check  # noqa: PLC0414 - soda_scan takes it from here

with warnings.catch_warnings():
    # Soda 3.5 uses distutils, which Python 3.11 calls deprecated on import.
    warnings.simplefilter("ignore", DeprecationWarning)
    from soda.common import env_helper
    from soda.common.config_helper import ConfigHelper


class _MemoryConfig(ConfigHelper):  # type: ignore[misc]
    """Soda's own settings, held in memory: telemetry off, nothing read from or written to a home folder."""

    def load_config(self) -> dict[str, object]:
        return {"send_anonymous_usage_stats": False, "user_cookie_id": ""}


def _refuse_telemetry() -> None:
    if getattr(ConfigHelper, "_ConfigHelper__instance", None) is None:
        _MemoryConfig()
    if ConfigHelper.get_instance().send_anonymous_usage_stats:
        raise ConfigurationError(
            "SODA_TELEMETRY_ON",
            "Soda was imported before this module, with its usage statistics on.",
            way_out="Import soda_engine first, or set send_anonymous_usage_stats: false in ~/.soda/config.yml.",
        )


_refuse_telemetry()
env_helper.load_dotenv = lambda *_, **__: False
logging.getLogger("soda").setLevel(logging.CRITICAL + 1)
# PySpark writes every failed query to stderr, with the text of the error, which may quote a value of the data.
logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL + 1)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from soda.common.logs import Logs
    from soda.data_sources.spark_data_source import SparkSQLBase
    from soda.execution.data_source_scan import DataSourceScan
    from soda.execution.metric.numeric_query_metric import NumericQueryMetric
    from soda.sampler.sampler import Sampler
    from soda.scan import Scan

_SOURCE = "spark"
# Soda's shared log is swapped for a fresh one while a scan is built, and ANTLR's parser keeps shared caches.
_BUILDING = threading.Lock()
_TEMPLATES = SandboxedEnvironment(variable_start_string="${", variable_end_string="}", undefined=StrictUndefined)


class _NoSamples(Sampler):  # type: ignore[misc]
    """Keeps no failing row: the caller has the condition, and sends such rows to the error lane itself."""

    def store_sample(self, sample_context: object) -> None:
        return None


class LiveConnection:
    """What Soda takes for a database connection: hands out cursors, remembers what went wrong in them."""

    def __init__(self, spark: SparkSession) -> None:
        self.spark = spark
        self.failures: list[Exception] = []
        self.queries = 0

    def cursor(self) -> _Cursor:
        return _Cursor(self)

    def close(self) -> None:
        """The session outlives the scan."""


class _Cursor:
    """Runs a query only when its rows are asked for, so a query for samples costs no Spark job."""

    def __init__(self, connection: LiveConnection) -> None:
        self._connection = connection
        self._frame: DataFrame | None = None
        self._rows: list[Row] | None = None
        self.description: tuple[tuple[str, str], ...] = ()

    def execute(self, sql: str) -> None:
        try:
            self._frame = self._connection.spark.sql(sql)
            self.description = tuple((field.name, field.dataType.simpleString()) for field in self._frame.schema)
        except Exception as error:
            self._connection.failures.append(error)
            raise

    def fetchone(self) -> Row | None:
        rows = self.fetchmany(1)
        return rows[0] if rows else None

    def fetchmany(self, size: int) -> list[Row]:
        taken, self._rows = self._remaining()[:size], self._remaining()[size:]
        return taken

    def fetchall(self) -> list[Row]:
        return self.fetchmany(len(self._remaining()))

    def close(self) -> None:
        self._frame = None

    def _remaining(self) -> list[Row]:
        if self._rows is None:
            self._rows = self._collect()
        return self._rows

    def _collect(self) -> list[Row]:
        self._connection.queries += 1
        try:
            return self._frame.collect() if self._frame else []
        except Exception as error:
            # Raised here, it would end Soda's whole scan; without rows only the checks of this query have no value.
            self._connection.failures.append(error)
            return []


class _Queries(DataSourceScan):  # type: ignore[misc]
    """The queries of a scan; one that fails leaves the checks of the others their values."""

    def execute_queries(self) -> None:
        partitions = [partition for table in self.tables.values() for partition in table.partitions.values()]
        queries = [query for partition in partitions for query in partition.collect_queries()]
        for query in [*queries, *self.queries]:
            try:
                query.execute()
            except Exception as error:
                # Some of Soda's queries trip over the result that a failed one does not have.
                self.scan._logs.error(f"{query.query_name} failed", exception=error)


class LiveSpark(SparkSQLBase):  # type: ignore[misc]
    """Soda's Spark dialect over a session that is already there."""

    def __init__(self, logs: Logs, connection: LiveConnection) -> None:
        super().__init__(logs, _SOURCE, {"connection_type": _SOURCE})
        self.connection = connection

    def create_data_source_scan(self, scan: Scan, data_source_scan_cfg: Any) -> DataSourceScan:
        self.data_source_scan = _Queries(scan, data_source_scan_cfg, self)
        return self.data_source_scan

    def get_max_aggregation_fields(self) -> int:
        """Soda's limit is 50; the checks of a table are to be one query however many they are."""
        return 10_000

    def sql_select_all_column_names(self, table_name: str) -> list[str]:
        """Asked for samples only; Soda's own answer costs a query."""
        return ["*"]

    def escape_string(self, value: str) -> str:
        return value.replace("\\", "\\\\").replace("'", "\\'")

    def escape_regex(self, value: str) -> str:
        return self.escape_string(value)


class LiveScan(Scan):  # type: ignore[misc]
    """A scan of one session; build it with :func:`build_scan`."""

    def jinja_resolve(
        self, definition: Any, variables: Mapping[str, object] | None = None, location: Any = None
    ) -> Any:
        """Fill ``${name}`` from the scan's variables only; the environment has no say in what a check means."""
        if not (isinstance(definition, str) and "${" in definition):
            return definition
        try:
            return _TEMPLATES.from_string(definition).render({**self._variables, **(variables or {})})
        except TemplateError as error:
            self._logs.error(f"{definition}: {error}", location=location)
            return definition

    def build_scan_results(self) -> dict[str, object]:
        """Soda writes each check out as YAML again for its cloud, some 20 ms a scan; nobody here reads it."""
        return {}

    @property
    def checks(self) -> list[Check]:
        return list(self._checks)

    @property
    def errors(self) -> list[str]:
        """What Soda could not read or evaluate."""
        return [log.message for log in self.get_error_logs()]


def build_scan(connection: LiveConnection, checks_yaml: Sequence[str], variables: Mapping[str, str]) -> LiveScan:
    """A scan that has parsed its checks and run none; call ``execute()`` on it, from any thread.

    What could not be parsed is in its ``errors``.
    """
    with _BUILDING:
        Logs._Logs__instance = None
        scan = LiveScan()
        scan.sampler = _NoSamples()
        scan._configuration.samples_limit = 0
        scan.set_data_source_name(_SOURCE)
        scan._data_source_manager.data_sources[_SOURCE] = LiveSpark(scan._logs, connection)
        scan.add_variables(dict(variables))
        for text in checks_yaml:
            scan.add_sodacl_yaml_str(text)
    return scan


def failing_row_condition(check: Check) -> str | None:
    """The SQL condition of the rows that a failing check counts, or None where it does not judge single rows.

    It is cut out of the expression that Soda itself sends to Spark. A check judges rows when its metric is one
    count of rows by a condition, and any such row makes it fail: a check that tolerates some is about the table.
    """
    metrics = list(check.metrics.values())
    if len(metrics) != 1 or type(metrics[0]) is not NumericQueryMetric or not _fails_on_any(check):
        return None
    metric = metrics[0]
    if metric.name == "duplicate_count":
        return None
    condition = counted_condition(metric.get_sql_aggregation_expression() or "")
    scope = metric.partition.sql_partition_filter if metric.partition else None
    if condition is None or not scope:
        return condition
    return f"({check.data_source_scan.scan.jinja_resolve(scope)}) AND ({condition})"


def _fails_on_any(check: Check) -> bool:
    threshold = getattr(check.check_cfg, "fail_threshold_cfg", None)
    if threshold is None:
        # "failed rows" without a threshold fails on any row; a metric without one only warns.
        return hasattr(check.check_cfg, "fail_condition_sql_expr") and not check.check_cfg.warn_threshold_cfg
    return not threshold.is_bad(0) and all(threshold.is_bad(count) for count in (1, 2, 10**12))


_COUNTS = (
    re.compile(r"^\s*count\s*\(\s*case\s+when\s(?P<condition>.*)\sthen\s+1\s+end\s*\)\s*$", re.I | re.S),
    re.compile(r"^\s*count_if\s*\((?P<condition>.*)\)\s*$", re.I | re.S),
)


def counted_condition(expression: str) -> str | None:
    """The condition in ``COUNT(CASE WHEN … THEN 1 END)`` or ``count_if(…)``; None for any other expression."""
    for pattern in _COUNTS:
        match = pattern.match(expression)
        if match and _stands_alone(match["condition"]):
            return match["condition"].strip()
    return None


def _stands_alone(condition: str) -> bool:
    """False for what was cut out of more than one call, such as ``a) + count_if(b``."""
    depth = cases = 0
    bare = re.sub(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|`[^`]*`", "", condition)
    for token in re.findall(r"[()]|\b(?:case|end|then|else|distinct)\b", bare, re.I):
        word = token.lower()
        depth += {"(": 1, ")": -1}.get(word, 0)
        cases += {"case": 1, "end": -1}.get(word, 0)
        if depth < 0 or cases < 0 or (cases == 0 and word in ("then", "else", "distinct")):
            return False
    return depth == 0 and cases == 0
