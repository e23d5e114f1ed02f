"""What was tried and what came of it."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.verify.oracle import Comparison


@dataclass
class Kind:
    """Faults of one kind.

    Attributes:
        tried: how many.
        missed: of further ones the moment never came: no fault.
        lost, twice, wrong: rows.
        seconds: from each fault until what it struck had caught up.
    """

    tried: int = 0
    missed: int = 0
    lost: int = 0
    twice: int = 0
    wrong: int = 0
    seconds: list[float] = field(default_factory=list)

    def as_row(self, name: str) -> dict[str, Any]:
        again = self.seconds or [0.0]
        return {
            "kind": name,
            "faults": self.tried,
            "rows lost": self.lost,
            "rows twice": self.twice,
            "rows wrong": self.wrong,
            "again p50 s": round(statistics.median(again), 1),
            "again max s": round(max(again), 1),
        }


@dataclass(frozen=True)
class Failure:
    """Something that must not be.

    Attributes:
        what: in words.
        after: the faults since all was well last, the newest last.
        examples: rows.
    """

    what: str
    after: tuple[str, ...]
    examples: tuple[str, ...] = ()


class Tally:
    """Kept by all threads of a run.

    Args:
        tell: shows a line of progress.
    """

    def __init__(self, tell: Callable[[str], None] = lambda _: None) -> None:
        self.kinds: dict[str, Kind] = {}
        self.failures: list[Failure] = []
        self.checks = self.rows_compared = self.inputs = 0
        self.notes: list[str] = []
        self._tell, self._lock, self._began = tell, threading.Lock(), time.monotonic()

    @property
    def faults(self) -> int:
        return sum(kind.tried for kind in self.kinds.values())

    def tried(self, kind: str, what: str, seconds: float | None = None) -> None:
        """A fault has struck."""
        with self._lock:
            one = self.kinds.setdefault(kind, Kind())
            one.tried += 1
            if seconds is not None:
                one.seconds.append(seconds)
        again = "" if seconds is None else f" · current again in {seconds:.1f} s"
        self.say(f"{self.faults:4}  {kind:<18} {what}{again}")

    def missed(self, kind: str) -> None:
        """A fault was wanted, and its moment never came."""
        with self._lock:
            self.kinds.setdefault(kind, Kind()).missed += 1

    def checked(self, comparison: Comparison, kind: str, after: tuple[str, ...]) -> None:
        """The tables were compared with the oracle."""
        with self._lock:
            self.checks += 1
            self.rows_compared += comparison.rows
            one = self.kinds.setdefault(kind, Kind())
            for name in ("lost", "twice", "wrong"):
                setattr(one, name, getattr(one, name) + comparison.total(name))
        verdict = "agree" if comparison.agrees else "DISAGREE"
        self.say(f"      {comparison.rows} rows of all tables {verdict} with the oracle")
        for found in comparison.differences:
            said = f"{found.table}: {found.lost} lost, {found.twice} twice, {found.wrong} wrong"
            self.failed(said, after, tuple(found.examples))

    def failed(self, what: str, after: tuple[str, ...] = (), examples: tuple[str, ...] = ()) -> None:
        """Something is as it must not be."""
        with self._lock:
            self.failures.append(Failure(what, after, examples))
        self.say(f"      FAILED {what}")

    def note(self, text: str) -> None:
        """For the end of the report."""
        with self._lock:
            self.notes.append(text)
        self.say(f"      {text}")

    def say(self, line: str) -> None:
        self._tell(f"{time.monotonic() - self._began:6.0f} s {line}")
