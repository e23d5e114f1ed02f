"""Delta tables as streams: the rows appended to one, its changes, and the error lane's replays."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pyspark.sql import functions as F

from streams.delta_log import polled_version
from streams.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from streams.checkpoint import Checkpoint
    from streams.settings import FlowSettings


_ALL_FILES: Final = 2**31 - 1


@dataclass(frozen=True)
class DeltaSource:
    """What streams of one Delta table have in common."""

    path: str

    def position(self, spark: SparkSession) -> Any:
        """The table's version."""
        return polled_version(spark, self.path)

    def is_idle(self, checkpoint: Checkpoint, place: int, was: Any, position: Any) -> bool:
        """Whether the table has not moved."""
        return bool(was == position)

    def guard(self, spark: SparkSession, checkpoint: Checkpoint) -> None:
        """Delta's own source refuses to skip versions whose files are gone."""


@dataclass(frozen=True)
class DeltaAppends(DeltaSource):
    """The rows of a table that is only appended to."""

    def stream(self, spark: SparkSession, limits: FlowSettings, checkpoint: Checkpoint) -> DataFrame:
        """The table's rows with the table's columns, oldest version first."""
        reader = spark.readStream.format("delta").option("maxFilesPerTrigger", limits.max_files_per_batch or 1000)
        return reader.load(self.path)


@dataclass(frozen=True)
class DeltaChanges(DeltaSource):
    """A table's changes: its rows as they stand when the stream begins, as inserts, then its change data feed.

    Args:
        path: the table.
        with_before: rows as they were before an update too (``update_preimage``).
        at_once: the rows that stand there in the beginning are one batch, however many they are.
    """

    with_before: bool = False
    at_once: bool = False

    def stream(self, spark: SparkSession, limits: FlowSettings, checkpoint: Checkpoint) -> DataFrame:
        """The table's columns as they were after each change (before it, for a delete), with Delta's

        ``_change_type``, ``_commit_version`` and ``_commit_timestamp``.
        """
        files = _ALL_FILES if self.at_once else limits.max_files_per_batch or 1000
        reader = spark.readStream.format("delta").option("readChangeFeed", "true").option("maxFilesPerTrigger", files)
        changes = reader.load(self.path)
        return changes if self.with_before else changes.where(F.col("_change_type") != "update_preimage")


# For each lane: the version up to which its log was looked at, and the newest one in it that settled rows.
_settled: dict[str, tuple[int, int]] = {}
_looking = threading.Lock()  # a lane's flows all ask at the start, and one of them reads its whole log


@dataclass(frozen=True)
class LaneReplays(DeltaSource):
    """The rows of an error lane that someone has sent back into one flow.

    To replay is to mark the row in the lane, in one commit; this reads the marking from the lane's change
    feed, so a replay goes through the flow exactly once, like anything else that it reads.
    """

    flow: str

    def position(self, spark: SparkSession) -> Any:
        """The newest version that settled rows. Those that only add rows are no reason to run."""
        newest, storage = polled_version(spark, self.path), Storage(spark)
        with _looking:
            known, settled = _settled.get(self.path, (-1, -1))
            for version in range(newest, known, -1):
                commit = storage.read(f"{self.path}/_delta_log/{version:020d}.json")
                if commit is not None and '"operation":"UPDATE"' in commit:
                    settled = version
                if commit is None or settled == version:  # older ones are cleaned up too
                    break
            _settled[self.path] = (newest, settled)
        return settled

    def stream(self, spark: SparkSession, limits: FlowSettings, checkpoint: Checkpoint) -> DataFrame:
        """The lane's columns."""
        changes = DeltaChanges(self.path).stream(spark, limits, checkpoint)
        # Rows come into the lane as waiting, so one that is there as replayed was sent back before this stream began.
        replayed = (F.col("flow") == self.flow) & (F.col("status") == "replayed")
        return changes.where(replayed & (F.col("_change_type") != "delete"))
