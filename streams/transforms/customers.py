"""silver.customers: the shop's customers, as its warehouse has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from streams.transforms.cleansing import code, email, phone

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def customers(rows: DataFrame) -> DataFrame:
    """Rows with silver's names, their text trimmed → the same columns, cleansed."""
    return rows.withColumns(
        {"email": email(F.col("email")), "phone": phone(F.col("phone")), "country": code(F.col("country"))}
    )
