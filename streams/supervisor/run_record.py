"""Runs of jobs under a key, written down before their work begins: who calls again finds the run that is going on.

A scheduler's worker that restarts submits its task once more, on another machine perhaps. With the same key, the second
call waits for the first one's end and gives what that gave, instead of doing the work beside it.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import structlog

from streams.errors import RetriableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    from streams.small_files import SmallFiles
    from streams.supervisor.lease import Leases

log = structlog.get_logger(__name__)
_FILE: Final = "_control/runs.json"
_KEPT: Final = 500
_TRIES: Final = 50
_LOOK_SECONDS: Final = 1.0


@dataclass(frozen=True)
class RunRecord:
    """One run of a job.

    Attributes:
        job: its name.
        holder: the process that runs it.
        began: when, ISO 8601.
        exit_code: how it ended; None while it has not.
        rows: its result, as ``--json`` has it.
        error: the sentence that it ended with, and its code.
    """

    job: str
    holder: str
    began: str
    exit_code: int | None = None
    rows: tuple[dict[str, Any], ...] = ()
    error: tuple[str, str] | None = None


class RunRecords:
    """The runs' file.

    Args:
        files: those beside the checkpoints.
        leases: tell whether the process of a run still lives.
    """

    def __init__(self, files: SmallFiles, leases: Leases) -> None:
        self._files, self._leases = files, leases

    def begin(self, key: str, job: str, stopping: Event) -> RunRecord | None:
        """Write down that this process is about to run a job.

        Returns:
            None when it is to run it. When another process was at work on that key, what it ended with; a run whose
            process has gone is begun anew.

        Raises:
            RetriableError: ``RUN_INTERRUPTED``: asked to stop while waiting.
        """
        self._leases.enter()
        waited_for = None
        while True:
            records, tag = self._read()
            known = records.get(key)
            if known is not None and known.holder != self._leases.me.run_id:
                if known.exit_code is None and self._leases.is_alive(known.holder):
                    if waited_for != known.holder:
                        log.info("the run goes on in another process; waiting for it", key=key, run=known.holder)
                    waited_for = known.holder
                    if stopping.wait(_LOOK_SECONDS):
                        raise RetriableError(
                            "RUN_INTERRUPTED", f"Asked to stop while {job} goes on in another process."
                        )
                    continue
                if known.exit_code is not None and waited_for == known.holder:
                    return known
            mine = RunRecord(job, self._leases.me.run_id, datetime.now(UTC).isoformat(timespec="milliseconds"))
            if self._write(records | {key: mine}, tag):
                return None

    def end(
        self, key: str, exit_code: int, rows: tuple[dict[str, Any], ...] = (), error: tuple[str, str] | None = None
    ) -> None:
        """Write down how this process's run ended; nothing when another has begun it anew meanwhile."""

        def ended(record: RunRecord) -> RunRecord:
            return replace(record, exit_code=exit_code, rows=rows, error=error)

        self._change(key, ended)

    def _change(self, key: str, change: Callable[[RunRecord], RunRecord]) -> None:
        for _ in range(_TRIES):
            records, tag = self._read()
            known = records.get(key)
            if known is None or known.holder != self._leases.me.run_id:
                return
            if self._write(records | {key: change(known)}, tag):
                return
            time.sleep(_LOOK_SECONDS / _TRIES)
        raise RetriableError("CONTROL_BUSY", "Others change the runs' file all the time.", way_out="Try again.")

    def _read(self) -> tuple[dict[str, RunRecord], str | None]:
        file = self._files.read(_FILE)
        if file is None:
            return {}, None
        said: dict[str, Any] = json.loads(file.text)
        return {key: _record(one) for key, one in said.items()}, file.tag

    def _write(self, records: dict[str, RunRecord], tag: str | None) -> bool:
        kept = sorted(records.items(), key=lambda one: one[1].began)[-_KEPT:]
        return self._files.write(_FILE, json.dumps({key: asdict(one) for key, one in kept}, default=str), tag)


def _record(said: dict[str, Any]) -> RunRecord:
    error = said["error"]
    return RunRecord(**said | {"rows": tuple(said["rows"]), "error": tuple(error) if error else None})
