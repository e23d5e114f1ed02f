"""What happens to one micro-batch, as named steps.

There are three ways through: `Ingest` appends what arrived to bronze, `Upsert` merges what changed into silver
or gold, `Publish` loads what changed in gold into a warehouse. All end with the same audit. Every write carries
the batch's identity, and a batch that an earlier process had begun is first compared with what is there already;
so any step can be the last one of a killed process.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from pyspark.sql import Observation
from pyspark.sql import functions as F

from streams.errors import FatalError, RetriableError
from streams.failpoints import failpoint
from streams.quality.error_lane import ROW_AS_JSON, VIOLATIONS, lane_rows
from streams.quality.soda_scan import ScanResult, scan
from streams.sinks.append import append
from streams.sinks.commits import Commit, find_commit
from streams.sinks.merge import GONE, Ranking, count_same, loser_counts, merge, rank, winners
from streams.sinks.pruning import KeySpan
from streams.sinks.warehouse import LoadRefusedError, load, prepare, refused, stage
from streams.storage import Storage
from streams.telemetry.audit import BatchAudit, CheckOutcome, RowCounts, audit_frame
from streams.telemetry.freshness import SOURCE_TIME, SourceTimes
from streams.version import CODE_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyspark.sql import Column, DataFrame, SparkSession

    from streams.checkpoint import BatchIdentity
    from streams.quality.soda_scan import CheckResult
    from streams.sinks.warehouse import Target, Warehouse


class BatchHeldError(RetriableError):
    """A check on the whole batch failed, and its flow says ``hold``: the batch waits, the flow tries again."""


@dataclass(frozen=True)
class MicroBatch:
    """One batch of one flow, and what is known of it before it is looked at."""

    identity: BatchIdentity
    run_id: str
    rows: DataFrame
    spark: SparkSession
    is_repeated: bool  # an earlier process had begun it: its writes may be there already
    fence: Callable[[], None] = lambda: None  # raises when another process may have taken the flow over
    seconds: dict[str, float] = field(default_factory=dict)

    def keep(self, rows: DataFrame) -> DataFrame:
        """Compute rows once, when they are first needed, for all that this batch does with them.

        A local checkpoint and not a cache: it cuts the plan too. MERGE plans its source several times over, and
        with a plan of Delta scans behind it each time costs more than the merge.
        """
        return rows.localCheckpoint(eager=False)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a step, for the audit."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def passes(self, point: str) -> None:
        """A commit boundary (see `streams.failpoints`): goes on only while the flow is this process's."""
        failpoint(self.identity.flow, point)
        self.fence()


@dataclass(frozen=True)
class Outcome:
    """What became of a batch."""

    counts: RowCounts
    versions: dict[str, int] = field(default_factory=dict)
    checks: tuple[CheckOutcome, ...] = ()
    times: SourceTimes | None = None  # not known of a batch that was written before
    breaches: tuple[str, ...] = ()


class Processor(Protocol):
    """A way through."""

    def run(self, batch: MicroBatch) -> Outcome:
        """Write the batch; its rows are accounted for in the outcome."""
        ...


@dataclass(frozen=True)
class Ingest:
    """Append the rows that keep their contract to bronze, the others to the error lane.

    One pass over the source when nothing is wrong: the counts are observed while the rows are written. The
    source is read again only for a batch that has rows for the lane.

    Args:
        table: bronze's table.
        lane: the layer's error lane.
        prepare: makes judged rows of a batch's. Here and not in the stream, whose plan is done when a batch comes: what
            a write does not need (why a row is bad) is then not made for it.
        is_repeatable: whether the source gives the same rows when it is asked for a batch again. A database
            gives the rows as they are by then; what has moved out of the batch comes with a later one.
    """

    table: str
    lane: str
    prepare: Callable[[MicroBatch], DataFrame]
    is_repeatable: bool = True

    def run(self, batch: MicroBatch) -> Outcome:
        """Rows, once prepared: the table's columns without ``_ingested_at``; ``_is_bad``; of such rows ``_violations``

        and ``_payload``.
        """
        batch = replace(batch, rows=self.prepare(batch))
        already = find_commit(batch.spark, self.table, batch.identity) if batch.is_repeated else None
        with batch.phase("append"):
            read, places = self._count(batch) if already else (0, [])
            times = None
            if already is None:
                already, read, places, times = self._append(batch)
        batch.passes("data_written")
        # What an earlier process sent to the lane counts, even where the source gives it no more.
        lane = find_commit(batch.spark, self.lane, batch.identity) if batch.is_repeated else None
        if lane is None and places:
            lane = self._to_lane(batch, places)
        batch.passes("lane_written")
        written, error = already.rows("numOutputRows"), lane.rows("numOutputRows") if lane else 0
        if batch.is_repeated and not self.is_repeatable:
            read = written + error
        counts = RowCounts(rows_read=read, rows_written=written, rows_error=error)
        return Outcome(counts, _versions({self.table: already, self.lane: lane}), times=times)

    def _append(self, batch: MicroBatch) -> tuple[Commit, int, list[int], SourceTimes | None]:
        seen = Observation()
        rows = batch.rows.observe(seen, *_named(self._seen() | SourceTimes.aggregates(F.col("_replay_of").isNull())))
        sound = rows.where(~F.col("_is_bad")).drop("_is_bad", "_violations", "_payload")
        # After what is observed: Spark writes an instant into the code that it compiles, and code that changes with
        # each batch is compiled, and begins slowly, with each. So the code that judges is other code.
        commit = append(sound.withColumn("_ingested_at", F.current_timestamp()), self.table, batch.identity)
        return commit, seen.get["read"], seen.get["bad_places"], SourceTimes.of(seen.get)

    def _count(self, batch: MicroBatch) -> tuple[int, list[int]]:
        read, places = batch.rows.agg(*_named(self._seen())).first()  # type: ignore[misc]
        return read, places

    def _seen(self) -> dict[str, Column]:
        return {"read": F.count(F.lit(1)), "bad_places": F.collect_set(F.when(F.col("_is_bad"), _place()))}

    def _to_lane(self, batch: MicroBatch, places: list[int]) -> Commit:
        rows = batch.rows.where(_is_at(places)).where(F.col("_is_bad"))
        return write_lane(batch, rows.drop("_is_bad").withColumnRenamed("_key", "key"), self.lane)


# Which rows need not be judged a second time to find the bad ones is told by the places of those, by offset. However
# many rows are bad, their places are not more than this.
_PLACES: Final = 1 << 16
_WORD: Final = 32  # bits


def _place() -> Column:
    """A row's place, an integer from 0; all rows without an offset have the same."""
    return F.coalesce(F.pmod("_offset", F.lit(_PLACES)), F.lit(0)).cast("int")


def _is_at(places: list[int]) -> Column:
    """Whether a row is at one of these places, looked up in a map of bits."""
    words = [0] * (_PLACES // _WORD)
    for place in places:
        words[place // _WORD] |= 1 << place % _WORD
    map_of_bits = F.expr(f"array({','.join(f'{word}L' for word in words)})")
    word, bit = F.shiftright(_place(), _WORD.bit_length() - 1), _place().bitwiseAND(F.lit(_WORD - 1))
    return F.getbit(F.get(map_of_bits, word), bit) == 1


# Rows that one task writes, as one file; every file is one more to look at for each later batch.
_ONE_FILE_UP_TO: Final = 20_000


@dataclass(frozen=True)
class Checks:
    """The check file of a table and what a failed check on a whole batch does.

    Args:
        table: the name that the checks give the table.
        text: the check file.
        on_breach: ``warn``, ``hold`` or ``stop``.
    """

    table: str
    text: str
    on_breach: str


@dataclass(frozen=True)
class Upsert:
    """Judge what changed, then merge it.

    Args:
        table: the silver or gold table.
        lane: the layer's error lane.
        ranking: which of two rows of one key is newer.
        candidates: the batch's rows as rows of the table, any number a key; with `GONE`, rows to delete too.
        checks: what Soda asks of every batch.
    """

    table: str
    lane: str
    ranking: Ranking
    candidates: Callable[[MicroBatch], DataFrame]
    checks: Checks | None = None

    def run(self, batch: MicroBatch) -> Outcome:
        """Rows: whatever `candidates` takes."""
        already = find_commit(batch.spark, self.table, batch.identity) if batch.is_repeated else None
        if already is not None:
            return self._recover(already)
        with batch.phase("prepare"):
            ranked = batch.keep(rank(self.candidates(batch), self.ranking))
            counts, times, span = _counted(ranked, self.ranking)
        if not counts.rows_read:
            return Outcome(counts)
        rows = winners(ranked)
        if counts.rows_read <= _ONE_FILE_UP_TO:
            rows = rows.coalesce(1)
        with batch.phase("check"):
            scanned = self._scan(batch, rows)
        rows, lane, error = self._part(batch, rows, scanned)
        batch.passes("lane_written")
        facts = vars(replace(counts, rows_error=error))
        with batch.phase("merge"):
            commit = merge(rows, self.table, self.ranking, batch.identity, facts, span)
            counts = self._account(rows, commit, facts)
        batch.passes("data_written")
        return Outcome(
            counts,
            _versions({self.table: commit, self.lane: lane}),
            scanned.outcomes if scanned else (),
            times,
            tuple(check.check for check in _breaches(scanned)),
        )

    def _scan(self, batch: MicroBatch, rows: DataFrame) -> ScanResult | None:
        """Ask Soda; a check on the whole batch that fails does what the flow says."""
        if self.checks is None:
            return None
        # The query's session is its own, so views of the same name in other flows are others.
        judged = rows.where(~F.col(GONE)).drop(GONE) if GONE in rows.columns else rows
        judged.createOrReplaceTempView(self.checks.table)
        result = scan(batch.spark, batch.identity.flow, self.checks.table, self.checks.text)
        breaches = _breaches(result)
        if breaches and self.checks.on_breach != "warn":
            raise self._breach(batch, breaches)
        return result

    def _breach(self, batch: MicroBatch, breaches: list[CheckResult]) -> Exception:
        assert self.checks is not None
        names = "; ".join(
            f"{check.check} (found {check.value:g})" if check.value is not None else check.check for check in breaches
        )
        message = f"Batch {batch.identity.batch_id} of {batch.identity.flow} fails: {names}."
        if self.checks.on_breach == "hold":
            way_out = (
                "The batch is held and tried again; nothing of it is merged. Mend its rows upstream, or the check."
            )
            return BatchHeldError("BATCH_HELD", message, way_out=way_out, checks=[c.check for c in breaches])
        return FatalError(
            "BATCH_REFUSED", message, way_out="Mend its rows upstream, or the check, and start the flow again."
        )

    def _part(
        self, batch: MicroBatch, rows: DataFrame, scanned: ScanResult | None
    ) -> tuple[DataFrame, Commit | None, int]:
        """Send the rows that a row-level check names to the lane, and count them; the others go on."""
        named = [check for check in (scanned.failed if scanned else ()) if check.row_condition]
        if not named:
            return rows, None, 0
        is_judged = ~F.col(GONE) if GONE in rows.columns else F.lit(True)
        violations = [
            # A condition that is null is not met: `when` takes it so.
            F.when(
                is_judged & F.expr(str(check.row_condition)),
                F.struct(F.lit("check"), F.lit(check.column), F.lit(check.check)),
            )
            for check in named
        ]
        judged = rows.withColumn(
            "_violations", F.filter(F.array(*violations), lambda v: v.isNotNull()).cast(VIOLATIONS)
        )
        business = [F.col(name) for name in rows.columns if name != GONE]
        bad = judged.where(F.size("_violations") > 0).select(
            "_violations",
            F.to_json(F.struct(*business), ROW_AS_JSON).cast("binary").alias("_payload"),
            F.concat_ws("|", *self.ranking.key).alias("key"),
            F.lit(self.table).alias("_source"),
            F.lit(None).cast("int").alias("_partition"),
            F.lit(None).cast("bigint").alias("_offset"),
            F.lit(None).cast("timestamp").alias("_source_time"),
            F.lit(None).cast("string").alias("_replay_of"),
        )
        lane = write_lane(batch, bad, self.lane)
        # What an earlier process sent may be others: gold is made of what silver holds by now, and what has
        # become wrong since comes with the batch of that change too.
        error = bad.count() if batch.is_repeated else lane.rows("numOutputRows")
        return judged.where(F.size("_violations") == 0).drop("_violations"), lane, error

    def _account(self, rows: DataFrame, commit: Commit, facts: dict[str, int]) -> RowCounts:
        """Rows that the merge left alone were there already, or are older than what is there."""
        written = _written(commit)
        source = facts["rows_read"] - facts["rows_duplicate"] - facts["rows_stale"] - facts["rows_error"]
        unmoved = source - written
        same = 0
        if unmoved:
            same = (
                count_same(rows, self.table, commit.version, self.ranking) - written
                if self.ranking.sequence
                else unmoved
            )
        return RowCounts(
            rows_read=facts["rows_read"],
            rows_written=written,
            rows_duplicate=facts["rows_duplicate"] + same,
            rows_stale=facts["rows_stale"] + unmoved - same,
            rows_error=facts["rows_error"],
        )

    def _recover(self, commit: Commit) -> Outcome:
        """The merge was done by an earlier process, which kept the counts in its commit."""
        facts = {name: int(commit.metadata[name]) for name in vars(RowCounts())}
        written = _written(commit)
        kept = facts["rows_duplicate"] + facts["rows_stale"] + facts["rows_error"]
        # Which of the rows left alone were repeats and which were stale is no longer told apart.
        counts = RowCounts(
            **facts | {"rows_written": written, "rows_stale": facts["rows_stale"] + facts["rows_read"] - kept - written}
        )
        return Outcome(counts, {self.table: commit.version})


# Of two changes of a row in one commit, which no merge of ours makes, the one after which it is there counts.
_CHANGE_ORDER: Final = ("_commit_version", "_is_there")


@dataclass(frozen=True)
class Publish:
    """Load what changed in a table of gold into a warehouse, in one transaction with the batch's identity.

    Args:
        target: the table there.
        warehouse: logs in; asked when a batch comes, so that secrets are not read before.
    """

    target: Target
    warehouse: Callable[[], Warehouse]
    _prepared: set[str] = field(default_factory=set)

    def run(self, batch: MicroBatch) -> Outcome:
        """Rows: the table's columns, and Delta's of its change feed, without rows as they were before updates."""
        columns = self.target.columns.names
        ranking = Ranking(self.target.key, _CHANGE_ORDER, (*columns, *_CHANGE_ORDER))
        changes = batch.rows.withColumn("_is_there", F.col("_change_type") != "delete")
        # A deleted row has the time of its last change, not that of its deletion.
        measured = F.when(F.col("_is_there"), F.col(SOURCE_TIME)).alias(SOURCE_TIME)
        with batch.phase("prepare"):
            ranked = batch.keep(rank(changes.select(*columns, measured, *_CHANGE_ORDER), ranking))
            counts, times, _ = _counted(ranked, ranking)
        if not counts.rows_read:
            return Outcome(counts)
        rows = winners(ranked).select(*columns, (~F.col("_is_there")).alias(GONE))
        self._load(batch, rows)
        written = counts.rows_read - counts.rows_duplicate - counts.rows_stale
        return Outcome(replace(counts, rows_written=written), times=times)

    def _load(self, batch: MicroBatch, rows: DataFrame) -> None:
        warehouse, identity = self.warehouse(), batch.identity
        # The batch that begins a checkpoint has all that gold holds; what else is in the warehouse is left over.
        is_first = identity.batch_id == 0
        place = f"{identity.flow}/{identity.checkpoint_id}/{identity.batch_id}"
        if not self._prepared:
            prepare(warehouse, self.target)
            self._prepared.add(self.target.name)
        batch.passes("target_prepared")
        if is_first or batch.is_repeated:
            warehouse.sweep(identity.flow)
        with batch.phase("stage"):
            files, _ = stage(warehouse, rows, place)
        batch.passes("files_staged")
        with batch.phase("load"):
            try:
                load(warehouse, self.target, identity, place, files, is_whole=is_first, passes=batch.passes)
            except LoadRefusedError as error:
                raise refused(warehouse, self.target, rows, error) or error from error
        batch.passes("data_written")
        with batch.phase("sweep"):
            warehouse.sweep(place)


def _counted(ranked: DataFrame, ranking: Ranking) -> tuple[RowCounts, SourceTimes | None, KeySpan]:
    """Ranked rows with ``_source_time`` → how many there are and how many lose, their times, and their keys' span."""
    losers = loser_counts()
    found = ranked.agg(*_named(losers | SourceTimes.aggregates() | KeySpan.columns(ranking))).first()
    assert found is not None  # an aggregate of all rows is one row
    counts = RowCounts(**{name: found[name] for name in losers})
    return counts, SourceTimes.of(found), KeySpan(found["first_key"], found["last_key"])


def _named(columns: dict[str, Column]) -> list[Column]:
    return [column.alias(name) for name, column in columns.items()]


def _breaches(scanned: ScanResult | None) -> list[CheckResult]:
    """The checks on the whole batch that failed."""
    return [check for check in (scanned.failed if scanned else ()) if check.row_condition is None]


def _written(commit: Commit) -> int:
    return sum(commit.rows(f"numTargetRows{what}") for what in ("Inserted", "Updated", "Deleted"))


def process(processor: Processor, batch: MicroBatch, audit_table: str, results_root: str) -> BatchAudit | None:
    """Take one batch through its steps; gives its audit, or None when there was nothing in it.

    The results of its checks are in the audit, and as a file under ``{results_root}/{layer}/batches/{flow}/``.

    Raises:
        FatalError: a row is unaccounted for, or a check stops the flow.
        BatchHeldError: a check holds the batch.
    """
    started_at = datetime.now(UTC)
    batch.passes("batch_begun")
    outcome = processor.run(batch)
    outcome.counts.verify(batch.identity)
    if not outcome.counts.rows_read:
        return None
    finished_at = datetime.now(UTC)
    audit = BatchAudit(
        batch=batch.identity,
        run_id=batch.run_id,
        started_at=started_at,
        finished_at=finished_at,
        seconds=batch.seconds,
        counts=outcome.counts,
        versions=outcome.versions,
        checks=outcome.checks,
        is_recovered=batch.is_repeated,
        code_version=CODE_VERSION,
        freshness=None if outcome.times is None else outcome.times.age_at(finished_at),
        breaches=outcome.breaches,
    )
    _write_once(batch, audit_frame(batch.spark, audit), audit_table, ledger=True)
    batch.passes("audit_appended")
    _write_results(batch, audit, results_root)
    batch.passes("audit_written")
    return audit


def _write_results(batch: MicroBatch, audit: BatchAudit, results_root: str) -> None:
    if not audit.checks:
        return
    name = f"{batch.identity.checkpoint_id}-{batch.identity.batch_id}.json"
    results = batch.identity.as_dict() | {"run_id": batch.run_id, "finished_at": audit.finished_at.isoformat()}
    text = json.dumps(results | {"checks": [vars(check) for check in audit.checks]}, indent=2)
    Storage(batch.spark).write(
        f"{batch_results(results_root, batch.identity.flow)}/{audit.finished_at:%Y-%m-%d}/{name}", text
    )


def batch_results(root: str, flow: str) -> str:
    """The folder of the results of a flow's batches, a folder a day."""
    return f"{root}/{flow.partition('.')[0]}/batches/{flow}"


def write_lane(batch: MicroBatch, rows: DataFrame, lane: str) -> Commit:
    """Append rows to the error lane (see `lane_rows` for their columns)."""
    with batch.phase("lane"):
        # Observed only to part the code that judges from the lane's own, which names the batch (see `Ingest`).
        apart = rows.observe(Observation(), F.count(F.lit(1)).alias("rows"))
        return _write_once(batch, lane_rows(apart, batch.identity, batch.run_id), lane, ledger=False)


def _write_once(batch: MicroBatch, rows: DataFrame, table: str, *, ledger: bool) -> Commit:
    """Append to a table that describes batches, unless an earlier process already did."""
    already = find_commit(batch.spark, table, batch.identity) if batch.is_repeated else None
    return already or append(rows, table, batch.identity, ledger=ledger)


def _versions(commits: dict[str, Commit | None]) -> dict[str, int]:
    return {table: commit.version for table, commit in commits.items() if commit is not None}
