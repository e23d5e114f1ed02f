"""What a pulled batch means for bronze: its rows, and for keys that are gone at the source their tombstones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pyspark.sql import functions as F

from batch_adapters.adapter import CHANGE, Offset
from batch_adapters.window import moment
from streams.checkpoint import Checkpoint
from streams.errors import FatalError
from streams.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from streams.micro_batch import MicroBatch
    from streams.quality.contract import Contract

# Below this many deletes no share of the table is suspicious.
_FEW: Final = 100


@dataclass(frozen=True)
class Reconciliation:
    """Compares the keys (or the rows, of a table without a cursor) that the source has with those of bronze.

    Which batches are to be compared is read from the offset that Spark has journaled, so that an ordinary batch
    of rows costs no look at bronze and no job more.

    Args:
        table: bronze's table.
        checkpoint: the flow's checkpoint folder.
        contract: the rows' contract.
        max_delete_share: more than this share of all keys gone at once is taken for a mistake at the source.
    """

    table: str
    checkpoint: str
    contract: Contract
    max_delete_share: float

    def compare(self, batch: MicroBatch) -> DataFrame:
        """Rows with ``_change`` (see `batch_adapters.adapter`) → what is appended, without it.

        Raises:
            FatalError: ``RECONCILIATION_REFUSED``.
        """
        offset = self._offset(batch)
        if offset is None or offset.kind in ("window", "start"):
            return batch.rows.drop(CHANGE)
        rows = batch.keep(batch.rows)
        if not rows.where(F.col(CHANGE) == "complete").head(1):
            # Rows sent back from the error lane, while the source stands where its last pull ended.
            return rows.where(F.col(CHANGE) == "row").drop(CHANGE)
        there = rows.where(F.col(CHANGE).isin("key", "snapshot")).select("_key").distinct()
        live = batch.keep(self._live(batch))
        gone = batch.keep(live.join(there, "_key", "left_anti"))
        self._refuse_too_many(live, gone)
        came = rows.where(F.col(CHANGE) == "row").drop(CHANGE)
        if offset.kind == "snapshot":
            came = self._changed(rows.where(F.col(CHANGE) == "snapshot").drop(CHANGE), live)
        return came.unionByName(self._tombstones(gone.select("_key"), offset, came))

    def _offset(self, batch: MicroBatch) -> Offset | None:
        said: Any = Checkpoint(Storage(batch.spark), self.checkpoint).offsets(batch.identity.batch_id, source=0)
        return None if said is None else Offset.of(said)

    def _live(self, batch: MicroBatch) -> DataFrame:
        """``_key`` and ``_row`` (struct of the contract's columns) of each key that bronze takes to be there."""
        names = [column.name for column in self.contract.columns]
        bronze = batch.spark.read.format("delta").load(self.table)
        deletion = self.contract.deletion
        is_marked = F.coalesce(F.col(deletion[0]) == F.lit(deletion[1]), F.lit(False)) if deletion else F.lit(False)
        newest = F.struct("_source_time", (~F.col("_is_tombstone")).alias("is_row"), "_ingested_at")
        last = bronze.groupBy("_key").agg(
            F.max_by(F.struct(*names), newest).alias("_row"),
            F.max_by(F.col("_is_tombstone") | is_marked, newest).alias("_is_gone"),
        )
        return last.where(~F.col("_is_gone")).select("_key", "_row")

    def _refuse_too_many(self, live: DataFrame, gone: DataFrame) -> None:
        missing = gone.count()
        if missing <= _FEW:
            return
        known = live.count()
        if missing > self.max_delete_share * known:
            raise FatalError(
                "RECONCILIATION_REFUSED",
                f"{missing:,} of {known:,} keys of {self.table} are gone at the source at once.",
                way_out="If they really were deleted, raise the source's pull.max_delete_share and start the flow "
                "again; if the source is being loaded anew, wait until it is whole.",
                missing=missing,
                known=known,
            )

    def _changed(self, rows: DataFrame, live: DataFrame) -> DataFrame:
        names = [column.name for column in self.contract.columns]
        known = live.select("_key", F.col("_row").alias("_known"))
        is_known = F.struct(*names).eqNullSafe(F.col("_known"))
        joined = rows.join(known, "_key", "left")
        return joined.where(F.col("_known").isNull() | ~is_known).select(*rows.columns)

    def _tombstones(self, keys: DataFrame, offset: Offset, like: DataFrame) -> DataFrame:
        told = {
            "_is_tombstone": F.lit(True),
            "_is_bad": F.lit(False),
            "_source": F.lit(f"{offset.kind} of {offset.closing}"),
            "_source_time": F.lit(moment(offset.closing)),
        }
        if len(self.contract.primary_key) == 1:
            told[self.contract.primary_key[0]] = F.col("_key")
        columns = [
            F.col("_key")
            if field.name == "_key"
            else told.get(field.name, F.lit(None)).cast(field.dataType).alias(field.name)
            for field in like.schema
        ]
        return keys.select(*columns)
