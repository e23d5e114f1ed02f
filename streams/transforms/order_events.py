"""silver.order_events: one row an event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyspark.sql import functions as F

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# After every sequence that a producer can give: a deleted order stays deleted, whatever comes late.
LAST_SEQUENCE: Final = 2_147_483_647


def order_events(bronze: DataFrame) -> DataFrame:
    """Bronze's order events → the same columns and ``is_deleted``.

    A tombstone has a key and nothing else, so it becomes an event of its own: type ``deleted``, after all
    others of its order.
    """
    gone = F.col("_is_tombstone")
    made = {
        "event_id": F.concat(F.lit("tombstone:"), F.col("_key")),
        "order_id": F.col("_key"),
        "sequence": F.lit(LAST_SEQUENCE).cast("bigint"),
        "event_type": F.lit("deleted"),
        "occurred_at": F.col("_source_time"),
    }
    return bronze.withColumns(
        {name: F.when(gone, value).otherwise(F.col(name)) for name, value in made.items()}
    ).withColumn("is_deleted", gone)
