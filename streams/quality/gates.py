"""A gate: Soda over the whole tables of a layer, its results kept as a file and in a Delta table."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

import pyarrow as pa
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import DoubleType, IntegerType, StringType, StructField, StructType, TimestampType

from streams.delta_log import has_table
from streams.errors import ConfigurationError
from streams.quality.gate_memory import Judged, mark_of, of_the_time, recall, remember, together
from streams.quality.soda_scan import CheckResult, Outcome, ScanResult, scan
from streams.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from pathlib import Path

    from pyspark.sql import SparkSession

_SIDE_BY_SIDE: Final = 4
_GROWTH: Final = 2
_ANY: Final = 2**62
RESULTS: Final = StructType(
    [
        StructField("run_id", StringType(), nullable=False),
        StructField("layer", StringType(), nullable=False),
        StructField("table", StringType(), nullable=False),
        StructField("check", StringType(), nullable=False),
        StructField("definition", StringType(), nullable=False),
        StructField("outcome", StringType(), nullable=False),  # pass, warn, fail, error
        StructField("value", DoubleType()),
        StructField("column", StringType()),
        StructField("row_condition", StringType()),
        StructField("queries", IntegerType()),  # of the table's scan, all its checks together
        StructField("seconds", DoubleType()),  # of the table's scan
        StructField("checked_at", TimestampType(), nullable=False),
    ]
)


@dataclass(frozen=True)
class GateResult:
    """What a gate found: one scan a table. Times are UTC."""

    layer: str
    run_id: str
    started_at: datetime
    finished_at: datetime
    scans: tuple[ScanResult, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """The checks that failed or could not be evaluated, as ``layer.table: check``; none means it passed."""
        return tuple(f"{found.table}: {result.check}" for found in self.scans for result in found.failed)


def run_gate(
    spark: SparkSession,
    layer: str,
    tables: Mapping[str, str],
    checks_root: Path,
    results_root: str,
    run_id: str,
    clock: Callable[[], datetime],
    *,
    references: Mapping[str, str] | None = None,
    results_table: str | None = None,
    position: Callable[[str], object] = lambda _: None,
) -> GateResult:
    """Scan whole tables with ``<table>.yml`` and ``<table>.gate.yml``, and keep what was found.

    Of a table that stands where it stood at the last gate, with all that its checks name, only those checks are
    made again that failed or that the time itself can change; the others' results are the last ones.

    A table that is not there, and a check that cannot be evaluated, fail by name. The same ``run_id`` again
    replaces the file and adds nothing to the results table.

    Args:
        layer: ``silver`` or ``gold``.
        tables: the name of each table in its checks → its Delta path.
        checks_root: the folder that holds a folder for each layer.
        results_root: any Hadoop path; gets ``{layer}/{run_id}.json``.
        clock: gives the time, in UTC.
        references: other tables that the checks compare with, as `tables`.
        results_table: a Delta path for all results (see `RESULTS`); by default ``{results_root}/{layer}/results``.
        position: where the table of a path stands, as plain JSON; None where that is not known.

    Raises:
        ConfigurationError: ``SODA_CHECK_FILE_MISSING``.
    """
    checks = {table: _check_files(checks_root / layer, table) for table in tables}
    history = results_table or f"{results_root}/{layer}/results"
    started = clock()
    # A session of its own: the views must replace nobody else's.
    session = spark.newSession()
    storage, place = Storage(spark), f"{results_root}/{layer}/state/judged.json"
    known = recall(storage, place)
    named = {**(references or {}), **tables}
    positions = {name: position(path) for name, path in named.items()}
    there = {name: _open_view(session, name, path) for name, path in named.items()}

    def judge(table: str) -> Judged:
        before, mark = known.get(table), mark_of(checks[table], positions)
        texts = checks[table]
        if not there[table]:
            return Judged(None, before.rows if before else 0, _missing(layer, table))
        if before is None or not before.holds_for(mark):
            return Judged.of(mark, _scan_table(session, layer, table, texts, before.rows if before else 0), before)
        texts = of_the_time(texts)
        now = _scan_table(session, layer, table, texts, before.rows) if texts else replace(before.scan, results=())
        return replace(before, scan=together(before.scan, now))

    # Most of a scan of a table is planning, which one thread does.
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        judged = dict(zip(tables, pool.map(judge, tables), strict=True))
    result = GateResult(layer, run_id, started, clock(), tuple(one.scan for one in judged.values()))
    _append(spark, history, result)
    Storage(spark).write(f"{results_root}/{layer}/{run_id}.json", as_json(result))
    remember(storage, place, known | judged)
    return result


def rows(result: GateResult) -> list[tuple[str, str, str, str]]:
    """For a terminal: table, check, outcome, value; what failed first, then what warned."""
    order = [Outcome.ERROR, Outcome.FAIL, Outcome.WARN, Outcome.PASS]
    found = [(scanned.table, check) for scanned in result.scans for check in scanned.results]
    found.sort(key=lambda pair: order.index(pair[1].outcome))
    return [(table, check.check, check.outcome.value, _number(check.value)) for table, check in found]


def as_json(result: GateResult) -> str:
    """The result file: the gate, then each table's scan with its checks."""
    head = {
        "layer": result.layer,
        "run_id": result.run_id,
        "started_at": result.started_at.isoformat(),
        "finished_at": result.finished_at.isoformat(),
        "passed": not result.failed,
        "failed": result.failed,
    }
    return json.dumps(head | {"tables": [asdict(scanned) for scanned in result.scans]}, indent=2) + "\n"


def _check_files(folder: Path, table: str) -> list[str]:
    always, whole = folder / f"{table}.yml", folder / f"{table}.gate.yml"
    if not always.is_file():
        raise ConfigurationError(
            "SODA_CHECK_FILE_MISSING",
            f"The table {folder.name}.{table} has no check file {always}.",
            way_out="Write one; `row_count > 0` is a beginning.",
            file=str(always),
        )
    return [file.read_text(encoding="utf-8") for file in (always, whole) if file.is_file()]


def _open_view(session: SparkSession, name: str, path: str) -> bool:

    if not has_table(session, path):
        return False
    session.read.format("delta").load(path).createOrReplaceTempView(name)
    return True


def _scan_table(session: SparkSession, layer: str, table: str, checks: list[str], previous_rows: int) -> ScanResult:
    # Before the first gate that passed there is nothing to compare with.
    most = _GROWTH * previous_rows or _ANY
    variables = {"previous_row_count": str(previous_rows), "most_rows": str(most)}
    return scan(session, f"{layer}.{table}", table, checks, variables, raise_errors=False)


def _missing(layer: str, table: str) -> ScanResult:
    absent = CheckResult("the table is there", "the table is there", Outcome.FAIL, None, None, None)
    return ScanResult(f"{layer}.{table}", (absent,), 0, 0.0)


def _append(spark: SparkSession, history: str, result: GateResult) -> None:
    shared = {"run_id": result.run_id, "layer": result.layer, "checked_at": result.finished_at}
    records = [
        shared | asdict(check) | {"table": scanned.table, "queries": scanned.queries, "seconds": scanned.seconds}
        for scanned in result.scans
        for check in scanned.results
    ]
    # From Arrow, which the JVM reads itself: rows of Python would start a Python worker.
    table = pa.Table.from_pylist(records, to_arrow_schema(RESULTS, timezone="UTC"))
    (
        spark.createDataFrame(table, RESULTS)
        .coalesce(1)
        .write.format("delta")
        .option("txnAppId", f"gate.{result.layer}.{result.run_id}")
        .option("txnVersion", 0)
        .mode("append")
        .save(history)
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.12g}"
