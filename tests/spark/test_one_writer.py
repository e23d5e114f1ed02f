"""One writer a flow: who comes second stands by, attaches, or takes over; who was slow is refused."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyspark.sql import functions as F

from streams.errors import FatalError, RetriableError
from streams.flows import all_flows
from streams.micro_batch import process as process_batch
from streams.settings import FlowSettings
from streams.small_files import small_files
from streams.supervisor.attach import run_or_attach
from streams.supervisor.control import Control
from streams.supervisor.lease import Holder, LeaseLostError, Leases
from streams.supervisor.run import drain
from streams.supervisor.supervisor import State, Supervisor
from tests.spark.flow_bench import Bench
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyspark.sql import SparkSession

    from streams.flows.flow import Flow
    from streams.micro_batch import MicroBatch, Outcome, Processor
    from streams.supervisor.service import Service

FLOW = "bronze.fx_rates"


@pytest.fixture
def bench(spark: SparkSession, tmp_path: Path) -> Bench:
    (tmp_path / "fx").mkdir()
    bench = Bench.at(
        spark,
        tmp_path,
        restart={"first_pause_seconds": 0.1, "max_pause_seconds": 0.2, "max_restarts": 3, "stall_seconds": 3},
        flow_defaults={"poll_seconds": 0.1},
    )
    land(bench, "USD")
    return bench


@pytest.fixture
def process(bench: Bench) -> Iterator[Callable[[str], Service]]:
    """Makes another process's service on the lake. Its beats are real; that it is in this process nobody can see."""
    made: list[Leases] = []

    def make(name: str) -> Service:
        made.append(Leases(small_files(bench.service.settings.checkpoints.root), Holder(name, name, 1), 4))
        return replace(bench.service, run_id=name, leases=made[-1], draining=threading.Event(), _made=set())

    yield make
    for leases in made:
        leases.close()


def land(bench: Bench, currency: str) -> None:
    record = {"rate_date": "2025-01-03", "base_currency": "EUR", "quote_currency": currency, "rate": 2}
    file = Path(str(bench.service.settings.files.fx_rates)) / f"{currency}.json"
    file.write_text(json.dumps(record | {"published_at": "2025-01-03T15:00:00Z"}))


def currencies(bench: Bench) -> list[str]:
    return sorted(row["quote_currency"] for row in bench.rows(FLOW))


def declared(service: Service) -> Flow:
    return all_flows(service.settings)[FLOW]


def test_a_second_supervisor_stands_by_and_takes_over(bench: Bench, process: Callable[[str], Service]) -> None:
    first, second = (Supervisor([declared(bench.service)], process(name)) for name in ("first", "second"))
    first.start()
    wait_until(lambda: first.states()[FLOW] is State.WAITING)
    second.start()
    wait_until(lambda: second.states()[FLOW] is State.STANDBY)
    land(bench, "GBP")
    wait_until(lambda: currencies(bench) == ["GBP", "USD"])
    assert second.reports()[FLOW].batches == 0
    report = first.control.report
    wait_until(lambda: (said := report()) is not None and said.flows[FLOW].holder == "first")
    assert first.drain(60)

    wait_until(lambda: second.states()[FLOW] is State.WAITING)
    land(bench, "CHF")
    wait_until(lambda: currencies(bench) == ["CHF", "GBP", "USD"])
    wait_until(lambda: (said := report()) is not None and said.flows[FLOW].holder == "second")
    assert second.drain(60)
    audits = bench.all_rows(bench.service.lake.audit)
    assert sorted(row["run_id"] for row in audits) == ["first", "first", "second"]


def no_spark() -> SparkSession:
    raise AssertionError("who only waits starts no Spark")


def test_a_daily_job_attaches_to_the_supervisor_that_holds_its_flow(
    bench: Bench, process: Callable[[str], Service]
) -> None:
    supervisor = Supervisor([declared(bench.service)], process("service"))
    supervisor.start()
    try:
        control = supervisor.control
        wait_until(lambda: (said := control.report()) is not None and said.flows[FLOW].rows_written == 1)
        land(bench, "GBP")
        task = replace(process("task"), session=no_spark)
        run = run_or_attach(declared(task), task)
        assert run.is_through
        assert run.audits == []
        assert currencies(bench) == ["GBP", "USD"]
        assert (run.batches, run.total("rows_written")) == (1, 1)
        assert {row["run_id"] for row in bench.all_rows(bench.service.lake.audit)} == {"service"}

        supervisor.control.pause(FLOW)
        wait_until(lambda: supervisor.states()[FLOW] is State.PAUSED)
        with pytest.raises(FatalError) as caught:
            run_or_attach(declared(task), task)
        assert caught.value.code == "FLOW_PAUSED"
    finally:
        assert supervisor.drain(60)


def test_an_attached_job_takes_over_when_the_supervisor_dies(bench: Bench, process: Callable[[str], Service]) -> None:
    dying = process("dying")
    assert dying.leases is not None
    assert dying.leases.acquire(FLOW)
    task, runs = process("task"), []
    waiting = threading.Thread(target=lambda: runs.append(run_or_attach(declared(task), task)))
    waiting.start()
    waiting.join(1)
    assert waiting.is_alive()
    dying.leases._ended.set()  # it beats no more
    waiting.join(60)
    assert [run.total("rows_written") for run in runs] == [1]


def test_a_flow_that_failed_under_its_supervisor_fails_the_job_with_the_same_words(
    bench: Bench, process: Callable[[str], Service]
) -> None:
    holder, task = process("service"), process("task")
    assert holder.leases is not None
    assert holder.leases.acquire(FLOW)
    control = Control(small_files(bench.service.settings.checkpoints.root))
    supervisor = Supervisor([broken(bench.service)], holder)
    supervisor.start()
    wait_until(lambda: (said := control.report()) is not None and said.flows[FLOW].state == "failed")
    # Failed flows are left to whoever mends them: the task tries it itself.
    assert run_or_attach(declared(task), task).total("rows_written") == 1
    assert supervisor.drain(60)


@dataclass(frozen=True)
class Meddling:
    """A processor in whose middle something happens."""

    inner: Processor
    happens: list[Callable[[MicroBatch], None]] = field(default_factory=list)

    def run(self, batch: MicroBatch) -> Outcome:
        if self.happens:
            self.happens.pop(0)(batch)
        return self.inner.run(batch)


def meddled(service: Service, *happens: Callable[[MicroBatch], None]) -> Flow:
    flow = declared(service)
    return replace(flow, processor=Meddling(flow.processor, list(happens)))


def test_a_daily_job_tries_again_what_may_pass_and_counts_all_of_it_once(
    bench: Bench, process: Callable[[str], Service]
) -> None:
    tried: list[str] = []

    def fail(_: MicroBatch) -> None:
        tried.append("failed")
        raise OSError("Python worker failed to connect back.")

    task, one_by_one = process("task"), {"flow_defaults": FlowSettings(max_files_per_batch=1)}
    task = replace(task, settings=task.settings.model_copy(update=one_by_one))
    land(bench, "GBP")
    flow = meddled(task, lambda _: tried.append("well"), fail, fail)
    run = run_or_attach(flow, task)
    assert tried == ["well", "failed", "failed"]
    assert (run.batches, run.total("rows_written")) == (2, 2)
    assert currencies(bench) == ["GBP", "USD"]

    land(bench, "CHF")
    with pytest.raises(RetriableError, match="failed to connect back"):
        run_or_attach(meddled(task, *([fail] * 9)), task)
    assert tried.count("failed") == 2 + task.settings.restart.job_attempts
    assert currencies(bench) == ["GBP", "USD"]


def broken(service: Service) -> Flow:
    def fail(_: MicroBatch) -> None:
        raise FatalError("LOST", "It is lost.")

    return meddled(service, *([fail] * 9))


def test_what_a_slow_holder_still_writes_is_refused(bench: Bench) -> None:
    """Stopped before its first write, taken over from, and gone on before it looks whether it still holds the flow."""
    land(bench, "not a currency")
    slow: list[MicroBatch] = []
    flow = meddled(bench.service, lambda batch: slow.append(replace(batch, rows=batch.rows.localCheckpoint())))
    assert drain(flow, bench.service).total("rows_written") == 1
    lake = bench.service.lake
    before = [bench.all_rows(path) for path in (lake.table(FLOW), lake.lane("bronze"), lake.audit)]
    assert [len(rows) for rows in before] == [1, 1, 1]

    def is_lost() -> None:
        raise LeaseLostError("LEASE_LOST", "Another process holds it.")

    processor, results = declared(bench.service).processor, bench.service.settings.dq_results_root
    with pytest.raises(RetriableError) as caught:
        process_batch(processor, slow[0], lake.audit, results)
    assert caught.value.code == "BATCH_WRITTEN_ELSEWHERE"
    with pytest.raises(LeaseLostError):
        process_batch(processor, replace(slow[0], fence=is_lost), lake.audit, results)
    assert [bench.all_rows(path) for path in (lake.table(FLOW), lake.lane("bronze"), lake.audit)] == before


def test_a_batch_in_which_nothing_moves_is_ended_and_tried_again(bench: Bench) -> None:
    def sleep(batch: MicroBatch) -> None:
        batch.spark.range(1).select(F.expr("java_method('java.lang.Thread', 'sleep', 600000L)")).collect()

    supervisor = Supervisor([meddled(bench.service, sleep)], bench.service)
    supervisor.start()
    try:
        wait_until(lambda: supervisor.states()[FLOW] is State.BACKING_OFF or currencies_if_there(bench) == ["USD"])
        wait_until(lambda: supervisor.states()[FLOW] is State.WAITING)
        assert currencies(bench) == ["USD"]
    finally:
        assert supervisor.drain(60)


def currencies_if_there(bench: Bench) -> Any:
    try:
        return currencies(bench)
    except Exception:
        return None


def test_nothing_is_left_behind(bench: Bench, process: Callable[[str], Service]) -> None:
    service = process("job")
    assert run_or_attach(declared(service), service).total("rows_written") == 1
    assert service.leases is not None
    with closing(service.leases):
        pass
    kept = json.loads((Path(bench.service.settings.checkpoints.root) / "_control" / "leases.json").read_text())
    assert kept == {"holders": {}, "flows": {}}
