"""A contract that changes between two runs: what is new flows through, what would lose something stops."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyspark.sql.types import StringType, StructField, StructType

from streams.errors import FatalError
from streams.sinks.table import ensure_table
from streams.supervisor.service import Service
from tests.spark.flow_bench import Bench, order_event, settings_for

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FX = ("bronze.fx_rates", "silver.fx_rates", "gold.fact_orders")


@pytest.fixture
def contracts(tmp_path: Path) -> Path:
    copy = tmp_path / "contracts"
    shutil.copytree(Path(__file__).parents[2] / "contracts", copy)
    return copy


def change(contracts: Path, column: str, said: dict[str, Any]) -> None:
    file = contracts / "bronze" / "fx_rates.schema.json"
    schema = json.loads(file.read_text())
    schema["properties"][column] = said
    file.write_text(json.dumps(schema))


def land(folder: Path, name: str, **more: Any) -> None:
    (folder / "fx").mkdir(exist_ok=True)
    record = {"rate_date": "2025-01-03", "base_currency": "EUR", "quote_currency": "USD", "rate": 2}
    (folder / "fx" / name).write_text(json.dumps(record | {"published_at": "2025-01-03T15:00:00Z"} | more))


def restarted(bench: Bench, folder: Path, contracts: Path) -> Bench:
    """The same lake, as a new process finds it."""
    return Bench(Service(bench.service.session, settings_for(folder, contracts_root=str(contracts)), run_id="again"))


def test_a_new_column_flows_through(spark: SparkSession, tmp_path: Path, contracts: Path) -> None:
    bench = Bench.at(spark, tmp_path, contracts_root=str(contracts))
    land(tmp_path, "1.json")
    bench.put("bronze.order_events", "kafka_events", [order_event(1, 1)])
    bench.run("silver.order_events", *FX)
    change(
        contracts,
        "source",
        {"type": "string", "description": "Who published it.", "enum": ["ECB"], "x-added": "2026-12-01"},
    )
    bench = restarted(bench, tmp_path, contracts)
    land(tmp_path, "2.json", quote_currency="GBP", source="ECB")
    land(tmp_path, "3.json", quote_currency="SEK", source="someone")
    bench.run(*FX)
    assert {row["quote_currency"]: row["source"] for row in bench.rows("silver.fx_rates")} == {
        "USD": None,
        "GBP": "ECB",
    }
    (waiting,) = bench.all_rows(bench.service.lake.lane("bronze"))
    assert waiting["violations"][0].asDict() == {"code": "enum", "column": "source", "value": "someone"}
    land(tmp_path, "4.json", rate=4, published_at="2025-01-03T16:00:00Z", source="ECB")
    bench.run(*FX)
    (order,) = bench.rows("gold.fact_orders")
    assert str(order["reporting_amount"]) == "2.50"


def test_a_wider_type_is_widened(spark: SparkSession, tmp_path: Path, contracts: Path) -> None:
    bench = Bench.at(spark, tmp_path, contracts_root=str(contracts))
    land(tmp_path, "1.json")
    bench.run("bronze.fx_rates", "silver.fx_rates")
    wider = {"type": "number", "description": "Wider.", "x-decimal": [18, 8], "exclusiveMinimum": 0}
    change(contracts, "rate", wider)
    bench = restarted(bench, tmp_path, contracts)
    land(tmp_path, "2.json", quote_currency="GBP", rate=0.12345678)
    bench.run("bronze.fx_rates", "silver.fx_rates")
    assert {row["quote_currency"]: str(row["rate"]) for row in bench.rows("silver.fx_rates")} == {
        "USD": "2.00000000",
        "GBP": "0.12345678",
    }


@pytest.mark.parametrize("said", [{"type": "number", "x-decimal": [10, 2]}, {"type": "integer"}, {"type": "string"}])
def test_what_would_lose_something_stops(
    spark: SparkSession, tmp_path: Path, contracts: Path, said: dict[str, Any]
) -> None:
    bench = Bench.at(spark, tmp_path, contracts_root=str(contracts))
    land(tmp_path, "1.json")
    bench.run("bronze.fx_rates")
    change(contracts, "rate", {"description": "Narrower.", **said})
    bench = restarted(bench, tmp_path, contracts)
    with pytest.raises(FatalError) as caught:
        bench.run("bronze.fx_rates")
    assert (caught.value.code, caught.value.parameters["column"]) == ("SCHEMA_NARROWED", "rate")


@pytest.mark.parametrize("what", ["add", "widen", "drop"])
def test_a_change_that_the_contract_does_not_allow_stops_until_it_does(
    spark: SparkSession, tmp_path: Path, contracts: Path, what: str
) -> None:
    bench = Bench.at(spark, tmp_path, contracts_root=str(contracts))
    land(tmp_path, "1.json")
    bench.run("bronze.fx_rates")
    column = {"add": "source", "widen": "rate", "drop": "published_at"}[what]
    file = contracts / "bronze" / "fx_rates.schema.json"
    schema = json.loads(file.read_text())
    schema["x-evolution"][what] = "stop"
    if what == "drop":
        del schema["properties"][column]
        schema["required"].remove(column)
        schema["x-sequence"] = ["rate_date"]
    else:
        said = {"type": "number", "description": "Changed.", "x-decimal": [18, 8]}
        schema["properties"][column] = said | ({"x-added": "2026-12-01"} if what == "add" else {})
    file.write_text(json.dumps(schema))
    with pytest.raises(FatalError) as caught:
        restarted(bench, tmp_path, contracts).run("bronze.fx_rates")
    assert (caught.value.code, caught.value.parameters["column"]) == ("SCHEMA_CHANGED", column)
    assert "streams up" in str(caught.value.way_out)
    schema["x-evolution"][what] = "allow"
    file.write_text(json.dumps(schema))
    land(tmp_path, "2.json", quote_currency="GBP")
    (run,) = restarted(bench, tmp_path, contracts).run("bronze.fx_rates")
    assert run.total("rows_written") == 1


@pytest.mark.parametrize(
    "left", ["_delta_log", "_delta_log/_staged_commits", "_delta_log/.00000000000000000000.json.tmp"]
)
def test_a_table_whose_creation_was_killed_is_made(spark: SparkSession, tmp_path: Path, left: str) -> None:
    place = tmp_path / "table" / left
    if place.suffix:
        place.parent.mkdir(parents=True)
        place.write_text("half of a comm")
    else:
        place.mkdir(parents=True)
    path, schema = str(tmp_path / "table"), StructType([StructField("id", StringType())])
    for _ in range(2):
        ensure_table(spark, path, schema)
    details = spark.sql(f"DESCRIBE DETAIL delta.`{path}`").first()
    assert details is not None
    assert details["properties"]["delta.enableChangeDataFeed"] == "true"
    spark.createDataFrame([("a",)], schema).write.format("delta").mode("append").save(path)
    assert spark.read.format("delta").load(path).collect() == [("a",)]
