"""silver.orders: the shop's orders, as its warehouse has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from streams.transforms.cleansing import code

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def orders(rows: DataFrame) -> DataFrame:
    """Rows with silver's names, their text trimmed → the same columns, cleansed."""
    return rows.withColumn("currency", code(F.col("currency")))
