"""The gates' results, from the files that each run leaves: whichever process ran it. No Spark job."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)
LAYERS: Final = ("silver", "gold")
_KEPT: Final = 30  # runs a layer
_LISTED_AGAIN_AFTER: Final = 15.0  # seconds
_BAD: Final = ("error", "fail")
_ORDER: Final = ("error", "fail", "warn", "pass")


@dataclass(frozen=True)
class GateCheck:
    """What one check of a gate's run found."""

    table: str
    check: str
    definition: str
    outcome: str
    value: float | None
    column: str | None

    @property
    def has_failed(self) -> bool:
        """Whether it failed or could not be evaluated."""
        return self.outcome in _BAD


@dataclass(frozen=True)
class GateRun:
    """One run of a layer's gate."""

    layer: str
    run_id: str
    began: datetime
    at: datetime
    checks: tuple[GateCheck, ...]

    @property
    def failed(self) -> tuple[GateCheck, ...]:
        """The checks that failed or could not be evaluated."""
        return tuple(one for one in self.checks if one.has_failed)

    @property
    def warned(self) -> tuple[GateCheck, ...]:
        """The checks that warned."""
        return tuple(one for one in self.checks if one.outcome == "warn")

    @property
    def worst_first(self) -> tuple[GateCheck, ...]:
        """Its checks, those that failed first."""
        return tuple(sorted(self.checks, key=lambda one: _ORDER.index(one.outcome)))

    def outcome_of(self, check: GateCheck) -> str | None:
        """What the same check of the same table came to in this run; None: it was not made."""
        same = (one.outcome for one in self.checks if (one.table, one.check) == (check.table, check.check))
        return next(same, None)


class ResultFiles(Protocol):
    """Where the files lie (see `streams.storage.Storage`)."""

    def written(self, folder: str) -> dict[str, float]:
        """What lies in a folder: name → when it was written."""
        ...

    def read(self, path: str) -> str | None:
        """A file's text."""
        ...


class GateFiles:
    """The newest runs of the gates.

    Args:
        files: where the results lie.
        root: their root; a layer's runs are ``{root}/{layer}/{run_id}.json``.
        clock: seconds that only go on.
    """

    def __init__(self, files: ResultFiles, root: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._files, self._root, self._clock = files, root.rstrip("/"), clock
        self._known: dict[str, tuple[float, GateRun | None]] = {}  # path → when it was written, and the run
        self._runs: dict[str, tuple[GateRun, ...]] = {}
        self._listed_at: float | None = None
        self._seen: object = None
        self._lock = threading.Lock()

    def runs(self, layer: str, seen: object = None) -> tuple[GateRun, ...]:
        """A layer's runs, the newest first. Another `seen` than at the last call means that there is a new one."""
        with self._lock:
            is_old = self._listed_at is None or self._clock() - self._listed_at > _LISTED_AGAIN_AFTER
            if is_old or seen != self._seen:
                self._runs = {one: self._look(one) for one in LAYERS}
                self._listed_at, self._seen = self._clock(), seen
            return self._runs[layer]

    def newest(self, seen: object = None) -> list[GateRun]:
        """The newest run of each layer."""
        return [runs[0] for runs in (self.runs(layer, seen) for layer in LAYERS) if runs]

    def _look(self, layer: str) -> tuple[GateRun, ...]:
        folder = f"{self._root}/{layer}"
        written = {name: at for name, at in self._files.written(folder).items() if name.endswith(".json")}
        newest = sorted(written, key=lambda name: written[name], reverse=True)[:_KEPT]
        found = [self._run(f"{folder}/{name}", written[name]) for name in newest]
        return tuple(sorted((run for run in found if run), key=lambda run: run.at, reverse=True))

    def _run(self, path: str, written: float) -> GateRun | None:
        known = self._known.get(path)
        if known is None or known[0] != written:
            text = self._files.read(path)
            known = self._known[path] = (written, _parsed(path, text) if text else None)
        return known[1]


def _parsed(path: str, text: str) -> GateRun | None:
    try:
        said: dict[str, Any] = json.loads(text)
        checks = tuple(
            GateCheck(
                one["table"],
                found["check"],
                found["definition"],
                found["outcome"] if found["outcome"] in _ORDER else "error",
                found["value"],
                found["column"],
            )
            for one in said["tables"]
            for found in one["results"]
        )
        began, at = (datetime.fromisoformat(said[name]).astimezone(UTC) for name in ("started_at", "finished_at"))
        return GateRun(said["layer"], said["run_id"], began, at, checks)
    except (ValueError, KeyError, TypeError) as error:
        log.warning("a gate's results can't be read", file=path, error=type(error).__name__)
        return None
