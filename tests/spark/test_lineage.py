"""Lineage against what really happens: the plans of the flows' own code, and runs that write real tables."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyspark.sql import functions as F
from rich.console import Console

from batch_adapters.adapter import ADDED
from streams.checkpoint import BatchIdentity
from streams.delta_log import table_version
from streams.errors import ConfigurationError, FatalError
from streams.flows.bronze import judge_typed
from streams.flows.datasets import FILE_FIELDS, KAFKA_FIELDS
from streams.flows.gold import GOLD_TABLES
from streams.flows.lineage import Lineages
from streams.flows.origins import Origin, origin_of, origin_tree
from streams.flows.plan import Origins, read_plan, tagged
from streams.micro_batch import Ingest, MicroBatch, Upsert
from streams.quality.contract_expressions import spark_schema
from streams.quality.error_lane import settle
from streams.sinks.merge import GONE
from streams.sinks.table import ensure_table
from streams.sources.adapters import AdapterSource
from streams.sources.envelope import ENVELOPE
from streams.sources.kafka import KafkaSource
from streams.supervisor.lineage import lineage_listener
from streams.telemetry.freshness import SOURCE_TIME
from tests.spark.flow_bench import Bench, rate, settings_for
from tests.unit.lineage_reader import columns_of, require_event

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from streams.flows.flow import Flow
    from streams.telemetry.lineage import FlowLineage


@pytest.fixture(scope="module")
def lineages(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lineages:
    folder = tmp_path_factory.mktemp("lineage")
    warehouses = {
        "snowflake": {
            "account": "org-shop",
            "user": "w",
            "password": f"file:{folder}/hash.key",
            "database": "ANALYTICS",
        },
        "redshift": {
            "cluster_identifier": "shop",
            "region": "eu-central-1",
            "user": "w",
            "database": "analytics",
            "schema": "gold",
            "staging": "s3://staging/loads",
        },
    }
    return Lineages(settings_for(folder, targets=warehouses), lambda: spark)


def known(lineages: Lineages, flow: str) -> FlowLineage:
    found = lineages.of(flow)
    assert found is not None
    return found


def direct(lineages: Lineages, flow: str, column: str) -> dict[str, str]:
    """``table.column`` of each direct input → how its values come."""
    return {
        f"{one.dataset.logical}.{one.column}": f"{one.subtype}{' masked' if one.is_masked else ''}"
        for one in known(lineages, flow).columns[column]
        if one.type == "DIRECT"
    }


# What is made of nothing that a source says: when it came, that it is not a replay, what every row has.
CONSTANT = {
    "bronze": {"_ingested_at", "_replay_of"},
    "pulled": {"_ingested_at", "_replay_of", "_source", "_partition", "_offset", "_is_tombstone"},
    "bronze.fx_rates": {"_ingested_at", "_replay_of", "_key", "_partition", "_offset"},
    "silver.fx_rates": {"is_deleted"},  # a rate is never taken back
    # Which of two tables know of an order is said by the join; the currency is the configuration's.
    "gold.fact_orders": {"source", "reporting_currency"},
    "gold.dim_customer": {"sessions"},  # how many rows there are
}


def test_every_column_of_every_flow_comes_from_somewhere(lineages: Lineages) -> None:
    for name, flow in lineages.flows.items():
        lineage = known(lineages, name)
        assert list(lineage.columns) == [one.name for one in lineage.output.fields], name
        kind = "pulled" if isinstance(flow.inputs[0].source, AdapterSource) else flow.layer
        constant = CONSTANT.get(name, CONSTANT.get(kind, set()))
        without = {column for column, inputs in lineage.columns.items() if all(one.type != "DIRECT" for one in inputs)}
        assert without == constant, name
        # What it is made of is what it reads, and is there.
        fields = {(one.namespace, one.name): {field.name for field in one.fields} for one in lineage.inputs}
        for one in (*lineage.rows, *(one for inputs in lineage.columns.values() for one in inputs)):
            assert one.column in fields[one.dataset.namespace, one.dataset.name], (name, one)


def test_where_columns_come_from(lineages: Lineages) -> None:
    assert direct(lineages, "gold.fact_orders", "reporting_amount") == {
        "silver.order_events.amount": "AGGREGATION",
        "silver.orders.amount": "TRANSFORMATION",
        "silver.fx_rates.rate": "AGGREGATION",
    }
    assert direct(lineages, "gold.fact_orders", "customer_id") == {
        "silver.order_events.customer_id": "AGGREGATION",
        "silver.orders.customer_id": "TRANSFORMATION",
    }
    assert direct(lineages, "gold.fact_orders", "customer_key") == {"gold.dim_customer.customer_key": "AGGREGATION"}
    assert direct(lineages, "gold.dim_customer", "city") == {"silver.customer_versions.city": "IDENTITY"}
    assert direct(lineages, "gold.dim_customer", "contact_title") == {"silver.contacts.title": "AGGREGATION"}
    email = {"bronze.snowflake_customers.email": "TRANSFORMATION masked"}
    assert direct(lineages, "silver.customer_versions", "email_hash") == email
    assert direct(lineages, "silver.accounts", "account_id") == {"bronze.crm_accounts.Id": "TRANSFORMATION"}
    rows = {(one.dataset.logical, one.column, one.subtype) for one in known(lineages, "gold.fact_orders").rows}
    assert {("silver.order_events", "order_id", "JOIN"), ("silver.fx_rates", "is_deleted", "FILTER")} <= rows
    rows = {(one.column, one.subtype) for one in known(lineages, "silver.orders").rows}
    assert {("order_id", "JOIN"), ("updated_at", "SORT")} <= rows


def test_what_is_read_and_written_is_named_as_others_name_it(lineages: Lineages) -> None:
    root = str(lineages.settings.lake.root)
    expected = {
        "bronze.order_events": ("kafka://localhost:1", "order_events"),
        "bronze.fx_rates": ("file", lineages.settings.files.fx_rates),
        "bronze.snowflake_orders": ("snowflake://shop", "SHOP.PUBLIC.ORDERS"),
        "bronze.redshift_behavior": ("redshift://localhost:5439", "shop.public.customer_behavior"),
        "bronze.crm_accounts": ("http://localhost", "Account"),
        "silver.orders": ("file", f"{root}/bronze/snowflake_orders"),
        "snowflake.fact_orders": ("file", f"{root}/gold/fact_orders"),
    }
    assert {
        flow: (found := known(lineages, flow).inputs[0]) and (found.namespace, found.name) for flow in expected
    } == (expected)
    outputs = {flow: known(lineages, flow).output for flow in ("snowflake.fact_orders", "redshift.fact_orders")}
    assert [(one.namespace, one.name, one.fields[0].name) for one in outputs.values()] == [
        ("snowflake://org-shop", "ANALYTICS.PUBLIC.FACT_ORDERS", "ORDER_ID"),
        ("redshift://shop.eu-central-1:5439", "analytics.gold.fact_orders", "order_id"),
    ]
    lane = known(lineages, "silver.orders").lane
    assert lane is not None
    assert lane.name == f"{root}/error_lane/silver/flow=silver.orders"
    assert lane in known(lineages, "silver.orders").inputs


def test_a_column_is_followed_up_to_the_sources(lineages: Lineages) -> None:
    def ends(origin: Origin) -> set[str]:
        return {end for one in origin.made_of for end in ends(one)} or {f"{origin.table}.{origin.column}"}

    assert ends(origin_of(lineages, "snowflake.fact_orders.AMOUNT")) == {
        "kafka://localhost:1 order_events.amount",
        "snowflake://shop SHOP.PUBLIC.ORDERS.amount",
    }
    customer = origin_of(lineages, "gold.dim_customer.email_hash")
    (version,) = customer.made_of
    (mail,) = version.made_of
    assert (mail.table, mail.column, mail.is_masked) == ("bronze.snowflake_customers", "email", True)
    assert "bronze.snowflake_customers.is_deleted" in version.decided_by
    shown = io.StringIO()
    Console(file=shown, width=200).print(origin_tree(customer))
    assert "bronze.snowflake_customers.email  transformed, hashed" in shown.getvalue()
    for column in ("gold.dim_customer.nothing", "gold.nothing.email", "nothing"):
        with pytest.raises(ConfigurationError) as caught:
            origin_of(lineages, column)
        assert caught.value.code == "COLUMN_UNKNOWN"


def test_bronze_is_as_its_own_code_has_it(spark: SparkSession, lineages: Lineages) -> None:
    for name, flow in lineages.flows.items():
        if flow.layer == "bronze":
            said = {
                column: {(one.column, one.subtype) for one in inputs}
                for column, inputs in known(lineages, name).columns.items()
            }
            assert said == _arrived(spark, flow, lineages), name


def _arrived(spark: SparkSession, flow: Flow, lineages: Lineages) -> dict[str, set[tuple[str, str]]]:
    """What the plan of a flow into bronze says, in the words of its source."""
    contract = lineages.contracts[flow.name]
    source = flow.inputs[0].source
    if isinstance(source, AdapterSource):
        frame = tagged(spark, "there", spark_schema(contract))
        for one in ADDED:
            frame = frame.withColumn(one.name, F.lit(None).cast(one.dataType))
        judged = judge_typed(frame, contract, "there")
        fields = {name: name for name in spark_schema(contract).names}
    else:
        assert isinstance(flow.processor, Ingest)
        rows = flow.inputs[0].shape(tagged(spark, "there", ENVELOPE))
        judged = flow.processor.prepare(
            MicroBatch(BatchIdentity(flow.name, "checkpoint", 0), "run", rows, spark, False)
        )
        fields = KAFKA_FIELDS if isinstance(source, KafkaSource) else FILE_FIELDS
    plan = read_plan(judged.withColumn("_ingested_at", F.current_timestamp()))
    table = [one.name for one in known(lineages, flow.name).output.fields]
    return {
        name: {
            (one.path[-1] if one.path else fields[one.column], how)
            for one, (how, _) in plan.columns[name].direct.items()
            if one.column in fields  # the rest is null where it comes from this source
        }
        for name in table
    }


class Unkept(MicroBatch):
    """A batch whose plans stay whole."""

    def keep(self, rows: DataFrame) -> DataFrame:
        return rows


class Reader:
    """Stands where a batch's session does, and gives empty tables by their paths."""

    def __init__(self, frames: dict[str, DataFrame]) -> None:
        self.frames = frames

    @property
    def read(self) -> Reader:
        return self

    def format(self, _: str) -> Reader:
        return self

    def load(self, path: str) -> DataFrame:
        return self.frames[path]


@pytest.mark.parametrize("table", GOLD_TABLES, ids=lambda table: table.flow)
def test_gold_is_as_its_own_code_has_it(
    spark: SparkSession, lineages: Lineages, table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = lineages.flows[table.flow]
    frames = {
        one.path: spark.emptyDataFrame(one.schema)
        if one.path == flow.processor.table  # type: ignore[union-attr]
        else tagged(spark, one.path, one.schema)
        for one in flow.tables
    }
    ensure_table(spark, lineages.lake.table(table.flow), table.kept)
    names = flow.inputs[0].shape(
        next(iter(frames.values())).withColumns({"_change_type": F.lit("insert"), "_commit_version": F.lit(1)})
    )
    # A batch that names one of everything: no part of the flow's code is left out.
    named = spark.range(1).select(
        *(
            F.lit("2025-01-01" if kind in ("date", "timestamp") else "1").cast(kind).alias(name)
            for name, kind in names.dtypes
        )
    )
    batch = Unkept(BatchIdentity(flow.name, "checkpoint", 1), "run", named, Reader(frames), is_repeated=False)  # type: ignore[arg-type]
    assert isinstance(flow.processor, Upsert)
    monkeypatch.setattr("streams.flows.gold.held", lambda _, path, name, make: make(frames[path]))
    made = read_plan(flow.processor.candidates(batch).drop(GONE))
    paths = {one.path: f"{one.path.split('/')[-2]}.{one.path.split('/')[-1]}" for one in flow.tables}
    said = read_plan(table.rows({paths[path]: frame for path, frame in frames.items()}, "EUR"))
    # What a batch's changes say of their time, a whole table has from its rows.
    business = [name for name in said.columns if name != SOURCE_TIME]
    assert made.columns.keys() == said.columns.keys()
    assert [_known(made.columns[name]) for name in business] == [_known(said.columns[name]) for name in business]


def _known(origins: Origins) -> tuple[Any, Any]:
    return dict(origins.direct), origins.indirect


CHECKS = """
checks for fx_rates:
  - invalid_count(rate) = 0:
      name: no rate above 5
      valid max: 5
  - row_count < 4
"""


def test_runs_are_told_as_they_were(spark: SparkSession, tmp_path: Path) -> None:
    contracts, file = tmp_path / "contracts", tmp_path / "lineage.jsonl"
    shutil.copytree(Path(__file__).parents[2] / "contracts", contracts)
    (contracts / "soda/silver/fx_rates.yml").write_text(CHECKS)
    bench = Bench.at(spark, tmp_path, contracts_root=str(contracts), lineage={"file": str(file)})
    lake, settings = bench.service.lake, bench.service.settings
    land(tmp_path, "1.json", [(3, 2), (4, 9), (5, "x")])
    with lineage_listener(settings, lambda: spark, "bronze_to_silver", lambda: False) as told:
        bench = Bench(replace(bench.service, listeners=told))
        bench.run("bronze.fx_rates", "silver.fx_rates")
        (waiting,) = bench.all_rows(lake.lane("bronze"))
        mended = json.dumps(record(5, 3)).encode()
        settle(spark, lake.lane("bronze"), "replayed", ids=[waiting["error_id"]], payload=mended)
        bench.run("bronze.fx_rates", "silver.fx_rates", "silver.fx_rates")
        bench.put("bronze.fx_rates", "fx_rates", [rate(day, "2") for day in (6, 7, 8, 9)])
        with pytest.raises(FatalError, match="BATCH_REFUSED"):
            bench.run("silver.fx_rates")
    events = [require_event(json.loads(line)) for line in file.read_text().splitlines()]
    assert [(one["job"]["name"], one["eventType"]) for one in events] == [
        ("bronze_to_silver", "START"),
        *(("bronze.fx_rates", state) for state in ("START", "RUNNING", "COMPLETE")),
        *(("silver.fx_rates", state) for state in ("START", "RUNNING", "COMPLETE")),
        *(("bronze.fx_rates", state) for state in ("START", "RUNNING", "COMPLETE")),  # the replay
        *(("silver.fx_rates", state) for state in ("START", "RUNNING", "COMPLETE")),  # and not the run after it
        *(("silver.fx_rates", state) for state in ("START", "FAIL")),
        ("bronze_to_silver", "FAIL"),
    ]
    first, silver, replay, silver_again = (one for one in events if one["eventType"] == "COMPLETE")
    fx, bronze, lane = str(settings.files.fx_rates), lake.table("bronze.fx_rates"), lake.lane("bronze")
    own = f"{lane}/flow=bronze.fx_rates"
    assert ([one["name"] for one in first["inputs"]], rows_of(first)) == ([fx, own], {bronze: 2, own: 1})
    assert rows_of(replay) == {bronze: 1, own: 0}
    assert own in [one["name"] for one in replay["inputs"]]
    assert version_of(first, own) == "1"
    assert version_of(replay, own) is None
    assert version_of(replay, bronze) == str(table_version(spark, bronze) - 1)  # then four rows were put there by hand
    table = lake.table("silver.fx_rates")
    assert (silver["inputs"][0]["name"], rows_of(silver)[table]) == (bronze, 1)
    assert version_of(silver_again, table) == str(table_version(spark, table))
    assert checks_of(silver) == {"no rate above 5": False, "row_count < 4": True}
    assert checks_of(silver_again) == {"no rate above 5": True, "row_count < 4": True}
    assert columns_of(silver)["rate"] == {"fx_rates.rate": {"IDENTITY"}}
    failed = next(one for one in events if one["eventType"] == "FAIL")
    assert "[BATCH_REFUSED]" in failed["run"]["facets"]["errorMessage"]["message"]
    assert failed["run"]["facets"]["parent"]["run"]["runId"] == events[0]["run"]["runId"]


def record(day: int, value: Any) -> dict[str, Any]:
    made = {"rate_date": f"2025-01-{day:02d}", "base_currency": "EUR", "quote_currency": "USD", "rate": value}
    return made | {"published_at": f"2025-01-{day:02d}T15:00:00Z"}


def land(folder: Path, name: str, rates: list[tuple[int, Any]]) -> None:
    (folder / "fx").mkdir(exist_ok=True)
    (folder / "fx" / name).write_text(json.dumps([record(day, value) for day, value in rates]))


def rows_of(event: dict[str, Any]) -> dict[str, int]:
    return {one["name"]: one["outputFacets"]["outputStatistics"]["rowCount"] for one in event["outputs"]}


def version_of(event: dict[str, Any], name: str) -> str | None:
    (found,) = (one for one in event["outputs"] if one["name"] == name)
    return found["facets"].get("version", {}).get("datasetVersion")


def checks_of(event: dict[str, Any]) -> dict[str, bool]:
    assertions = event["outputs"][0]["facets"]["dataQualityAssertions"]["assertions"]
    return {one["name"]: one["success"] for one in assertions}
