"""The flows into silver: the current state of each key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, StructField, StructType

from streams import transforms
from streams.flows.bronze import bronze_schema
from streams.flows.checks import checks_of
from streams.flows.flow import Flow, Input, Table
from streams.micro_batch import Upsert
from streams.quality.contract_expressions import spark_schema
from streams.quality.error_lane import LANE, ROW_AS_JSON
from streams.sinks.merge import Ranking
from streams.sources.delta import DeltaAppends, LaneReplays

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import DataFrame

    from streams.lake import Lake
    from streams.quality.contract import Contract
    from streams.settings import Settings

_KEPT_PROVENANCE: Final = ("_source", "_partition", "_offset", "_source_time", "_ingested_at")


def order_events(settings: Settings, lake: Lake, contract: Contract) -> Flow:
    """Order events, one row an event."""
    return _upsert("silver.order_events", "bronze.order_events", settings, lake, contract, transforms.order_events)


def fx_rates(settings: Settings, lake: Lake, contract: Contract) -> Flow:
    """Exchange rates, one row a day and currency."""
    return _upsert("silver.fx_rates", "bronze.fx_rates", settings, lake, contract, transforms.fx_rates)


def silver_schema(contract: Contract) -> StructType:
    """The contract's columns, whether the key was deleted, and where the winning row came from."""
    known = {field.name: field for field in bronze_schema(contract)}
    deleted = StructField("is_deleted", BooleanType())
    return StructType([*spark_schema(contract).fields, deleted, *(known[name] for name in _KEPT_PROVENANCE)])


def _upsert(
    name: str,
    upstream: str,
    settings: Settings,
    lake: Lake,
    contract: Contract,
    transform: Callable[[DataFrame], DataFrame],
) -> Flow:
    schema, lane = silver_schema(contract), lake.lane("silver")
    business = tuple(field.name for field in schema if not field.name.startswith("_"))
    ranking = Ranking(contract.primary_key, contract.sequence, business)

    def from_bronze(rows: DataFrame) -> DataFrame:
        return transform(rows).select(*schema.names)

    def from_lane(rows: DataFrame) -> DataFrame:
        row = F.from_json(F.col("payload").cast("string"), schema, ROW_AS_JSON)
        return rows.select(row.alias("row")).select("row.*")

    return Flow(
        name=name,
        reads=(upstream,),
        inputs=(
            Input(DeltaAppends(lake.table(upstream)), from_bronze),
            Input(LaneReplays(lane, name), from_lane),
        ),
        processor=Upsert(
            table=lake.table(name),
            lane=lane,
            ranking=ranking,
            candidates=lambda batch: batch.rows,
            checks=checks_of(name, settings),
        ),
        tables=(
            Table(lake.table(upstream), bronze_schema(contract)),
            Table(lake.table(name), schema),
            Table(lane, LANE),
        ),
    )
