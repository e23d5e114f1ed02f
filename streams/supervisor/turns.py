"""Who may work now: whoever's work has waited longest, and what it hands on goes on at once."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# What was handed work on and does not come for it is not waited for any longer.
_COMES_WITHIN: Final = 2.0


@dataclass
class _Waiting:
    since: float
    until: float | None = None  # when it is given up; None: it is there


class Turns:
    """A queue for a few places, in the order in which the work came, not the workers.

    Work that one hands on to another has waited since the first began to wait for it: so a row goes through all of its
    flows before rows that came later, and none waits a whole round before each.

    A turn that lasts longer than `seconds` no longer keeps others from working, up to `most`: it may be a large
    batch, or hang. Between two batches it makes room (see `turn`).

    Args:
        places: how many work at once.
        most: how many work at once together with those whose turns last longer.
        seconds: how long a turn lasts.
    """

    def __init__(self, places: int, most: int, seconds: float) -> None:
        self._places, self._most, self._seconds = places, most, seconds
        self._waiting: dict[str, _Waiting] = {}
        self._working: dict[str, tuple[float, float]] = {}  # since when it had waited, and when it began
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, name: str) -> Iterator[Callable[[], bool]]:
        """Wait for a place and keep it for the block; one name waits or works once at a time.

        Yields:
            Says whether the turn is over: it has lasted its time, and another waits.
        """
        with self._changed:
            handed = self._waiting.get(name)
            self._waiting[name] = _Waiting(handed.since if handed else time.monotonic())
            while not self._may_begin(name):
                self._changed.wait(self._until_next())
            began = time.monotonic()
            self._working[name] = (self._waiting.pop(name).since, began)
            self._changed.notify_all()
        try:
            yield lambda: time.monotonic() > began + self._seconds and self._someone_waits()
        finally:
            with self._changed:
                del self._working[name]
                self._changed.notify_all()

    def hand_on(self, giver: str, takers: Iterable[str]) -> None:
        """Within a turn of the giver's: what it has done is work for these, who are about to ask for a turn."""
        with self._changed:
            since, _ = self._working[giver]
            for name in takers:
                if name not in self._working:
                    waiting = self._waiting.setdefault(name, _Waiting(since, time.monotonic() + _COMES_WITHIN))
                    waiting.since = min(waiting.since, since)

    def _someone_waits(self) -> bool:
        with self._changed:
            # Who was handed work and never came does not.
            return any(its.until is None for its in self._waiting.values())

    def _may_begin(self, name: str) -> bool:
        now = time.monotonic()
        for gone in [one for one, its in self._waiting.items() if its.until is not None and its.until <= now]:
            del self._waiting[gone]
        first = min(self._waiting, key=lambda one: self._waiting[one].since)
        short = sum(now - began < self._seconds for _, began in self._working.values())
        return first == name and short < self._places and len(self._working) < self._most

    def _until_next(self) -> float | None:
        """Seconds until something changes by itself; None: never."""
        now = time.monotonic()
        moments = [its.until for its in self._waiting.values() if its.until is not None]
        moments += [began + self._seconds for _, began in self._working.values() if now - began < self._seconds]
        return max(0.0, min(moments) - now) if moments else None
