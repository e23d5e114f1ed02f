"""The flows into bronze: what arrives, judged by its contract, appended as typed rows."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, StringType, StructField, StructType, TimestampType

from streams.flows.flow import Flow, Input, Table
from streams.micro_batch import Ingest
from streams.quality.contract_expressions import Cell, compile_contract, spark_schema
from streams.quality.error_lane import LANE, VIOLATIONS
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
    records = CsvRecords(tuple(column.name for column in contract.columns), least)
    return _ingest(
        name, lake, contract, KafkaSource(name, topic, settings.kafka), records, f"topic {topic}", key="order_id"
    )


def fx_rates(settings: Settings, lake: Lake, contract: Contract) -> Flow:
    """The exchange rates' JSON files."""
    records = JsonRecords(tuple(column.name for column in contract.columns))
    folder = settings.files.fx_rates
    return _ingest("bronze.fx_rates", lake, contract, FileSource(folder), records, f"files in {folder}")


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
    judge = partial(_judge, records=records, contract=contract, key=key)
    lane = lake.lane("bronze")
    return Flow(
        name=name,
        reads=(reads,),
        inputs=(
            Input(source, judge),
            Input(LaneReplays(lane, name), lambda rows: judge(_as_envelopes(rows))),
        ),
        processor=Ingest(lake.table(name), lane),
        tables=(Table(lake.table(name), bronze_schema(contract)), Table(lane, LANE)),
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
    """Envelopes → bronze's columns, and ``_violations`` and ``_payload``, both null where a row is sound."""
    rows = records.decode(envelopes)
    is_json = isinstance(records, JsonRecords)
    cells = {
        column.name: Cell(F.col("_texts")[column.name], F.col("_kinds")[column.name] if is_json else None)
        for column in contract.columns
    }
    compiled = compile_contract(contract, cells)
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
    return rows.select(
        *compiled.typed,
        F.col("key").alias("_key"),
        is_tombstone.alias("_is_tombstone"),
        *PROVENANCE,
        F.current_timestamp().alias("_ingested_at"),
        violations.cast(VIOLATIONS).alias("_violations"),
        F.when(~is_sound, F.col("payload")).alias("_payload"),
    )


def _key_is_sound(contract: Contract, key: str | None) -> Column:
    pattern = next((column.pattern for column in contract.columns if column.name == key), None)
    return F.coalesce(F.col("key").rlike(pattern), F.lit(False)) if pattern else F.lit(True)
