"""The jobs that pull, and `streams sources check`, by the real clients against the shop's three stand-ins."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from batch_adapters.snowflake import SnowflakeLogin, snowflake
from streams.errors import ConfigurationError
from streams.flows.bronze import PULLED_TABLES
from streams.local.shop import Shop, make_shop
from streams.local.shop_sources import STAGING, ShopSources
from streams.quality.contract import load_contracts
from streams.settings import PROJECT, load_settings
from streams.source_check import check_source
from streams.supervisor.service import Service
from tests.spark.flow_bench import settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyspark.sql import SparkSession

    from streams.settings import Settings

pytestmark = pytest.mark.usefixtures("lines_closed")


@pytest.fixture(scope="module")
def shop() -> Shop:
    return make_shop(orders=300)


@pytest.fixture
def sources(shop: Shop, running: ShopSources) -> ShopSources:
    running.fill(shop)
    return running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShopSources]:
    with ShopSources(tmp_path_factory.mktemp("sources"), load_contracts(PROJECT / "contracts" / "bronze")) as made:
        yield made


def said_by(sources: ShopSources) -> dict[str, dict[str, Any]]:
    pull = {"lag_seconds": 0, "lookback_seconds": 0}
    return {system: said | {"pull": pull} for system, said in sources.settings().items()}


def settings_at(folder: Path, sources: ShopSources, system: str = "", **changes: Any) -> Settings:
    said = said_by(sources)
    return settings_for(folder, sources=said | ({system: said[system] | changes} if system else {}))


def test_a_pull_killed_at_every_boundary(spark: SparkSession, shop: Shop, sources: ShopSources, tmp_path: Path) -> None:
    settings = settings_at(tmp_path, sources)
    said = yaml.safe_load((tmp_path / "settings.yaml").read_text())
    said["spark"] = {"driver_memory": "2g"}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(said))
    lake = Service(lambda: spark, settings, run_id="test").lake
    flow = "bronze.redshift_behavior"
    for point in ("data_written", None):
        ended = subprocess.run(
            [sys.executable, "-m", "tests.stack.lake_process", str(tmp_path / "settings.yaml"), "redshift_to_bronze"],
            cwd=PROJECT,
            env=os.environ | ({"STREAMS_FAILPOINT": f"{flow}:{point}"} if point else {}),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ended.returncode == (-signal.SIGKILL if point else 0), ended.stderr[-2000:]
        # The killed run's files wait for its batch; the whole run leaves none.
        assert bool(sources.s3.keys(STAGING)) == bool(point)
    read = spark.read.format("delta")
    bronze = [row["session_id"] for row in read.load(lake.table(flow)).collect()]
    in_lane = [row["key"] for row in read.load(lake.lane("bronze")).collect()]
    assert sorted(bronze + in_lane) == sorted(shop.tables["redshift_behavior"]["session_id"].to_pylist())


def test_anyone_can_register_an_adapter_and_no_plan_or_checkpoint_has_its_secret(
    spark: SparkSession, sources: ShopSources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = sources.snowflake
    place = {"host": there.host, "port": there.port, "protocol": "http", "database": "SHOP", "schema": "PUBLIC"}
    login = SnowflakeLogin(there.account, there.user, password=there.password, **place)
    spark.dataSource.register(snowflake(login))
    options = {"table": "PRODUCTS", "key": "product_id", "cursor": "updated_at"}
    products = spark.readStream.format("snowflake").options(**options).load()
    checkpoint = tmp_path / "checkpoint"
    writer = products.writeStream.format("memory").queryName("products").option("checkpointLocation", str(checkpoint))
    query = writer.trigger(availableNow=True).start()
    query.awaitTermination()
    rows = spark.sql("SELECT DISTINCT product_id FROM products WHERE _change = 'row'").count()
    assert rows == sources.count(next(table for table in PULLED_TABLES if table.table == "PRODUCTS"))
    query.explain(extended=True)
    plan = capsys.readouterr().out
    assert "product_id" in plan
    for text in (
        plan,
        *(file.read_text() for file in checkpoint.rglob("*") if file.is_file() and file.suffix != ".crc"),
    ):
        assert there.password not in text


@pytest.mark.parametrize("system", ["snowflake", "redshift", "salesforce"])
def test_a_check_finds_nothing_wrong(sources: ShopSources, tmp_path: Path, system: str) -> None:
    findings = check_source(settings_at(tmp_path, sources), system)
    assert [finding.problem for finding in findings] == [None] * len(findings)
    assert len(findings) == sum(table.system == system for table in PULLED_TABLES)
    assert sources.s3.keys(STAGING) == []


@pytest.mark.parametrize(
    ("system", "changes", "words"),
    [
        ("snowflake", {"tables": {"snowflake_orders": "PRODUCTS"}}, ("order_id",)),
        ("snowflake", {"tables": {"snowflake_products": "NOWHERE"}}, ("NOWHERE", "role")),
        ("redshift", {"database": "nowhere"}, ("no such database", "nowhere")),
        ("redshift", {"staging": "s3://no-such-bucket/pulls"}, ("no bucket", "no-such-bucket")),
        ("salesforce", {"tables": {"crm_accounts": "Contact"}}, ("Name", "missing")),
        ("salesforce", {"consumer_key": "another"}, ("refused the login", "connected app")),
    ],
)
def test_a_check_says_in_words_what_is_wrong(
    sources: ShopSources, tmp_path: Path, system: str, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    findings = check_source(settings_at(tmp_path, sources, system, **changes), system)
    problems = " ".join(finding.problem for finding in findings if finding.problem)
    for word in words:
        assert word in problems


def test_an_unknown_source_and_one_that_is_not_configured(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as unknown:
        check_source(settings_for(tmp_path), "oracle")
    assert unknown.value.code == "SOURCE_UNKNOWN"
    with pytest.raises(ConfigurationError) as absent:
        check_source(settings_for(tmp_path, sources={}), "snowflake")
    assert absent.value.code == "SOURCE_NOT_CONFIGURED"


@pytest.mark.parametrize(
    ("sources_said", "words"),
    [
        (
            {"snowflake": {"account": "a", "user": "u", "database": "d"}},
            "exactly one of password, private_key, token",
        ),
        ({"redshift": {"database": "d", "workgroup": "w"}}, "unload needs staging"),
        ({"redshift": {"database": "d", "password": "env:X", "mode": "direct"}}, "needs host and user"),
        (
            {
                "salesforce": {
                    "instance_url": "https://x",
                    "consumer_key": "k",
                    "consumer_secret": "env:X",
                    "username": "u",
                }
            },
            "username and password, or neither",
        ),
    ],
)
def test_a_login_is_whole(tmp_path: Path, sources_said: dict[str, Any], words: str) -> None:
    file = tmp_path / "settings.yaml"
    settings = settings_for(tmp_path).model_dump(mode="json", exclude_none=True)
    settings["sources"] = sources_said
    file.write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigurationError) as unclear:
        load_settings("test", str(file), {"PATH": os.environ["PATH"]})
    assert words in str(unclear.value)
