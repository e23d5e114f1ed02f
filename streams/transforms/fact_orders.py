"""gold.fact_orders: one row an order, from its events, the warehouse, the exchange rates and the dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyspark.sql import Window
from pyspark.sql import functions as F
from pyspark.sql.types import (
    BooleanType,
    DateType,
    DecimalType,
    LongType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

from streams.telemetry.freshness import SOURCE_TIME

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_MONEY, _RATE = DecimalType(18, 2), DecimalType(18, 6)
_STEPS: Final = ("created", "paid", "shipped", "delivered", "cancelled", "refunded")
BASE_CURRENCY: Final = "EUR"  # the European Central Bank quotes how much of each currency one euro buys

FACT_ORDERS: Final = StructType(
    [
        StructField("order_id", StringType()),
        StructField("status", StringType()),  # the type of its newest event, else the warehouse's; deleted
        StructField("customer_id", StringType()),
        StructField("product_id", StringType()),
        StructField("customer_key", StringType()),  # the version of its day in dim_customer
        StructField("product_key", StringType()),  # and in dim_product
        StructField("order_date", DateType()),  # the UTC day on which it was created
        *(StructField(f"{step}_at", TimestampType()) for step in _STEPS),
        StructField("quantity", LongType()),
        StructField("amount", _MONEY),
        StructField("currency", StringType()),
        StructField("rate", _RATE),  # of its currency, one euro's worth
        StructField("rate_date", DateType()),  # the last on or before its day
        StructField("reporting_amount", _MONEY),
        StructField("reporting_currency", StringType()),
        StructField("source", StringType()),  # who knows of it: events, warehouse, both
        StructField("is_converted", BooleanType()),  # false while a rate that it needs is missing
        StructField("is_customer_known", BooleanType()),  # false while dim_customer has no version of its day
        StructField("is_product_known", BooleanType()),  # false while dim_product has none
        StructField("is_complete", BooleanType()),  # false while it is not known when and for what it was made
        StructField("is_deleted", BooleanType()),
    ]
)
# What the newest `created` event says of an order, or else the warehouse.
_MADE: Final = ("customer_id", "quantity", "amount", "currency", "created_at")


def merged_orders(events: DataFrame, warehouse: DataFrame) -> DataFrame:
    """What is known of some orders → one row each: the columns of `FACT_ORDERS` that are their own.

    Events come first, for they tell sooner and more; the warehouse fills in what no event says. An order that either
    has deleted is deleted, and keeps its key and nothing else.

    Args:
        events: silver.order_events, every event of the orders that are wanted.
        warehouse: silver.orders, the rows of these orders. In both ``_source_time`` is the same in all rows of an
            order: that for which it is made anew; the result has it too.
    """
    told = _told_by_events(events)
    stored = warehouse.select(
        "order_id",
        "product_id",
        F.struct(
            "status",
            F.col("is_deleted").alias("is_deleted"),
            *(F.col("ordered_at" if name == "created_at" else name).alias(name) for name in _MADE),
            SOURCE_TIME,
        ).alias("_stored"),
    )
    both = told.join(stored, "order_id", "full_outer")
    is_deleted = F.coalesce(F.col("_told.is_deleted"), F.lit(False)) | F.coalesce(
        F.col("_stored.is_deleted"), F.lit(False)
    )
    is_made = F.col("_told.made").isNotNull()
    values = {
        "status": F.coalesce("_told.status", "_stored.status"),
        "product_id": F.col("product_id"),
        **{name: F.when(is_made, F.col(f"_told.made.{name}")).otherwise(F.col(f"_stored.{name}")) for name in _MADE},
        **{f"{step}_at": F.col(f"_told.{step}_at") for step in _STEPS[1:]},
    }
    values["order_date"] = F.to_date(values["created_at"])
    source = F.when(F.col("_told").isNull(), "warehouse").when(F.col("_stored").isNull(), "events").otherwise("both")
    return (
        both.withColumns({"is_deleted": is_deleted, "source": source})
        .withColumns({name: F.when(~F.col("is_deleted"), value) for name, value in values.items()})
        .withColumns(
            {
                SOURCE_TIME: F.coalesce(f"_told.{SOURCE_TIME}", f"_stored.{SOURCE_TIME}"),
                "status": F.when(F.col("is_deleted"), F.lit("deleted")).otherwise(F.col("status")),
                "is_complete": F.col("created_at").isNotNull(),
            }
        )
        .drop("_told", "_stored")
    )


def fact_orders(
    orders: DataFrame, rates: DataFrame, customers: DataFrame, products: DataFrame, reporting_currency: str
) -> DataFrame:
    """Orders → rows of the table (see `FACT_ORDERS`), and ``_source_time``.

    Args:
        orders: see `merged_orders`.
        rates: silver.fx_rates.
        customers: `versions_of` gold.dim_customer, at least of the orders' customers.
        products: `versions_of` gold.dim_product, at least of their products.
        reporting_currency: what amounts are converted to.
    """
    converted = _with_rate(orders, rates, F.col("currency"), "rate", "rate_date")
    if reporting_currency == BASE_CURRENCY:
        converted = converted.withColumn("_to_rate", F.lit(1).cast(_RATE))
    else:
        converted = _with_rate(converted, rates, F.lit(reporting_currency), "_to_rate", "_to_date")
    amount = convert(F.col("amount"), F.col("rate"), F.col("_to_rate"))
    # An amount in the reporting currency needs no rate at all.
    amount = F.when(F.col("currency") == reporting_currency, F.col("amount")).otherwise(amount)
    known = _with_version(_with_version(converted, customers, "customer"), products, "product")
    rows = known.withColumns(
        {
            "reporting_amount": amount.cast(_MONEY),
            "reporting_currency": F.when(F.col("is_complete"), F.lit(reporting_currency)),
            "is_converted": amount.isNotNull(),
            "is_customer_known": F.col("customer_key").isNotNull(),
            "is_product_known": F.col("product_key").isNotNull(),
        }
    )
    return rows.selectExpr(
        *(f"CAST({one.name} AS {one.dataType.simpleString()}) AS {one.name}" for one in FACT_ORDERS), SOURCE_TIME
    )


def convert(amount: Column, rate: Column, to_rate: Column) -> Column:
    """amount ÷ rate × to_rate in whole cents, half up (away from zero), exact: integers all the way.

    Spark rounds the quotient of two decimals to the digits it has room for; rounding that once more can be a
    cent off. So: cents = ⌊(200·|amount|·to + rate) ÷ (2·rate)⌋, with the sign put back.
    """
    exact = DecimalType(14, 6)
    scaled = F.abs(amount).cast(_MONEY) * to_rate.cast(exact)
    numerator = (scaled * F.lit(200).cast("decimal(3,0)")).cast(DecimalType(38, 8)) + rate.cast(exact)
    cents = F.call_function("div", numerator, (rate.cast(exact) * F.lit(2).cast("decimal(1,0)")))
    return (F.sign(amount).cast("int") * cents.cast("decimal(18,0)") * F.lit("0.01").cast("decimal(2,2)")).cast(_MONEY)


def touched_by_rates(changed: DataFrame, rates: DataFrame, facts: DataFrame, reporting_currency: str) -> DataFrame:
    """The orders that changed rates restate: those between a changed rate's day and the next one's.

    Args:
        changed: ``quote_currency``, ``rate_date``.
        rates: silver.fx_rates.
        facts: gold.fact_orders.
        reporting_currency: a change of its rate touches orders of every other currency.

    Returns:
        ``order_id``.
    """
    by_currency = Window.partitionBy("quote_currency").orderBy("rate_date")
    spans = rates.select("quote_currency", "rate_date", F.lead("rate_date").over(by_currency).alias("until"))
    spans = spans.join(changed.distinct(), ["quote_currency", "rate_date"], "left_semi")
    orders = facts.select("order_id", "order_date", "currency")
    is_between = (F.col("order_date") >= F.col("rate_date")) & (
        F.coalesce(F.col("order_date") < F.col("until"), F.lit(True))
    )
    is_of = (F.col("currency") == F.col("quote_currency")) | (F.col("quote_currency") == reporting_currency)
    return orders.join(F.broadcast(spans), is_between & is_of, "left_semi").select("order_id")


def _told_by_events(events: DataFrame) -> DataFrame:
    """``order_id`` and ``_told``: each order by the sequence of its events, whatever order they came in."""
    newest = F.struct("sequence", "occurred_at", "event_id")
    made = F.struct(*(F.col("occurred_at" if name == "created_at" else name).alias(name) for name in _MADE))
    folded = events.groupBy("order_id").agg(
        F.max_by("event_type", newest).alias("status"),
        F.bool_or("is_deleted").alias("is_deleted"),
        F.max_by(F.when(F.col("event_type") == "created", made), _only("created", newest)).alias("made"),
        *(F.max_by(F.col("occurred_at"), _only(step, newest)).alias(f"{step}_at") for step in _STEPS[1:]),
        F.max(SOURCE_TIME).alias(SOURCE_TIME),
    )
    return folded.select("order_id", F.struct(*folded.columns[1:]).alias("_told"))


def _only(step: str, ordering: Column) -> Column:
    """An ordering that only events of one type have: `max_by` leaves out the rest."""
    return F.when(F.col("event_type") == step, ordering)


def _with_rate(orders: DataFrame, rates: DataFrame, currency: Column, rate: str, day: str) -> DataFrame:
    """Add a currency's last rate on or before each order's day, and that day; null where there is none.

    Orders and rates are sorted together, once, by currency and day; each order takes the last rate before it.
    A join on a range of days would compare every order with every rate of its currency.
    """
    quotes = rates.where((F.col("base_currency") == BASE_CURRENCY) & ~F.col("is_deleted")).select(
        F.col("quote_currency").alias("_currency"),
        F.col("rate_date").alias("_day"),
        F.struct(F.col("rate").cast(_RATE).alias("rate"), F.col("rate_date").alias("day")).alias("_quote"),
    )
    wanted = orders.withColumns({"_currency": currency, "_day": F.col("order_date"), "_is_order": F.lit(True)})
    together = wanted.unionByName(quotes, allowMissingColumns=True)
    # A rate of the day itself counts, so it sorts before the orders of that day: nulls come first.
    until_here = Window.partitionBy("_currency").orderBy("_day", "_is_order").rowsBetween(Window.unboundedPreceding, 0)
    found = together.withColumn("_found", F.last("_quote", ignorenulls=True).over(until_here)).where("_is_order")
    is_base = F.col("_currency") == BASE_CURRENCY
    is_dated = F.col("order_date").isNotNull()
    return found.withColumns(
        {
            rate: F.when(is_base & is_dated, F.lit(1)).when(is_dated, F.col("_found.rate")).cast(_RATE),
            day: F.when(is_base & is_dated, F.col("order_date")).when(is_dated, F.col("_found.day")),
        }
    ).drop("_currency", "_day", "_is_order", "_quote", "_found")


def versions_of(dimension: DataFrame, name: str) -> DataFrame:
    """A dimension → the id of each thing and ``_versions``: array<struct<valid_from, valid_to, key>>.

    The versions of one thing are few, so they travel as an array: a join does not multiply the orders.
    """
    version = F.struct("valid_from", "valid_to", F.col(f"{name}_key").alias("key"))
    return dimension.groupBy(f"{name}_id").agg(F.collect_list(version).alias("_versions"))


def _with_version(orders: DataFrame, versions: DataFrame, name: str) -> DataFrame:
    """Add the key of the last version that was valid at any moment of an order's day; null where there is none."""
    day = F.col("order_date").cast("timestamp")
    next_day = F.date_add("order_date", 1).cast("timestamp")
    of_day = F.filter(
        F.col("_versions"),
        lambda one: (one["valid_from"] < next_day) & (one["valid_to"].isNull() | (one["valid_to"] > day)),
    )
    found = orders.join(versions, f"{name}_id", "left")
    return found.withColumn(f"{name}_key", F.array_max(of_day)["key"]).drop("_versions")
