"""Who may work when there is work for more than there is room."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from streams.supervisor.turns import Turns


def test_no_more_at_once_than_there_are_places() -> None:
    turns, at_work, most, lock = Turns(3, 9, 60), 0, 0, threading.Lock()

    def work(number: int) -> None:
        nonlocal at_work, most
        with turns.turn(f"flow {number}"):
            with lock:
                at_work += 1
                most = max(most, at_work)
            time.sleep(0.002)
            with lock:
                at_work -= 1

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(60)))
    assert most == 3


def test_whoever_has_waited_longest_is_next_however_busy_another_is() -> None:
    turns, order, begun = Turns(1, 1, 60), [], threading.Event()

    def busy() -> None:
        for _ in range(50):
            with turns.turn("busy"):
                begun.set()
                order.append("busy")
                time.sleep(0.005)

    def quiet() -> None:
        begun.wait()
        for _ in range(10):
            with turns.turn("quiet"):
                order.append("quiet")

    threads = [threading.Thread(target=run) for run in (busy, quiet)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    # One turn of the busy flow, at most, between two of the quiet one's.
    assert order.index("quiet") <= 2
    assert max(i for i, name in enumerate(order) if name == "quiet") <= 22


def test_a_turn_is_over_when_its_time_is_up_and_another_waits() -> None:
    for seconds, ends in ((0.0, True), (60, False)):
        turns = Turns(1, 1, seconds)
        with turns.turn("first") as is_over:
            assert not is_over(), "nobody waits"
            waiting = Worker(turns, "other")
            deadline = time.monotonic() + (10 if ends else 0.1)
            while not is_over() and time.monotonic() < deadline:
                time.sleep(0.005)
            assert is_over() == ends
            assert not waiting.has_begun(0)
        assert waiting.has_begun(10)
        waiting.end()


class Worker:
    """Takes a turn in a thread of its own, and keeps it until it is to end."""

    def __init__(self, turns: Turns, name: str) -> None:
        self._turns, self._name = turns, name
        self._begun, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        with self._turns.turn(self._name):
            self._begun.set()
            self._end.wait(30)

    def has_begun(self, seconds: float) -> bool:
        return self._begun.wait(seconds)

    def end(self) -> None:
        self._end.set()
        self._thread.join(10)


def test_what_is_handed_on_goes_before_what_came_later() -> None:
    turns = Turns(1, 1, 60)
    with turns.turn("bronze"):
        later = Worker(turns, "other")
        time.sleep(0.05)
        turns.hand_on("bronze", ["silver"])
    # The place is kept for who was handed it and is on its way.
    assert not later.has_begun(0.1)
    silver = Worker(turns, "silver")
    assert silver.has_begun(10)
    assert not later.has_begun(0)
    silver.end()
    assert later.has_begun(10)
    later.end()


def test_what_came_before_goes_before_what_is_handed_on() -> None:
    turns = Turns(1, 1, 60)
    with turns.turn("first"):
        earlier = Worker(turns, "earlier")
        time.sleep(0.05)
        bronze = Worker(turns, "bronze")
        time.sleep(0.05)
    assert earlier.has_begun(10)
    earlier.end()
    assert bronze.has_begun(10)
    other = Worker(turns, "other")
    time.sleep(0.05)
    turns.hand_on("bronze", ["silver"])
    bronze.end()
    silver = Worker(turns, "silver")
    assert silver.has_begun(10)
    assert not other.has_begun(0)
    silver.end()
    assert other.has_begun(10)
    other.end()


def test_who_does_not_come_for_what_it_was_handed_is_not_waited_for() -> None:
    turns = Turns(1, 1, 0.01)
    with turns.turn("bronze") as is_over:
        turns.hand_on("bronze", ["silver"])
        time.sleep(0.05)
        assert not is_over()
    other = Worker(turns, "other")
    assert other.has_begun(10)
    other.end()


def test_a_long_turn_lets_others_begin_up_to_a_number() -> None:
    turns = Turns(1, 2, 0.2)
    long = Worker(turns, "long")
    assert long.has_begun(10)
    second, third = Worker(turns, "second"), Worker(turns, "third")
    assert second.has_begun(10)
    assert not third.has_begun(0.5), "two are the most"
    long.end()
    assert third.has_begun(10)
    for worker in (second, third):
        worker.end()


def test_a_place_is_given_back_after_an_error() -> None:
    turns = Turns(1, 1, 60)
    for _ in range(3):
        try:
            with turns.turn("flow"):
                raise ValueError
        except ValueError:
            pass
    with turns.turn("flow"):
        pass
