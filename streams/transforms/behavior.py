"""silver.behavior: visits to the shop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from streams.transforms.cleansing import code

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def behavior(rows: DataFrame) -> DataFrame:
    """Rows with silver's names, their text trimmed → the same columns, cleansed."""
    return rows.withColumn("country", code(F.col("country")))
