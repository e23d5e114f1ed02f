"""The job `snowflake_to_bronze` and `streams sources check`, against the stand-in, by the real connector."""

from __future__ import annotations

import datetime as dt
import os
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
import yaml

from streams.errors import ConfigurationError
from streams.jobs import run_job
from streams.local.snowflake_server import SnowflakeServer
from streams.settings import load_settings
from streams.source_check import check_source
from streams.supervisor.service import Service
from tests.spark.flow_bench import settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyspark.sql import SparkSession

    from streams.settings import Settings

AT = dt.datetime(2025, 1, 6, 10, tzinfo=dt.UTC)
TIME = pa.timestamp("us", "UTC")
TEXTS = {
    "CUSTOMERS": (
        "customer_id",
        "email",
        "first_name",
        "last_name",
        "phone",
        "street",
        "city",
        "postal_code",
        "country",
        "segment",
    ),
    "ORDERS": ("order_id", "customer_id", "product_id", "currency", "status"),
    "PRODUCTS": ("product_id", "name", "category", "currency", "supplier"),
}
OTHERS: dict[str, dict[str, pa.DataType]] = {
    "CUSTOMERS": {"marketing_consent": pa.bool_(), "created_at": TIME},
    "ORDERS": {"ordered_at": TIME, "quantity": pa.int64(), "amount": pa.decimal128(18, 2)},
    "PRODUCTS": {"unit_price": pa.decimal128(18, 2), "is_active": pa.bool_()},
}


def columns(table: str) -> pa.Schema:
    texts = [(name, pa.string()) for name in TEXTS[table]]
    return pa.schema([*texts, *OTHERS[table].items(), ("updated_at", TIME), ("is_deleted", pa.bool_())])


def customer(number: int, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(columns("CUSTOMERS").names)
    known = {"customer_id": str(number), "segment": "new", "created_at": AT, "updated_at": AT, "is_deleted": False}
    return row | known | changes


def order(number: int) -> dict[str, Any]:
    said = {"order_id": f"CD-{number}", "customer_id": "1", "currency": "USD", "status": "paid", "ordered_at": AT}
    numbers = {"quantity": 2, "amount": Decimal("11.77"), "product_id": None}
    return said | numbers | {"updated_at": AT, "is_deleted": False}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SnowflakeServer]:
    with SnowflakeServer(tmp_path_factory.mktemp("snowflake")) as made:
        for table in TEXTS:
            made.create_table(table, columns(table), [TEXTS[table][0]])
        yield made


def settings_at(folder: Path, server: SnowflakeServer, **changes: Any) -> Settings:
    secret = folder / "password"
    secret.write_text(server.password)
    snowflake = {
        "account": server.account,
        "user": server.user,
        "password": f"file:{secret}",
        "database": "SHOP",
        "host": server.host,
        "port": server.port,
        "protocol": "http",
    }
    return settings_for(folder, sources={"snowflake": snowflake | changes})


def test_the_job_brings_what_the_source_holds(spark: SparkSession, server: SnowflakeServer, tmp_path: Path) -> None:
    server.load("CUSTOMERS", [customer(n) for n in range(50)] + [customer(99, segment="Loyal")])
    server.load("ORDERS", [order(n) for n in range(70)])
    service = Service(spark, settings_at(tmp_path, server), run_id="test")
    result = run_job("snowflake_to_bronze", service)
    counts = {run.flow: (run.total("rows_written"), run.total("rows_error")) for run in result.runs}
    assert counts == {
        "bronze.snowflake_customers": (50, 1),
        "bronze.snowflake_orders": (70, 0),
        "bronze.snowflake_products": (0, 0),
    }
    bronze = spark.read.format("delta").load(service.lake.table("bronze.snowflake_orders"))
    amounts = {(row["amount"], row["quantity"], row["ordered_at"]) for row in bronze.collect()}
    assert amounts == {(Decimal("11.77"), 2, AT.replace(tzinfo=None))}


def test_a_check_says_what_is_there_and_what_is_wrong(server: SnowflakeServer, tmp_path: Path) -> None:
    server.load("CUSTOMERS", [customer(1)])
    findings = check_source(settings_at(tmp_path, server), "snowflake")
    assert [finding.problem for finding in findings] == [None, None, None]
    elsewhere = settings_at(tmp_path, server, tables={"snowflake_orders": "PRODUCTS", "snowflake_products": "NOWHERE"})
    wrong = check_source(elsewhere, "snowflake")
    assert wrong[0].problem is None
    assert "order_id" in str(wrong[1].problem)
    assert "NOWHERE" in str(wrong[2].problem)


def test_an_unknown_source_and_one_that_is_not_configured(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as unknown:
        check_source(settings_for(tmp_path), "oracle")
    assert unknown.value.code == "SOURCE_UNKNOWN"
    with pytest.raises(ConfigurationError) as absent:
        check_source(settings_for(tmp_path), "snowflake")
    assert absent.value.code == "SOURCE_NOT_CONFIGURED"


def test_a_login_has_exactly_one_secret(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    settings = settings_for(tmp_path).model_dump(mode="json", exclude_none=True)
    settings["sources"] = {"snowflake": {"account": "a", "user": "u", "database": "d"}}
    file.write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigurationError) as unclear:
        load_settings("test", str(file), {"PATH": os.environ["PATH"]})
    assert "exactly one of password, private_key, token" in str(unclear.value)
