"""Leases: one holder a flow, also when a holder is slow, dead, or cut off from the storage."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.errors import RetriableError, UnavailableError
from streams.small_files import LocalFiles, SmallFile
from streams.supervisor.lease import Holder, LeaseLostError, Leases, _started
from streams.supervisor.run_record import RunRecords
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FLOW = "silver.orders"
EXPIRES = 20.0


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class Disk:
    """Files in memory that can be away."""

    def __init__(self) -> None:
        self.file: SmallFile | None = None
        self.is_away = False

    def read(self, name: str) -> SmallFile | None:
        if self.is_away:
            raise UnavailableError("STORAGE_AWAY", "It is away.")
        return self.file

    def write(self, name: str, text: str, tag: str | None) -> bool:
        if self.is_away:
            raise UnavailableError("STORAGE_AWAY", "It is away.")
        if (self.file and self.file.tag) != tag:
            return False
        self.file = SmallFile(text, str(int(tag or 0) + 1))
        return True


class Machine(Leases):
    """A process of another machine, which beats when it is told to."""

    def _beat_from_now_on(self) -> None:
        pass

    def beat(self) -> None:
        self._change(lambda book: book)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def machine(disk: Disk, clock: Clock, name: str) -> Machine:
    return Machine(disk, Holder(name, name, 1), EXPIRES, clock)


def test_a_flow_has_one_holder_until_that_lets_go(disk: Disk, clock: Clock) -> None:
    first, second = machine(disk, clock, "a"), machine(disk, clock, "b")
    assert first.acquire(FLOW)
    assert not second.acquire(FLOW)
    assert second.acquire("silver.products")
    first.check(FLOW)
    with pytest.raises(LeaseLostError):
        second.check(FLOW)
    first.release(FLOW)
    assert second.acquire(FLOW)


def test_a_silent_holder_is_taken_over_from_and_knows_it(disk: Disk, clock: Clock) -> None:
    first, second = machine(disk, clock, "a"), machine(disk, clock, "b")
    assert first.acquire(FLOW)
    assert not second.acquire(FLOW)
    clock.now += EXPIRES - 1
    assert not second.acquire(FLOW)
    with pytest.raises(LeaseLostError):  # long before another may have it
        first.check(FLOW)
    clock.now += 2
    assert second.acquire(FLOW)
    first.beat()
    with pytest.raises(LeaseLostError):
        first.check(FLOW)
    assert not first.acquire(FLOW)
    second.check(FLOW)


def test_a_holder_that_beats_keeps_its_flow_for_ever(disk: Disk, clock: Clock) -> None:
    first, second = machine(disk, clock, "a"), machine(disk, clock, "b")
    assert first.acquire(FLOW)
    for _ in range(10):
        clock.now += EXPIRES / 4
        first.beat()
        first.check(FLOW)
        assert not second.acquire(FLOW)


def test_a_holder_cut_off_from_the_storage_stops_writing_before_another_begins(disk: Disk, clock: Clock) -> None:
    first = machine(disk, clock, "a")
    assert first.acquire(FLOW)
    disk.is_away = True
    clock.now += EXPIRES
    with pytest.raises(UnavailableError):
        first.acquire(FLOW)
    with pytest.raises(LeaseLostError):
        first.check(FLOW)
    disk.is_away = False
    assert first.acquire(FLOW)
    first.check(FLOW)


def test_a_dead_process_of_this_machine_is_taken_over_from_at_once(disk: Disk, clock: Clock) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    of_child = replace(Holder.this_process("child"), pid=child.pid, started=_started(child.pid) or "")
    first = Machine(disk, of_child, EXPIRES, clock)
    second = Machine(disk, Holder.this_process("second"), EXPIRES, clock)
    assert first.acquire(FLOW)
    assert not second.acquire(FLOW)
    child.kill()
    child.communicate()
    assert second.acquire(FLOW)
    assert disk.file is not None
    assert '"epoch": 2' in disk.file.text


def test_a_process_that_nobody_may_look_at_is_not_taken_for_dead(
    disk: Disk, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Machine(disk, Holder.this_process("first"), EXPIRES, clock)
    second = Machine(disk, Holder.this_process("second"), EXPIRES, clock)
    assert first.acquire(FLOW)
    monkeypatch.setattr("streams.supervisor.lease._started", lambda _: None)  # as where /proc hides others' processes
    assert not second.acquire(FLOW)
    clock.now += EXPIRES + 1
    assert second.acquire(FLOW), "its beat stands still"


def test_who_works_with_what_does_not_answer_is_taken_over_from(processes: tuple[Leases, Leases]) -> None:
    first, second = processes
    assert first.acquire(FLOW)
    first.confirm(0.01)
    wait_until(lambda: second.acquire(FLOW), seconds=30)
    with pytest.raises(LeaseLostError):
        first.check(FLOW)
    first.confirm()
    second.release(FLOW)
    wait_until(lambda: first.acquire(FLOW), seconds=30)


def test_who_holds_a_flow_is_named(disk: Disk, clock: Clock) -> None:
    first, second = machine(disk, clock, "etl-1"), machine(disk, clock, "etl-2")
    with first.held(FLOW), pytest.raises(RetriableError) as caught, second.held(FLOW):
        pass
    assert caught.value.code == "FLOW_RUNNING"
    assert "etl-1" in str(caught.value)
    with second.held(FLOW):
        assert first.holder_of(FLOW) == second.me


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["acquire", "beat", "release", "away", "back", "wait"])),
        max_size=40,
    ),
    st.floats(1, 15),
)
def test_never_two_at_once(steps: list[tuple[str, str]], wait: float) -> None:
    disk, clock = Disk(), Clock()
    machines = {name: machine(disk, clock, name) for name in "abc"}
    for name, step in steps:
        one = machines[name]
        if step in ("away", "back"):
            disk.is_away = step == "away"
        elif step == "wait":
            clock.now += wait
        else:
            try:
                {"acquire": lambda m=one: m.acquire(FLOW), "beat": one.beat, "release": lambda m=one: m.release(FLOW)}[
                    step
                ]()
            except UnavailableError:
                assert disk.is_away
        assert sum(holds(each) for each in machines.values()) <= 1


def holds(leases: Leases) -> bool:
    try:
        leases.check(FLOW)
    except LeaseLostError:
        return False
    return True


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[tuple[Leases, Leases]]:
    both = tuple(Leases(LocalFiles(tmp_path), Holder(name, name, 1), 0.4) for name in ("a", "b"))
    yield both[0], both[1]
    for one in both:
        one.close()


def test_many_change_one_file_and_none_is_lost(processes: tuple[Leases, Leases]) -> None:
    first, second = processes
    flows = [f"flow.{number}" for number in range(20)]
    got: list[tuple[str, str]] = []

    def take(leases: Leases) -> None:
        got.extend((leases.me.run_id, flow) for flow in flows if leases.acquire(flow))

    threads = [threading.Thread(target=take, args=(one,)) for one in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(flow for _, flow in got) == sorted(flows)


def test_a_run_is_found_again_by_its_key(tmp_path: Path, processes: tuple[Leases, Leases]) -> None:
    first, second = (RunRecords(LocalFiles(tmp_path), leases) for leases in processes)
    stopping = threading.Event()
    assert first.begin("day/1", "silver_to_gold", stopping) is None
    found = []
    waiter = threading.Thread(target=lambda: found.append(second.begin("day/1", "silver_to_gold", stopping)))
    waiter.start()
    waiter.join(1.5)
    assert waiter.is_alive(), "it waits for as long as the first one is at work"
    first.end("day/1", 0, ({"flow": "gold.fact_orders", "rows_read": 7},))
    waiter.join(30)
    assert found[0] is not None
    assert (found[0].exit_code, found[0].rows) == (0, ({"flow": "gold.fact_orders", "rows_read": 7},))
    # Called once more after its end, it is another run: a person cleared the task.
    assert second.begin("day/1", "silver_to_gold", stopping) is None


def test_a_run_whose_process_is_gone_is_begun_anew(tmp_path: Path, processes: tuple[Leases, Leases]) -> None:
    first, second = processes
    stopping = threading.Event()
    assert RunRecords(LocalFiles(tmp_path), first).begin("day/2", "silver_to_gold", stopping) is None
    first.close()
    assert RunRecords(LocalFiles(tmp_path), second).begin("day/2", "silver_to_gold", stopping) is None
