"""The newest batches of each flow, kept in memory: a listener, filled at the start with what the audit knows."""

from __future__ import annotations

import threading
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from pyspark.sql import Window
from pyspark.sql import functions as F

from streams.checkpoint import BatchIdentity
from streams.delta_log import has_table
from streams.telemetry.audit import BatchAudit, CheckOutcome, RowCounts, read_audit
from streams.telemetry.events import BatchDone, GateJudged

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pyspark.sql import Row, SparkSession

    from streams.telemetry.events import Event

KEPT: Final = 60
_LOOK_BACK: Final = timedelta(days=7)


class Recent:
    """What this process has done lately, and what waits in the lanes because of it.

    Args:
        kept: so many batches a flow.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._batches: dict[str, deque[BatchAudit]] = {}
        self.began = datetime.now(UTC)
        self._waiting: dict[str, int] = {}  # of the rows that came before
        self._to_lane: dict[str, int] = {}  # since, less those that were settled
        self._counted_at: datetime | None = None
        self._gates_judged = 0
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Keep what is shown."""
        if isinstance(event, BatchDone):
            self._keep(event.audit)
        elif isinstance(event, GateJudged):
            with self._lock:
                self._gates_judged += 1

    @property
    def gates_judged(self) -> int:
        """How many gates this process has run; one more means that there are new results."""
        return self._gates_judged

    def batches(self, flow: str) -> tuple[BatchAudit, ...]:
        """The flow's newest batches, the oldest first."""
        with self._lock:
            return tuple(self._batches.get(flow, ()))

    def rate(self, flow: str, now: datetime, seconds: float = 60.0) -> float:
        """Rows that the flow read in a second, over the time before `now`."""
        since = now - timedelta(seconds=seconds)
        return sum(one.counts.rows_read for one in self.batches(flow) if one.finished_at > since) / seconds

    def waiting(self, flow: str) -> int:
        """How many of the flow's rows wait in the lane: of those from before this process began, and its own."""
        with self._lock:
            return max(0, self._waiting.get(flow, 0) + self._to_lane.get(flow, 0))

    @property
    def counted_at(self) -> datetime | None:
        """When the lanes were counted; None: not yet."""
        return self._counted_at

    def count_lanes(self, waiting: Mapping[str, int]) -> None:
        """Take what was counted, by flow: the rows that wait and came before this process began."""
        with self._lock:
            self._waiting, self._counted_at = dict(waiting), datetime.now(UTC)

    def settled(self, flow: str, rows: int) -> None:
        """Rows of a flow no longer wait."""
        with self._lock:
            self._to_lane[flow] = self._to_lane.get(flow, 0) - rows

    def fill(self, audits: Iterable[BatchAudit]) -> None:
        """Take batches of earlier processes; those that are known already are left out."""
        by_flow: dict[str, dict[BatchIdentity, BatchAudit]] = {}
        for audit in audits:
            by_flow.setdefault(audit.batch.flow, {})[audit.batch] = audit
        with self._lock:
            for flow, found in by_flow.items():
                all_known = found | {one.batch: one for one in self._batches.get(flow, ())}
                ordered = sorted(all_known.values(), key=lambda one: one.finished_at)
                self._batches[flow] = deque(ordered, self._kept)

    def _keep(self, audit: BatchAudit) -> None:
        with self._lock:
            self._batches.setdefault(audit.batch.flow, deque(maxlen=self._kept)).append(audit)
            flow = audit.batch.flow
            self._to_lane[flow] = self._to_lane.get(flow, 0) + audit.counts.rows_error


def newest_audits(spark: SparkSession, path: str, kept: int = KEPT) -> list[BatchAudit]:
    """The newest batches of each flow from the run audit, of the last seven days; one Spark query.

    Args:
        spark: the session.
        path: the audit (see `streams.telemetry.audit.AUDIT`).
        kept: so many a flow.
    """
    if not has_table(spark, path):
        return []
    newest = F.row_number().over(Window.partitionBy("flow").orderBy(F.desc("finished_at")))
    rows = (
        read_audit(spark, path)
        .where(F.col("finished_at") > F.lit(datetime.now(UTC) - _LOOK_BACK))
        .withColumn("place", newest)
        .where(F.col("place") <= kept)
    )
    return [_audit(row) for row in rows.collect()]


def _audit(row: Row) -> BatchAudit:
    return BatchAudit(
        batch=BatchIdentity(row["flow"], row["checkpoint_id"], row["batch_id"]),
        run_id=row["run_id"],
        # Spark gives them in this machine's own time, without saying so.
        started_at=row["started_at"].astimezone(UTC),
        finished_at=row["finished_at"].astimezone(UTC),
        seconds=dict(row["seconds"] or {}),
        counts=RowCounts(**{name: row[name] or 0 for name in vars(RowCounts())}),
        versions=dict(row["versions"] or {}),
        is_recovered=bool(row["is_recovered"]),
        code_version=row["code_version"] or "",
        checks=tuple(CheckOutcome(**check.asDict()) for check in row["checks"] or ()),
    )
