"""Two services on one lake, either stopped and let go on at random moments: nothing lost, nothing twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
import yaml

from streams.lake import Lake
from streams.local.producer import send_messages, write_file
from streams.local.replay import plan_replay
from streams.small_files import LocalFiles
from streams.supervisor.control import Control
from tests.stack.test_kill import ROOT, assert_audit_is_whole, configure, contents, run_lake

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyspark.sql import SparkSession

    from streams.local.broker import Broker
    from streams.local.replay import ReplayPlan

EXPIRES = 3.0
STOPPED = EXPIRES * 2  # so long that the other one takes over


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


def harass(processes: list[subprocess.Popen[bytes]], seconds: float, dice: random.Random) -> int:
    """Stop one or the other, again and again; gives how often."""
    until, count = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        chosen = dice.choice(processes)
        chosen.send_signal(signal.SIGSTOP)
        time.sleep(STOPPED + dice.random() * EXPIRES)
        chosen.send_signal(signal.SIGCONT)
        time.sleep(dice.random() * EXPIRES)
        count += 1
    return count


@pytest.mark.parametrize(
    ("seconds", "orders"),
    [pytest.param(40, 300, id="short"), pytest.param(300, 3000, id="five minutes", marks=pytest.mark.slow)],
)
@pytest.mark.timeout(1200)
def test_either_is_stopped_and_goes_on(
    spark: SparkSession, broker: Broker, topic: str, tmp_path: Path, seconds: float, orders: int
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
        deadline = time.monotonic() + 180
        while (report := control.report()) is None or len(report.processes) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        parts = max(4, int(seconds / 10))
        for number in range(parts):
            send(plan, number, parts, broker, topic, landing)
            harass(up, seconds / parts, dice)
        # Each job attaches to whoever holds its flows by now.
        attached = run_lake(config)
        assert attached.returncode == 0, attached.stderr[-2000:]

    (tmp_path / "alone").mkdir()
    ended = run_lake(configure(tmp_path / "alone", broker, topic, landing))
    assert ended.returncode == 0, ended.stderr[-2000:]
    lakes = [Lake(str(tmp_path / name / "lake"), "") for name in ("shared", "alone")]
    shared, alone = (contents(spark, lake) for lake in lakes)
    for table, rows in alone.items():
        assert shared[table] == rows, table
    assert_audit_is_whole(spark, lakes[0], len(plan.messages))
    runs = {row[0] for row in spark.read.format("delta").load(lakes[0].audit).select("run_id").distinct().collect()}
    assert len(runs) >= 2, "each of them wrote"


def send(plan: ReplayPlan, number: int, parts: int, broker: Broker, topic: str, landing: Path) -> None:
    messages = plan.messages[number * len(plan.messages) // parts : (number + 1) * len(plan.messages) // parts]
    send_messages(messages, broker.bootstrap_servers, topic)
    for file in plan.files[number::parts]:
        write_file(file, landing)
