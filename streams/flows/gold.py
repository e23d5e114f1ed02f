"""The flows into gold. A batch of changes names the rows to make anew; they are made from silver as it stands.

So gold is a function of silver, whatever order the changes came in: a row is made again after every change
that it depends on, from a silver that already holds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from pyspark.sql import functions as F
from pyspark.sql.types import StructField, StructType, TimestampType

from streams import transforms
from streams.flows.checks import checks_of
from streams.flows.flow import Flow, Input, Table
from streams.flows.silver import declared_tables
from streams.micro_batch import Upsert
from streams.quality.error_lane import LANE
from streams.sinks.history import History
from streams.sinks.merge import Ranking
from streams.sources.delta import DeltaChanges, LaneReplays
from streams.sources.held import held
from streams.telemetry.freshness import SOURCE_TIME
from streams.transforms.dim_customer import CUSTOMER_OVERWRITTEN, CUSTOMER_TRACKED, DIM_CUSTOMER
from streams.transforms.dim_product import DIM_PRODUCT, PRODUCT_OVERWRITTEN, PRODUCT_TRACKED
from streams.transforms.fact_orders import FACT_ORDERS, merged_orders, touched_by_rates, versions_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pyspark.sql import Column, DataFrame, Row

    from streams.lake import Lake
    from streams.micro_batch import MicroBatch
    from streams.quality.contract import Contract
    from streams.settings import Settings

_BROADCAST_UP_TO: Final = 200_000  # ids: some 10 MB
CUSTOMER_HISTORY: Final = History("customer_id", "updated_at", "customer_key", CUSTOMER_TRACKED, CUSTOMER_OVERWRITTEN)
PRODUCT_HISTORY: Final = History("product_id", "updated_at", "product_key", PRODUCT_TRACKED, PRODUCT_OVERWRITTEN)


@dataclass(frozen=True)
class GoldTable:
    """A table of gold.

    Args:
        flow: the flow's name, and the table's.
        schema: its columns.
        key: what identifies a row.
        rows: the whole table as a function of the tables that it is made of, by name, and the reporting currency: what
            its flow does for the keys that a batch names.
    """

    flow: str
    schema: StructType
    key: str
    rows: Callable[[Mapping[str, DataFrame], str], DataFrame]

    @property
    def kept(self) -> StructType:
        """The columns, and the source's time of the newest change for which a row was made anew."""
        return StructType([*self.schema, StructField(SOURCE_TIME, TimestampType())])


def _customers(tables: Mapping[str, DataFrame], _: str) -> DataFrame:
    versions = CUSTOMER_HISTORY.versions(tables["silver.customer_versions"])
    return transforms.dim_customer(
        versions, tables["silver.accounts"], tables["silver.contacts"], tables["silver.behavior"]
    )


def _products(tables: Mapping[str, DataFrame], _: str) -> DataFrame:
    return transforms.dim_product(PRODUCT_HISTORY.versions(tables["silver.product_versions"]))


def _facts(tables: Mapping[str, DataFrame], currency: str) -> DataFrame:
    orders = merged_orders(tables["silver.order_events"], tables["silver.orders"])
    rates = tables["silver.fx_rates"]
    customers, products = (versions_of(tables[f"gold.dim_{name}"], name) for name in ("customer", "product"))
    return transforms.fact_orders(orders, rates, customers, products, currency)


GOLD_TABLES: Final = (
    GoldTable("gold.dim_customer", DIM_CUSTOMER, "customer_key", _customers),
    GoldTable("gold.dim_product", DIM_PRODUCT, "product_key", _products),
    GoldTable("gold.fact_orders", FACT_ORDERS, "order_id", _facts),
)
_BY_FLOW: Final = {table.flow: table for table in GOLD_TABLES}


def gold_flows(settings: Settings, lake: Lake, contracts: Mapping[str, Contract]) -> list[Flow]:
    """The dimensions, then the facts that refer to them."""
    silver = declared_tables(lake, contracts)
    return [
        _dim_customer(settings, lake, silver),
        _dim_product(settings, lake, silver),
        _fact_orders(settings, lake, silver),
    ]


def _dim_customer(settings: Settings, lake: Lake, silver: dict[str, Table]) -> Flow:
    """Customers, made anew when they, their account, its contacts or their visits have changed."""
    reads = ("silver.customer_versions", "silver.accounts", "silver.contacts", "silver.behavior")
    versions, accounts, contacts, behavior = (silver[name].path for name in reads)
    path = lake.table("gold.dim_customer")
    shape = {"customer_id": "string", "account_id": "string"}
    by_customer = {"customer_id": "customer_id"}

    def make(batch: MicroBatch) -> DataFrame:
        read = batch.spark.read.format("delta")
        named = batch.keep(batch.rows.groupBy("customer_id", "account_id").agg(_newest()))
        customers, crm = named.agg(F.count("customer_id"), F.count("account_id")).first() or (0, 0)
        if not customers and not crm:
            return batch.spark.createDataFrame([], _BY_FLOW["gold.dim_customer"].kept)
        ids = named.where(F.col("customer_id").isNotNull()).select("customer_id", SOURCE_TIME)
        if crm:
            owners = read.load(accounts).where(F.col("customer_id").isNotNull()).drop(SOURCE_TIME)
            of_crm = _few(named.drop("customer_id").where(F.col("account_id").isNotNull()), crm)
            ids = ids.unionByName(owners.join(of_crm, "account_id").select("customer_id", SOURCE_TIME))
            ids = ids.groupBy("customer_id").agg(_newest())
        ids = _few(ids, customers + crm)
        rows = transforms.dim_customer(
            batch.keep(CUSTOMER_HISTORY.versions(_timed(read.load(versions), ids, "customer_id"))),
            read.load(accounts).join(ids, "customer_id", "left_semi"),
            read.load(contacts),
            read.load(behavior).join(ids, "customer_id", "left_semi"),
        )
        return CUSTOMER_HISTORY.with_gone(batch.keep(rows), ids, path)

    # Of a row that has gone over to another customer or account, both are named.
    inputs = (
        _naming(DeltaChanges(versions), shape, **by_customer),
        _naming(DeltaChanges(accounts, with_before=True), shape, **by_customer),
        _naming(DeltaChanges(contacts, with_before=True), shape, account_id="account_id"),
        _naming(DeltaChanges(behavior, with_before=True), shape, **by_customer),
        _naming(LaneReplays(lake.lane("gold"), "gold.dim_customer"), shape, customer_id=_of_payload("customer_id")),
    )
    return _made_anew("gold.dim_customer", settings, lake, inputs, [silver[name] for name in reads], reads, make)


def _dim_product(settings: Settings, lake: Lake, silver: dict[str, Table]) -> Flow:
    """Products, made anew when they have changed."""
    versions, path = silver["silver.product_versions"], lake.table("gold.dim_product")
    shape = {"product_id": "string"}

    def make(batch: MicroBatch) -> DataFrame:
        named = batch.keep(batch.rows.where(F.col("product_id").isNotNull()).groupBy("product_id").agg(_newest()))
        ids = _few(named, named.count())
        changes = _timed(batch.spark.read.format("delta").load(versions.path), ids, "product_id")
        rows = transforms.dim_product(PRODUCT_HISTORY.versions(changes))
        return PRODUCT_HISTORY.with_gone(batch.keep(rows), ids, path)

    inputs = (
        _naming(DeltaChanges(versions.path), shape, product_id="product_id"),
        _naming(LaneReplays(lake.lane("gold"), "gold.dim_product"), shape, product_id=_of_payload("product_id")),
    )
    return _made_anew("gold.dim_product", settings, lake, inputs, [versions], ("silver.product_versions",), make)


def _fact_orders(settings: Settings, lake: Lake, silver: dict[str, Table]) -> Flow:
    """Orders, made anew when an event, the warehouse's row, a rate or a version that they use has changed."""
    upstream = ("silver.order_events", "silver.orders", "silver.fx_rates")
    dimensions = [_declared(lake, name) for name in ("gold.dim_customer", "gold.dim_product")]
    events, warehouse, rates = (silver[name].path for name in upstream)
    customers, products = (table.path for table in dimensions)
    shape = {
        "order_id": "string",
        "quote_currency": "string",
        "rate_date": "date",
        "customer_id": "string",
        "product_id": "string",
        "validity": "string",
        "weight": "int",
    }

    def validity(name: str) -> dict[str, str]:
        # What orders use of a version. One that is what it was before, in all of that, cancels out in the batch.
        return {
            f"{name}_id": f"{name}_id",
            "validity": f"concat_ws('|', {name}_key, valid_from, coalesce(string(valid_to), ''))",
            "weight": "IF(_change_type IN ('insert', 'update_postimage'), 1, -1)",
        }

    inputs = (
        _naming(DeltaChanges(events), shape, order_id="order_id"),
        _naming(DeltaChanges(rates), shape, quote_currency="quote_currency", rate_date="rate_date"),
        _naming(LaneReplays(lake.lane("gold"), "gold.fact_orders"), shape, order_id="key"),
        _naming(DeltaChanges(warehouse), shape, order_id="order_id"),
        _naming(DeltaChanges(customers, with_before=True), shape, **validity("customer")),
        _naming(DeltaChanges(products, with_before=True), shape, **validity("product")),
    )

    def make(batch: MicroBatch) -> DataFrame:
        return _orders_made_anew(
            batch,
            _Orders(events, warehouse, rates, customers, products, lake.table("gold.fact_orders")),
            settings.reporting_currency,
        )

    tables = [*(silver[name] for name in upstream), *dimensions]
    reads = (*upstream, "gold.dim_customer", "gold.dim_product")
    return _made_anew("gold.fact_orders", settings, lake, inputs, tables, reads, make)


@dataclass(frozen=True)
class _Orders:
    """The tables that orders are made from, and their own."""

    events: str
    warehouse: str
    rates: str
    customers: str
    products: str
    facts: str


def _orders_made_anew(batch: MicroBatch, tables: _Orders, currency: str) -> DataFrame:
    """Changes → the rows of gold that they touch, made from silver."""
    names = [name for name in batch.rows.columns if name not in ("weight", SOURCE_TIME)]
    weight = F.sum(F.coalesce("weight", F.lit(1))).alias("net")
    changes = batch.keep(batch.rows.groupBy(names).agg(weight, _newest()).where("net <> 0"))
    span = (F.min("order_id").alias("first_order"), F.max("order_id").alias("last_order"))
    counted = changes.agg(*(F.count(name).alias(name) for name in names), *_newest_of(_TOUCHING), *span).first()
    assert counted is not None  # an aggregate of all rows is one row
    if not any(counted[name] for name in names):
        return batch.spark.createDataFrame([], _BY_FLOW["gold.fact_orders"].kept)
    read = batch.spark.read.format("delta")
    rates = held(batch.spark, tables.rates, "rates", lambda table: table)
    all_rates = read.load(tables.rates) if rates is None else rates
    touched = _few(changes.where(F.col("order_id").isNotNull()).select("order_id", SOURCE_TIME), counted["order_id"])
    # Most batches change nothing but orders, and then those in gold need not be looked at.
    also = []
    if counted["rate_date"]:
        if rates is None:
            all_rates = batch.keep(all_rates)
        days = changes.where(F.col("rate_date").isNotNull()).select("quote_currency", "rate_date")
        restated = touched_by_rates(days, all_rates, read.load(tables.facts), currency)
        also.append(_all_timed(restated, counted, "rate_date"))
    for name in ("customer_id", "product_id"):
        if counted[name]:
            of = _few(changes.where(F.col(name).isNotNull()).select(name).distinct(), counted[name])
            restated = read.load(tables.facts).join(of, name, "left_semi").select("order_id")
            also.append(_all_timed(restated, counted, name))
    for more in also:
        touched = touched.unionByName(more)
    if also:
        touched = batch.keep(touched.groupBy("order_id").agg(_newest()))
    # Orders of one time have numbers near each other: Delta then skips the files that hold none of them.
    is_near = F.lit(True) if also else F.col("order_id").between(counted["first_order"], counted["last_order"])
    orders = merged_orders(
        _timed(read.load(tables.events).where(is_near), touched, "order_id"),
        _timed(read.load(tables.warehouse).where(is_near), touched, "order_id"),
    )
    dimensions = ((tables.customers, "customer"), (tables.products, "product"))
    small = [held(batch.spark, path, name, partial(versions_of, name=name)) for path, name in dimensions]
    if None in small:
        orders = batch.keep(orders)
    customers, products = (
        versions_of(read.load(path).join(orders.select(f"{name}_id").distinct(), f"{name}_id", "left_semi"), name)
        if copy is None
        else copy
        for copy, (path, name) in zip(small, dimensions, strict=True)
    )
    return transforms.fact_orders(orders, all_rates, customers, products, currency)


_TOUCHING: Final = ("rate_date", "customer_id", "product_id")  # what a change of them touches are orders


def _newest() -> Column:
    return F.max(SOURCE_TIME).alias(SOURCE_TIME)


def _newest_of(names: Sequence[str]) -> list[Column]:
    """For each name the newest time, in microseconds, of the changes that name one."""
    return [
        F.max(F.when(F.col(name).isNotNull(), F.unix_micros(SOURCE_TIME))).alias(f"{name}{SOURCE_TIME}")
        for name in names
    ]


def _all_timed(ids: DataFrame, newest: Row, name: str) -> DataFrame:
    """Ids that a batch's changes touch, each with the newest time of these changes (see `_newest_of`)."""
    return ids.withColumn(SOURCE_TIME, F.timestamp_micros(F.lit(newest[f"{name}{SOURCE_TIME}"]).cast("bigint")))


def _timed(rows: DataFrame, ids: DataFrame, key: str) -> DataFrame:
    """The rows of some ids, with the time for which they are made anew in place of their own.

    Args:
        rows: any table's, with ``_source_time``.
        ids: the key, each once, and ``_source_time``.
        key: the name of the key.
    """
    return rows.drop(SOURCE_TIME).join(ids, key)


def _few(ids: DataFrame, count: int) -> DataFrame:
    """A hint to send the ids to every task, if they are few enough, in place of sorting what they are looked up in."""
    return F.broadcast(ids) if count <= _BROADCAST_UP_TO else ids


def _naming(source: DeltaChanges | LaneReplays, shape: Mapping[str, str], **columns: str) -> Input:
    """An input whose rows name what is to be made anew: the columns of a shape, by SQL expressions."""
    said = [f"CAST({columns.get(name, 'NULL')} AS {kind}) AS {name}" for name, kind in shape.items()]
    # A row as it was before, and one that is gone, have the time of another change.
    is_now = "_change_type IN ('insert', 'update_postimage')"
    time = f"IF({is_now}, {SOURCE_TIME}, NULL)" if isinstance(source, DeltaChanges) else "CAST(NULL AS timestamp)"
    # A tombstone that has grown old leaves silver (see `streams.supervisor.maintenance`); its key stays as it is.
    is_expired = "_change_type = 'delete' AND is_deleted"
    forgets = isinstance(source, DeltaChanges) and not source.with_before

    def named(rows: DataFrame) -> DataFrame:
        kept = rows.where(f"NOT coalesce({is_expired}, false)") if forgets and "is_deleted" in rows.columns else rows
        return kept.selectExpr(*said, f"{time} AS {SOURCE_TIME}")

    return Input(source, named)


def _of_payload(name: str) -> str:
    return f"get_json_object(string(payload), '$.{name}')"


def _declared(lake: Lake, name: str) -> Table:
    return Table(lake.table(name), _BY_FLOW[name].kept)


def _made_anew(
    name: str,
    settings: Settings,
    lake: Lake,
    inputs: tuple[Input, ...],
    upstream: list[Table],
    reads: tuple[str, ...],
    make: Callable[[MicroBatch], DataFrame],
) -> Flow:
    lane, declared = lake.lane("gold"), _BY_FLOW[name]
    return Flow(
        name=name,
        reads=reads,
        inputs=inputs,
        processor=Upsert(
            table=lake.table(name),
            lane=lane,
            ranking=Ranking((declared.key,), (), tuple(declared.schema.names)),
            candidates=make,
            checks=checks_of(name, settings),
        ),
        tables=(*upstream, _declared(lake, name), Table(lane, LANE)),
    )
