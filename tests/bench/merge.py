"""What the service's merges cost, beside hand-written ones of the same rows; and how that grows with the table."""

from __future__ import annotations

import time
import uuid
from statistics import median
from typing import TYPE_CHECKING

from delta.tables import DeltaTable
from pyspark.sql import functions as F
from pyspark.sql.types import StructField, StructType

from streams.checkpoint import BatchIdentity
from streams.flows import all_flows
from streams.flows.bronze import bronze_schema
from streams.quality.contract import load_contracts
from streams.settings import PROJECT
from streams.sinks.merge import Ranking, merge
from streams.sinks.pruning import KeySpan
from streams.sinks.table import ensure_table
from streams.supervisor.attach import run_or_attach
from streams.supervisor.service import started
from tests.bench.figure import Figure
from tests.spark.flow_bench import settings_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pyspark.sql import Column, DataFrame, SparkSession

    from streams.supervisor.service import Service

_STEPS = ("created", "paid", "shipped")
_ROUNDS = 5
_HASH = 2_654_435_761  # spreads numbers over a range


def measure(place: Path, say: Callable[[str], None], *, quick: bool = False) -> Iterator[Figure]:
    """Each figure the median of rounds in which ours and theirs take turns; the first rounds, which warm up, apart."""
    with started(settings_for(place)) as service:
        yield from _silver(service, 100_000 if quick else 1_000_000, 100_000, say)
        yield from _history(service, 20_000 if quick else 100_000, 10_000, say)
        yield from _growth(service, place / "growth", 1_000_000 if quick else 10_000_000, 10_000, say)


def _silver(service: Service, held: int, changed: int, say: Callable[[str], None]) -> Iterator[Figure]:
    """Half of each batch are keys that are there, spread over all of them, and half are new."""
    spark, flow = service.spark, all_flows(service.settings)["silver.order_events"]
    say(f"  filling silver with {held:,} rows")
    _put(service, "bronze.order_events", "kafka_events", _events(spark, spark.range(held), 1))
    run_or_attach(flow, service)
    ours_path, by_hand = service.lake.table(flow.name), f"{service.settings.lake.root}/by_hand"
    table = spark.read.format("delta").load(ours_path)
    ensure_table(spark, by_hand, table.schema)
    table.write.format("delta").mode("append").save(by_hand)
    ours, theirs = [], []
    for turn in range(_ROUNDS + 1):
        rows = _batch(service, held, changed, turn)
        _put(service, "bronze.order_events", "kafka_events", rows)
        version = DeltaTable.forPath(spark, service.lake.table("bronze.order_events")).history(1).first()["version"]
        ours.append(_timed(lambda: run_or_attach(flow, service)))
        theirs.append(_timed(lambda version=version: _merge_by_hand(service, by_hand, version)))
        say(f"  silver merge {turn}: {ours[-1]:.1f} s, by hand {theirs[-1]:.1f} s")
        held += changed // 2
    yield Figure(
        "silver merge with Soda, against a bare MERGE of the batch",
        median(ours[1:]),
        theirs=median(theirs[1:]),
        rows=changed,
        at_most=1.3,
    )
    shares, whole = [], []
    for turn in range(_ROUNDS + 2):
        _put(service, "bronze.order_events", "kafka_events", _batch(service, held, 10_000, 100 + turn))
        began = time.perf_counter()
        (audit,) = run_or_attach(flow, service).audits
        whole.append(time.perf_counter() - began)
        shares.append(audit.seconds["check"])
        held += 5_000
    yield Figure(
        "Soda's part of a silver batch, against all of it",
        median(shares[2:]),
        theirs=median(whole[2:]),
        rows=10_000,
        at_most=0.25,
    )


def _batch(service: Service, held: int, changed: int, turn: int) -> DataFrame:
    numbers = service.spark.range(changed)
    old = (F.col("id") * _HASH + turn * 7919) % held
    number = F.when(F.col("id") % 2 == 0, old).otherwise(held + F.floor(F.col("id") / 2))
    # The hash may name a key twice, which a bare MERGE does not take.
    return _events(service.spark, numbers.select(number.alias("id")).distinct(), 2 + turn)


def _merge_by_hand(service: Service, path: str, version: int) -> None:
    bronze = service.lake.table("bronze.order_events")
    changes = service.spark.read.format("delta").option("readChangeFeed", "true").option("startingVersion", version)
    rows = changes.load(bronze).withColumn("is_deleted", F.lit(False))
    table = DeltaTable.forPath(service.spark, path)
    rows = rows.select(table.toDF().columns)
    (
        table.alias("old")
        .merge(rows.alias("new"), "old.event_id = new.event_id")
        .whenMatchedUpdateAll("new.sequence > old.sequence")
        .whenNotMatchedInsertAll()
        .execute()
    )


def _history(service: Service, held: int, changed: int, say: Callable[[str], None]) -> Iterator[Figure]:
    """A new version of some products: history made anew and merged, against a MERGE of the rows that this changed."""
    spark, flows = service.spark, all_flows(service.settings)
    say(f"  filling dim_product with {held:,} rows")
    _put(service, "bronze.snowflake_products", "snowflake_products", _products(spark.range(held), 0))
    upstream, flow = flows["silver.product_versions"], flows["gold.dim_product"]
    for one in (upstream, flow):
        run_or_attach(one, service)
    path, by_hand = service.lake.table(flow.name), f"{service.settings.lake.root}/history_by_hand"
    table = spark.read.format("delta").load(path)
    ensure_table(spark, by_hand, table.schema)
    table.write.format("delta").mode("append").save(by_hand)
    ours, theirs = [], []
    for turn in range(1, _ROUNDS + 2):
        numbers = spark.range(changed).select(((F.col("id") * _HASH + turn) % held).alias("id")).distinct()
        _put(service, "bronze.snowflake_products", "snowflake_products", _products(numbers, turn))
        run_or_attach(upstream, service)
        ours.append(_timed(lambda: run_or_attach(flow, service)))
        version = DeltaTable.forPath(spark, path).history(1).first()["version"]
        theirs.append(_timed(lambda version=version: _merge_versions_by_hand(spark, path, by_hand, version)))
        say(f"  history {turn}: {ours[-1]:.1f} s, by hand {theirs[-1]:.1f} s")
    yield Figure(
        "SCD2 merge, against a plain MERGE of the rows that it changes",
        median(ours[1:]),
        theirs=median(theirs[1:]),
        rows=changed,
        at_most=2,
    )


def _merge_versions_by_hand(spark: SparkSession, path: str, by_hand: str, version: int) -> None:
    changes = spark.read.format("delta").option("readChangeFeed", "true").option("startingVersion", version).load(path)
    table = DeltaTable.forPath(spark, by_hand)
    rows = changes.where("_change_type IN ('insert', 'update_postimage')").select(table.toDF().columns)
    merging = table.alias("old").merge(rows.alias("new"), "old.product_key = new.product_key")
    merging.whenMatchedUpdateAll().whenNotMatchedInsertAll().execute()


def _growth(service: Service, place: Path, held: int, changed: int, say: Callable[[str], None]) -> Iterator[Figure]:
    """Merges into a large table and into one of 100,000 rows, each key touched for the first time."""
    small = 100_000
    for size in (small, held):
        say(f"  filling a table with {size:,} rows")
        _table(service, f"{place}/{size}", size)
    for name, limit in (("near in time", 1.3), ("random", 2.5)):
        took: dict[int, list[float]] = {small: [], held: []}
        for turn in range(_ROUNDS if name == "near in time" else 3):
            for size in (small, held):
                rows = _changed(service.spark, size, changed, turn, is_random=name == "random")
                took[size].append(_timed(lambda rows=rows, size=size, turn=turn: _merge(rows, f"{place}/{size}", turn)))
                say(f"  {changed:,} keys {name} into {size:,}: {took[size][-1]:.1f} s")
        yield Figure(
            f"merge of keys {name} into {held:,} rows, against into {small:,}",
            median(took[held][1:]),
            theirs=median(took[small][1:]),
            rows=changed,
            at_most=limit,
        )


_GROWTH_COLUMNS = ("key", "sequence", "at", "amount", "text")


def _row(number: Column, sequence: Column) -> tuple[Column, ...]:
    return (
        F.format_string("K-%012d", number).alias("key"),
        sequence.cast("bigint").alias("sequence"),
        F.timestamp_seconds(1_700_000_000 + number).alias("at"),
        (number % 10_000).cast("decimal(18,2)").alias("amount"),
        F.sha2(number.cast("string"), 256).alias("text"),
    )


def _table(service: Service, path: str, size: int) -> None:
    rows = service.spark.range(0, size, 1, max(2, size // 500_000)).select(*_row(F.col("id"), F.lit(0)))
    # As all tables that are merged into, it may hold nulls in each column.
    ensure_table(service.spark, path, StructType([StructField(one.name, one.dataType) for one in rows.schema]))
    rows.write.format("delta").mode("append").save(path)


def _changed(spark: SparkSession, size: int, changed: int, turn: int, *, is_random: bool) -> DataFrame:
    first = (size - (turn + 1) * changed) % size
    number = (F.col("id") * _HASH + turn * 104_729) % size if is_random else F.col("id") + first
    numbers = spark.range(changed).select(number.alias("number")).distinct()
    rows = numbers.select(*_row(F.col("number"), F.lit(turn + (10 if is_random else 1))))
    return rows.localCheckpoint()


def _merge(rows: DataFrame, path: str, turn: int) -> None:
    ranking = Ranking(("key",), ("sequence",), _GROWTH_COLUMNS)
    found = {"rows_read": F.count(F.lit(1))} | KeySpan.columns(ranking)
    counted = rows.agg(*(column.alias(name) for name, column in found.items())).first()
    assert counted is not None  # an aggregate of all rows is one row
    span = KeySpan(counted["first_key"], counted["last_key"])
    batch = BatchIdentity("bench", f"{uuid.uuid4()}", turn)
    merge(rows, path, ranking, batch, {"rows_read": counted["rows_read"]}, span)


def _events(spark: SparkSession, numbers: DataFrame, sequence: int) -> DataFrame:
    number = F.col("id").cast("bigint")
    return numbers.select(
        F.format_string("00000000-0000-4000-8000-%012d", number).alias("event_id"),
        F.format_string("BN-%09d", F.floor(number / 3)).alias("order_id"),
        F.lit(sequence).cast("bigint").alias("sequence"),
        F.element_at(F.array(*map(F.lit, _STEPS)), (number % 3).cast("int") + 1).alias("event_type"),
        F.timestamp_seconds(1_700_000_000 + number).alias("occurred_at"),
        F.format_string("%05d", number % 6000).alias("customer_id"),
        F.lit(1).cast("bigint").alias("quantity"),
        F.lit("19.90").cast("decimal(18,2)").alias("amount"),
        F.lit("USD").alias("currency"),
        F.sha2(number.cast("string"), 256).alias("note"),
    )


def _products(numbers: DataFrame, turn: int) -> DataFrame:
    number = F.col("id").cast("bigint")
    at = F.timestamp_seconds(F.lit(1_700_000_000 + turn * 86_400))
    return numbers.select(
        F.format_string("P-%06d", number).alias("product_id"),
        F.concat(F.lit("product "), number.cast("string")).alias("name"),
        F.lit("books").alias("category"),
        (number % 100 + turn + 1).cast("decimal(18,2)").alias("unit_price"),
        F.lit("USD").alias("currency"),
        F.lit("a supplier").alias("supplier"),
        F.lit(True).alias("is_active"),
        at.alias("created_at"),
        at.alias("updated_at"),
        F.lit(False).alias("is_deleted"),
    )


def _put(service: Service, table: str, contract: str, rows: DataFrame) -> None:
    """Append rows to bronze as its flow would; what they do not say is null."""
    schema = bronze_schema(load_contracts(PROJECT / "contracts" / "bronze")[contract])
    path, now = service.lake.table(table), F.current_timestamp()
    ensure_table(service.spark, path, schema)
    told = {"_is_tombstone": F.lit(False), "_source": F.lit("bench"), "_ingested_at": now, "_source_time": now}
    columns = [
        (F.col(one.name) if one.name in rows.columns else told.get(one.name, F.lit(None)))
        .cast(one.dataType)
        .alias(one.name)
        for one in schema
    ]
    rows.select(*columns).write.format("delta").mode("append").save(path)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
