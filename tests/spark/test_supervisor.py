"""The supervisor on real flows whose source has moods: what is tried again, what is not, and that others go on."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from streams.delta_log import has_table
from streams.errors import FatalError, RetriableError, UnavailableError
from streams.flows import all_flows
from streams.small_files import small_files
from streams.sources.files import FileSource
from streams.supervisor.control import Control
from streams.supervisor.supervisor import State, Supervisor
from tests.spark.flow_bench import Bench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyspark.sql import SparkSession

    from streams.flows.flow import Flow


@dataclass(frozen=True)
class MoodySource(FileSource):
    """Files, behind a source that raises what it is told to before it answers."""

    moods: list[Exception] = field(default_factory=list)

    def position(self, spark: SparkSession) -> Any:
        if self.moods:
            raise self.moods.pop(0)
        return super().position(spark)


@pytest.fixture
def bench(spark: SparkSession, tmp_path: Path) -> Bench:
    (tmp_path / "fx").mkdir()
    record = {"rate_date": "2025-01-03", "base_currency": "EUR", "quote_currency": "USD", "rate": 2}
    (tmp_path / "fx" / "1.json").write_text(json.dumps(record | {"published_at": "2025-01-03T15:00:00Z"}))
    restart = {"first_pause_seconds": 0.01, "max_pause_seconds": 0.02, "max_restarts": 3}
    return Bench.at(spark, tmp_path, restart=restart, flow_defaults={"poll_seconds": 0.1})


def moody(bench: Bench, moods: list[Exception]) -> Flow:
    flow = all_flows(bench.service.settings)["bronze.fx_rates"]
    source = MoodySource(bench.service.settings.files.fx_rates, moods=moods)
    return replace(flow, inputs=(replace(flow.inputs[0], source=source), *flow.inputs[1:]))


@pytest.fixture
def supervise(bench: Bench) -> Iterator[Callable[..., Supervisor]]:
    started: list[Supervisor] = []

    def start(*flows: Flow) -> Supervisor:
        started.append(Supervisor(flows, bench.service))
        started[-1].start()
        return started[-1]

    yield start
    for supervisor in started:
        assert supervisor.drain(60)
        assert set(supervisor.states().values()) <= {State.STOPPED, State.FAILED}


def wait_for(supervisor: Supervisor, flow: str, state: State) -> None:
    deadline = time.monotonic() + 180
    while supervisor.states()[flow] is not state:
        assert time.monotonic() < deadline, (supervisor.states(), supervisor.errors())
        supervisor.wait(0.05)


def test_what_may_pass_is_tried_again(bench: Bench, supervise: Callable[..., Supervisor]) -> None:
    supervisor = supervise(moody(bench, [RetriableError("A", "one"), RuntimeError("two")]))
    wait_for(supervisor, "bronze.fx_rates", State.WAITING)
    assert [row["quote_currency"] for row in bench.rows("bronze.fx_rates")] == ["USD"]
    assert supervisor.errors() == {}


def test_what_will_not_pass_stops_its_flow_and_no_other(bench: Bench, supervise: Callable[..., Supervisor]) -> None:
    silver = all_flows(bench.service.settings)["silver.fx_rates"]
    supervisor = supervise(moody(bench, [FatalError("LOST", "It is lost.")]), silver)
    wait_for(supervisor, "bronze.fx_rates", State.FAILED)
    wait_for(supervisor, "silver.fx_rates", State.WAITING)
    assert "LOST" in supervisor.errors()["bronze.fx_rates"]


def test_what_fails_too_often_is_left_to_a_person(bench: Bench, supervise: Callable[..., Supervisor]) -> None:
    supervisor = supervise(moody(bench, [RuntimeError(str(number)) for number in range(9)]))
    wait_for(supervisor, "bronze.fx_rates", State.FAILED)


def test_what_is_away_is_waited_for(bench: Bench, supervise: Callable[..., Supervisor]) -> None:
    away = [UnavailableError("AWAY", "It is away.") for _ in range(9)]
    supervisor = supervise(moody(bench, away))
    wait_for(supervisor, "bronze.fx_rates", State.WAITING)
    assert len(bench.rows("bronze.fx_rates")) == 1


def test_what_goes_wrong_beside_a_run_does_not_end_the_flow(
    bench: Bench, supervise: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    troubles: list[Exception] = [OSError("the disk is full"), OverflowError("a number is too large")]
    after_failure = Supervisor._on_failure

    def in_trouble(self: Supervisor, *said: Any) -> None:
        if troubles:
            raise troubles.pop()
        after_failure(self, *said)

    monkeypatch.setattr(Supervisor, "_on_failure", in_trouble)
    supervisor = supervise(moody(bench, [RetriableError("A", str(number)) for number in range(3)]))
    wait_for(supervisor, "bronze.fx_rates", State.WAITING)
    assert not troubles


@dataclass(frozen=True)
class SilentSource(FileSource):
    """Says that there is something, and then nothing more until it may."""

    asked: list[None] = field(default_factory=list)
    may: threading.Event = field(default_factory=threading.Event)

    def position(self, spark: SparkSession) -> Any:
        self.asked.append(None)
        if len(self.asked) > 1:
            self.may.wait()
        return super().position(spark)


def test_a_system_that_does_not_answer_keeps_no_other_waiting(bench: Bench) -> None:
    flows = all_flows(bench.service.settings)
    source = SilentSource(bench.service.settings.files.fx_rates)
    bronze, silver = flows["bronze.fx_rates"], flows["silver.fx_rates"]
    silent = replace(bronze, inputs=(replace(bronze.inputs[0], source=source), *bronze.inputs[1:]), waits_for="crm")
    scheduling = bench.service.settings.scheduling.model_copy(update={"flows_at_once": 1, "turn_seconds": 0.1})
    settings = bench.service.settings.model_copy(update={"scheduling": scheduling})
    supervisor = Supervisor([silent, replace(silver, waits_for="clicks")], replace(bench.service, settings=settings))
    supervisor.start()
    try:
        wait_for(supervisor, "bronze.fx_rates", State.RUNNING)
        wait_for(supervisor, "silver.fx_rates", State.WAITING)
        assert supervisor.states()["bronze.fx_rates"] is State.RUNNING
    finally:
        source.may.set()
        assert supervisor.drain(60)


def land(bench: Bench, name: str, currency: str) -> None:
    record = {"rate_date": "2025-01-03", "base_currency": "EUR", "quote_currency": currency, "rate": 2}
    file = Path(str(bench.service.settings.files.fx_rates)) / name
    file.write_text(json.dumps(record | {"published_at": "2025-01-03T15:00:00Z"}))


def currencies(bench: Bench) -> list[str]:
    return sorted(row["quote_currency"] for row in bench.rows("bronze.fx_rates"))


def test_a_paused_flow_waits_until_it_is_resumed_also_under_the_next_service(
    bench: Bench, supervise: Callable[..., Supervisor]
) -> None:
    flow = all_flows(bench.service.settings)["bronze.fx_rates"]
    first = Supervisor([flow], bench.service)
    first.start()
    wait_for(first, flow.name, State.WAITING)
    first.control.pause(flow.name)
    wait_for(first, flow.name, State.PAUSED)
    land(bench, "2.json", "GBP")
    assert first.drain(60)

    bench.service.draining.clear()
    second = supervise(flow)
    wait_for(second, flow.name, State.PAUSED)
    assert currencies(bench) == ["USD"]
    second.control.resume(flow.name)
    wait_for(second, flow.name, State.WAITING)
    assert currencies(bench) == ["GBP", "USD"]
    # What the first one went through is still known.
    said = second.control.report()
    assert said is not None
    assert [one.state for one in said.changes][:3] == ["paused", "stopped", "paused"]


def test_a_flow_that_failed_is_started_again_by_a_person(bench: Bench, supervise: Callable[..., Supervisor]) -> None:
    supervisor = supervise(moody(bench, [FatalError("LOST", "It is lost.", way_out="Look for it.")]))
    wait_for(supervisor, "bronze.fx_rates", State.FAILED)
    found = supervisor.reports()["bronze.fx_rates"]
    assert (found.error, found.code, found.way_out) == ("It is lost.", "LOST", "Look for it.")
    supervisor.control.restart("bronze.fx_rates")
    wait_for(supervisor, "bronze.fx_rates", State.WAITING)
    found = supervisor.reports()["bronze.fx_rates"]
    assert (found.error, found.batches, found.rows_written) == (None, 1, 1)


def test_a_long_pause_after_a_failure_ends_when_a_person_says_so(
    bench: Bench, spark: SparkSession, tmp_path: Path, supervise: Callable[..., Supervisor]
) -> None:
    patient = bench.service.settings.restart.model_copy(update={"first_pause_seconds": 600, "max_pause_seconds": 600})
    settings = bench.service.settings.model_copy(update={"restart": patient})
    slow = replace(bench, service=replace(bench.service, settings=settings))
    supervisor = Supervisor([moody(slow, [RetriableError("AWAY", "It is away.")])], slow.service)
    supervisor.start()
    try:
        wait_for(supervisor, "bronze.fx_rates", State.BACKING_OFF)
        supervisor.control.restart("bronze.fx_rates")
        wait_for(supervisor, "bronze.fx_rates", State.WAITING)
    finally:
        assert supervisor.drain(60)


def test_what_the_service_says_is_there_for_others_to_read(bench: Bench, supervise: Callable[..., Supervisor]) -> None:
    supervisor = supervise(moody(bench, []))
    wait_for(supervisor, "bronze.fx_rates", State.WAITING)
    deadline = time.monotonic() + 120
    while True:
        report = Control(small_files(bench.service.settings.checkpoints.root)).report()
        if report is not None and report.flows["bronze.fx_rates"].state == "waiting":
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process = report.process_of(report.flows["bronze.fx_rates"])
    assert process is not None
    assert (process.run_id, process.pid) == (bench.service.run_id, os.getpid())
    assert report.flows["bronze.fx_rates"].rows_read == 1


def test_tables_are_looked_after_between_batches(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "fx").mkdir()
    bench = Bench.at(spark, tmp_path, flow_defaults={"poll_seconds": 0.1, "max_files_per_batch": 1})
    for name, currency in (("1.json", "USD"), ("2.json", "GBP"), ("3.json", "CHF")):
        land(bench, name, currency)
    bench.run("bronze.fx_rates")
    table = bench.service.lake.table("bronze.fx_rates")
    assert len(spark.read.format("delta").load(table).inputFiles()) == 3

    often = bench.service.settings.maintenance.model_copy(update={"every_hours": 1 / 3600})
    service = replace(bench.service, settings=bench.service.settings.model_copy(update={"maintenance": often}))
    supervisor = Supervisor([all_flows(service.settings)["bronze.fx_rates"]], service)
    supervisor.start()
    try:
        deadline = time.monotonic() + 240
        tables = (table, service.lake.audit)
        while any(len(spark.read.format("delta").load(path).inputFiles()) > 1 for path in tables):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert supervisor.errors() == {}
    finally:
        assert supervisor.drain(60)
    assert currencies(bench) == ["CHF", "GBP", "USD"]
    kept = json.loads((Path(service.settings.checkpoints.root) / "_control" / "maintained.json").read_text())
    assert {"bronze.fx_rates", "error_lane.bronze"} <= kept.keys()


def test_small_files_of_a_busy_table_are_made_one_by_the_way(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.supervisor.upkeep._MOST_BATCHES", 3)
    (tmp_path / "fx").mkdir()
    bench = Bench.at(spark, tmp_path, flow_defaults={"poll_seconds": 0.1, "max_files_per_batch": 1})
    for name, currency in (("1.json", "USD"), ("2.json", "GBP"), ("3.json", "CHF")):
        land(bench, name, currency)
    began = time.time()
    supervisor = Supervisor([all_flows(bench.service.settings)["bronze.fx_rates"]], bench.service)
    supervisor.start()
    table = bench.service.lake.table("bronze.fx_rates")
    try:
        deadline = time.monotonic() + 240
        while supervisor.reports()["bronze.fx_rates"].batches < 3 or len(files(spark, table)) > 1:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        assert supervisor.drain(60)
    assert currencies(bench) == ["CHF", "GBP", "USD"]
    # What its time has not come for is left: the time from which it is counted is kept, though nothing was done.
    kept = json.loads((Path(bench.service.settings.checkpoints.root) / "_control" / "maintained.json").read_text())
    assert kept["bronze.fx_rates"] < began


def files(spark: SparkSession, table: str) -> list[str]:
    return list(spark.read.format("delta").load(table).inputFiles()) if has_table(spark, table) else []
