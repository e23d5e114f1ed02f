"""Silver and gold as functions of what arrived: whatever its order, its batches and its repetitions."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.errors import FatalError
from streams.micro_batch import BatchHeldError
from streams.transforms.order_events import LAST_SEQUENCE
from tests.spark.flow_bench import Bench, at, order_event, rate, tombstone

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

ALL = ("silver.order_events", "silver.fx_rates", "gold.fact_orders")
KINDS = ("created", "paid", "shipped", "delivered", "cancelled", "refunded")

events = st.builds(
    lambda order, step, version, amount, currency, minutes: order_event(
        order, step + 1, KINDS[step], minutes=minutes, amount=amount, version=version, currency=currency
    ),
    st.integers(1, 4),
    st.integers(0, 5),
    st.integers(0, 1),
    st.sampled_from(["10.00", "0.01", "99.99"]),
    st.sampled_from(["USD", "GBP"]),
    st.sampled_from([0, 0, 1440, 2880]),
)
tombstones = st.builds(tombstone, st.integers(4, 5), st.sampled_from([0, 60]))
rates = st.builds(
    lambda day, value, revision, currency: rate(day, value, revision=revision, currency=currency),
    st.integers(4, 9),
    st.sampled_from(["1.05", "1.25", "2"]),
    st.integers(0, 2),
    st.sampled_from(["USD", "GBP"]),
)
arrivals = st.lists(st.one_of(events, events, tombstones, rates), min_size=4, max_size=24)


@settings(
    max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(arrived=arrivals, seed=st.integers(0, 2**16))
def test_order_split_and_repetition_do_not_matter(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, arrived: list[dict[str, Any]], seed: int
) -> None:
    chance = random.Random(seed)
    sorted_once = run_in_batches(spark, tmp_path_factory.mktemp("sorted"), [arrived])
    repeated = arrived + chance.sample(arrived, len(arrived) // 2)
    chance.shuffle(repeated)
    size = -(-len(repeated) // 2)
    parts = [repeated[start : start + size] for start in range(0, len(repeated), size)]
    shuffled = run_in_batches(spark, tmp_path_factory.mktemp("shuffled"), parts)
    for table in ALL:
        assert shuffled.rows(table) == sorted_once.rows(table), table
    assert model(arrived) == {
        row["order_id"]: (row["status"], row["amount"], row["reporting_amount"])
        for row in shuffled.rows("gold.fact_orders")
    }
    for bench in (sorted_once, shuffled):
        assert_every_row_is_accounted_for(bench)


def run_in_batches(spark: SparkSession, folder: Path, batches: list[list[dict[str, Any]]]) -> Bench:
    bench = Bench.at(spark, folder)
    for batch in batches:
        for table, contract, column in (
            ("bronze.order_events", "kafka_events", None),
            ("bronze.fx_rates", "fx_rates", "rate"),
        ):
            bench.put(table, contract, [row for row in batch if ("rate" in row) == (column is not None)])
        bench.run(*ALL)
    return bench


def assert_every_row_is_accounted_for(bench: Bench) -> None:
    for row in bench.all_rows(bench.service.lake.audit):
        assert row["rows_read"] == row["rows_written"] + row["rows_duplicate"] + row["rows_stale"] + row["rows_error"]


def model(arrived: list[dict[str, Any]]) -> dict[str, tuple[str, Decimal | None, Decimal | None]]:
    """What gold must hold, in plain Python, from the words of the promises."""
    kept: dict[str, dict[str, Any]] = {}
    quotes: dict[tuple[str, dt.date], dict[str, Any]] = {}
    for row in arrived:
        if "rate" in row:
            known = quotes.setdefault((row["quote_currency"], row["rate_date"]), row)
            if (row["published_at"], row["rate"]) > (known["published_at"], known["rate"]):
                quotes[row["quote_currency"], row["rate_date"]] = row
            continue
        event = row
        if row.get("_is_tombstone"):
            event = {
                "event_id": f"tombstone:{row['_key']}",
                "order_id": row["_key"],
                "sequence": LAST_SEQUENCE,
                "event_type": "deleted",
                "occurred_at": row["_source_time"],
            }
        known = kept.setdefault(event["event_id"], event)
        if newness(event) > newness(known):
            kept[event["event_id"]] = event
    orders: dict[str, list[dict[str, Any]]] = {}
    for event in kept.values():
        orders.setdefault(event["order_id"], []).append(event)
    return {order: state(of, quotes) for order, of in orders.items()}


def newness(event: dict[str, Any]) -> tuple[Any, ...]:
    """Sequence first, then the other columns in the table's order; what is missing is smallest."""
    others = (
        event.get(name) for name in ("order_id", "event_type", "customer_id", "quantity", "amount", "currency", "note")
    )
    return (
        event["sequence"],
        event["occurred_at"],
        *((value is not None, value if value is not None else 0) for value in others),
    )


def state(
    events: list[dict[str, Any]], quotes: dict[tuple[str, dt.date], dict[str, Any]]
) -> tuple[str, Decimal | None, Decimal | None]:
    newest = max(events, key=lambda event: (event["sequence"], event["occurred_at"], event["event_id"]))
    if newest["event_type"] == "deleted":
        return "deleted", None, None
    created = [event for event in events if event["event_type"] == "created"]
    if not created:
        return newest["event_type"], None, None
    order = max(created, key=lambda event: (event["sequence"], event["occurred_at"], event["event_id"]))
    days = [day for currency, day in quotes if currency == order["currency"] and day <= order["occurred_at"].date()]
    if not days:
        return newest["event_type"], order["amount"], None
    quote = quotes[order["currency"], max(days)]["rate"]
    cents = (200 * order["amount"] + quote) // (2 * quote)
    return newest["event_type"], order["amount"], Decimal(int(cents)) / 100


def test_a_late_and_a_corrected_rate_restate_what_they_touch(spark: SparkSession, tmp_path: Path) -> None:
    bench = Bench.at(spark, tmp_path)
    bench.put("bronze.fx_rates", "fx_rates", [rate(3, "2")])
    bench.put("bronze.order_events", "kafka_events", [order_event(1, 1), order_event(2, 1, minutes=2880)])
    bench.run(*ALL)
    assert amounts(bench) == {"CD-1": Decimal("5.00"), "CD-2": Decimal("5.00")}
    bench.put("bronze.fx_rates", "fx_rates", [rate(6, "4")])  # late: of both orders' day or before
    bench.put("bronze.fx_rates", "fx_rates", [rate(7, "5")])  # of the second's only
    (_, _, made) = bench.run(*ALL)
    assert amounts(bench) == {"CD-1": Decimal("2.50"), "CD-2": Decimal("2.00")}
    assert made.total("rows_written") == 2
    bench.put("bronze.fx_rates", "fx_rates", [rate(7, "10", revision=1)])  # corrected
    (_, _, made) = bench.run(*ALL)
    assert amounts(bench) == {"CD-1": Decimal("2.50"), "CD-2": Decimal("1.00")}
    assert (made.total("rows_read"), made.total("rows_written")) == (1, 1)


def amounts(bench: Bench) -> dict[str, Decimal | None]:
    return {row["order_id"]: row["reporting_amount"] for row in bench.rows("gold.fact_orders")}


def test_rows_read_are_written_duplicate_or_stale(spark: SparkSession, tmp_path: Path) -> None:
    bench = Bench.at(spark, tmp_path)
    bench.put("bronze.order_events", "kafka_events", [order_event(1, 1, minutes=5), order_event(2, 1)])
    bench.run("silver.order_events")
    newer, older = order_event(2, 1, minutes=9), order_event(1, 1, minutes=1)
    bench.put(
        "bronze.order_events", "kafka_events", [order_event(1, 1, minutes=5), older, newer, newer, order_event(3, 1)]
    )
    (run,) = bench.run("silver.order_events")
    found = {
        name: run.total(name) for name in ("rows_read", "rows_written", "rows_duplicate", "rows_stale", "rows_error")
    }
    assert found == {"rows_read": 5, "rows_written": 2, "rows_duplicate": 2, "rows_stale": 1, "rows_error": 0}


def test_nothing_new_writes_nothing(spark: SparkSession, tmp_path: Path) -> None:
    bench = Bench.at(spark, tmp_path)
    bench.put("bronze.order_events", "kafka_events", [order_event(1, 1)])
    bench.run(*ALL)
    before = [
        len(bench.spark.sql(f"DESCRIBE HISTORY delta.`{bench.service.lake.table(table)}`").collect()) for table in ALL
    ]
    assert [len(run.audits) for run in bench.run(*ALL)] == [0, 0, 0]
    assert before == [
        len(bench.spark.sql(f"DESCRIBE HISTORY delta.`{bench.service.lake.table(table)}`").collect()) for table in ALL
    ]


CHECKS = """
checks for order_events:
  - invalid_count(amount) = 0:
      name: amount is not above 50
      valid max: 50
  - row_count < 3
"""


@pytest.fixture
def contracts(tmp_path: Path) -> Path:
    """The project's contracts with other checks for the order events."""
    import shutil
    from pathlib import Path as P

    copy = tmp_path / "contracts"
    shutil.copytree(P(__file__).parents[2] / "contracts", copy)
    (copy / "soda/silver/order_events.yml").write_text(CHECKS)
    return copy


def test_a_row_that_a_check_names_waits_and_the_others_go_on(
    spark: SparkSession, tmp_path: Path, contracts: Path
) -> None:
    bench = Bench.at(spark, tmp_path, contracts_root=str(contracts))
    odd = order_event(2, 1, amount="51.00") | {"occurred_at": at(0) + dt.timedelta(microseconds=123457)}
    bench.put("bronze.order_events", "kafka_events", [order_event(1, 1), odd])
    (run,) = bench.run("silver.order_events")
    assert (run.total("rows_written"), run.total("rows_error")) == (1, 1)
    (waiting,) = bench.all_rows(bench.service.lake.lane("silver"))
    assert (waiting["status"], waiting["violations"][0]["value"]) == ("waiting", "amount is not above 50")
    (contracts / "soda/silver/order_events.yml").write_text(CHECKS.replace("50", "60"))
    from streams.quality.error_lane import settle

    assert settle(bench.spark, bench.service.lake.lane("silver"), "replayed", ids=[waiting["error_id"]]) == 1
    assert settle(bench.spark, bench.service.lake.lane("silver"), "replayed", ids=[waiting["error_id"]]) == 0
    (run,) = bench.run("silver.order_events")
    assert run.total("rows_written") == 1
    found = {row["order_id"]: row for row in bench.rows("silver.order_events")}
    assert {order: row["amount"] for order, row in found.items()} == {
        "CD-1": Decimal("10.00"),
        "CD-2": Decimal("51.00"),
    }
    assert found["CD-2"]["occurred_at"].microsecond == 123457


@pytest.mark.parametrize(("on_breach", "error"), [("stop", FatalError), ("hold", BatchHeldError)])
def test_a_breach_of_the_whole_batch(
    spark: SparkSession, tmp_path: Path, contracts: Path, on_breach: str, error: type[Exception]
) -> None:
    bench = Bench.at(
        spark, tmp_path, contracts_root=str(contracts), flows={"silver.order_events": {"on_breach": on_breach}}
    )
    bench.put("bronze.order_events", "kafka_events", [order_event(order, 1) for order in range(1, 5)])
    with pytest.raises(error):
        bench.run("silver.order_events")
    assert bench.rows("silver.order_events") == []
    (contracts / "soda/silver/order_events.yml").write_text(CHECKS.replace("row_count < 3", "row_count < 9"))
    bench.run("silver.order_events")
    assert len(bench.rows("silver.order_events")) == 4


def test_a_breach_that_only_warns(spark: SparkSession, tmp_path: Path, contracts: Path) -> None:
    bench = Bench.at(
        spark, tmp_path, contracts_root=str(contracts), flows={"silver.order_events": {"on_breach": "warn"}}
    )
    bench.put("bronze.order_events", "kafka_events", [order_event(order, 1) for order in range(1, 5)])
    bench.run("silver.order_events")
    assert len(bench.rows("silver.order_events")) == 4
    (audit,) = bench.all_rows(bench.service.lake.audit)
    assert {check["outcome"] for check in audit["checks"]} == {"pass", "fail"}
    assert at(0) < audit["finished_at"].replace(tzinfo=dt.UTC)
