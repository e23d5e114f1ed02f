"""A Soda scan of a view of a live Spark session: what each check found, and which rows it means."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from numbers import Real
from typing import TYPE_CHECKING

from streams.errors import FatalError
from streams.telemetry.audit import CheckOutcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyspark.sql import SparkSession

    from streams.quality.soda_engine import Check, LiveConnection, LiveScan


class Outcome(StrEnum):
    """What a check came to; ``ERROR`` is a check that could not be evaluated."""

    PASS = "pass"  # noqa: S105
    WARN = "warn"
    FAIL = "fail"
    ERROR = "error"


@dataclass(frozen=True)
class CheckResult:
    """One check of one scan.

    Attributes:
        check: its name as people read it.
        definition: its line in the check file, variables filled in.
        value: what was measured, in the metric's own unit; None where it is no number.
        column: the column that it is about, if it is one.
        row_condition: for a check on rows, the SQL condition that is true for exactly the rows it counts.
            It is null, not false, for some of the others: keep those with ``NOT coalesce(condition, false)``.
    """

    check: str
    definition: str
    outcome: Outcome
    value: float | None
    column: str | None
    row_condition: str | None


@dataclass(frozen=True)
class ScanResult:
    """All checks of a table, and what they cost: queries sent to Spark, and seconds of wall time."""

    table: str
    results: tuple[CheckResult, ...]
    queries: int
    seconds: float

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        """Checks that failed or could not be evaluated."""
        return tuple(result for result in self.results if result.outcome in (Outcome.FAIL, Outcome.ERROR))

    @property
    def outcomes(self) -> tuple[CheckOutcome, ...]:
        """As the audit keeps them."""
        return tuple(CheckOutcome(c.check, c.definition, c.outcome.value, c.value, c.column) for c in self.results)

    @property
    def warned(self) -> tuple[CheckResult, ...]:
        return tuple(result for result in self.results if result.outcome is Outcome.WARN)


def scan(
    spark: SparkSession,
    table: str,
    dataset: str,
    checks_yaml: str | Sequence[str],
    variables: Mapping[str, str] | None = None,
    *,
    raise_errors: bool = True,
) -> ScanResult:
    """Evaluate the checks of a dataset over a temporary view of that name in this session.

    Checks that are aggregates go to Spark as one query. Threads may scan at the same time, each its own session.

    Args:
        table: the name in the result, such as ``silver.order_events``.
        dataset: the view, and the name in ``checks for …``; every check must be about it.
        checks_yaml: the text of a check file, or of several that are about the same dataset.
        variables: values of ``${name}`` in the checks.
        raise_errors: False gives a check that cannot be evaluated as a result with the outcome ``ERROR``.

    Raises:
        FatalError: ``SODA_CHECK_ERROR``, a check cannot be read or evaluated.
        Exception: what Spark raised, where the data could not be read: that is not the check's fault.
    """
    from streams.quality import soda_engine

    started = time.monotonic()
    texts = [checks_yaml] if isinstance(checks_yaml, str) else checks_yaml
    connection = soda_engine.LiveConnection(spark)
    session = soda_engine.build_scan(connection, texts, variables or {})
    _require_readable(session, table, dataset)
    session.execute()
    _raise_what_spark_could_not_read(connection)
    if raise_errors:
        _require_evaluated(session, connection, table)
    results = tuple(_result(check) for check in session.checks)
    return ScanResult(table, results, connection.queries, time.monotonic() - started)


def _require_readable(session: LiveScan, table: str, dataset: str) -> None:
    configurations = session._sodacl_cfg.data_source_scan_cfgs.values()
    datasets = {name for configuration in configurations for name in configuration.tables_cfgs}
    problems = list(session.errors)
    problems += [f"the checks are about {name}, not about {dataset}" for name in sorted(datasets - {dataset})]
    if not problems and not any(configuration.tables_cfgs for configuration in configurations):
        problems = [f"there is no check for {dataset}"]
    if problems:
        raise _check_error(table, problems)


def _raise_what_spark_could_not_read(connection: LiveConnection) -> None:
    for failure in connection.failures:
        if not _is_about_the_check(failure):
            raise failure


def _is_about_the_check(failure: Exception) -> bool:
    """A wrong column or expression, or a value that an expression cannot take, is the check's to mend."""
    from pyspark.errors import (
        AnalysisException,
        ArithmeticException,
        ArrayIndexOutOfBoundsException,
        DateTimeException,
        NumberFormatException,
    )

    about_expressions = (
        AnalysisException,
        ArithmeticException,
        ArrayIndexOutOfBoundsException,
        DateTimeException,
        NumberFormatException,
    )
    return isinstance(failure, about_expressions)


def _require_evaluated(session: LiveScan, connection: LiveConnection, table: str) -> None:
    unevaluated = [_definition(check) for check in session.checks if check.outcome is None]
    if not (unevaluated or connection.failures or session.errors):
        return
    # Spark's text may quote values of the data; its condition names the fault and nothing else.
    conditions = sorted({_condition(failure) for failure in connection.failures})
    raise _check_error(table, [*(unevaluated or session.errors), *conditions])


def _condition(failure: Exception) -> str:
    from pyspark.errors import PySparkException

    found = failure.getCondition() if isinstance(failure, PySparkException) else None
    return found or type(failure).__name__


def _check_error(table: str, problems: list[str]) -> FatalError:
    return FatalError(
        "SODA_CHECK_ERROR",
        f"The checks of {table} cannot be evaluated: {'; '.join(problems)}.",
        way_out="Mend the check file, and try it with `streams validate`.",
        table=table,
        problems=problems,
    )


def _result(check: Check) -> CheckResult:
    from streams.quality.soda_engine import failing_row_condition

    value = getattr(check, "check_value", None)
    outcome = Outcome.ERROR if check.outcome is None else Outcome(check.outcome.value)
    return CheckResult(
        check=check.name,
        definition=_definition(check),
        outcome=outcome,
        value=float(value) if isinstance(value, Real) else None,
        column=check.column.column_name if check.column else None,
        row_condition=None if outcome is Outcome.ERROR else failing_row_condition(check),
    )


def _definition(check: Check) -> str:
    line = check.check_cfg.source_line
    condition = getattr(check.check_cfg, "fail_condition_sql_expr", None)
    return str(check.data_source_scan.scan.jinja_resolve(f"{line}: {condition}" if condition else line))
