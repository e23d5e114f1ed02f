"""The status page in a real browser, before a real service that has something to complain about."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import pytest
import requests

from streams.flows import all_flows
from streams.jobs import run_job
from streams.settings import PROJECT, PageSettings
from streams.supervisor.page.recent import Recent
from streams.supervisor.page.server import page_of
from streams.supervisor.supervisor import Supervisor
from tests.browser import CHROMIUM, browser, widest
from tests.spark.flow_bench import Bench
from tests.waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome is in PATH")
SUPERVISED = ("bronze.fx_rates", "silver.fx_rates", "gold.fact_orders")
SOUND = {"rate_date": "2025-01-03", "base_currency": "EUR", "published_at": "2025-01-03T15:00:00Z"}
SCHEMES: tuple[Literal["light"], Literal["dark"]] = ("light", "dark")
ROWS = (
    SOUND | {"quote_currency": "USD", "rate": 1.03},
    SOUND | {"quote_currency": "GBP", "rate": 0.83},
    SOUND | {"quote_currency": "CHF", "rate": -0.94},
    SOUND | {"quote_currency": "no currency", "rate": 1},
)


@dataclass
class Running:
    """A service with its page."""

    bench: Bench
    supervisor: Supervisor
    address: str

    def wait_for(self, flow: str, state: str) -> None:
        wait_until(lambda: self.supervisor.states()[flow].value == state)


def contracts_with(folder: Path, table: str, check: str) -> str:
    """The project's contracts, and one more check for a gate."""
    copied = folder / "contracts"
    shutil.copytree(PROJECT / "contracts", copied)
    with (copied / "soda" / "silver" / f"{table}.gate.yml").open("a") as file:
        file.write(f"\n  - {check}\n")
    return str(copied)


@pytest.fixture(scope="module")
def running(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("page")
    (folder / "fx").mkdir()
    (folder / "fx" / "rates.json").write_text("\n".join(json.dumps(row) for row in ROWS))
    recent = Recent()
    bench = Bench.at(
        spark,
        folder,
        sources={},
        contracts_root=contracts_with(folder, "fx_rates", "row_count > 1000"),
        flow_defaults={"poll_seconds": 0.2},
    )
    settings = bench.service.settings.model_copy(update={"page": PageSettings(port=0)})
    bench = Bench(replace(bench.service, settings=settings, listeners=(recent,)))
    flows = all_flows(settings)
    supervisor = Supervisor([flows[name] for name in SUPERVISED], bench.service)
    supervisor.control.pause("gold.fact_orders")
    supervisor.start()
    with page_of(bench.service, recent, lambda _: None) as address:
        assert address is not None
        made = Running(bench, supervisor, address)
        wait_until(lambda: recent.batches("silver.fx_rates") != ())
        made.wait_for("silver.fx_rates", "waiting")
        made.wait_for("gold.fact_orders", "paused")
        run_job("dq_silver_gate", bench.service)
        yield made
        assert supervisor.drain(60)


@pytest.fixture
def page(running: Running) -> Iterator[Page]:
    with browser() as opened:
        troubles: list[str] = []
        one = opened.new_page(viewport={"width": 1440, "height": 900})
        one.set_default_timeout(PATIENCE * 1000)  # a guard against hangs; a click waits for what Spark does
        one.on("console", lambda said: troubles.append(said.text) if said.type in ("error", "warning") else None)
        one.on("pageerror", lambda error: troubles.append(str(error)))
        one.goto(running.address)
        yield one
        assert troubles == []


def test_what_is_wrong_is_found_from_the_first_page(running: Running, page: Page) -> None:
    needs = page.get_by_role("region", name="Needs a person")
    needs.get_by_text("gold.fact_orders is paused").wait_for()
    needs.get_by_role("link", name="silver’s gate failed").click()
    assert "fail" in page.get_by_role("row").filter(has_text="row_count > 1000").inner_text()
    page.get_by_role("searchbox", name="Where is my row?").fill("2025-01-03|EUR|USD")
    page.keyboard.press("Enter")
    page.wait_for_url("**/find?**")
    shown = page.locator("main").inner_text()
    assert "bronze.fx_rates 1 row" in shown
    assert "silver.fx_rates 1 row" in shown
    assert "gold.fact_orders" not in shown  # a rate makes no order
    page.get_by_role("searchbox", name="Where is my row?").fill("no currency")
    page.keyboard.press("Enter")
    page.wait_for_url("**key=no**")
    assert "bronze.fx_rates Not there: it waits in the error lane." in page.locator("main").inner_text()


def test_it_is_walked_through_by_keyboard(running: Running, page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    page.keyboard.press("Enter")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('href')") == "/flows/silver.fx_rates":
            break
    box = "getComputedStyle(document.activeElement.querySelector('.box')).strokeWidth"
    assert page.evaluate(box) == "3.5px"  # one sees where one is
    page.keyboard.press("Enter")
    page.wait_for_url("**/flows/silver.fx_rates")
    assert "2 2 0 0 0" in " ".join(page.get_by_role("row").nth(1).inner_text().split())


def test_it_brings_what_has_changed_and_leaves_the_reader_where_they_are(running: Running, page: Page) -> None:
    page.goto(f"{running.address}flows/silver.fx_rates")
    page.evaluate("window.isStillThere = true")
    page.get_by_role("button", name="Restart silver.fx_rates").focus()
    running.supervisor.control.pause("silver.fx_rates")
    page.locator("h1").filter(has_text="paused").wait_for()
    assert page.evaluate("window.isStillThere")
    assert page.evaluate("document.activeElement.id") == "restart-silver.fx_rates"
    page.get_by_role("button", name="Resume silver.fx_rates").click()
    assert "It goes on within seconds." in page.locator("main").inner_text()
    running.wait_for("silver.fx_rates", "waiting")


def test_it_fits_a_phone_and_the_night(running: Running, page: Page) -> None:
    page.set_viewport_size({"width": 375, "height": 812})
    lane = page.context.request.get(f"{running.address}lane").text()
    row = lane.partition('name="row-')[2][:16]
    for path in ("", "flows/bronze.fx_rates", "lane", f"lane/{row}", "gates", "find?key=2025-01-03|EUR|USD"):
        page.goto(running.address + path)
        assert widest(page) <= 375, path
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            ground, text = (
                page.evaluate(f"getComputedStyle(document.body).{one}") for one in ("backgroundColor", "color")
            )
            assert (light(ground) > light(text)) == (scheme == "light"), (path, scheme)


def light(colour: str) -> float:
    return sum(float(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


def test_a_row_is_mended_and_replayed_by_clicks_and_arrives(running: Running, page: Page) -> None:
    page.goto(f"{running.address}lane?flow=bronze.fx_rates&code=exclusive_minimum")
    page.get_by_role("row").filter(has_text="exclusive_minimum").get_by_role("link").first.click()
    page.wait_for_url("**/lane/*")
    assert "-0.94" not in page.locator("pre").inner_text()
    page.get_by_role("button", name="Show it as it came").click()
    came = page.get_by_label("The mended row").input_value()
    assert json.loads(came)["rate"] == -0.94
    page.get_by_label("The mended row").fill(came.replace("-0.94", "0.94"))
    page.get_by_role("button", name="Replay").click()
    page.get_by_text("It has arrived in bronze.fx_rates").wait_for()
    rates = {row["quote_currency"]: float(row["rate"]) for row in running.bench.rows("bronze.fx_rates")}
    assert rates == {"USD": 1.03, "GBP": 0.83, "CHF": 0.94}


def test_looking_at_flows_and_gates_costs_no_spark_job(running: Running, page: Page) -> None:
    spark = running.bench.spark
    for flow in ("bronze.fx_rates", "silver.fx_rates"):
        running.wait_for(flow, "waiting")
    before = jobs_so_far(spark)
    for path in ("", "flows/silver.fx_rates", "flows/bronze.fx_rates", "gates", "api/status", "readyz"):
        assert page.context.request.get(running.address + path).ok
    assert jobs_so_far(spark) == before


def jobs_so_far(spark: SparkSession) -> int:
    assert spark._jvm is not None
    return int(spark.sparkContext._jsc.sc().dagScheduler().numTotalJobs())


def test_a_page_without_a_port_stops_nothing(running: Running) -> None:
    taken = PageSettings(port=int(running.address.rstrip("/").rpartition(":")[2]))
    settings = running.bench.service.settings.model_copy(update={"page": taken})
    said: list[str] = []
    with page_of(replace(running.bench.service, settings=settings), Recent(), said.append) as address:
        assert address is None
    assert "page.port" in said[0]


def test_what_was_before_is_known_to_the_next_process(running: Running) -> None:
    later = Recent()
    with page_of(running.bench.service, later, lambda _: None) as address:
        assert requests.get(str(address), timeout=10).ok
        wait_until(lambda: later.counted_at is not None)
    (audit, *_) = later.batches("silver.fx_rates")
    assert (audit.counts.rows_read, audit.counts.rows_written) == (2, 2)
    assert audit.checks
    assert later.waiting("bronze.fx_rates") >= 1
