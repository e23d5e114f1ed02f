"""The flows into silver: the current state of each key, and of some tables every version of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, StringType, StructField, StructType

from streams import transforms
from streams.errors import ConfigurationError
from streams.flows.bronze import bronze_schema
from streams.flows.checks import checks_of
from streams.flows.flow import Flow, Input, Table
from streams.micro_batch import Upsert
from streams.quality.contract_expressions import spark_schema
from streams.quality.error_lane import LANE, ROW_AS_JSON
from streams.sinks.merge import Ranking
from streams.sources.delta import DeltaAppends, DeltaChanges, LaneReplays
from streams.telemetry.freshness import SOURCE_TIME
from streams.transforms.cleansing import text
from streams.transforms.personal import HashKey

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyspark.sql import Column, DataFrame

    from streams.lake import Lake
    from streams.quality.contract import Contract, ContractColumn
    from streams.settings import Settings

    Transform = Callable[[DataFrame], DataFrame]

_KEPT_PROVENANCE: Final = ("_source", "_partition", "_offset", SOURCE_TIME, "_ingested_at")


@dataclass(frozen=True)
class SilverTable:
    """A table of silver.

    Args:
        flow: the flow's name, and the table's.
        upstream: the bronze flow.
        contract: the contract of its rows.
        transform: what is particular to the table.
        names: silver's names of columns; those that are left out get snake_case.
        versions: the table that keeps every version of each key, from which this one is made; None for most.
        is_pulled: whether its rows come from another database, whose way of deleting is the contract's.
    """

    flow: str
    upstream: str
    contract: str
    transform: Transform
    names: Mapping[str, str] = field(default_factory=dict)
    versions: str | None = None
    is_pulled: bool = True

    def name_of(self, column: ContractColumn) -> str:
        """A column's name in silver, before a hash takes its place."""
        return self.names.get(column.name) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column.name).lower()

    def schema(self, contract: Contract) -> StructType:
        """The contract's columns as silver names and keeps them, ``is_deleted``, and where the winning row is from."""
        types = {one.name: one.dataType for one in spark_schema(contract)}
        marked = contract.deletion[0] if contract.deletion else None
        business = [
            StructField(f"{self.name_of(column)}_hash", StringType())
            if column.personal == "hash"
            else StructField(self.name_of(column), types[column.name])
            for column in contract.columns
            if column.personal != "drop" and column.name != marked
        ]
        known = {one.name: one for one in bronze_schema(contract)}
        kept = [known[name] for name in _KEPT_PROVENANCE]
        return StructType([*business, StructField("is_deleted", BooleanType()), *kept])

    def key(self, contract: Contract) -> tuple[str, ...]:
        """The primary key's columns."""
        return tuple(self.name_of(contract.column(name)) for name in contract.primary_key)

    def sequence(self, contract: Contract) -> tuple[str, ...]:
        """What orders the versions of a key."""
        return tuple(self.name_of(contract.column(name)) for name in contract.sequence)


_CRM: Final = {"CreatedDate": "created_at", "SystemModstamp": "modified_at"}
SILVER_TABLES: Final = (
    SilverTable("silver.order_events", "bronze.order_events", "kafka_events", transforms.order_events, is_pulled=False),
    SilverTable("silver.fx_rates", "bronze.fx_rates", "fx_rates", transforms.fx_rates, is_pulled=False),
    SilverTable(
        "silver.customers",
        "bronze.snowflake_customers",
        "snowflake_customers",
        transforms.customers,
        versions="silver.customer_versions",
    ),
    SilverTable("silver.orders", "bronze.snowflake_orders", "snowflake_orders", transforms.orders),
    SilverTable(
        "silver.products",
        "bronze.snowflake_products",
        "snowflake_products",
        transforms.products,
        versions="silver.product_versions",
    ),
    SilverTable("silver.behavior", "bronze.redshift_behavior", "redshift_behavior", transforms.behavior),
    SilverTable(
        "silver.accounts",
        "bronze.crm_accounts",
        "crm_accounts",
        transforms.accounts,
        _CRM | {"Id": "account_id", "CustomerNumber__c": "customer_id"},
    ),
    SilverTable(
        "silver.contacts", "bronze.crm_contacts", "crm_contacts", transforms.contacts, _CRM | {"Id": "contact_id"}
    ),
    SilverTable(
        "silver.opportunities",
        "bronze.crm_opportunities",
        "crm_opportunities",
        transforms.opportunities,
        _CRM | {"Id": "opportunity_id", "CurrencyIsoCode": "currency"},
    ),
)


def silver_flows(settings: Settings, lake: Lake, contracts: Mapping[str, Contract], table: SilverTable) -> list[Flow]:
    """The flow of a table, after that of its versions where it has some."""
    contract = contracts[table.contract]
    key, sequence = table.key(contract), table.sequence(contract)
    prepare = partial(_prepared, table=table, contract=contract, settings=settings)
    from_bronze = Input(DeltaAppends(lake.table(table.upstream)), prepare)
    bronze = Table(lake.table(table.upstream), bronze_schema(contract))
    upsert = partial(_upsert, settings, lake, table.schema(contract))
    if table.versions is None:
        return [upsert(table.flow, table.upstream, from_bronze, bronze, key, sequence)]
    # Of one key and sequence there is one version, whichever comes first.
    versions = upsert(
        table.versions, table.upstream, from_bronze, bronze, tuple(dict.fromkeys((*key, *sequence))), sequence
    )
    path = lake.table(table.versions)
    changes = Input(DeltaChanges(path), lambda rows: rows.select(*table.schema(contract).names))
    return [versions, upsert(table.flow, table.versions, changes, Table(path, table.schema(contract)), key, sequence)]


def declared_tables(lake: Lake, contracts: Mapping[str, Contract]) -> dict[str, Table]:
    """Every table of silver, by name, as the flows that read it need it to be there."""
    found = {}
    for table in SILVER_TABLES:
        for name in (table.versions, table.flow):
            if name is not None:
                found[name] = Table(lake.table(name), table.schema(contracts[table.contract]))
    return found


def _prepared(rows: DataFrame, table: SilverTable, contract: Contract, settings: Settings) -> DataFrame:
    """Bronze's rows → silver's."""
    names = table.schema(contract).names
    if not table.is_pulled:
        return table.transform(rows).select(*(_measured(name) for name in names))
    types = {one.name: one.dataType for one in spark_schema(contract)}
    renamed = {
        table.name_of(column): text(F.col(column.name))
        if isinstance(types[column.name], StringType)
        else F.col(column.name)
        for column in contract.columns
    }
    marked = F.col(contract.deletion[0]) == F.lit(contract.deletion[1]) if contract.deletion else F.lit(False)
    is_deleted = F.col("_is_tombstone") | F.coalesce(marked, F.lit(False))
    alike = rows.select(
        *(value.alias(name) for name, value in renamed.items() if name != "is_deleted"),
        is_deleted.alias("is_deleted"),
        *_KEPT_PROVENANCE,
        "_replay_of",
    )
    hidden = _hashed(table.transform(alike), table, contract, settings)
    return hidden.select(*(_unless_deleted(name, table, contract) for name in names))


def _unless_deleted(name: str, table: SilverTable, contract: Contract) -> Column:
    """A deleted row has its key, its sequence and nothing else, however the source tells of it."""
    if name in table.sequence(contract):  # that of a key found missing is when it was found
        return F.coalesce(F.col(name), F.when(F.col("is_deleted"), F.col(SOURCE_TIME))).alias(name)
    if name == "is_deleted" or name.startswith("_") or name in table.key(contract):
        return _measured(name)
    return F.when(~F.col("is_deleted"), F.col(name)).alias(name)


def _measured(name: str) -> Column:
    """A column as it is; but what was sent back from an error lane has no source's time (see `telemetry.freshness`)."""
    return F.when(F.col("_replay_of").isNull(), F.col(name)).alias(name) if name == SOURCE_TIME else F.col(name)


def _hashed(rows: DataFrame, table: SilverTable, contract: Contract, settings: Settings) -> DataFrame:
    columns = [table.name_of(column) for column in contract.columns if column.personal == "hash"]
    if not columns:
        return rows
    if settings.personal.hash_key is None:
        raise ConfigurationError(
            "HASH_KEY_MISSING",
            f"{table.flow} hashes {', '.join(columns)}, and the configuration has no key for it.",
            way_out="Set personal.hash_key to a reference, such as env:HASH_KEY; the same key for ever.",
        )
    key = HashKey.of(rows.sparkSession, settings.personal.hash_key.resolve().encode())
    return rows.withColumns({f"{name}_hash": key.hash(F.col(name)) for name in columns})


def _upsert(
    settings: Settings,
    lake: Lake,
    schema: StructType,
    name: str,
    reads: str,
    upstream: Input,
    upstream_table: Table,
    key: tuple[str, ...],
    sequence: tuple[str, ...],
) -> Flow:
    lane = lake.lane("silver")
    business = tuple(one.name for one in schema if not one.name.startswith("_"))

    def from_lane(rows: DataFrame) -> DataFrame:
        row = F.from_json(F.col("payload").cast("string"), schema, ROW_AS_JSON)
        return rows.select(row.alias("row")).select("row.*").withColumn(SOURCE_TIME, F.lit(None).cast("timestamp"))

    return Flow(
        name=name,
        reads=(reads,),
        inputs=(upstream, Input(LaneReplays(lane, name), from_lane)),
        processor=Upsert(
            table=lake.table(name),
            lane=lane,
            ranking=Ranking(key, sequence, business),
            candidates=lambda batch: batch.rows,
            checks=checks_of(name, settings),
        ),
        tables=(upstream_table, Table(lake.table(name), schema), Table(lane, LANE)),
    )
