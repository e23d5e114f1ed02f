"""Publishing killed before, in and after a warehouse's transaction: no row twice, none lost."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from delta.tables import DeltaTable
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, LongType, StringType, StructField, StructType

from streams.checkpoint import BatchIdentity
from streams.flows.gold import GOLD_TABLES
from streams.flows.publish import warehouse_of
from streams.local.read_back import gold_rows, warehouse_rows
from streams.local.shop_sources import STAGING, ShopSources
from streams.quality.contract import load_contracts
from streams.settings import PROJECT
from streams.sinks.table import ensure_table
from streams.sinks.warehouse import GONE, LEDGER, Loaded, Target, load, prepare, stage
from streams.supervisor.service import Service
from streams.telemetry.freshness import SOURCE_TIME
from tests.spark.flow_bench import settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

    from pyspark.sql import SparkSession

    from streams.settings import Settings
    from streams.sinks.warehouse import Warehouse

pytestmark = pytest.mark.usefixtures("lines_closed")
PRODUCTS = next(table for table in GOLD_TABLES if table.flow == "gold.dim_product")
KILLS = (
    ("redshift", "load_begun"),
    ("snowflake", "files_staged"),
)
PLACES = ("before", "in", "after")
TIMES = 10


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShopSources]:
    with ShopSources(tmp_path_factory.mktemp("sources"), load_contracts(PROJECT / "contracts" / "bronze")) as running:
        yield running


@pytest.mark.timeout(1800)
def test_a_flow_killed_at_every_boundary(spark: SparkSession, sources: ShopSources, tmp_path: Path) -> None:
    settings = settings_for(
        tmp_path,
        targets=sources.targets(),
        spark={"driver_memory": "1g"},
    )
    service = Service(lambda: spark, settings, run_id="test")
    for number, (system, point) in enumerate(KILLS):
        change_gold(service, number)
        ended = publish(tmp_path, f"publish_gold_to_{system}", failpoint=f"{system}.dim_product:{point}")
        assert ended.returncode == -signal.SIGKILL, f"{system} {point} was never passed: {ended.stderr[-2000:]}"
    change_gold(service, len(KILLS))
    ended = publish(tmp_path, "publish_gold_to_redshift", "publish_gold_to_snowflake")
    assert ended.returncode == 0, ended.stderr[-2000:]
    gold = gold_rows(service, PRODUCTS)
    assert len(gold) == 4 * (len(KILLS) + 1) - len(KILLS)
    for system in ("redshift", "snowflake"):
        assert warehouse_rows(settings, system, PRODUCTS, gold.schema).equals(gold), system
    assert sources.s3.keys(STAGING) == []
    audit = [row for row in spark.read.format("delta").load(service.lake.audit).collect() if row["rows_read"]]
    assert len({(row["flow"], row["checkpoint_id"], row["batch_id"]) for row in audit}) == len(audit)
    # From the source to the warehouse: what is published here came to be an hour ago.
    assert audit
    for row in audit:
        assert 3600 < row["freshness"]["p50"] <= row["freshness"]["max"] < 3600 + 600, row["flow"]


def change_gold(service: Service, number: int) -> None:
    """Four rows more; of those before, one is other and one is no more."""
    path = service.lake.table(PRODUCTS.flow)
    ensure_table(service.spark, path, PRODUCTS.kept)
    made = service.spark.range(4 * number, 4 * number + 4).withColumns(
        {
            "product_key": F.format_string("key %03d", "id"),
            "product_id": F.col("id").cast("string"),
            "name": F.lit(f"of change {number}"),
            "is_current": F.lit(True),
            SOURCE_TIME: F.current_timestamp() - F.expr("INTERVAL 1 HOUR"),
        }
    )
    columns = [
        (F.col(one.name) if one.name in made.columns else F.lit(None)).cast(one.dataType).alias(one.name)
        for one in PRODUCTS.kept
    ]
    if number:
        before = DeltaTable.forPath(service.spark, path)
        before.delete(F.col("product_id") == str(4 * number - 1))
        before.update(F.col("product_id") == str(4 * number - 2), {"name": F.lit("changed")})
    made.select(columns).write.format("delta").mode("append").save(path)


def publish(folder: Path, *jobs: str, failpoint: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.stack.lake_process", str(folder / "settings.yaml"), *jobs],
        cwd=PROJECT,
        env=os.environ | ({"STREAMS_FAILPOINT": failpoint} if failpoint else {}),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@dataclass(frozen=True)
class Work:
    """What a process that is killed has to load."""

    warehouse: Warehouse
    target: Target
    batch: BatchIdentity
    place: str
    files: list[str]

    def load(self, passes: Any = lambda _: None) -> Loaded:
        return load(self.warehouse, self.target, self.batch, self.place, self.files, is_whole=False, passes=passes)


def load_and_tell(work: Work, line: Connection, waits: dict[str, float]) -> None:
    """In the process that is killed: tell where it is, and wait there for some seconds."""

    def tell(where: str) -> None:
        line.send(where)
        time.sleep(waits.get(where, 0.0))

    tell("before")
    work.load(lambda _: tell("in"))
    tell("after")


@pytest.mark.parametrize("system", ["redshift", "snowflake"])
def test_killed_ten_times_before_in_and_after_the_transaction(
    spark: SparkSession, sources: ShopSources, tmp_path: Path, system: str
) -> None:
    chance = random.Random(os.environ.get("KILL_SEED", "7"))
    settings = settings_for(tmp_path, targets=sources.targets())
    warehouse = warehouse_of(settings, system)()
    columns = StructType([StructField("id", StringType()), StructField("value", LongType())])
    staged = StructType([*columns.fields, StructField(GONE, BooleanType())])
    target = Target("killed", columns, ("id",))
    prepare(warehouse, target)
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])
    expected: dict[str, int] = {}
    died: Counter[str] = Counter()
    for number in range(1, len(PLACES) * TIMES + 1):
        where = PLACES[number % len(PLACES)]
        put = {f"k{chance.randrange(20)}": number for _ in range(5)}
        gone = {f"k{chance.randrange(20)}" for _ in range(2)} - set(put)
        rows = [(key, value, False) for key, value in put.items()] + [(key, None, True) for key in gone]
        frame = spark.createDataFrame(rows, staged)
        place = f"{system}.killed/first/{number}"
        files, _ = stage(warehouse, frame.coalesce(1), place)
        work = Work(warehouse, target, BatchIdentity(f"{system}.killed", "first", number), place, files)
        died[killed_while_loading(work, server, where, chance, stays=number % 2 == 0)] += 1
        loaded = work.load()
        expected = {key: value for key, value in expected.items() if key not in gone} | put
        assert rows_of(settings, warehouse, system, target.name) == sorted(expected.items()), number
        assert loaded.rows_merged == len(put)
    ledger = [row for row in rows_of(settings, warehouse, system, LEDGER, "flow", "batch_id") if "killed" in row[0]]
    assert ledger == [(f"{system}.killed", number) for number in range(1, len(PLACES) * TIMES + 1)]
    assert min(died[place] for place in PLACES) >= TIMES // 2, died


def killed_while_loading(work: Work, server: Any, where: str, chance: random.Random, *, stays: bool) -> str:
    """Kill a process that loads, in that part of its work, which it stays in or goes on from; gives the last it told."""
    ours, theirs = server.Pipe(duplex=False)
    process = server.Process(
        target=load_and_tell,
        args=(work, theirs, {"in": 0.05 if where == "in" else 0.0, "after": 60.0} | ({where: 60.0} if stays else {})),
    )
    process.start()
    theirs.close()
    try:
        told = ours.recv()
        if where == "before":
            time.sleep(0.06 * chance.random())
        while told != where:
            told = ours.recv()
        if where == "in":
            time.sleep(0.08 * chance.random())
        process.kill()
        process.join(30)
        while ours.poll():
            told = ours.recv()
    except EOFError:
        pass
    finally:
        ours.close()
    assert process.exitcode == -signal.SIGKILL
    return str(told)


def rows_of(settings: Settings, warehouse: Warehouse, system: str, table: str, *columns: str) -> list[tuple[Any, ...]]:
    listed = ", ".join(warehouse.quoted(name) for name in columns or ("id", "value"))
    target: Any = getattr(settings.targets, system)
    with target.login().connect() as connection, connection.cursor() as cursor:
        schema = f'"{target.schema_name}".' if system == "redshift" else ""
        cursor.execute(f"SELECT {listed} FROM {schema}{warehouse.quoted(table)}")
        return sorted(tuple(row) for row in cursor.fetchall())
