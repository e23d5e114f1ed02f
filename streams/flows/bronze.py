"""The flows into bronze: what arrives, judged by its contract, appended as typed rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, StringType, StructField, StructType, TimestampType

from batch_adapters.adapter import ADDED, CHANGE, PULLED, WINDOW
from streams.errors import FatalError
from streams.flows.flow import Flow, Input, Table
from streams.flows.reconciliation import Reconciliation
from streams.micro_batch import Ingest
from streams.quality.contract_expressions import (
    Cell,
    compile_contract,
    java_pattern,
    plain_line,
    spark_schema,
    typed_cell,
)
from streams.quality.error_lane import LANE, ROW_AS_JSON, VIOLATIONS
from streams.sources.adapters import AdapterSource
from streams.sources.csv_records import CsvRecords
from streams.sources.delta import LaneReplays
from streams.sources.envelope import ENVELOPE, PROVENANCE, violation
from streams.sources.files import FileSource
from streams.sources.json_records import JsonRecords
from streams.sources.kafka import KafkaSource

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from streams.lake import Lake
    from streams.quality.contract import Contract
    from streams.settings import Settings
    from streams.sources.envelope import Source

_PROVENANCE: Final = StructType(
    [
        StructField("_key", StringType()),
        StructField("_is_tombstone", BooleanType()),  # a Kafka message without a value: its key is deleted
        *(ENVELOPE[name] for name in PROVENANCE),
        StructField("_ingested_at", TimestampType()),
    ]
)


def order_events(settings: Settings, lake: Lake, contract: Contract) -> Flow:
    """Kafka's order events, CSV; a message's key is its order's id."""
    name, topic = "bronze.order_events", settings.kafka.topics.order_events
    added = [column.added is None for column in contract.columns]
    # Columns added later stand at the end, and messages written before lack them.
    least = max((place + 1 for place, always in enumerate(added) if always), default=len(added))
    records = CsvRecords(tuple(column.name for column in contract.columns), least, plain_line(contract))
    return _ingest(
        name, lake, contract, KafkaSource(name, topic, settings.kafka), records, f"topic {topic}", key="order_id"
    )


def fx_rates(settings: Settings, lake: Lake, contract: Contract) -> Flow:
    """The exchange rates' JSON files."""
    records = JsonRecords(tuple(column.name for column in contract.columns))
    folder = settings.files.fx_rates
    return _ingest("bronze.fx_rates", lake, contract, FileSource(folder), records, f"files in {folder}")


@dataclass(frozen=True)
class PulledTable:
    """A table of another database and the contract that it keeps.

    Args:
        flow: the flow's name.
        contract: the contract's name.
        system: which of the configured sources.
        table: what the table is called there, where configuration does not call it otherwise.
    """

    flow: str
    contract: str
    system: str
    table: str


PULLED_TABLES: Final = (
    PulledTable("bronze.snowflake_customers", "snowflake_customers", "snowflake", "CUSTOMERS"),
    PulledTable("bronze.snowflake_orders", "snowflake_orders", "snowflake", "ORDERS"),
    PulledTable("bronze.snowflake_products", "snowflake_products", "snowflake", "PRODUCTS"),
    PulledTable("bronze.crm_accounts", "crm_accounts", "salesforce", "Account"),
    PulledTable("bronze.crm_contacts", "crm_contacts", "salesforce", "Contact"),
    PulledTable("bronze.crm_opportunities", "crm_opportunities", "salesforce", "Opportunity"),
    PulledTable("bronze.redshift_behavior", "redshift_behavior", "redshift", "customer_behavior"),
)


def pulled(settings: Settings, lake: Lake, contract: Contract, pulled_table: PulledTable) -> Flow:
    """A table pulled by an adapter. Its cursor is the contract's sequence column."""
    name, system = pulled_table.flow, pulled_table.system
    source = pulled_source(settings, pulled_table, contract)
    table = source.table
    lane, path = lake.lane("bronze"), lake.table(name)
    records = JsonRecords(tuple(column.name for column in contract.columns))
    judge = partial(_judge, records=records, contract=contract, key=None)
    return Flow(
        name=name,
        reads=(f"{system} {table}",),
        inputs=(
            Input(source, lambda rows: judge_typed(rows, contract, f"{system} {table}")),
            # What waited in the lane is JSON; it comes back as a row like any other.
            Input(
                LaneReplays(lane, name),
                lambda rows: _as_pulled(judge(_as_envelopes(rows)), contract),
            ),
        ),
        processor=Ingest(
            path,
            lane,
            Reconciliation(path, lake.checkpoint(name), contract, source.pull.max_delete_share).compare,
            is_repeatable=False,
        ),
        tables=(Table(path, bronze_schema(contract), contract.evolution), Table(lane, LANE)),
        waits_for=system,
    )


def pulled_source(settings: Settings, pulled_table: PulledTable, contract: Contract) -> AdapterSource:
    """The stream of a pulled table; its source must be configured."""
    system = pulled_table.system
    configured = settings.sources.named(system)
    assert configured is not None  # `all_flows` declares the flows of the sources that there are
    table = configured.tables.get(pulled_table.contract, pulled_table.table)
    return AdapterSource(
        flow=pulled_table.flow,
        system=system,
        table=table,
        key=contract.primary_key,
        cursor=contract.sequence[0],
        columns=tuple(column.name for column in contract.columns),
        pull=configured.pull,
        login=configured.login,
    )


def judge_typed(rows: DataFrame, contract: Contract, source: str) -> DataFrame:
    """An adapter's rows → bronze's columns, ``_is_bad``, and ``_violations`` and ``_payload`` of such; ``_change``.

    Raises:
        FatalError: ``SOURCE_COLUMN_MISSING``: the source lacks a column that the contract requires.
    """
    types = {field.name: field.dataType for field in rows.schema}
    missing = [column.name for column in contract.columns if column.is_required and column.name not in types]
    if missing:
        raise FatalError(
            "SOURCE_COLUMN_MISSING",
            f"{source} no longer has {', '.join(missing)}, which the contract {contract.name} requires.",
            way_out="Bring the column back at the source, or take it out of the contract's required columns.",
            columns=missing,
        )
    cells = {
        column.name: typed_cell(F.col(column.name), types[column.name], column)
        if column.name in types
        else Cell(F.lit(None).cast("string"))
        for column in contract.columns
    }
    compiled = compile_contract(rows, contract, cells)
    is_row = F.col(CHANGE).isin("row", "snapshot")
    is_sound = ~is_row | compiled.is_clean
    own = [F.col(name) for name in types if name not in ADDED.names]
    return compiled.rows.select(
        *compiled.typed,
        F.concat_ws("|", *contract.primary_key).alias("_key"),
        F.lit(False).alias("_is_tombstone"),
        F.concat(F.lit(f"{source}, "), F.col(WINDOW)).alias("_source"),
        F.lit(None).cast("int").alias("_partition"),
        F.lit(None).cast("bigint").alias("_offset"),
        F.when(F.col(CHANGE) == "row", F.col(contract.sequence[0]).try_cast("timestamp"))
        .otherwise(F.col(PULLED))
        .alias("_source_time"),
        F.lit(None).cast("string").alias("_replay_of"),
        (~is_sound).alias("_is_bad"),
        F.when(~is_sound, compiled.violations).cast(VIOLATIONS).alias("_violations"),
        F.when(~is_sound, F.to_json(F.struct(*own), ROW_AS_JSON).cast("binary")).alias("_payload"),
        F.col(CHANGE),
    )


def _as_pulled(replayed: DataFrame, contract: Contract) -> DataFrame:
    key = F.concat_ws("|", *contract.primary_key)
    return replayed.withColumn("_key", key).withColumn(CHANGE, F.lit("row"))


def bronze_schema(contract: Contract) -> StructType:
    """The contract's columns, typed, and where each row came from."""
    return StructType([*spark_schema(contract).fields, *_PROVENANCE.fields])


def _ingest(
    name: str,
    lake: Lake,
    contract: Contract,
    source: Source,
    records: CsvRecords | JsonRecords,
    reads: str,
    key: str | None = None,
) -> Flow:
    lane = lake.lane("bronze")
    return Flow(
        name=name,
        reads=(reads,),
        inputs=(Input(source, lambda rows: rows), Input(LaneReplays(lane, name), _as_envelopes)),
        processor=Ingest(
            lake.table(name),
            lane,
            lambda batch: _judge(batch.rows, records=records, contract=contract, key=key),
        ),
        tables=(Table(lake.table(name), bronze_schema(contract), contract.evolution), Table(lane, LANE)),
    )


def _as_envelopes(lane: DataFrame) -> DataFrame:
    """A replayed row of the lane is what arrived, once more."""
    return lane.select(
        "payload",
        "key",
        F.col("source").alias("_source"),
        F.col("partition").alias("_partition"),
        F.col("offset").alias("_offset"),
        F.col("source_time").alias("_source_time"),
        F.col("error_id").alias("_replay_of"),
    )


def _judge(envelopes: DataFrame, records: CsvRecords | JsonRecords, contract: Contract, key: str | None) -> DataFrame:
    """Envelopes → bronze's columns, and ``_is_bad``, and ``_violations`` and ``_payload`` of such."""
    rows = records.decode(envelopes)
    cells = {
        column.name: Cell(F.col("_texts")[column.name], is_plain=F.col("_is_plain"))
        if isinstance(records, CsvRecords)
        else Cell(F.col("_texts")[column.name], F.col("_kinds")[column.name])
        for column in contract.columns
    }
    compiled = compile_contract(rows, contract, cells)
    is_tombstone = F.col("payload").isNull() & F.col("key").isNotNull() & F.lit(key is not None)
    key_is_sound = _key_is_sound(contract, key)
    is_sound = F.when(is_tombstone, key_is_sound).otherwise(F.col("_broken").isNull() & compiled.is_clean)
    violations = (
        F.when(is_sound, None)
        .when(is_tombstone, F.array(violation("key", "the key of a message without value")))
        .when(F.col("payload").isNull(), F.array(violation("empty", "neither key nor value")))
        .when(F.col("_broken").isNotNull(), F.array("_broken"))
        .otherwise(compiled.violations)
    )
    return compiled.rows.select(
        *compiled.typed,
        F.col("key").alias("_key"),
        is_tombstone.alias("_is_tombstone"),
        *PROVENANCE,
        (~is_sound).alias("_is_bad"),
        violations.cast(VIOLATIONS).alias("_violations"),
        F.when(~is_sound, F.col("payload")).alias("_payload"),
    )


def _key_is_sound(contract: Contract, key: str | None) -> Column:
    pattern = next((column.pattern for column in contract.columns if column.name == key), None)
    return F.coalesce(F.col("key").rlike(java_pattern(pattern)), F.lit(False)) if pattern else F.lit(True)
