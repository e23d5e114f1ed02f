"""A day on a Spark cluster with the lake on S3: a worker is killed in its middle, and the driver; the tables are right."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import yaml

from streams.local.demo_report import compare
from streams.local.producer import send_messages
from streams.local.replay import ReplayPlan, plan_replay
from streams.local.shop import Shop, make_shop
from streams.local.shop_sources import ShopSources
from streams.quality.contract import load_contracts
from streams.settings import PROJECT, load_settings
from streams.supervisor.service import Service
from tests.conftest import QUICK_START
from tests.stack.spark_cluster import SparkCluster
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pyspark.sql import SparkSession

    from streams.local.broker import Broker
    from streams.local.s3_server import S3Server

pytestmark = [pytest.mark.usefixtures("lines_closed"), pytest.mark.slow]
# In the first day: silver has the batch, and its audit has not.
KILLED_AT = "silver.order_events:data_written"
ORDERS = 200
LAKE, TOPIC = "lakehouse", "cluster"


@dataclass(frozen=True)
class Driver:
    """The service on a cluster: what a person would call, in a process of its own."""

    folder: Path
    config: Path
    s3: S3Server

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "AWS_ENDPOINT_URL": self.s3.endpoint,
            "AWS_ACCESS_KEY_ID": self.s3.access_key,
            "AWS_SECRET_ACCESS_KEY": self.s3.secret_key,
            "AWS_DEFAULT_REGION": self.s3.region,
        }

    def run(self, while_it_runs: Callable[[Path], None] = lambda _: None, **environment: str) -> tuple[int, str]:
        """Run the day; its exit code and what it said."""
        log = self.folder / "driver.log"
        command = [sys.executable, "-m", "streams", "run", "--job", "daily", "--config", str(self.config)]
        with log.open("wb") as out:
            ours = self.environment | environment
            process = subprocess.Popen(command, stdout=out, stderr=out, env=ours, cwd=self.folder)
            try:
                while_it_runs(log)
                process.wait(900)
            finally:
                process.kill()
                process.wait()
        return process.returncode, log.read_text()


@pytest.fixture(scope="module")
def shop() -> Shop:
    return make_shop(orders=ORDERS)


@pytest.fixture(scope="module")
def plan() -> ReplayPlan:
    return plan_replay(seed=7, limit=ORDERS)


@pytest.fixture(scope="module")
def sources(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShopSources]:
    with ShopSources(tmp_path_factory.mktemp("sources"), load_contracts(PROJECT / "contracts" / "bronze")) as running:
        running.fill(shop)
        running.s3.make_bucket(LAKE)
        yield running


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkCluster]:
    with SparkCluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def driver(
    sources: ShopSources, cluster: SparkCluster, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Driver:
    folder = tmp_path_factory.mktemp("driver")
    (folder / "hash.key").write_text("a key of this test's")
    pull = {"lag_seconds": 0, "lookback_seconds": 0}
    settings = {
        "environment": "test",
        "lake": {"root": f"s3a://{LAKE}/lake"},
        "checkpoints": {"root": f"s3a://{LAKE}/checkpoints"},
        "dq_results_root": f"s3a://{LAKE}/dq_results",
        "kafka": {"bootstrap_servers": broker.bootstrap_servers, "topics": {"order_events": TOPIC}},
        "files": {"fx_rates": f"s3a://{LAKE}/landing"},
        "personal": {"hash_key": f"file:{folder / 'hash.key'}"},
        "sources": {system: said | {"pull": pull} for system, said in sources.settings().items()},
        "targets": sources.targets(),
        "spark": {
            "master": cluster.master,
            "driver_memory": "1g",
            "conf": {
                "spark.driver.host": "127.0.0.1",
                "spark.driver.bindAddress": "127.0.0.1",
                "spark.executor.memory": "1g",
                "spark.executor.extraJavaOptions": QUICK_START,
            },
        },
        "logging": {"level": "error"},
    }
    config = folder / "settings.yaml"
    config.write_text(yaml.safe_dump(settings))
    broker.create_topic(TOPIC, partitions=2)
    return Driver(folder, config, sources.s3)


def test_executors_have_our_packages_and_nobody_sees_a_secret(driver: Driver, cluster: SparkCluster) -> None:
    secrets = {"spark.hadoop.example.login": "env:LOGIN", "spark.hadoop.fs.s3a.bucket.b.secret.key": "env:LOGIN"}
    settings = yaml.safe_load(driver.config.read_text())
    settings["spark"]["secrets"] = secrets
    settings["spark"]["conf"] |= {"spark.ui.enabled": "true", "spark.ui.port": "0"}
    config = driver.folder / "probe.yaml"
    config.write_text(yaml.safe_dump(settings))
    environment = driver.environment | {"LOGIN": "a-login-of-this-test", "SPARK_LOCAL_IP": "127.0.0.1"}
    command = [sys.executable, "-m", "tests.stack.cluster_probe", str(config)]
    ended = subprocess.run(
        command, env=environment, cwd=PROJECT, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    said = json.loads(ended.stdout)
    assert said["knows"]
    assert len(said["files"]) == 4
    assert all("lakehouse_streams-" in file for file in said["files"]), said["files"]
    assert (said["moved"], said["left"]) == (["a", "b/c"], []), "a folder in S3 is moved"
    for version in said["versions"]:
        assert len(version["won"]) == 1, "of several writers of one version one has it"
        assert version["won"] == [version["there"]] == version["again"], (
            "what is sent again after a lost answer is there"
        )
    logs = [
        file.read_text(errors="replace")
        for file in cluster.folder.rglob("*")
        if file.suffix == ".log" or file.name in ("stdout", "stderr")
    ]
    assert sum("CoarseGrainedExecutorBackend" in log for log in logs) > 0
    for shown in (ended.stderr, *said["pages"], *said["commands"], *logs):
        assert "a-login-of-this-test" not in shown
        assert driver.s3.secret_key not in shown
    assert any("spark.hadoop.example.login" in page for page in said["pages"]), "the pages do show settings"


@pytest.mark.timeout(3000)
def test_two_days_on_a_cluster(
    spark: SparkSession,
    driver: Driver,
    cluster: SparkCluster,
    shop: Shop,
    plan: ReplayPlan,
    sources: ShopSources,
    broker: Broker,
    tmp_path: Path,
) -> None:
    half = len(plan.messages) // 2
    send_messages(plan.messages[:half], broker.bootstrap_servers, TOPIC)
    for file in plan.files:
        sources.s3.client().put_object(Bucket=LAKE, Key=f"landing/{file.name}", Body=file.content)
    code, said = driver.run(STREAMS_FAILPOINT=KILLED_AT)
    assert code == -signal.SIGKILL, f"{KILLED_AT} was never passed: {said}"
    code, said = driver.run()
    assert code == 0, said
    send_messages(plan.messages[half:], broker.bootstrap_servers, TOPIC)
    sources.change(shop, dt.datetime.now(dt.UTC).replace(microsecond=0) - dt.timedelta(seconds=2))
    code, said = driver.run(lambda log: kill_worker_in_the_middle(cluster, log))
    assert code == 0, said
    comparison = compare(plan, shop, sources, copied(spark, driver, tmp_path))
    assert comparison.agrees, comparison


def kill_worker_in_the_middle(cluster: SparkCluster, log: Path) -> None:
    wait_until(lambda: "to_bronze done" in log.read_text())
    cluster.kill_worker(0)


def copied(spark: SparkSession, driver: Driver, folder: Path) -> Service:
    """The lake as another client reads it out of S3, beside the same warehouses."""
    client = driver.s3.client()
    for key in driver.s3.keys(LAKE):
        if key.startswith("lake/") and not key.endswith("/"):
            file = folder / key
            file.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(LAKE, key, str(file))
    overrides = {"STREAMS__LAKE__ROOT": str(folder / "lake"), "STREAMS__SPARK__MASTER": "local[2]"}
    return Service(lambda: spark, load_settings(None, str(driver.config), overrides), run_id="test")
