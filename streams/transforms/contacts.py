"""silver.contacts: the CRM's people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from streams.transforms.cleansing import email, phone

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def contacts(rows: DataFrame) -> DataFrame:
    """Rows with silver's names, their text trimmed → the same columns, cleansed."""
    return rows.withColumns({"email": email(F.col("email")), "phone": phone(F.col("phone"))})
