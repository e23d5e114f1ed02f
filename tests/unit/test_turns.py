"""Who may work when there is work for more than there is room."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from streams.supervisor.turns import Turns


def test_no_more_at_once_than_there_are_places() -> None:
    turns, at_work, most, lock = Turns(3), 0, 0, threading.Lock()

    def work(_: int) -> None:
        nonlocal at_work, most
        with turns.turn(60):
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
    turns, order, begun = Turns(1), [], threading.Event()

    def busy() -> None:
        for _ in range(50):
            with turns.turn(60):
                begun.set()
                order.append("busy")
                time.sleep(0.005)

    def quiet() -> None:
        begun.wait()
        for _ in range(10):
            with turns.turn(60):
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
    turns = Turns(1)
    taken = threading.Event()

    def other() -> None:
        with turns.turn(60):
            taken.set()

    with turns.turn(0.0) as is_over:
        assert not is_over(), "nobody waits"
        waiting = threading.Thread(target=other)
        waiting.start()
        deadline = time.monotonic() + 10
        while not is_over() and time.monotonic() < deadline:
            time.sleep(0.005)
        assert is_over()
        assert not taken.is_set()
    waiting.join(10)
    assert taken.is_set()
    with turns.turn(60) as is_over:
        other_waits = threading.Thread(target=other)
        other_waits.start()
        time.sleep(0.05)
        assert not is_over(), "its time is not up"
    other_waits.join(10)


def test_a_place_is_given_back_after_an_error() -> None:
    turns = Turns(1)
    for _ in range(3):
        try:
            with turns.turn(1):
                raise ValueError
        except ValueError:
            pass
    with turns.turn(1):
        pass
