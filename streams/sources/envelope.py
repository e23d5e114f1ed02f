"""The one shape in which anything arrives: bytes as they came, and where they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from pyspark.sql import functions as F
from pyspark.sql.types import (
    BinaryType,
    IntegerType,
    LongType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

    from streams.checkpoint import Checkpoint
    from streams.settings import FlowSettings

ENVELOPE: Final = StructType(
    [
        StructField("payload", BinaryType()),  # as it came; null for a Kafka tombstone
        StructField("key", StringType()),
        StructField("_source", StringType()),  # the topic, the file's path, or the table
        StructField("_partition", IntegerType()),
        StructField("_offset", LongType()),  # Kafka's offset, or the record's place in its file
        StructField("_source_time", TimestampType()),  # Kafka's timestamp, or when the file was written
        StructField("_replay_of", StringType()),  # the error lane's row that this repeats; null when it is new
    ]
)
PROVENANCE: Final = tuple(name for name in ENVELOPE.names if name.startswith("_"))


def violation(code: str, shown: str | Column) -> Column:
    """What is wrong with a record as a whole: struct<code, column, value>, its column null."""
    value = F.lit(shown) if isinstance(shown, str) else shown
    return F.struct(F.lit(code).alias("code"), F.lit(None).cast("string").alias("column"), value.alias("value"))


class Source(Protocol):
    """Something that a flow reads as a stream."""

    def stream(self, spark: SparkSession, limits: FlowSettings, checkpoint: Checkpoint) -> DataFrame:
        """The streaming DataFrame; `limits` bound how much one micro-batch takes."""
        ...

    def position(self, spark: SparkSession) -> Any:
        """A cheap value that changes when there is something new to read: plain JSON. No Spark job."""
        ...

    def is_idle(self, checkpoint: Checkpoint, place: int, was: Any, position: Any) -> bool:
        """Whether a query would find nothing, which a flow that got through before need not start to know.

        Args:
            checkpoint: the flow's.
            place: which of the query's sources this is.
            was: the position before the last run that got through; another process may have made it.
            position: the position now.
        """
        ...

    def guard(self, spark: SparkSession, checkpoint: Checkpoint) -> None:
        """Before a start: make sure that what the checkpoint still needs is there.

        Raises:
            FatalError: going on would lose data; it says what was lost and which command goes on.
            RetriableError: the source does not answer.
        """
        ...
