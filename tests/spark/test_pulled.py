"""A table pulled into bronze by its flow: rows, deletes, the error lane, restarts; over the in-memory twin."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from batch_adapters.in_memory import InMemoryLogin, InMemoryServer
from streams.errors import ConfigurationError, FatalError, RetriableError
from streams.lake import Lake
from streams.source_settings import PullSettings, SnowflakeSource, SourceSettings
from streams.supervisor.service import Service
from tests.spark.flow_bench import Bench, settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyspark.sql import SparkSession

FLOW = "bronze.snowflake_products"
COLUMNS = pa.schema(
    [
        ("product_id", pa.string()),
        ("name", pa.string()),
        ("category", pa.string()),
        ("unit_price", pa.decimal128(18, 2)),
        ("currency", pa.string()),
        ("supplier", pa.string()),
        ("is_active", pa.bool_()),
        ("updated_at", pa.timestamp("us", "UTC")),
        ("is_deleted", pa.bool_()),
    ]
)
_login: InMemoryLogin | None = None


class InMemoryShop(SnowflakeSource):
    """Configured as Snowflake is; opens the in-memory twin."""

    def login(self) -> Any:
        return _login


@pytest.fixture
def server() -> Iterator[InMemoryServer]:
    global _login  # noqa: PLW0603
    with InMemoryServer() as made:
        made.tables.create("PRODUCTS", COLUMNS, ["product_id"])
        _login = made.login
        yield made


def bench_at(spark: SparkSession, folder: Path, **pull: Any) -> Bench:
    shop = InMemoryShop(
        account="a", user="u", token="env:HOME", database="SHOP", pull=PullSettings(lag_seconds=0, **pull)
    )
    settings = settings_for(folder)
    return Bench(
        Service(
            lambda: spark,
            settings.model_copy(update={"sources": SourceSettings.model_construct(snowflake=shop)}),
            run_id="test",
        )
    )


def product(number: int, minutes: int, **changes: Any) -> dict[str, Any]:
    at = dt.datetime.now(dt.UTC).replace(second=0, microsecond=0) - dt.timedelta(minutes=120 - minutes)
    return {
        "product_id": f"P-{number}",
        "name": f"Record {number}",
        "category": "Jazz",
        "unit_price": "12.50",
        "currency": "USD",
        "supplier": None,
        "is_active": True,
        "updated_at": at,
        "is_deleted": False,
    } | changes


def put(server: InMemoryServer, *rows: dict[str, Any]) -> None:
    from decimal import Decimal

    server.tables.put("PRODUCTS", [row | {"unit_price": Decimal(row["unit_price"])} for row in rows])


def bronze(bench: Bench) -> list[tuple[Any, ...]]:
    rows = bench.all_rows(bench.service.lake.table(FLOW))
    return sorted(((row["product_id"], row["name"], row["_is_tombstone"]) for row in rows), key=repr)


def test_rows_updates_and_deletes(spark: SparkSession, tmp_path: Path, server: InMemoryServer) -> None:
    bench = bench_at(spark, tmp_path, lookback_seconds=0, reconcile_seconds=0.001)
    put(server, *(product(number, number) for number in range(3)))
    bench.run(FLOW)
    assert bronze(bench) == [(f"P-{n}", f"Record {n}", False) for n in range(3)]
    put(server, product(1, 119, name="New", updated_at=dt.datetime.now(dt.UTC)))
    server.tables.delete("PRODUCTS", [("P-2",)])
    bench.run(FLOW)
    changed = [("P-1", "New", False), ("P-2", None, True)]
    assert bronze(bench) == sorted([*((f"P-{n}", f"Record {n}", False) for n in range(3)), *changed], key=repr)
    before = bronze(bench)
    bench.run(FLOW)  # compared once more: nothing new, and no second tombstone
    assert bronze(bench) == before


def test_a_row_out_of_contract_waits_in_the_lane(spark: SparkSession, tmp_path: Path, server: InMemoryServer) -> None:
    bench = bench_at(spark, tmp_path, reconcile_seconds=0)
    put(server, product(1, 1), product(2, 2, unit_price="-1.00"), product(3, 3, name=None))
    (run,) = bench.run(FLOW)
    assert (run.total("rows_read"), run.total("rows_written"), run.total("rows_error")) == (3, 1, 2)
    lane = bench.all_rows(Lake(bench.service.settings.lake.root, "").lane("bronze"))
    assert sorted((row["key"], row["violations"][0]["code"], row["violations"][0]["column"]) for row in lane) == [
        ("P-2", "minimum", "unit_price"),
        ("P-3", "required", "name"),
    ]
    assert all(row["source"].startswith("snowflake PRODUCTS, the first to ") for row in lane)


def test_a_replayed_row_does_not_delete_what_the_source_has(
    spark: SparkSession, tmp_path: Path, server: InMemoryServer
) -> None:
    from streams.quality.error_lane import settle

    bench = bench_at(spark, tmp_path, reconcile_seconds=3600)
    put(server, product(1, 1), product(2, 2, unit_price="-1.00"))
    bench.run(FLOW)
    lane = bench.service.lake.lane("bronze")
    mended = b'{"product_id":"P-2","name":"Mended","category":"Jazz","unit_price":1.00,"currency":"USD","is_active":true,"updated_at":"2025-01-06T00:00:00Z","is_deleted":false}'
    (row,) = bench.all_rows(lane)
    assert settle(spark, lane, "replayed", ids=[row["error_id"]], flow=None, note=None, payload=mended) == 1
    bench.run(FLOW)
    assert ("P-2", "Mended", False) in bronze(bench)
    assert not any(is_tombstone for _, _, is_tombstone in bronze(bench))


def test_too_many_deletes_at_once_are_refused(spark: SparkSession, tmp_path: Path, server: InMemoryServer) -> None:
    bench = bench_at(spark, tmp_path, lookback_seconds=0, reconcile_seconds=0.001)
    put(server, *(product(number, 1) for number in range(150)))
    bench.run(FLOW)
    server.tables.delete("PRODUCTS", [(f"P-{number}",) for number in range(140)])
    with pytest.raises(FatalError) as refused:
        bench.run(FLOW)
    assert refused.value.code == "RECONCILIATION_REFUSED"


def test_a_missing_table_and_a_missing_column(spark: SparkSession, tmp_path: Path, server: InMemoryServer) -> None:
    bench = bench_at(spark, tmp_path, reconcile_seconds=0)
    server.tables.create("PRODUCTS", COLUMNS.remove(COLUMNS.get_field_index("currency")), ["product_id"])
    with pytest.raises(FatalError) as lacking:
        bench.run(FLOW)
    assert (lacking.value.code, lacking.value.parameters["columns"]) == ("SOURCE_COLUMN_MISSING", ["currency"])
    server.tables.create("PRODUCTS", COLUMNS.remove(COLUMNS.get_field_index("product_id")), ["category"])
    with pytest.raises(ConfigurationError) as missing:
        bench.run(FLOW)
    assert missing.value.code == "COLUMN_MISSING"


def test_a_widened_type_and_an_optional_column_that_went(
    spark: SparkSession, tmp_path: Path, server: InMemoryServer
) -> None:
    bench = bench_at(spark, tmp_path, lookback_seconds=0, reconcile_seconds=0)
    put(server, product(1, 1))
    bench.run(FLOW)
    wider = COLUMNS.set(3, pa.field("unit_price", pa.decimal128(30, 6)))
    server.tables.create("PRODUCTS", wider.remove(wider.get_field_index("supplier")), ["product_id"])
    put(server, product(1, 1), product(2, 110, unit_price="3.25"), product(3, 111, unit_price="3.255"))
    server.tables.put("PRODUCTS", [])
    bench.run(FLOW)
    rows = {row["product_id"]: row["unit_price"] for row in bench.all_rows(bench.service.lake.table(FLOW))}
    assert {key: str(value) for key, value in rows.items()} == {"P-1": "12.50"}


@pytest.mark.parametrize("point", ["data_written", "lane_written", "audit_appended"])
def test_bad_rows_mended_before_their_batch_is_asked_for_again(
    spark: SparkSession, tmp_path: Path, server: InMemoryServer, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    bench = bench_at(spark, tmp_path, reconcile_seconds=0, lookback_seconds=0)
    put(server, product(1, 1), product(2, 2, unit_price="-1.00"), product(3, 3, name=None))
    with monkeypatch.context() as failing:
        failing.setenv("STREAMS_FAILPOINT", f"{FLOW}:{point}:1:raise")
        with pytest.raises(RetriableError):
            bench.run(FLOW)
    put(server, product(2, 2, updated_at=dt.datetime.now(dt.UTC)))  # it leaves the batch, the other bad row stays
    bench.run(FLOW)
    bench.run(FLOW)
    assert [key for key, _, _ in bronze(bench)] == ["P-1", "P-2"]
    lane = bench.all_rows(Lake(bench.service.settings.lake.root, "").lane("bronze"))
    audit = bench.all_rows(bench.service.lake.audit)
    # Killed before the lane had it, the row is asked for once more as it is by then.
    assert sorted(row["key"] for row in lane) == (["P-3"] if point == "data_written" else ["P-2", "P-3"])
    assert sum(row["rows_error"] for row in audit) == len(lane)
    assert sum(row["rows_written"] for row in audit) == 2
