"""A day: the eleven jobs from an empty lake in one run, then what has changed, and two warehouses that equal gold."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest
from pyspark.sql import functions as F

from streams.flows.bronze import PULLED_TABLES
from streams.flows.flow import Flow
from streams.jobs import JOB_MAP, run_day, run_job
from streams.local.producer import send_messages, write_file
from streams.local.purchases import expected_months
from streams.local.read_back import published
from streams.local.replay import ReplayPlan, plan_replay
from streams.local.shop import Shop, make_shop
from streams.local.shop_sources import STAGING, ShopSources
from streams.quality.contract import load_contracts
from streams.settings import PROJECT
from streams.supervisor.service import Service
from tests.spark.flow_bench import settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import DataFrame, SparkSession

    from streams.local.broker import Broker

pytestmark = pytest.mark.usefixtures("lines_closed")
ORDERS = 250


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
        yield running


@pytest.fixture(scope="module")
def service(
    spark: SparkSession, sources: ShopSources, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Service:
    folder = tmp_path_factory.mktemp("day")
    broker.create_topic("day", partitions=2)
    pull = {"lag_seconds": 0, "lookback_seconds": 0}
    settings = settings_for(
        folder,
        kafka={"bootstrap_servers": broker.bootstrap_servers, "topics": {"order_events": "day"}},
        files={"fx_rates": str(folder / "fx")},
        sources={system: said | {"pull": pull} for system, said in sources.settings().items()},
        targets=sources.targets(),
    )
    return Service(lambda: spark, settings, run_id="test")


CHANGED = (
    *("snowflake_to_bronze", "crm_to_bronze", "redshift_to_bronze", "kafka_csv_to_bronze"),
    *("bronze_to_silver", "silver_to_gold"),
    *("publish_gold_to_redshift", "publish_gold_to_snowflake"),
)


@pytest.mark.timeout(1800)
def test_the_day_from_an_empty_lake_and_then_what_has_changed(
    service: Service,
    shop: Shop,
    plan: ReplayPlan,
    sources: ShopSources,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half = len(plan.messages) // 2
    send(service, broker, plan.messages[:half], plan.files)
    ended = run_day(service)
    assert [(one.job, one.outcome, one.why) for one in ended] == [(name, "done", None) for name in JOB_MAP]
    assert_published(service)

    send(service, broker, plan.messages[half:], [])
    sources.change(shop, dt.datetime.now(dt.UTC).replace(microsecond=0) - dt.timedelta(seconds=2))
    for name in CHANGED:  # each alone, this time
        assert run_job(name, service).has_passed, name
    assert_bronze_is_what_the_sources_hold(service, shop, sources)
    assert_published(service)
    assert_gold_is_right(service, shop, plan)

    def nothing(*_: object) -> None:
        raise AssertionError("a query is started")

    # On a day with nothing new no flow starts a query.
    with monkeypatch.context() as patched:
        patched.setattr(Flow, "stream", nothing)
        assert {(one.outcome, one.why) for one in run_day(service)} == {("done", None)}

    assert sources.s3.keys(STAGING) == [], "what was staged is gone"
    with sources.snowflake.connect() as connection:
        assert connection.cursor().execute("LIST @LAKEHOUSE_STREAMS").fetchall() == []


def send(service: Service, broker: Broker, messages: Any, files: Any) -> None:
    from pathlib import Path

    send_messages(messages, broker.bootstrap_servers, "day")
    for file in files:
        write_file(file, Path(service.settings.files.fx_rates))


def assert_published(service: Service) -> None:
    found = list(published(service))
    assert len(found) == 6
    for one in found:
        assert one.agrees, one
        assert one.gold > 0


def assert_bronze_is_what_the_sources_hold(service: Service, shop: Shop, sources: ShopSources) -> None:
    lane = service.spark.read.format("delta").load(service.lake.lane("bronze")).groupBy("flow").count().collect()
    in_lane = {row["flow"]: row["count"] for row in lane}
    for table in PULLED_TABLES:
        must, names = shop.expected[table.contract], shop.tables[table.contract].column_names
        rows = [tuple(map(plain, row)) for row in read(service, table.flow).select(*names).collect()]
        assert (len(rows), in_lane.get(table.flow, 0)) == (must.sound, must.broken), table.flow
        # What has come is what was there, value by value, and nothing twice.
        there = {
            tuple(plain(row[name]) for name in names)
            for held in (shop.tables[table.contract], sources.changed(shop, table.contract))
            for row in held.to_pylist()
        }
        assert len(set(rows)) == len(rows), table.flow
        assert set(rows) <= there, table.flow


def plain(value: Any) -> Any:
    """A time as UTC's, without its zone, as Spark collects it."""
    return value.astimezone(dt.UTC).replace(tzinfo=None) if getattr(value, "tzinfo", None) else value


def assert_gold_is_right(service: Service, shop: Shop, plan: ReplayPlan) -> None:
    facts = read(service, "gold.fact_orders")
    live = facts.where(~F.col("is_deleted"))
    must = expected_months(plan.orders)
    found = live.agg(F.count(F.lit(1)), F.sum("amount"), F.sum("reporting_amount")).first()
    assert tuple(found or ()) == (
        len(plan.orders),
        sum(month.usd for month in must),
        sum(month.eur or 0 for month in must),
    )
    assert live.where("is_customer_known AND is_product_known").count() == len(plan.orders)
    for name, table in (("customer", "snowflake_customers"), ("product", "snowflake_products")):
        expected = shop.expected[table]
        current = read(service, f"gold.dim_{name}").where("is_current")
        assert current.count() == expected.keys - expected.deleted, name
    changed = {row["product_id"] for row in shop.changes["snowflake_products"].to_pylist() if row["unit_price"]}
    versions = read(service, "gold.dim_product").groupBy("product_id").count().where("count > 1").collect()
    assert {row["product_id"] for row in versions} <= changed
    assert len(versions) > 0


def read(service: Service, table: str) -> DataFrame:
    return service.spark.read.format("delta").load(service.lake.table(table))
