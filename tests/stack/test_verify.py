"""`make verify` in short: some faults of each kind on one small lake, and all tables held against what was sent."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from streams.supervisor.service import Service
from tests.verify import evolution
from tests.verify.bad_input import send_bad_input
from tests.verify.cell import Cell, InProcess, Killed, Target
from tests.verify.disk import Disk, disk_scenarios
from tests.verify.outside import line_fails, offsets_aged_out, topic_recreated
from tests.verify.proxy import Fault
from tests.verify.stack import Stack
from tests.verify.tally import Tally
from tests.verify.workers import Workers
from tests.verify.workload import EVENTS, RATES, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyspark.sql import SparkSession

    from streams.local.broker import Broker

pytestmark = pytest.mark.usefixtures("lines_closed")
SEED = int(os.environ.get("VERIFY_SEED", "7"))
FACTS = "gold.fact_orders"
RAISES = (
    Target(EVENTS, "lane_written"),
    Target(RATES, "data_written"),
    Target("silver.order_events", "data_written"),
    Target("silver.fx_rates", "audit_appended"),
    Target(FACTS, "audit_written"),
    Target("redshift.fact_orders", "load_committed"),
    Target("snowflake.fact_orders", "load_merged"),
)
KILLS = (
    Target("silver.order_events", "lane_written"),
    Target(FACTS, "audit_written"),
)
LINES = (
    ("s3", Fault("503", "^PUT"), "redshift.fact_orders"),
    ("redshift", Fault("after", "COMMIT"), "redshift.fact_orders"),
    ("snowflake", Fault("before", "COMMIT"), "snowflake.fact_orders"),
)


@pytest.fixture
def tally() -> Iterator[Tally]:
    made = Tally(print)
    yield made
    assert made.failures == []


@pytest.mark.timeout(1800)
def test_nothing_is_lost_and_nothing_twice(spark: SparkSession, broker: Broker, tmp_path: Path, tally: Tally) -> None:
    with ExitStack() as entered:
        disk = entered.enter_context(Disk(tmp_path / "disk"))
        on_disk = {name: {"root": str(disk.folder / name)} for name in ("lake", "checkpoints")}
        stack = entered.enter_context(Stack(tmp_path / "cell", broker, **on_disk))
        workers = entered.enter_context(Workers(stack.config, tmp_path / "logs"))
        service = Service(lambda: spark, stack.settings, run_id="verify")
        workload = Workload(SEED, stack, orders=60)
        cell = Cell(stack, workload, service, tally, SEED, "short", (EVENTS, RATES))
        failing, killed = InProcess(service), Killed(workers)
        for source in cell.sources:
            cell.feed(source)
        for target in RAISES:
            cell.fail_at(failing, "raise", target)
        for line, fault, flow in LINES:
            line_fails(cell, failing, line, flow, fault, str(fault.what))
        topic_recreated(cell, failing)
        offsets_aged_out(cell, failing)
        for scenario in disk_scenarios(disk)[:1] if disk.is_there else []:
            scenario.run(cell, failing)
        for target, killed.how in zip(KILLS, ("both", "process"), strict=True):
            cell.fail_at(killed, "kill", target)
        cell.kill_at_random(killed, RATES)
        assert cell.check(failing), "see the failures below"
        evolution.play(stack, spark, tally, only=1)
        send_bad_input(stack, workload, spark, tally, workers.current(), seed=SEED, count=400, pulled=False)
    tried = {name: kind.tried for name, kind in tally.kinds.items()}
    assert tried["raise"] == len(RAISES)
    assert tried["kill"] == len(KILLS), tried
    assert {"s3", "redshift", "snowflake", "broker", "schema"} <= tried.keys()
