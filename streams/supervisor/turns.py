"""Who may work now: a fixed number at once, and whoever has waited longest is next."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Turns:
    """A queue for a number of places.

    Args:
        places: how many may work at once.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, seconds: float) -> Iterator[Callable[[], bool]]:
        """Wait for a place and keep it for the block.

        Yields:
            Says whether the turn is over: it has lasted so many seconds, and another waits.
        """
        me = object()
        with self._changed:
            self._queue.append(me)
            self._changed.wait_for(lambda: self._free > 0 and self._queue[0] is me)
            self._queue.popleft()
            self._free -= 1
            self._changed.notify_all()
        until = time.monotonic() + seconds
        try:
            yield lambda: bool(self._queue) and time.monotonic() > until
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()
