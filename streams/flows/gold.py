"""The flows into gold. A batch of changes names the rows to make anew; they are made from silver as it stands.

So gold is a function of silver, whatever order the changes came in: a row is made again after every change
that it depends on, from a silver that already holds it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from streams.flows.checks import checks_of
from streams.flows.flow import Flow, Input, Table
from streams.flows.silver import silver_schema
from streams.micro_batch import Upsert
from streams.quality.error_lane import LANE
from streams.sinks.merge import Ranking
from streams.sources.delta import DeltaChanges, LaneReplays
from streams.transforms.fact_orders import FACT_ORDERS, touched_by_rates
from streams.transforms.fact_orders import fact_orders as make_orders

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from streams.lake import Lake
    from streams.micro_batch import MicroBatch
    from streams.quality.contract import Contract
    from streams.settings import Settings

_BROADCAST_UP_TO = 200_000  # order ids: some 10 MB


def fact_orders(settings: Settings, lake: Lake, contracts: dict[str, Contract]) -> Flow:
    """Orders, made anew when one of their events or a rate that they use has changed."""
    name, lane = "gold.fact_orders", lake.lane("gold")
    events, rates = lake.table("silver.order_events"), lake.table("silver.fx_rates")
    return Flow(
        name=name,
        reads=("silver.order_events", "silver.fx_rates"),
        inputs=(
            Input(DeltaChanges(events), lambda rows: _changes(rows, order_id=F.col("order_id"))),
            Input(
                DeltaChanges(rates),
                lambda rows: _changes(rows, quote_currency=F.col("quote_currency"), rate_date=F.col("rate_date")),
            ),
            Input(LaneReplays(lane, name), lambda rows: _changes(rows, order_id=F.col("key"))),
        ),
        processor=Upsert(
            table=lake.table(name),
            lane=lane,
            ranking=Ranking(("order_id",), (), tuple(FACT_ORDERS.names)),
            candidates=partial(
                _orders_to_make,
                events=events,
                rates=rates,
                facts=lake.table(name),
                currency=settings.reporting_currency,
            ),
            checks=checks_of(name, settings),
        ),
        tables=(
            Table(events, silver_schema(contracts["kafka_events"])),
            Table(rates, silver_schema(contracts["fx_rates"])),
            Table(lake.table(name), FACT_ORDERS),
            Table(lane, LANE),
        ),
    )


def _changes(rows: DataFrame, **columns: Column) -> DataFrame:
    """The one shape of a change: an order, or a currency's day."""
    shape = {"order_id": "string", "quote_currency": "string", "rate_date": "date"}
    return rows.select(*(columns.get(name, F.lit(None)).cast(kind).alias(name) for name, kind in shape.items()))


def _orders_to_make(batch: MicroBatch, events: str, rates: str, facts: str, currency: str) -> DataFrame:
    """Changes → the rows of gold that they touch, made from silver."""
    changes = batch.keep(batch.rows.distinct())
    orders, days = changes.agg(F.count("order_id"), F.count("rate_date")).first() or (0, 0)
    if not orders and not days:
        return batch.spark.createDataFrame([], FACT_ORDERS)
    read = batch.spark.read.format("delta")
    all_rates = read.load(rates)
    touched = changes.where(F.col("order_id").isNotNull()).select("order_id")
    if days:  # most batches change no rate, and then the orders in gold need not be looked at
        all_rates = batch.keep(all_rates)
        changed = changes.where(F.col("rate_date").isNotNull()).select("quote_currency", "rate_date")
        touched = touched.unionByName(touched_by_rates(changed, all_rates, read.load(facts), currency)).distinct()
    elif orders <= _BROADCAST_UP_TO:
        touched = F.broadcast(touched)
    return make_orders(read.load(events).join(touched, "order_id", "left_semi"), all_rates, currency)
