"""The error lane: one Delta table a layer, in which rows wait that broke a contract or a check.

A row in it is *waiting* until someone sends it back (*replayed*) or gives it up (*discarded*); each happens
once, in one commit of the lane. What is replayed is read from the lane's change feed by the flow it came
from, so the flow stays the only writer of its table.
"""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Final

from delta.tables import DeltaTable
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    IntegerType,
    LongType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

from streams.delta_log import has_table
from streams.errors import ConfigurationError
from streams.failpoints import failpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import Column, DataFrame, Row, SparkSession

    from streams.checkpoint import BatchIdentity

# How a row of a table is kept as a payload: to the microsecond, which JSON's own default here is not.
ROW_AS_JSON: Final = {"timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX"}
_COMMIT_NOTE: Final = "spark.databricks.delta.commitInfo.userMetadata"
VIOLATIONS: Final = ArrayType(
    StructType(
        [
            StructField("code", StringType()),
            StructField("column", StringType()),  # null: the row as a whole
            StructField("value", StringType()),  # as it may be shown: personal values are masked
        ]
    )
)
LANE: Final = StructType(
    [
        StructField("error_id", StringType()),
        StructField("flow", StringType()),
        StructField("checkpoint_id", StringType()),
        StructField("batch_id", LongType()),
        StructField("run_id", StringType()),
        StructField("recorded_at", TimestampType()),
        StructField("violations", VIOLATIONS),
        StructField("key", StringType()),
        StructField("payload", BinaryType()),  # as it came
        StructField("source", StringType()),  # the topic, the file, or the table above
        StructField("partition", IntegerType()),
        StructField("offset", LongType()),  # Kafka's offset, or the record's place in its file
        StructField("source_time", TimestampType()),
        StructField("replay_of", StringType()),  # the row of the lane that was sent back and failed again
        StructField("status", StringType()),  # waiting, replayed, discarded
        StructField("status_at", TimestampType()),
        StructField("status_note", StringType()),
    ]
)


def lane_rows(rows: DataFrame, batch: BatchIdentity, run_id: str) -> DataFrame:
    """Rows for the lane, from rows with ``_violations``, ``_payload``, ``key`` and the envelope's provenance."""
    where = ("_source", "_partition", "_offset", "_replay_of", "_payload")
    identity = F.concat_ws(
        "|", F.lit(batch.app_id), F.lit(batch.batch_id), *(F.col(name).cast("string") for name in where)
    )
    values: dict[str, Column] = {
        "error_id": F.substring(F.sha2(identity, 256), 1, 16),
        "flow": F.lit(batch.flow),
        "checkpoint_id": F.lit(batch.checkpoint_id),
        "batch_id": F.lit(batch.batch_id).cast("bigint"),
        "run_id": F.lit(run_id),
        "recorded_at": F.current_timestamp(),
        "violations": F.col("_violations").cast(VIOLATIONS),
        "payload": F.col("_payload"),
        "source": F.col("_source"),
        "partition": F.col("_partition"),
        "offset": F.col("_offset"),
        "source_time": F.col("_source_time"),
        "replay_of": F.col("_replay_of"),
        "status": F.lit("waiting"),
    }
    return rows.select(
        *(
            values.get(f.name, F.col(f.name) if f.name == "key" else F.lit(None).cast(f.dataType)).alias(f.name)
            for f in LANE
        )
    )


def lane_table(
    spark: SparkSession, paths: Sequence[str], *, flow: str | None = None, status: str | None = "waiting"
) -> DataFrame:
    """The rows of the given lanes (see `LANE`), oldest first; lanes that are not there yet have none."""
    rows = spark.createDataFrame([], LANE)
    for path in paths:
        if has_table(spark, path):
            rows = rows.unionByName(spark.read.format("delta").load(path))
    if flow is not None:
        rows = rows.where(F.col("flow") == flow)
    if status is not None:
        rows = rows.where(F.col("status") == status)
    return rows.orderBy("recorded_at", "source", "partition", "offset")


def find_row(spark: SparkSession, paths: Sequence[str], error_id: str) -> Row:
    """The one row whose id begins so.

    Raises:
        ConfigurationError: ``ERROR_ID_UNKNOWN`` or ``ERROR_ID_AMBIGUOUS``.
    """
    found = lane_table(spark, paths, status=None).where(F.col("error_id").startswith(error_id)).limit(2).collect()
    if not found:
        raise ConfigurationError(
            "ERROR_ID_UNKNOWN",
            f"No row of the error lane has the id {error_id!r}.",
            way_out="List them: streams errors list",
        )
    if len(found) > 1:
        raise ConfigurationError("ERROR_ID_AMBIGUOUS", f"More than one row has an id that begins with {error_id!r}.")
    return found[0]


def settle(
    spark: SparkSession,
    path: str,
    status: str,
    *,
    ids: Sequence[str] | None = None,
    flow: str | None = None,
    note: str | None = None,
    payload: bytes | None = None,
    only: Column | None = None,
) -> int:
    """Mark waiting rows of one lane as ``replayed`` or ``discarded``, in one commit; gives how many.

    Rows that are no longer waiting are left as they are, so that each is settled once, whoever else asks.

    Args:
        spark: the session.
        path: the lane.
        status: what they become.
        ids: which rows; None for all of the flow.
        flow: only rows of this flow.
        note: why, kept with the row.
        payload: the mended bytes to replay in place of those that came.
        only: a condition on the lane's columns.
    """
    if not has_table(spark, path):
        return 0
    chosen = F.col("status") == "waiting"
    if ids is not None:
        chosen = chosen & F.col("error_id").isin(*ids)
    if flow is not None:
        chosen = chosen & (F.col("flow") == flow)
    if only is not None:
        chosen = chosen & only
    changes = {"status": F.lit(status), "status_at": F.current_timestamp(), "status_note": F.lit(note)}
    if payload is not None:
        changes["payload"] = F.lit(bytearray(payload))
    token = uuid.uuid4().hex
    spark.conf.set(_COMMIT_NOTE, token)
    try:
        table = DeltaTable.forPath(spark, path)
        table.update(chosen, changes)
    finally:
        spark.conf.unset(_COMMIT_NOTE)
    failpoint(".".join(path.split("/")[-2:]), "rows_settled")
    # Flows go on writing to the lane, so the newest commit need not be this one; and no row, no commit.
    mine = table.history(20).where(F.col("userMetadata") == token).select("operationMetrics").head()
    return int(mine[0].get("numUpdatedRows", 0)) if mine else 0


def shape_of(payload: str) -> str:
    """The payload with every letter made ``x`` and every digit ``9``: its structure without its content."""
    return re.sub(r"\d", "9", re.sub(r"[^\W\d_]", "x", payload))
