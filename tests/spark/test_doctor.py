"""What the doctor finds in a lake that is well, and in one to which each thing was done that it looks for."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from streams import doctor
from streams.doctor import Diagnosis, diagnose
from streams.small_files import small_files
from streams.storage import Storage
from streams.supervisor.control import Control, FlowReport, Process
from tests.spark.flow_bench import Bench, order_event

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

EVENTS = ("bronze.order_events", "kafka_events")
MONTH = 30 * 24 * 60 * 60
BEGIN_ANEW = "To make its table anew from what is there: streams reset silver.order_events"


@pytest.fixture
def bench(spark: SparkSession, tmp_path: Path) -> Bench:
    made = Bench.at(spark, tmp_path)
    made.put(*EVENTS, [order_event(1, 1)])
    made.run("silver.order_events")
    made.put(*EVENTS, [order_event(2, 1)])
    return made


def found(bench: Bench) -> dict[str | None, Diagnosis]:
    """What is not well, by its code."""
    return {one.code: one for one in diagnose(bench.service) if one.level != "ok"}


def log_of(bench: Bench) -> Path:
    return Path(bench.service.lake.table("bronze.order_events")) / "_delta_log"


def control(bench: Bench) -> Control:
    return Control(small_files(bench.service.settings.checkpoints.root))


def test_a_lake_that_is_well(bench: Bench) -> None:
    all_of_it = list(diagnose(bench.service))
    assert [one for one in all_of_it if one.level != "ok" and one.code != "DISK_NEARLY_FULL"] == []
    said = [one.what for one in all_of_it]
    assert "silver.order_events: can go on after batch 0" in said
    assert "gold.fact_orders: has not run yet" in said
    assert sorted(path.name for path in Path(bench.service.settings.lake.root).glob("_doctor*")) == []


def test_versions_that_a_flow_needs_are_gone(bench: Bench) -> None:
    path = bench.service.lake.table("bronze.order_events")
    bench.spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('delta.checkpointInterval' = '2')")
    for number in (3, 4, 5):
        bench.put(*EVENTS, [order_event(number, 1)])
    checkpoint = max(int(file.name[:20]) for file in log_of(bench).glob("*.checkpoint.parquet"))
    for file in log_of(bench).glob("*.json"):
        if int(file.name[:20]) < checkpoint:
            file.unlink()
    assert bench.spark._jvm is not None
    bench.spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()
    one = found(bench)["UPSTREAM_VACUUMED"]
    assert (one.what, one.level, one.way_out) == ("silver.order_events", "fail", BEGIN_ANEW)


def test_a_table_that_was_made_anew_under_its_reader(bench: Bench) -> None:
    shutil.rmtree(log_of(bench).parent)
    bench.put(*EVENTS, [order_event(3, 1)])
    one = found(bench)["UPSTREAM_REPLACED"]
    assert (one.what, one.level, one.way_out) == ("silver.order_events", "fail", BEGIN_ANEW)


def test_a_reader_that_is_a_month_behind(bench: Bench) -> None:
    month_ago = time.time() - MONTH
    for file in log_of(bench).glob("*.json"):
        os.utime(file, (month_ago, month_ago))
    one = found(bench)["READER_BEHIND"]
    assert (one.what, one.level) == ("silver.order_events", "warn")
    assert "30 days" in one.found
    bench.run("silver.order_events")
    assert "READER_BEHIND" not in found(bench)


def test_a_checkpoint_of_more_sources_than_are_declared(bench: Bench) -> None:
    offsets = Path(bench.service.checkpoint("silver.order_events").path) / "offsets"
    newest = max(offsets.glob("[0-9]*"), key=lambda file: int(file.name))
    text = newest.read_text()
    more = f"{text}\n{text.splitlines()[-1]}\n{text.splitlines()[-1]}"
    newest.write_text(more)  # beside the checksum that Spark keeps
    assert "Checksum" in found(bench)["CHECKPOINT_UNREADABLE"].found
    Storage(bench.spark).write(str(newest), more)
    assert found(bench)["CHECKPOINT_DIFFERS"].what == "silver.order_events"


def test_a_checkpoint_that_belongs_to_no_flow(bench: Bench) -> None:
    folder = Path(bench.service.settings.checkpoints.root) / "silver.of_old"
    folder.mkdir()
    (folder / "metadata").write_text("{}")
    assert found(bench)["CHECKPOINT_UNKNOWN"].what == "checkpoint silver.of_old"


def test_what_the_service_says_of_itself(bench: Bench) -> None:
    at = (dt.datetime.now(dt.UTC) - dt.timedelta(hours=3)).isoformat()
    failed = FlowReport("failed", at, error="It is lost.", code="LOST", way_out="Look for it.")
    flows = {"bronze.order_events": FlowReport("running", at), "bronze.fx_rates": failed}
    control(bench).say(Process("r", "etl-1", 7, at), flows, ())
    control(bench).pause("silver.order_events")
    said = found(bench)
    assert "3 hours" in said["SERVICE_SILENT"].found
    assert (said["LOST"].what, said["LOST"].found, said["LOST"].way_out) == (
        "bronze.fx_rates",
        "It is lost.",
        "Look for it.",
    )
    assert said["FLOW_PAUSED"].way_out == "streams resume silver.order_events"
    control(bench).say(Process("r", "etl-1", 7, dt.datetime.now(dt.UTC).isoformat()), {}, ())
    assert "SERVICE_SILENT" not in found(bench)


def test_a_place_that_can_not_be_written(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = bench.service.settings.model_copy(update={"dq_results_root": str(tmp_path / "file" / "results")})
    one = found(replace(bench, service=replace(bench.service, settings=settings)))["NOT_WRITABLE"]
    assert one.what.startswith("dq_results_root")


def test_small_files_a_full_disk_and_rows_that_wait(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_MANY_FILES", 1)
    monkeypatch.setattr(doctor, "_LEAST_FREE", 1.0)
    (tmp := Path(str(bench.service.settings.files.fx_rates))).mkdir(exist_ok=True)
    (tmp / "1.json").write_text(json.dumps({"rate": "wrong"}))
    bench.run("bronze.fx_rates")
    said = found(bench)
    assert said["SMALL_FILES"].way_out == "streams maintain audit.batches"
    assert said["DISK_NEARLY_FULL"].level == "warn"
    assert said["LANE_WAITS"].found == "1 rows wait for a person"
