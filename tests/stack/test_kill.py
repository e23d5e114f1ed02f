"""The process killed at every commit boundary: the tables are as if it never had been."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from streams.jobs import run_job
from streams.lake import Lake
from streams.local.producer import send_messages, write_file
from streams.local.replay import plan_replay
from streams.settings import load_settings
from streams.supervisor.service import Service
from streams.telemetry.audit import read_audit

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from streams.local.broker import Broker

ROOT = Path(__file__).parents[2]
JOBS = ("kafka_csv_to_bronze", "fx_json_to_bronze", "bronze_to_silver", "silver_to_gold")
TABLES = ("silver.order_events", "silver.fx_rates", "gold.fact_orders")
# One after the other on one lake, each with more data: every run first mends what the run before it left.
KILLS = (
    "bronze.order_events:data_written",
    "bronze.order_events:lane_written",
    "silver.order_events:lane_written",
    "silver.order_events:data_written",
    "gold.fact_orders:audit_written",
)
# A check that some sound rows fail, so that silver's lane has rows too.
CHECK = """
  - invalid_count(amount) = 0:
      name: amount is at most 100
      valid max: 100
"""


def configure(folder: Path, broker: Broker, topic: str, landing: Path) -> Path:
    contracts = folder / "contracts"
    shutil.copytree(ROOT / "contracts", contracts)
    checks = contracts / "soda/silver/order_events.yml"
    checks.write_text(checks.read_text().rstrip("\n") + CHECK)
    settings = {
        "environment": "test",
        "lake": {"root": str(folder / "lake")},
        "checkpoints": {"root": str(folder / "checkpoints")},
        "dq_results_root": str(folder / "results"),
        "contracts_root": str(contracts),
        "kafka": {"bootstrap_servers": broker.bootstrap_servers, "topics": {"order_events": topic}},
        "files": {"fx_rates": str(landing)},
        "spark": {"driver_memory": "2g"},
        "logging": {"level": "error"},
    }
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def run_lake(config: Path, failpoint: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"STREAMS_FAILPOINT": failpoint} if failpoint else {})
    return subprocess.run(
        [sys.executable, "-m", "tests.stack.lake_process", str(config), *JOBS],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def run_jobs(service: Service) -> None:
    """As `run_lake`, in this process."""
    for job in JOBS:
        run_job(job, service)


def contents(spark: SparkSession, lake: Lake) -> dict[str, list[Any]]:
    """What the lake holds, without what depends on when and in which batch it was written."""
    read = spark.read.format("delta")
    found: dict[str, list[Any]] = {}
    for table in TABLES:
        frame = read.load(lake.table(table))
        found[table] = frame.select([name for name in frame.columns if not name.startswith("_")]).collect()
    for table in ("bronze.order_events", "bronze.fx_rates"):
        found[table] = read.load(lake.table(table)).drop("_ingested_at").collect()
    for layer in ("bronze", "silver"):
        lane = read.load(lake.lane(layer))
        found[f"lane {layer}"] = lane.select("flow", "violations", "key", "partition", "offset", "status").collect()
    return {name: sorted(map(repr, rows)) for name, rows in found.items()}


@pytest.mark.slow  # `test_verify` kills at some of these points, `make verify` at all
@pytest.mark.timeout(900)
def test_killed_at_every_boundary(spark: SparkSession, broker: Broker, topic: str, tmp_path: Path) -> None:
    plan = plan_replay(seed=5, limit=300)
    landing = tmp_path / "landing"
    broker.create_topic(topic, partitions=2)
    (tmp_path / "killed").mkdir()
    killed = configure(tmp_path / "killed", broker, topic, landing)
    parts = len(KILLS)
    for number, failpoint in enumerate(KILLS):
        messages = plan.messages[number * len(plan.messages) // parts : (number + 1) * len(plan.messages) // parts]
        send_messages(messages, broker.bootstrap_servers, topic)
        for file in plan.files[number::parts]:
            write_file(file, landing)
        ended = run_lake(killed, failpoint)
        assert ended.returncode == -signal.SIGKILL, f"{failpoint} was never passed: {ended.stderr[-2000:]}"
    ended = run_lake(killed)
    assert ended.returncode == 0, ended.stderr[-2000:]

    (tmp_path / "unharmed").mkdir()
    unharmed = configure(tmp_path / "unharmed", broker, topic, landing)
    run_jobs(Service(lambda: spark, load_settings(None, str(unharmed), os.environ), run_id="unharmed"))
    lakes = [Lake(str(tmp_path / name / "lake"), "") for name in ("killed", "unharmed")]
    was_killed, was_not = (contents(spark, lake) for lake in lakes)
    for table, rows in was_not.items():
        assert was_killed[table] == rows, table
    assert len(was_not["lane silver"]) > 0
    assert any(row["is_recovered"] for row in assert_audit_is_whole(spark, lakes[0], len(plan.messages)))


def assert_audit_is_whole(spark: SparkSession, lake: Lake, sent: int) -> list[Any]:
    """Each batch once, its rows accounted for, and every message read once."""
    rows = read_audit(spark, lake.audit).collect()
    for row in rows:
        assert row["rows_read"] == row["rows_written"] + row["rows_duplicate"] + row["rows_stale"] + row["rows_error"]
    events = [row for row in rows if row["flow"] == "bronze.order_events"]
    assert sum(row["rows_read"] for row in events) == sent
    return rows
