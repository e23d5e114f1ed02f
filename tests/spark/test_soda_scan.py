"""Soda over the live session: outcomes, the rows that they mean, and what a scan costs and leaves behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from streams.errors import FatalError
from streams.quality.soda_scan import CheckResult, Outcome, scan

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ROOT = Path(__file__).parents[2]
CHECKS = r"""
checks for things:
  - missing_count(a) = 0
  - missing_count(e) = 0:
      filter: n > 3
  - invalid_count(a) = 0:
      valid regex: "^[a-z']+\\d*$"
  - invalid_count(n) = 0:
      valid min: 1
      valid max: 10
  - invalid_count(e) = 0:
      valid values: [x, y, "it's"]
  - invalid_count(a) = 0:
      name: length
      valid max length: 3
  - big = 0:
      big expression: count_if(n > 5 OR a = 'x)')
  - big_or_null = 0:
      big_or_null expression: COUNT(CASE WHEN n > 5 OR n IS NULL THEN 1 END)
  - failed rows:
      name: odd
      fail condition: n % 2 = 1
"""


@pytest.fixture
def things(spark: SparkSession) -> DataFrame:
    """Nulls, quotes, brackets and backslashes, each where a condition could go wrong."""
    values = [
        ("abc1", 1, "x"),
        (None, 2, "it's"),
        ("it's", 20, None),
        ("Q", None, "z"),
        ("x)", 7, None),
        ("a\\d", 4, "y"),
    ]
    frame = spark.createDataFrame(values, "a string, n int, e string")
    frame.createOrReplaceTempView("things")
    return frame


def by_name(spark: SparkSession, checks: str, **variables: str) -> dict[str, CheckResult]:
    return {result.check: result for result in scan(spark, "silver.things", "things", checks, variables).results}


def test_a_row_condition_counts_the_rows_that_soda_counts(spark: SparkSession, things: DataFrame) -> None:
    result = scan(spark, "silver.things", "things", CHECKS)
    assert len(result.results) == 9
    for check in result.results:
        assert check.outcome is Outcome.FAIL
        assert check.row_condition is not None
        assert things.filter(check.row_condition).count() == check.value, check


def test_null_is_not_invalid_and_a_null_condition_fails_no_row(spark: SparkSession, things: DataFrame) -> None:
    odd = by_name(spark, CHECKS)["odd"]
    assert odd.value == 2
    assert [row["n"] for row in things.filter(f"NOT coalesce({odd.row_condition}, false)").collect()] == [
        2,
        20,
        None,
        4,
    ]


@pytest.mark.parametrize(
    "check",
    [
        "missing_count(a) < 1",
        "missing_count(a) = 0",
    ],
)
def test_a_check_that_any_row_fails_names_rows(spark: SparkSession, things: DataFrame, check: str) -> None:
    (found,) = scan(spark, "t", "things", f"checks for things:\n  - {check}\n").results
    assert (found.outcome, found.row_condition) == (Outcome.FAIL, "a IS NULL")


@pytest.mark.parametrize(
    ("check", "outcome"),
    [
        ("missing_count(a) < 3", Outcome.PASS),
        ("missing_count(e) < 2", Outcome.FAIL),
        ("row_count > 100", Outcome.FAIL),
        ("row_count = 6", Outcome.PASS),
        ("max(n) < 10", Outcome.FAIL),
        ("duplicate_count(e) = 0", Outcome.PASS),
        ("missing_count(a):\n      warn: when > 0", Outcome.WARN),
    ],
)
def test_a_check_on_the_table_names_no_rows(
    spark: SparkSession, things: DataFrame, check: str, outcome: Outcome
) -> None:
    (found,) = scan(spark, "t", "things", f"checks for things:\n  - {check}\n").results
    assert (found.outcome, found.row_condition) == (outcome, None)


def test_variables_come_from_the_caller_and_never_from_the_environment(
    spark: SparkSession, things: DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("least", "100")
    found = by_name(spark, "checks for things:\n  - row_count >= ${least}\n", least="6")
    assert found["row_count >= 6"].outcome is Outcome.PASS


@pytest.mark.parametrize(
    "checks",
    [
        "checks for things:\n  - missing_count(no_such_column) = 0\n",
        "checks for things:\n  - failed rows:\n      fail condition: n >\n",
        "checks for things:\n  - failed rows:\n      fail condition: cast(a AS int) > 1\n",
        "checks for things:\n  - row_cuont > 0\n",
        "checks for things:\n  - row_count >= ${not_given}\n",
        "checks for others:\n  - row_count > 0\n",
        "checks for no_view:\n  - row_count > 0\n",
        "nothing: here\n",
        "",
    ],
)
def test_a_check_that_cannot_be_evaluated_is_an_error_and_never_a_pass(
    spark: SparkSession, things: DataFrame, checks: str
) -> None:
    with pytest.raises(FatalError) as caught:
        scan(spark, "t", "no_view" if "no_view" in checks else "things", checks)
    assert caught.value.code == "SODA_CHECK_ERROR"


def test_an_error_quotes_no_value_of_the_data(spark: SparkSession, things: DataFrame) -> None:
    with pytest.raises(FatalError) as caught:
        scan(spark, "t", "things", "checks for things:\n  - failed rows:\n      fail condition: cast(a AS int) > 1\n")
    assert "abc1" not in str(caught.value)
    assert "CAST_INVALID_INPUT" in str(caught.value)


def test_one_failing_query_leaves_the_other_checks_their_results(spark: SparkSession, things: DataFrame) -> None:
    checks = "checks for things:\n  - duplicate_count(no_such_column) = 0\n  - row_count = 6\n"
    found = scan(spark, "t", "things", checks, raise_errors=False)
    assert {result.outcome for result in found.results} == {Outcome.ERROR, Outcome.PASS}
    assert [result.outcome for result in found.failed] == [Outcome.ERROR]


def test_all_aggregates_are_one_query_and_one_job(spark: SparkSession, things: DataFrame) -> None:
    many = "".join(f"  - n{i} = 0:\n      n{i} expression: count_if(n > {i})\n" for i in range(120))
    things.coalesce(1).persist().count()
    spark.sparkContext.setJobGroup("scan", "one scan")
    try:
        result = scan(spark, "t", "things", CHECKS + many)
        jobs = spark.sparkContext.statusTracker().getJobIdsForGroup("scan")
    finally:
        spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]
        things.unpersist()
    assert len(result.results) == 129
    assert result.queries == 1
    adaptive = spark.conf.get("spark.sql.adaptive.enabled") == "true"
    assert len(jobs) == (2 if adaptive else 1)


def test_scans_in_threads_do_not_mix(spark: SparkSession) -> None:
    """Each session has its own view of one name, and every other scan is broken: none hears of another's error."""

    def one(size: int) -> float | str | None:
        session = spark.newSession()
        session.range(size).createOrReplaceTempView("numbers")
        broken = "  - missing_count(no_such_column) = 0\n" if size % 2 else ""
        try:
            found = scan(
                session, "t", "numbers", f"checks for numbers:\n  - row_count >= ${{least}}\n{broken}", {"least": "0"}
            )
        except FatalError as error:
            return error.code
        return found.results[0].value

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(one, range(24)))
    assert found == ["SODA_CHECK_ERROR" if size % 2 else size for size in range(24)]


def test_a_scan_is_silent(spark: SparkSession, things: DataFrame, capfd: pytest.CaptureFixture[str]) -> None:
    scan(spark, "t", "things", CHECKS)
    captured = capfd.readouterr()
    assert "Soda" not in captured.out + captured.err
    assert "WHEN" not in captured.out + captured.err


def test_a_scan_opens_no_connection_but_sparks(
    spark: SparkSession, things: DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    away: list[object] = []
    connect = socket.socket.connect

    def watched(self: socket.socket, address: object) -> None:
        if not (isinstance(address, tuple) and address[0] in ("127.0.0.1", "localhost", "::1")):
            away.append(address)
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", watched)
    scan(spark, "t", "things", CHECKS)
    assert away == []


def test_importing_soda_sets_up_no_telemetry_and_writes_no_file(tmp_path: Path) -> None:
    code = (
        "import streams.quality.soda_engine, soda.telemetry.soda_telemetry as t, opentelemetry.trace as o;"
        "assert not t.SodaTelemetry.soda_config.send_anonymous_usage_stats;"
        "assert type(o.get_tracer_provider()).__name__ == 'ProxyTracerProvider', o.get_tracer_provider()"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        check=False,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_soda_imported_by_someone_else_with_telemetry_on_is_refused(tmp_path: Path) -> None:
    code = (
        "import soda.scan\nfrom streams.errors import ConfigurationError\n"
        "try:\n    import streams.quality.soda_engine\n"
        "except ConfigurationError as error:\n    assert error.code == 'SODA_TELEMETRY_ON'\n"
        "else:\n    raise SystemExit(1)"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=False).returncode == 0
