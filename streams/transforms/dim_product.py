"""gold.dim_product: the versions of each product."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, DecimalType, StringType, StructField, StructType, TimestampType

from streams.telemetry.freshness import SOURCE_TIME

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

PRODUCT_TRACKED: Final = ("name", "category", "unit_price", "currency", "is_active")
PRODUCT_OVERWRITTEN: Final = ("supplier",)
DIM_PRODUCT: Final = StructType(
    [
        StructField("product_key", StringType()),  # of this version
        StructField("product_id", StringType()),
        StructField("valid_from", TimestampType()),
        StructField("valid_to", TimestampType()),  # null: still
        StructField("is_current", BooleanType()),
        StructField("is_deleted", BooleanType()),  # it ended because the product was deleted
        StructField("name", StringType()),
        StructField("category", StringType()),
        StructField("unit_price", DecimalType(18, 2)),
        StructField("currency", StringType()),
        StructField("is_active", BooleanType()),
        StructField("supplier", StringType()),
    ]
)


def dim_product(versions: DataFrame) -> DataFrame:
    """The versions of some products (see `streams.sinks.history`) → rows of the dimension, and ``_source_time``."""
    return versions.select(*(F.col(one.name).cast(one.dataType).alias(one.name) for one in DIM_PRODUCT), SOURCE_TIME)
