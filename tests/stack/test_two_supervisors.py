"""Two services on one lake, either stopped and let go on at random moments: nothing lost, nothing twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import yaml

from streams.lake import Lake
from streams.local.producer import send_messages, write_file
from streams.local.replay import plan_replay
from streams.settings import load_settings
from streams.small_files import LocalFiles, small_files
from streams.supervisor.control import Control
from streams.supervisor.lease import Holder, Leases
from streams.supervisor.service import Service
from tests.stack.test_kill import ROOT, assert_audit_is_whole, configure, contents, run_jobs
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pyspark.sql import SparkSession

    from streams.local.broker import Broker
    from streams.local.replay import ReplayPlan

EXPIRES = 4.0


@contextmanager
def service_up(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as opened:
        process = subprocess.Popen(
            [sys.executable, "-m", "streams", "up", "--config", str(config)], cwd=ROOT, stderr=opened, env=os.environ
        )
    try:
        yield process
        process.terminate()
        assert process.wait(120) == 0, log.read_text()[-3000:]
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def stop_for_a_while(
    stopped: subprocess.Popen[bytes],
    other: subprocess.Popen[bytes],
    control: Control,
    dice: random.Random,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Stop a process at some moment, until the other one holds the topic's flow and has written; then let it go on."""
    time.sleep(dice.random() * 2)
    stopped.send_signal(signal.SIGSTOP)
    meanwhile()
    wait_until(lambda: has_written(other.pid, control))
    stopped.send_signal(signal.SIGCONT)
    time.sleep(dice.random() * EXPIRES)


def has_written(pid: int, control: Control) -> bool:
    report = control.report()
    flow = report.flows.get("bronze.order_events") if report else None
    holder = report.processes.get(flow.holder) if report and flow else None
    return flow is not None and holder is not None and holder.pid == pid and flow.batches > 0


@pytest.mark.parametrize(
    ("seconds", "orders", "parts"),
    [pytest.param(0, 300, 4, id="short"), pytest.param(300, 3000, 24, id="five minutes", marks=pytest.mark.slow)],
)
@pytest.mark.timeout(1200)
def test_either_is_stopped_and_goes_on(
    spark: SparkSession, broker: Broker, topic: str, tmp_path: Path, seconds: float, orders: int, parts: int
) -> None:
    dice, plan, landing = random.Random(seconds), plan_replay(seed=11, limit=orders), tmp_path / "landing"
    broker.create_topic(topic, partitions=2)
    (tmp_path / "shared").mkdir()
    config = configure(tmp_path / "shared", broker, topic, landing)
    said = yaml.safe_load(config.read_text()) | {"lease": {"expires_seconds": EXPIRES}}
    config.write_text(yaml.safe_dump(said))
    control = Control(LocalFiles(tmp_path / "shared" / "checkpoints"))
    with ExitStack() as stack:
        up = [stack.enter_context(service_up(config, tmp_path / f"{name}.log")) for name in ("one", "two")]
        wait_until(lambda: (report := control.report()) and len(report.processes) == 2)
        began = time.monotonic()
        for number in range(0, parts, 2):
            send(plan, number, parts, broker, topic, landing)
            up.reverse()
            stop_for_a_while(*up, control, dice, partial(send, plan, number + 1, parts, broker, topic, landing))
        while time.monotonic() - began < seconds:
            dice.shuffle(up)
            stop_for_a_while(*up, control, dice)
        # Each job attaches to whoever holds its flows by now.
        settings = load_settings(None, str(config), os.environ)
        files = small_files(settings.checkpoints.root)
        with closing(Leases(files, Holder.this_process("day"), settings.lease.expires_seconds)) as leases:
            run_jobs(Service(lambda: spark, settings, run_id="day", leases=leases))

    (tmp_path / "alone").mkdir()
    alone_config = configure(tmp_path / "alone", broker, topic, landing)
    run_jobs(Service(lambda: spark, load_settings(None, str(alone_config), os.environ), run_id="alone"))
    lakes = [Lake(str(tmp_path / name / "lake"), "") for name in ("shared", "alone")]
    shared, alone = (contents(spark, lake) for lake in lakes)
    for table, rows in alone.items():
        assert shared[table] == rows, table
    assert_audit_is_whole(spark, lakes[0], len(plan.messages))
    runs = {row[0] for row in spark.read.format("delta").load(lakes[0].audit).select("run_id").distinct().collect()}
    assert len(runs - {"day"}) == 2, "each of them wrote"


def send(plan: ReplayPlan, number: int, parts: int, broker: Broker, topic: str, landing: Path) -> None:
    messages = plan.messages[number * len(plan.messages) // parts : (number + 1) * len(plan.messages) // parts]
    send_messages(messages, broker.bootstrap_servers, topic)
    for file in plan.files[number::parts]:
        write_file(file, landing)
