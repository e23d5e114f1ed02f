"""The commands as a person or a program calls them: what they print, and how they end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import requests

from streams.local.producer import send_messages
from streams.local.replay import plan_replay
from tests.stack.test_kill import configure
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streams.local.broker import Broker

ROOT = Path(__file__).parents[2]


def streams(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streams", *arguments],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.fixture(scope="module")
def lake(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration whose topic holds a small replay."""
    folder = tmp_path_factory.mktemp("cli")
    broker.create_topic("cli", partitions=1)
    send_messages(plan_replay(seed=6, limit=60).messages, broker.bootstrap_servers, "cli")
    return configure(folder, broker, "cli", folder / "landing")


def test_lists_for_people_and_for_programs() -> None:
    jobs = json.loads(streams("jobs", "--json").stdout)
    names = [job["job"] for job in jobs]
    # In the order of the daily run.
    assert names.index("kafka_csv_to_bronze") < names.index("bronze_to_silver") < names.index("silver_to_gold")
    assert names[-3:] == ["dq_gold_gate", "publish_gold_to_redshift", "publish_gold_to_snowflake"]
    assert len(names) == 11
    flows = {flow["flow"]: flow for flow in json.loads(streams("flows", "--json").stdout)}
    assert flows["gold.fact_orders"]["reads"][0] == "silver.order_events"
    drawn = streams("flows", "--draw").stdout
    assert drawn.index("topic order_events") < drawn.index("bronze.order_events") < drawn.index("gold.fact_orders")


def test_validate_finds_what_is_wrong(tmp_path: Path, lake: Path) -> None:
    assert streams("validate").returncode == 0
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(lake.read_text().replace("bootstrap_servers", "bootstrap_server"))
    ended = streams("validate", "--config", str(wrong), "--json")
    assert ended.returncode == 2
    (finding,) = (found for found in json.loads(ended.stdout) if found["problem"])
    assert finding["code"] == "SETTINGS_INVALID"
    assert "kafka.bootstrap_server" in finding["problem"]
    assert "'bootstrap_servers'" in finding["problem"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("run", "--job", "nothing"), "JOB_UNKNOWN"),
        (("run", "--job", "bronze_to_silver", "--env", "nowhere"), "SETTINGS_FILE_MISSING"),
        (("errors", "replay"), "CALL_INCOMPLETE"),
        (("resume", "bronze.order_events"), "NOT_PAUSED"),
        (("resume", "bronze.nothing", "--accept-loss"), "FLOW_UNKNOWN"),
    ],
)
def test_a_wrong_call_says_so_and_ends_with_2(arguments: tuple[str, ...], code: str) -> None:
    ended = streams(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert code in ended.stderr
    assert "Traceback" not in ended.stderr


def test_from_the_topic_to_the_lane_and_back(lake: Path) -> None:
    config = ("--config", str(lake))
    ran = streams("run", "--job", "kafka_csv_to_bronze", *config, "--json")
    assert ran.returncode == 0, ran.stderr
    (flow,) = json.loads(ran.stdout)
    assert flow["rows_read"] == flow["rows_written"] + flow["rows_error"]
    waiting = json.loads(streams("errors", "list", *config, "--json").stdout)
    assert len(waiting) == flow["rows_error"] > 2
    first, second = waiting[0]["id"], waiting[1]["id"]

    shown = json.loads(streams("errors", "show", first[:10], *config, "--json").stdout)
    assert shown["payload"] is None or not any(character in "12345678" for character in shown["payload"])
    mended = lake.parent / "mended.csv"
    mended.write_text("00000000-0000-4000-8000-000000000001,CD-7,1,created,2025-01-02T10:00:00Z,7,1,9.99,USD,mended")
    replayed = streams("errors", "replay", first, "--payload-file", str(mended), "--note", "by hand", *config)
    assert replayed.stdout.startswith("1 row replayed."), replayed.stderr
    assert streams("errors", "discard", second, *config).stdout.startswith("1 row discarded.")

    (flow,) = json.loads(streams("run", "--job", "kafka_csv_to_bronze", *config, "--json").stdout)
    assert (flow["rows_read"], flow["rows_written"]) == (1, 1)
    assert len(json.loads(streams("errors", "list", *config, "--json").stdout)) == len(waiting) - 2


def test_a_gate_that_fails_names_the_check_and_ends_with_1(lake: Path) -> None:
    ended = streams("run", "--job", "dq_gold_gate", "--config", str(lake))
    assert ended.returncode == 1
    assert "gold.fact_orders: the table is there" in ended.stdout
    (results,) = (lake.parent / "results" / "gold").glob("*.json")
    assert json.loads(results.read_text())["passed"] is False


def test_a_day_skips_what_depends_on_a_gate_that_failed(lake: Path) -> None:
    ended = streams("run", "--job", "daily", "--config", str(lake), "--json")
    assert ended.returncode == 1, ended.stderr
    outcomes = {row["job"]: row["outcome"] for row in json.loads(ended.stdout)}
    # No file of rates has come, so their table is empty, which the gate does not take.
    assert outcomes == {
        "snowflake_to_bronze": "not configured",
        "crm_to_bronze": "not configured",
        "redshift_to_bronze": "not configured",
        "fx_json_to_bronze": "done",
        "kafka_csv_to_bronze": "done",
        "bronze_to_silver": "done",
        "dq_silver_gate": "failed",
        "silver_to_gold": "skipped",
        "dq_gold_gate": "skipped",
        "publish_gold_to_redshift": "skipped",
        "publish_gold_to_snowflake": "skipped",
    }
    assert "silver.fx_rates: row_count > 0" in ended.stderr


def test_up_drains_on_sigterm_and_goes_on_after_a_kill(lake: Path) -> None:
    with up(lake, "first.log") as process:
        (java,) = (child for child in psutil.Process(process.pid).children(recursive=True) if child.name() == "java")
        java.kill()
        # It does not stay up without Spark: whatever keeps it starts it again.
        assert process.wait(60) == 1
        assert "SPARK_GONE" in (lake.parent / "first.log").read_text()
    made = lake.parent / "checkpoints" / "gold.fact_orders" / "commits"
    with up(lake, "second.log") as process:
        wait_until(lambda: made.is_dir() and any(made.iterdir()), process)
        said = re.search(r"Status page: (http://127\.0\.0\.1:\d+/)", (lake.parent / "second.log").read_text())
        assert said, "it says where its page is"
        wait_until(lambda: requests.get(f"{said[1]}readyz", timeout=20).ok, process)
        assert "gold.fact_orders" in requests.get(said[1], timeout=20).text
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (lake.parent / "second.log").read_text()
    passed = streams("run", "--job", "dq_silver_gate", "--config", str(lake), "--json")
    found: list[dict[str, Any]] = json.loads(passed.stdout)
    unique = [check for check in found if check["check"].startswith("duplicate_count(event_id)")]
    assert [check["outcome"] for check in unique] == ["pass"]


@contextmanager
def up(config: Path, log: str) -> Iterator[subprocess.Popen[bytes]]:
    """The service, when its flows are up; gone when the context is left."""
    file = config.parent / log
    with file.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "streams", "up", "--page-port", "0", "--config", str(config)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=written,
        )
    try:
        wait_until(lambda: "flows are up" in file.read_text(), process)
        yield process
    finally:
        process.kill()
        process.wait()
