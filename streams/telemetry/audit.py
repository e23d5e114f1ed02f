"""The run audit: a Delta table with a row for each micro-batch, its rows accounted for."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    BooleanType,
    DoubleType,
    LongType,
    MapType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

from streams.errors import FatalError

if TYPE_CHECKING:
    from datetime import datetime

    from pyspark.sql import DataFrame, SparkSession

    from streams.checkpoint import BatchIdentity
    from streams.telemetry.freshness import Freshness

_CHECK: Final = StructType(
    [
        StructField("check", StringType()),
        StructField("definition", StringType()),
        StructField("outcome", StringType()),
        StructField("value", DoubleType()),
        StructField("column", StringType()),
    ]
)
AUDIT: Final = StructType(
    [
        StructField("run_id", StringType()),
        StructField("flow", StringType()),
        StructField("checkpoint_id", StringType()),
        StructField("batch_id", LongType()),
        StructField("started_at", TimestampType()),
        StructField("finished_at", TimestampType()),
        StructField("seconds", MapType(StringType(), DoubleType())),  # phase: how long it took
        StructField("rows_read", LongType()),
        StructField("rows_written", LongType()),
        StructField("rows_duplicate", LongType()),
        StructField("rows_stale", LongType()),
        StructField("rows_error", LongType()),
        StructField("versions", MapType(StringType(), LongType())),  # table: the version that this batch made
        StructField("checks", ArrayType(_CHECK)),
        StructField("is_recovered", BooleanType()),  # a batch that an earlier process had begun
        StructField("code_version", StringType()),
        StructField("freshness", MapType(StringType(), DoubleType())),  # p50, p99, max: see `telemetry.freshness`
    ]
)


@dataclass(frozen=True)
class RowCounts:
    """Where the rows of one batch went: read = written + duplicate + stale + error."""

    rows_read: int = 0
    rows_written: int = 0
    rows_duplicate: int = 0
    rows_stale: int = 0
    rows_error: int = 0

    def verify(self, batch: BatchIdentity) -> None:
        """Fail when a row is unaccounted for.

        Raises:
            FatalError: ``ROWS_UNACCOUNTED``.
        """
        accounted = self.rows_written + self.rows_duplicate + self.rows_stale + self.rows_error
        if self.rows_read != accounted:
            raise FatalError(
                "ROWS_UNACCOUNTED",
                f"Batch {batch.batch_id} of {batch.flow} read {self.rows_read} rows but accounts for {accounted} "
                f"(written {self.rows_written}, duplicate {self.rows_duplicate}, stale {self.rows_stale}, "
                f"error lane {self.rows_error}).",
                way_out="Has its contract or code changed since the batch began? Put the old one back, let the batch "
                "end, and change it then.",
                **vars(self),
            )


@dataclass(frozen=True)
class CheckOutcome:
    """One check of one batch, as the audit keeps it."""

    check: str
    definition: str
    outcome: str
    value: float | None
    column: str | None


@dataclass(frozen=True)
class BatchAudit:
    """What one micro-batch did.

    Attributes:
        freshness: how old its rows were; None where that was not measured (no row of the batch has a time of its own,
            or an earlier process had written the batch).
        breaches: the checks on the whole batch that failed and only warn; of those in `checks`.
    """

    batch: BatchIdentity
    run_id: str
    started_at: datetime
    finished_at: datetime
    seconds: dict[str, float]
    counts: RowCounts
    versions: dict[str, int]
    is_recovered: bool
    code_version: str
    checks: tuple[CheckOutcome, ...] = field(default=())
    freshness: Freshness | None = None
    breaches: tuple[str, ...] = ()


def read_audit(spark: SparkSession, path: str) -> DataFrame:
    """The audit (see `AUDIT`), a row a batch.

    A process that is stopped just before it writes its row, and goes on when another has taken its flow over and
    written that batch's row, writes a second one, which says the same: here it is left out.
    """
    return spark.read.format("delta").load(path).dropDuplicates(["flow", "checkpoint_id", "batch_id"])


def audit_frame(spark: SparkSession, audit: BatchAudit) -> DataFrame:
    """The audit's row, as a DataFrame of one row (see `AUDIT`). Made in the JVM: no Python worker is started for it."""
    row = audit.batch.as_dict() | vars(audit.counts)
    row |= {name: getattr(audit, name) for name in ("run_id", "seconds", "versions", "is_recovered", "code_version")}
    row |= {name: getattr(audit, name).isoformat() for name in ("started_at", "finished_at")}
    row["checks"] = [vars(check) for check in audit.checks]
    row["freshness"] = None if audit.freshness is None else vars(audit.freshness)
    text = F.from_json(F.lit(json.dumps(row)), AUDIT).alias("row")
    return spark.range(1, numPartitions=1).select(text).select("row.*")
