"""silver.fx_rates: one row a day and currency."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def fx_rates(bronze: DataFrame) -> DataFrame:
    """Bronze's rates → the same columns and ``is_deleted``; a published rate is corrected, never taken back."""
    return bronze.withColumn("is_deleted", F.lit(False))
