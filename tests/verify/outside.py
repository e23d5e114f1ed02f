"""Faults from outside the process: what the service talks to is away, slow, cut off or gone, and its disk is full."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from streams.errors import ConfigurationError, FatalError, StreamsError
from streams.failpoints import FailpointError
from streams.supervisor.resume import resume_after_loss
from tests.verify.proxy import Fault
from tests.verify.workers import RefusedError, WorkerGoneError, armed
from tests.verify.workload import EVENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.verify.cell import Cell, InProcess, Killed


@dataclass(frozen=True)
class Scenario:
    """One fault from outside.

    Args:
        kind: for the report.
        flow: which flow it strikes.
        what: in words.
        run: has it strike a cell.
    """

    kind: str
    flow: str
    what: str
    run: Callable[[Cell, InProcess], None]


def scenarios(stall_seconds: float) -> list[Scenario]:
    """Every one that can be tried in one process; `stall_seconds` is how long what stands still does so."""
    return [
        *_line_scenarios(),
        Scenario(
            "broker", EVENTS, "killed, started again later", lambda cell, runner: broker_away(cell, runner, kill=True)
        ),
        Scenario("broker", EVENTS, "restarted in a batch", broker_restarted),
        Scenario(
            "broker", EVENTS, "stands still", lambda cell, runner: broker_stands_still(cell, runner, stall_seconds)
        ),
        Scenario("broker", EVENTS, "topic recreated", topic_recreated),
        Scenario("broker", EVENTS, "offsets aged out", offsets_aged_out),
        Scenario("clock", "bronze.crm_accounts", "Salesforce's set back", clock_set_back),
        Scenario(
            "worker killed",
            "bronze.snowflake_orders",
            "a reader of Snowflake",
            lambda c, r: reader_killed(c, r, "bronze.snowflake_orders"),
        ),
        Scenario(
            "worker killed",
            "bronze.redshift_behavior",
            "a reader of Redshift",
            lambda c, r: reader_killed(c, r, "bronze.redshift_behavior"),
        ),
        Scenario(
            "worker killed",
            "bronze.crm_contacts",
            "a reader of Salesforce",
            lambda c, r: reader_killed(c, r, "bronze.crm_contacts"),
        ),
        Scenario(
            "worker killed",
            "redshift.fact_orders",
            "a writer to Redshift",
            lambda c, r: reader_killed(c, r, "redshift.fact_orders"),
        ),
    ]


_PULL_S3, _LOAD_S3 = "bronze.redshift_behavior", "redshift.fact_orders"
_LINES: Final = (
    # line, ways, what, flow, how often
    ("s3", ("500", "503", "before", "after", "late"), r"^PUT", _LOAD_S3, 1),
    ("s3", ("500", "503", "before", "half", "late"), r"^GET /[^?]*parquet", _PULL_S3, 1),
    ("s3", ("503", "before"), r"list-type", _LOAD_S3, 1),
    ("s3", ("503", "after"), r"^POST .*delete", _LOAD_S3, 1),
    ("s3", ("503",), r"", _LOAD_S3, 40),
    ("redshift", ("before", "in", "after", "late"), r"COMMIT", "redshift.fact_orders", 1),
    ("redshift", ("before", "in", "after"), r"COPY ", "redshift.dim_customer", 1),
    ("redshift", ("before", "after"), r"MERGE ", "redshift.dim_product", 1),
    ("redshift", ("before", "after", "late"), r"UNLOAD", _PULL_S3, 1),
    ("redshift", ("before",), r"BEGIN", "redshift.fact_orders", 20),
    ("snowflake", ("500", "before", "in", "after", "late"), r"COMMIT", "snowflake.fact_orders", 1),
    ("snowflake", ("503", "before"), r"COPY INTO", "snowflake.dim_customer", 1),
    ("snowflake", ("503", "before"), r"MERGE INTO", "snowflake.dim_product", 1),
    ("snowflake", ("500", "before", "half"), r"login-request", "snowflake.fact_orders", 1),
    ("snowflake", ("500", "before", "after", "half"), r"SELECT .*FROM .*PRODUCTS", "bronze.snowflake_products", 1),
    ("salesforce", ("500", "503", "before", "after", "late"), r"/query", "bronze.crm_accounts", 1),
    ("salesforce", ("500", "before", "half"), r"/oauth2/token", "bronze.crm_contacts", 1),
    ("salesforce", ("503", "half"), r"describe", "bronze.crm_opportunities", 1),
    ("salesforce", ("500",), r"", "bronze.crm_accounts", 30),
)


def _line_scenarios() -> list[Scenario]:
    def scenario(line: str, way: str, what: str, flow: str, times: int) -> Scenario:
        said = f"{way} at {what.strip('^ ') or 'everything'}" + (f", {times} times" if times > 1 else "")
        return Scenario(line, flow, said, lambda c, r: line_fails(c, r, line, flow, Fault(way, what, times), said))

    return [scenario(line, way, what, flow, times) for line, ways, what, flow, times in _LINES for way in ways]


def line_fails(cell: Cell, runner: InProcess, line: str, flow: str, fault: Fault, said: str) -> None:
    """A line fails while a flow uses it."""
    proxy = getattr(cell.stack.lines, line)

    @contextmanager
    def failing() -> Iterator[None]:
        proxy.fault = fault
        try:
            yield
        finally:
            proxy.fault = None

    strike(cell, runner, line, said, flow, failing, was_met=lambda: fault.met > 0)


def strike(
    cell: Cell,
    runner: InProcess,
    kind: str,
    said: str,
    flow: str,
    fault: Callable[[], object],
    was_met: Callable[[], bool] = lambda: True,
) -> None:
    """Run a flow while something is wrong, and again when it is not."""
    cell.give_work(runner, flow)
    outcome = "went through"
    with fault():  # type: ignore[attr-defined]
        try:
            cell.run(runner, [flow])
        except StreamsError as error:
            outcome = error.code
            if isinstance(error, FatalError | ConfigurationError):
                cell.tally.failed(f"{flow} gave up for good at what passes by itself ({kind}, {said}): {error}")
    began = time.monotonic()
    if outcome != "went through":
        cell.pending.add(flow)
        cell.catch_up(runner, flow)
    if was_met():
        cell.struck(kind, f"{flow}: {said}: {outcome}", time.monotonic() - began)
    else:
        cell.tally.missed(kind)


# --- the broker ---


def broker_away(cell: Cell, runner: InProcess, *, kill: bool) -> None:
    """The broker is gone when the flow begins, and comes back."""
    broker = cell.stack.broker

    @contextmanager
    def away() -> Iterator[None]:
        broker.kill() if kill else broker.stop()
        try:
            yield
        finally:
            broker.start()

    strike(cell, runner, "broker", "away", EVENTS, away)


def broker_restarted(cell: Cell, runner: InProcess) -> None:
    """The broker is killed and started again while a batch is read."""
    broker = cell.stack.broker

    @contextmanager
    def restarting() -> Iterator[None]:
        def restart() -> None:
            time.sleep(cell.chance.uniform(0.1, 1.0))
            broker.kill()
            broker.start()

        thread = threading.Thread(target=restart)
        thread.start()
        try:
            yield
        finally:
            thread.join()

    cell.feed(EVENTS, 40)
    strike(cell, runner, "broker", "restarted", EVENTS, restarting)


def broker_stands_still(cell: Cell, runner: InProcess, seconds: float) -> None:
    """The broker does not answer for a while, and keeps its connections."""
    pid = cell.stack.broker.process_id
    assert pid is not None

    @contextmanager
    def still() -> Iterator[None]:
        os.kill(pid, signal.SIGSTOP)
        timer = threading.Timer(seconds, os.kill, (pid, signal.SIGCONT))
        timer.start()
        try:
            yield
        finally:
            timer.join()

    strike(cell, runner, "broker", f"stands still for {seconds:.0f} s", EVENTS, still)


def topic_recreated(cell: Cell, runner: InProcess) -> None:
    """The topic is deleted and made anew, with messages in it that were not read."""
    cell.settle(runner)
    before = len(cell.workload.sent.messages)
    cell.feed(EVENTS)
    broker, topic = cell.stack.broker, cell.stack.topic
    broker.delete_topic(topic)
    broker.create_topic(topic, partitions=2)
    _loss(cell, runner, "KAFKA_TOPIC_RECREATED", "topic recreated", before, len(cell.workload.sent.messages))


def offsets_aged_out(cell: Cell, runner: InProcess) -> None:
    """Messages that were not read are removed by the broker."""
    cell.settle(runner)
    sent = cell.workload.sent.messages
    before = len(sent)
    cell.feed(EVENTS)
    unread = sent[before:]
    partition = unread[0].partition
    end = max(message.offset for message in unread if message.partition == partition) + 1
    admin = AdminClient({"bootstrap.servers": cell.stack.broker.bootstrap_servers, "log_level": 0})
    for done in admin.delete_records([TopicPartition(cell.stack.topic, partition, end)]).values():
        done.result(30)
    # In the order of what was sent, those that are gone first.
    sent[before:] = [one for one in unread if one.partition == partition] + [
        one for one in unread if one.partition != partition
    ]
    gone = sum(one.partition == partition for one in unread)
    _loss(cell, runner, "KAFKA_OFFSETS_AGED_OUT", "offsets aged out", before, before + gone)


def _loss(cell: Cell, runner: InProcess, code: str, said: str, first: int, last: int) -> None:
    """The flow must stop and say so; a person accepts it; then it goes on, and only that is missing."""
    try:
        cell.run(runner, [EVENTS])
    except StreamsError as error:
        if error.code != code or "--accept-loss" not in (error.way_out or ""):
            cell.tally.failed(f"{said}: {EVENTS} says {error}")
    else:
        cell.tally.failed(f"{said}: {EVENTS} goes on and says nothing")
    began = time.monotonic()
    try:
        with armed(f"*:checkpoint_set_aside:1:raise:{len(cell.workload.sent.messages)}"):
            resume_after_loss(runner.flows[EVENTS], runner.service)
    except FailpointError:
        resume_after_loss(runner.flows[EVENTS], runner.service)
    del cell.workload.sent.messages[first:last]  # said aloud, and accepted
    cell.feed(EVENTS)
    cell.catch_up(runner, EVENTS)
    cell.struck("broker", f"{said}: {code}", time.monotonic() - began)


# --- the clock, the workers ---


def clock_set_back(cell: Cell, runner: InProcess) -> None:
    """A source's clock goes back an hour: nothing is pulled until it has passed where it was, and then all of it is."""
    server, flow = cell.stack.sources.salesforce, "bronze.crm_accounts"
    cell.settle(runner)
    cell.feed(flow)
    server.advance(-3600)
    try:
        cell.catch_up(runner, flow)
    finally:
        server.advance(3600)
    began = time.monotonic()
    cell.pending.add(flow)
    cell.catch_up(runner, flow)
    cell.struck("clock", "Salesforce's clock an hour back", time.monotonic() - began)


def reader_killed(cell: Cell, runner: InProcess, flow: str) -> None:
    """The Python process that Spark reads or writes through is killed (SIGKILL) in its work."""
    cell.give_work(runner, flow)
    done, killed = threading.Event(), []

    def kill() -> None:
        time.sleep(cell.chance.uniform(0.0, 0.6))
        while not done.is_set() and not killed:
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    command = process.cmdline()
                    # Not the daemon that forks them, which has no parent of its kind.
                    if "pyspark.daemon" in command and "pyspark.daemon" in (process.parent() or process).cmdline():
                        process.kill()
                        killed.append(process.pid)
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    outcome = "went through"
    try:
        cell.run(runner, [flow])
    except StreamsError as error:
        outcome = error.code
    finally:
        done.set()
        thread.join()
    began = time.monotonic()
    cell.pending.add(flow)
    cell.catch_up(runner, flow)
    if killed:
        cell.struck("worker killed", f"{flow}: {len(killed)} processes: {outcome}", time.monotonic() - began)
    else:
        cell.tally.missed("worker killed")


# --- processes ---


def second_supervisor(cell: Cell, runner: Killed, seconds: float = 20.0) -> None:
    """Two supervisors on one lake at once, over the same flows; then the first is killed."""
    flows = [EVENTS, "silver.order_events", "gold.fact_orders"]
    cell.feed(EVENTS, 30)
    first = runner.workers.current()
    second = runner.workers.another()
    for worker in (first, second):
        worker.tell("up", flows=flows, seconds=seconds)
    time.sleep(cell.chance.uniform(2.0, 6.0))
    first.kill("both")
    began = time.monotonic()
    try:
        for _ in second.answers(seconds + 120):
            pass
    except (RefusedError, WorkerGoneError) as error:
        cell.tally.failed(f"the second supervisor failed: {error}", tuple(cell.since))
    runner.workers.replace(second)
    cell.pending.update(flows)
    cell.run(runner, flows)
    cell.struck("two supervisors", "the first killed", time.monotonic() - began)
