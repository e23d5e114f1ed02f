"""silver.accounts: the CRM's companies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from streams.transforms.cleansing import country

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def accounts(rows: DataFrame) -> DataFrame:
    """Rows with silver's names, their text trimmed → the same columns; the typed country as its code."""
    return rows.withColumn("billing_country", country(F.col("billing_country")))
