"""gold.dim_customer: the versions of each customer, with what the CRM and the visits say of it now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyspark.sql import Window
from pyspark.sql import functions as F
from pyspark.sql.types import (
    BooleanType,
    DecimalType,
    LongType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

from streams.telemetry.freshness import SOURCE_TIME

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

CUSTOMER_TRACKED: Final = ("city", "country", "segment", "marketing_consent")
CUSTOMER_OVERWRITTEN: Final = ("email_hash", "phone_hash", "created_at")
_RECENT: Final = "INTERVAL 30 DAYS"
DIM_CUSTOMER: Final = StructType(
    [
        StructField("customer_key", StringType()),  # of this version
        StructField("customer_id", StringType()),
        StructField("valid_from", TimestampType()),
        StructField("valid_to", TimestampType()),  # null: still
        StructField("is_current", BooleanType()),
        StructField("is_deleted", BooleanType()),  # it ended because the customer was deleted
        StructField("city", StringType()),
        StructField("country", StringType()),
        StructField("segment", StringType()),
        StructField("marketing_consent", BooleanType()),
        # From here on every version says what is so now.
        StructField("email_hash", StringType()),
        StructField("phone_hash", StringType()),
        StructField("created_at", TimestampType()),
        StructField("account_id", StringType()),
        StructField("account_name", StringType()),
        StructField("account_type", StringType()),
        StructField("industry", StringType()),
        StructField("billing_country", StringType()),
        StructField("annual_revenue", DecimalType(18, 2)),
        StructField("number_of_employees", LongType()),
        StructField("contact_id", StringType()),
        StructField("contact_email_hash", StringType()),
        StructField("contact_title", StringType()),
        StructField("has_opted_out_of_email", BooleanType()),
        StructField("first_seen", TimestampType()),
        StructField("last_seen", TimestampType()),
        StructField("sessions", LongType()),
        StructField("sessions_30d", LongType()),  # that began in the 30 days up to last_seen
    ]
)


def dim_customer(versions: DataFrame, accounts: DataFrame, contacts: DataFrame, behavior: DataFrame) -> DataFrame:
    """The versions of some customers → rows of the dimension, and ``_source_time``.

    Args:
        versions: as `streams.sinks.history` makes them, of `CUSTOMER_TRACKED` and `CUSTOMER_OVERWRITTEN`.
        accounts: silver.accounts. A customer's is the oldest of those that name it and are not deleted.
        contacts: silver.contacts. The one with the customer's e-mail address, else the oldest, of that account.
        behavior: silver.behavior.
    """
    joined = (
        versions.join(_account_of(accounts), "customer_id", "left")
        .join(_visits_of(behavior), "customer_id", "left")
        .withColumns({name: F.coalesce(F.col(name), F.lit(0)) for name in ("sessions", "sessions_30d")})
        .withColumn("_is_there", F.max("is_current").over(Window.partitionBy("customer_id")))
    )
    people = joined.select("customer_id", "email_hash", "account_id").distinct().where(F.col("account_id").isNotNull())
    rows = joined.join(_contact_of(people, contacts), "customer_id", "left")
    # Of a deleted customer the history stays, and nothing that says who it was.
    now = DIM_CUSTOMER.names[DIM_CUSTOMER.names.index("email_hash") :]
    kept = {name: F.when(F.col("_is_there"), F.col(name)) for name in now}
    return rows.select(
        *(kept.get(one.name, F.col(one.name)).cast(one.dataType).alias(one.name) for one in DIM_CUSTOMER), SOURCE_TIME
    )


def _account_of(accounts: DataFrame) -> DataFrame:
    kept = F.struct(
        "account_id",
        F.col("name").alias("account_name"),
        F.col("type").alias("account_type"),
        "industry",
        "billing_country",
        "annual_revenue",
        "number_of_employees",
    )
    live = accounts.where(~F.col("is_deleted") & F.col("customer_id").isNotNull())
    oldest = live.groupBy("customer_id").agg(F.min_by(kept, F.struct("created_at", "account_id")).alias("_account"))
    return oldest.select("customer_id", "_account.*")


def _contact_of(people: DataFrame, contacts: DataFrame) -> DataFrame:
    kept = F.struct(
        "contact_id",
        F.col("contact_email_hash"),
        F.col("title").alias("contact_title"),
        "has_opted_out_of_email",
    )
    live = contacts.where(~F.col("is_deleted")).select(
        "account_id",
        "contact_id",
        F.col("email_hash").alias("contact_email_hash"),
        "title",
        "has_opted_out_of_email",
        F.col("created_at").alias("_since"),
    )
    is_other = ~F.coalesce(F.col("contact_email_hash") == F.col("email_hash"), F.lit(False))
    best = (
        people.join(live, "account_id")
        .groupBy("customer_id")
        .agg(F.min_by(kept, F.struct(is_other.alias("other"), "_since", "contact_id")).alias("_contact"))
    )
    return best.select("customer_id", "_contact.*")


def _visits_of(behavior: DataFrame) -> DataFrame:
    visits = behavior.where(~F.col("is_deleted") & F.col("customer_id").isNotNull()).select("customer_id", "started_at")
    last = F.max("started_at").over(Window.partitionBy("customer_id"))
    return (
        visits.withColumn("_last", last)
        .groupBy("customer_id")
        .agg(
            F.min("started_at").alias("first_seen"),
            F.max("_last").alias("last_seen"),
            F.count(F.lit(1)).alias("sessions"),
            F.count_if(F.col("started_at") > F.col("_last") - F.expr(_RECENT)).alias("sessions_30d"),
        )
    )
