"""The supervisor on real flows whose source has moods: what is tried again, what is not, and that others go on."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from streams.errors import FatalError, RetriableError, UnavailableError
from streams.flows import all_flows
from streams.sources.files import FileSource
from streams.supervisor.supervisor import State, Supervisor
from tests.spark.flow_bench import Bench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

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
    deadline = time.monotonic() + 60
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
