"""The DAG in a real Airflow: its scheduler, its retries, its logs and XComs. But in the last test, of two real days,

the service's command is a stand-in: eleven real ones take minutes.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from pyspark.sql import functions as F

from streams.flows import all_flows
from streams.jobs import JOB_MAP
from streams.lake import Lake
from streams.local.broker import Broker
from streams.local.producer import send_messages, write_file
from streams.local.purchases import expected_months
from streams.local.read_back import published
from streams.local.replay import ReplayPlan, plan_replay
from streams.local.shop import make_shop
from streams.local.shop_sources import ShopSources
from streams.quality.contract import load_contracts
from streams.settings import PROJECT
from streams.small_files import small_files
from streams.supervisor.control import Control
from streams.supervisor.service import Service
from tests.spark.flow_bench import settings_for
from tests.stack.airflow_stack import Airflow
from tests.stack.test_two_supervisors import service_up
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

    from streams.settings import Settings

COUNTS = {"rows_read": 5, "rows_written": 3, "rows_duplicate": 1, "rows_stale": 0, "rows_error": 1}


class StandIn:
    """The service's folder, with a stand-in for its command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "streams").mkdir(parents=True)
        (folder / "streams" / "__init__.py").touch()
        shutil.copy(Path(__file__).with_name("service_stand_in.py"), folder / "streams" / "__main__.py")

    def will(self, **plan: list[str]) -> None:
        """What each job's next tries do; jobs that are not named do well."""
        (self.folder / "events.jsonl").write_text("")
        (self.folder / "plan.json").write_text(json.dumps(plan))

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """What happened, in order."""
        found = [json.loads(line) for line in (self.folder / "events.jsonl").read_text().splitlines()]
        return [event for event in found if event["event"] in kinds]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    return StandIn(tmp_path_factory.mktemp("airflow") / "service")


@pytest.fixture(scope="module")
def airflow(service: StandIn) -> Iterator[Airflow]:
    variables = {"streams_home": str(service.folder), "streams_python": sys.executable, "streams_env": "test"}
    made = Airflow(service.folder.parent / "home", variables)
    with made.running():
        yield made


def test_airflow_reads_the_dag(airflow: Airflow) -> None:
    assert airflow.import_errors() == []
    assert airflow.upstream() == {name: set(job.after) for name, job in JOB_MAP.items()}


def test_a_scheduled_day_with_tasks_and_commands_killed_ends_green(airflow: Airflow, service: StandIn) -> None:
    service.will(
        snowflake_to_bronze=["waiting"],
        crm_to_bronze=["not configured"],
        redshift_to_bronze=["failing"],
        fx_json_to_bronze=["waiting"],
        kafka_csv_to_bronze=["waiting"],
    )
    airflow.unpause()
    wait_until(lambda: len(service.events("waiting")) == 3)  # so they run at the same time
    waiting = {event["job"]: event for event in service.events("waiting")}
    os.kill(waiting["snowflake_to_bronze"]["pid"], signal.SIGKILL)  # the command
    os.kill(waiting["kafka_csv_to_bronze"]["task"], signal.SIGKILL)  # Airflow's own process for the task
    os.kill(waiting["fx_json_to_bronze"]["task"], signal.SIGTERM)
    wait_until(lambda: list(airflow.runs().values()) == ["success"])
    (run,) = airflow.runs()

    twice = ("snowflake_to_bronze", "redshift_to_bronze", "fx_json_to_bronze", "kafka_csv_to_bronze")
    assert airflow.outcomes(run) == {
        name: ("skipped" if name == "crm_to_bronze" else "success", 2 if name in twice else 1) for name in JOB_MAP
    }
    assert_order(service)
    # A command whose task is told to end, or killed, ends its batch; the next one begins only after that.
    for name in ("fx_json_to_bronze", "kafka_csv_to_bronze"):
        happened = [event["event"] for event in service.events("started", "told", "ended") if event["job"] == name]
        assert happened == ["started", "told", "ended", "started", "ended"]
    assert airflow.xcom(run, "bronze_to_silver") == {"flow.bronze_to_silver": COUNTS}
    assert airflow.xcom(run, "dq_silver_gate") == {"pass": 1}
    assert "silver_to_gold at work" in airflow.log(run, "silver_to_gold")
    assert "fx_json_to_bronze was asked to stop. JOB_INTERRUPTED" in " ".join(airflow.log(run, "fx_json_to_bronze"))


def assert_order(service: StandIn) -> None:
    """Each job starts after the last end of all that it comes after."""
    ended = {event["job"]: event["at"] for event in service.events("ended")}
    for event in service.events("started"):
        for before in JOB_MAP[event["job"]].after:
            assert ended[before] < event["at"]


def test_a_gate_that_fails_is_not_tried_again_and_nothing_comes_after_it(airflow: Airflow, service: StandIn) -> None:
    service.will(dq_silver_gate=["checks failing"])
    run = airflow.trigger("gate")
    wait_until(lambda: airflow.runs()[run] == "failed")
    outcomes = airflow.outcomes(run)
    assert outcomes["dq_silver_gate"] == ("failed", 1)
    after = ("silver_to_gold", "dq_gold_gate", "publish_gold_to_redshift", "publish_gold_to_snowflake")
    assert {outcomes[name][0] for name in after} == {"upstream_failed"}
    assert "silver_to_gold" not in {event["job"] for event in service.events("started")}
    log = "\n".join(airflow.log(run, "dq_silver_gate"))
    assert "silver.orders: row_count > 0" in log


def test_a_wrong_configuration_is_not_tried_again(airflow: Airflow, service: StandIn) -> None:
    service.will(publish_gold_to_redshift=["misconfigured"])
    run = airflow.trigger("configuration")
    wait_until(lambda: airflow.runs()[run] == "failed")
    outcomes = airflow.outcomes(run)
    assert outcomes.pop("publish_gold_to_redshift") == ("failed", 1)
    assert set(outcomes.values()) == {("success", 1)}


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_day_from_an_empty_lake_with_a_command_killed_and_one_beside_a_service(
    tmp_path: Path, spark: SparkSession
) -> None:
    shop, plan = make_shop(orders=300), plan_replay(seed=7, limit=300)
    # Beside the shop's orders those that its people make to try it, and delete only later.
    tries, must = shop.expected["snowflake_orders"].deleted, expected_months(plan.orders)
    usd, eur = sum(month.usd for month in must), sum(month.eur or 0 for month in must)
    contracts = load_contracts(PROJECT / "contracts" / "bronze")
    with Broker(tmp_path / "broker") as broker, ShopSources(tmp_path / "sources", contracts) as sources:
        sources.fill(shop)
        broker.create_topic("day", partitions=2)
        send_messages(plan.messages, broker.bootstrap_servers, "day")
        for file in plan.files:
            write_file(file, tmp_path / "fx")
        pull = {"lag_seconds": 0, "lookback_seconds": 0}
        settings = settings_for(
            tmp_path,
            kafka={"bootstrap_servers": broker.bootstrap_servers, "topics": {"order_events": "day"}},
            files={"fx_rates": str(tmp_path / "fx")},
            sources={system: said | {"pull": pull} for system, said in sources.settings().items()},
            targets=sources.targets(),
        )
        config = tmp_path / "settings.yaml"
        home = {"streams_home": str(PROJECT), "streams_python": sys.executable}
        airflow = Airflow(tmp_path / "airflow", home | {"streams_config": str(config)})
        with airflow.running():
            airflow.unpause()
            wait_until(lambda: bool(_commands("bronze_to_silver")), seconds=600)
            wait_until((tmp_path / "lake" / "silver").is_dir, seconds=60)  # in the middle of it
            for process in _commands("bronze_to_silver"):
                process.kill()
            wait_until(lambda: set(airflow.runs().values()) <= {"success", "failed"}, seconds=900)
            (run,) = airflow.runs()
            assert airflow.outcomes(run) == {
                name: ("success", 2 if name == "bronze_to_silver" else 1) for name in JOB_MAP
            }
            read = airflow.xcom(run, "kafka_csv_to_bronze")["bronze.order_events"]["rows_read"]
            assert read == len(plan.messages)

            assert [one.agrees for one in published(Service(lambda: spark, settings, run_id="test"))] == [True] * 6
            assert _totals(spark, settings, plan) == (len(plan.orders) + tries, usd, eur)

            before = _runs(spark, settings)
            with service_up(config, tmp_path / "service.log"):
                control, flows = Control(small_files(settings.checkpoints.root)), all_flows(settings)
                wait_until(lambda: (told := control.report()) is not None and flows.keys() <= told.flows.keys())
                sources.change(shop, dt.datetime.now(dt.UTC).replace(microsecond=0) - dt.timedelta(seconds=2))
                beside = airflow.trigger("beside")
                wait_until(lambda: airflow.runs()[beside] in ("success", "failed"), seconds=900)
                assert airflow.outcomes(beside) == dict.fromkeys(JOB_MAP, ("success", 1))
            assert len(_runs(spark, settings) - before) == 1, "all that was done was done by the service"
            found = list(published(Service(lambda: spark, settings, run_id="test")))
            assert [one.agrees for one in found] == [True] * 6
            assert sum(one.gold for one in found) > 0
            assert _totals(spark, settings, plan) == (len(plan.orders), usd, eur)


def _totals(spark: SparkSession, settings: Settings, plan: ReplayPlan) -> tuple[Any, ...]:
    """The facts that are not deleted, and the sums of the shop's own orders."""
    facts = spark.read.format("delta").load(
        Lake(settings.lake.root, settings.checkpoints.root).table("gold.fact_orders")
    )
    real = facts.where(F.col("order_id").isin([order.order_id for order in plan.orders]))
    sums = real.agg(F.sum("amount"), F.sum("reporting_amount")).first()
    return (facts.where("NOT is_deleted").count(), *(sums or ()))


def _runs(spark: SparkSession, settings: Settings) -> set[str]:
    """Which runs have written to the lake."""
    audit = spark.read.format("delta").load(Lake(settings.lake.root, settings.checkpoints.root).audit)
    return {row["run_id"] for row in audit.select("run_id").distinct().collect()}


def _commands(job: str) -> list[psutil.Process]:
    """The service's processes that run a job, and no shell or JVM below them."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [])[1:6] == ["-m", "streams", "run", "--job", job]
    ]
