"""One run of a flow: until what was at its sources when it began is through."""

from __future__ import annotations

import re
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import structlog
from pyspark.errors import StreamingQueryException

from streams.checkpoint import BatchIdentity
from streams.errors import ConfigurationError, FatalError, RetriableError, StreamsError, UnavailableError
from streams.flows.flow import way_to_begin_anew
from streams.micro_batch import MicroBatch, process
from streams.session import close_idle_callbacks
from streams.telemetry.events import BatchDone, RunBegan, RunEnded
from streams.telemetry.logs import bound

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

    from streams.flows.flow import Flow
    from streams.supervisor.service import Service
    from streams.telemetry.audit import BatchAudit

log = structlog.get_logger(__name__)


# Another system has an hour for a statement or a job, and then says so itself.
_REMOTE_PATIENCE: Final = 4500.0


class _EndedError(Exception):
    """Raised between two batches to end a query before it is through."""


@dataclass
class FlowRun:
    """What one run did; `is_through` is false when it was asked to end before."""

    flow: str
    audits: list[BatchAudit] = field(default_factory=list)
    is_through: bool = True
    elsewhere: Counter[str] = field(default_factory=Counter)  # what another process did for it

    @property
    def batches(self) -> int:
        """How many batches had rows."""
        return len(self.audits) + self.elsewhere["batches"]

    def total(self, count: str) -> int:
        """The sum of one of `RowCounts`' fields."""
        return sum(int(getattr(audit.counts, count)) for audit in self.audits) + self.elsewhere[count]


class Stall:
    """Tells a query in which nothing moves any more from one that is at work, and ends it.

    Args:
        spark, query: which.
        patience: for how many seconds nothing may move.
    """

    def __init__(self, spark: SparkSession, query: StreamingQuery, patience: float) -> None:
        self._spark, self._query, self.patience = spark, query, patience
        self._at = self.progress()
        self.has_ended_it = False

    def has_moved(self) -> bool:
        """Whether anything was done since this was asked last."""
        before, self._at = self._at, self.progress()
        return before != self._at

    def progress(self) -> list[object]:
        """Changes with each batch, job and task. Asked of Spark's own bookkeeping; runs no job."""
        last, tracker = self._query.lastProgress, self._spark.sparkContext.statusTracker()
        seen: list[object] = [last and last["batchId"]]
        for job in sorted(tracker.getJobIdsForGroup(str(self._query.runId))):
            stages = [tracker.getStageInfo(stage) for stage in getattr(tracker.getJobInfo(job), "stageIds", ())]
            seen += [job, [stage.numCompletedTasks for stage in stages if stage is not None]]
        return seen

    def end_it(self) -> None:
        """Cancel its jobs, and let its thread come back with an error."""
        self.has_ended_it = True
        self._spark.sparkContext.cancelJobGroup(str(self._query.runId))
        self._query.stop()


def drain(
    flow: Flow,
    service: Service,
    is_over: Callable[[int], bool] = lambda _: False,
    on_start: Callable[[Stall], None] = lambda _: None,
    done: FlowRun | None = None,
) -> FlowRun:
    """Run a flow until its sources, as they stood at the start, are through.

    The same call serves the daily job, which makes it once, and the supervisor, which makes it again whenever
    a source has something new: a query that is not running costs nothing.

    Args:
        flow: which.
        service: where.
        is_over: asked before each batch, with the number of those that are done, whether to end before everything is
            through.
        on_start: given what tells whether the query that was just started has stalled.
        done: what an earlier call did that failed, to be gone on with.

    Raises:
        FatalError: going on would lose data, or a check stops the flow.
        RetriableError: anything else; the same call may succeed later.
    """
    with bound(run=service.run_id, flow=flow.name):
        query = _Query(flow, service, is_over, on_start, done or FlowRun(flow.name))
        try:
            query.run()
        except Exception as error:
            explained = error if isinstance(error, StreamsError) else _explain(flow.name, error)
            query.tell_of_end(explained)
            raise explained from (None if explained is error else error)
        query.tell_of_end()
        return query.done


class _Query:
    def __init__(
        self,
        flow: Flow,
        service: Service,
        is_over: Callable[[int], bool],
        on_start: Callable[[Stall], None],
        done: FlowRun,
    ) -> None:
        self.flow, self.service, self.is_over, self.on_start, self.done = flow, service, is_over, on_start, done
        self.error: BaseException | None = None
        self.interrupted: int | None = None
        self.name: str | None = None  # of this run; none before it has begun

    def tell_of_end(self, error: StreamsError | None = None) -> None:
        """Tell of a run that had begun."""
        if self.name is not None:
            self.service.tell(RunEnded(self.flow.name, self.name, datetime.now(UTC), self.done.is_through, error))

    def run(self) -> None:
        service, flow = self.service, self.flow
        checkpoint = service.checkpoint(flow.name)
        service.prepare(flow)
        position = flow.position(service.spark)
        flow.guard(service.spark, checkpoint)
        # To start a query costs seconds, even where it finds nothing; a day has thirty.
        if flow.is_idle(checkpoint, position):
            return
        self.interrupted = checkpoint.interrupted_batch()
        self.name = str(uuid.uuid4())
        service.tell(RunBegan(flow.name, self.name, datetime.now(UTC)))
        # Each flow has a pool of its own in the fair scheduler: a large batch of one does not hold up the others.
        service.spark.sparkContext.setLocalProperty("spark.scheduler.pool", flow.name)
        query = (
            flow.stream(service.spark, service.settings.flow(flow.name), checkpoint)
            .writeStream.queryName(flow.name)
            .option("checkpointLocation", checkpoint.path)
            .foreachBatch(self._on_batch)
            .trigger(availableNow=True)
            .start()
        )
        stall = Stall(service.spark, query, self._patience())
        self.on_start(stall)
        try:
            query.awaitTermination()
        except StreamingQueryException:
            if stall.has_ended_it:
                raise self._stalled() from None
            # What was raised in `_on_batch` comes back as text; the error itself is kept there.
            if isinstance(self.error, _EndedError):
                return
            raise self.error or query.exception() or RetriableError("QUERY_FAILED", "The query failed.") from None
        finally:
            query.stop()
            close_idle_callbacks(service.spark)
        if stall.has_ended_it:
            raise self._stalled()
        checkpoint.remember_through(position)

    def _patience(self) -> float:
        patience = self.service.settings.restart.stall_seconds
        return max(patience, _REMOTE_PATIENCE) if self.flow.waits_for else patience

    def _stalled(self) -> RetriableError:
        return RetriableError(
            "FLOW_STALLED",
            f"Nothing moved in a batch of {self.flow.name} for {self._patience():g} s; it was ended.",
            way_out="It is tried again. A longer patience is restart.stall_seconds.",
        )

    def _on_batch(self, rows: DataFrame, batch_id: int) -> None:
        try:
            self._go_on_unless_over()
            self._process(rows, batch_id)
        except BaseException as error:
            self.error = error
            raise

    def _go_on_unless_over(self) -> None:
        if self.service.draining.is_set() or self.is_over(len(self.done.audits)):
            self.done.is_through = False
            raise _EndedError

    def _process(self, rows: DataFrame, batch_id: int) -> None:
        checkpoint_id = str(rows.sparkSession.sparkContext.getLocalProperty("sql.streaming.queryId"))
        batch = MicroBatch(
            identity=BatchIdentity(self.flow.name, checkpoint_id, batch_id),
            run_id=self.service.run_id,
            rows=rows,
            spark=rows.sparkSession,
            is_repeated=batch_id == self.interrupted,
            fence=lambda: self.service.check_held(self.flow.name),
        )
        # Spark calls from a thread of its own, which knows nothing of what the caller's is bound to.
        with bound(run=self.service.run_id, flow=self.flow.name, batch=batch_id):
            audit = process(self.flow.processor, batch, self.service.lake.audit, self.service.settings.dq_results_root)
            if audit is not None:
                log.info("batch done", **vars(audit.counts), seconds=round(sum(audit.seconds.values()), 3))
                self.done.audits.append(audit)
                self.service.tell(BatchDone(str(self.name), audit))


# What Spark and Delta say when data that a checkpoint still needs is gone. No pause brings it back.
_LOSSES = (
    "DELTA_FILE_NOT_FOUND_DETAILED",
    "DELTA_CHANGE_DATA_FILE_NOT_FOUND",
    "DELTA_LOG_FILE_NOT_FOUND",
    "DELTA_TRUNCATED_TRANSACTION_LOG",
    "DELTA_VERSION_NOT_CONTIGUOUS",
)


# An adapter's error comes from a Python worker through the JVM as the last lines of a traceback.
_ADAPTER_ERROR = re.compile(r"<(configuration|fatal|retriable):([A-Z0-9_]+)> ([^\n]*)")
_BY_KIND = {"configuration": ConfigurationError, "fatal": FatalError, "retriable": UnavailableError}


def _explain(flow: str, error: Exception) -> StreamsError:
    text = str(error)
    said = _ADAPTER_ERROR.search(text)
    if said is not None:
        kind, code, message = said.groups()
        return _BY_KIND[kind](code, f"{flow}: {message}")
    code = next((code for code in _LOSSES if code in text), None)
    if code is not None:
        return FatalError(
            "UPSTREAM_VACUUMED",
            f"What {flow} has not read yet was removed upstream ({code}).",
            way_out=way_to_begin_anew(flow),
        )
    first_line = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    return RetriableError("FLOW_FAILED", f"{flow} failed: {first_line}", error=type(error).__name__)
