"""What datasets are called, so that other tools mean the same by it."""

from __future__ import annotations

from typing import Any

import pytest

from streams.flows.datasets import lane_of, place, source_of, table_of, warehouse_table
from streams.lake import Lake
from streams.quality.error_lane import LANE
from streams.settings import KafkaSettings, Settings
from streams.sources.kafka import KafkaSource
from streams.transforms.fact_orders import FACT_ORDERS


def settings(**changes: Any) -> Settings:
    least = {
        "environment": "test",
        "lake": {"root": "s3a://shop/lake"},
        "checkpoints": {"root": "/checkpoints"},
        "dq_results_root": "/results",
        "kafka": {"bootstrap_servers": "broker:9092"},
        "files": {"fx_rates": "/fx"},
    }
    return Settings.model_validate(least | changes)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/data/lake/silver/orders", ("file", "/data/lake/silver/orders")),
        ("file:/data/lake/", ("file", "/data/lake")),
        ("file:///data/lake", ("file", "/data/lake")),
        ("s3a://shop/lake/silver/orders", ("s3://shop", "lake/silver/orders")),
        ("s3://shop/lake/", ("s3://shop", "lake")),
        ("gs://shop/lake", ("gs://shop", "lake")),
        ("hdfs://name:8020/lake/silver", ("hdfs://name:8020", "/lake/silver")),
        ("abfss://shop@account.dfs.core.windows.net/lake", ("abfss://shop@account.dfs.core.windows.net", "lake")),
    ],
)
def test_paths(path: str, named: tuple[str, str]) -> None:
    assert place(path) == named


def test_tables_of_the_lake_keep_the_name_that_people_use() -> None:
    lake = Lake("s3a://shop/lake", "/checkpoints")
    table = table_of(lake, lake.table("silver.orders"))
    assert (table.namespace, table.name, table.logical) == ("s3://shop", "lake/silver/orders", "silver.orders")
    lane = lane_of(lake.lane("silver"), "silver.orders", LANE)
    assert (lane.name, lane.path) == ("lake/error_lane/silver/flow=silver.orders", lake.lane("silver"))


@pytest.mark.parametrize(
    ("servers", "namespace"),
    [
        ("one:9093,two:9093", "kafka://one:9093"),
        ("one", "kafka://one:9092"),
        ("[::1]:9092", "kafka://[::1]:9092"),
    ],
)
def test_topics(servers: str, namespace: str) -> None:
    kafka = KafkaSettings(bootstrap_servers=servers)
    found = source_of(KafkaSource("bronze.order_events", "orders", kafka), settings(), ())
    assert (found.namespace, found.name, found.kind) == (namespace, "orders", "TOPIC")


@pytest.mark.parametrize(
    ("login", "namespace"),
    [
        ({"cluster_identifier": "shop", "region": "eu-west-1"}, "redshift://shop.eu-west-1:5439"),
        ({"workgroup": "shop", "region": "eu-west-1", "port": 5440}, "redshift://shop.eu-west-1:5440"),
        (
            {"host": "shop.abc123.eu-west-1.redshift.amazonaws.com", "user": "w", "password": "env:X"},
            "redshift://shop.eu-west-1:5439",
        ),
        (
            {"host": "shop.123456.us-gov-west-1.redshift-serverless.amazonaws.com", "user": "w", "password": "env:X"},
            "redshift://shop.us-gov-west-1:5439",
        ),
        ({"host": "127.0.0.1", "user": "w", "password": "env:X"}, "redshift://127.0.0.1:5439"),
    ],
)
def test_warehouses(login: dict[str, Any], namespace: str) -> None:
    target = {"database": "analytics", "schema": "gold", "staging": "s3://staging/loads"} | login
    found = warehouse_table("redshift", "fact_orders", settings(targets={"redshift": target}), FACT_ORDERS)
    assert (found.namespace, found.name) == (namespace, "analytics.gold.fact_orders")
