"""When each table is looked after by the service: between two batches of the flow that writes it."""

from __future__ import annotations

import json
import time
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Final

import structlog

from streams.errors import StreamsError
from streams.small_files import change
from streams.supervisor.maintenance import LAYERS, compact, maintain

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.small_files import SmallFiles
    from streams.supervisor.service import Service

log = structlog.get_logger(__name__)
_DONE: Final = "_control/maintained.json"
# A batch leaves a file or two, and each is one more to open for whoever reads the table.
_MOST_BATCHES: Final = 100


class Upkeep:
    """Tables and when they were looked after last, which outlives the service.

    Args:
        service: where.
        files: those beside the checkpoints.
        clock: gives the time, in seconds since 1970.
    """

    def __init__(self, service: Service, files: SmallFiles, clock: Callable[[], float] = time.time) -> None:
        self._service, self._files, self._clock = service, files, clock
        self._every = service.settings.maintenance.every_hours * 3600
        file = files.read(_DONE)
        self._done: dict[str, float] = json.loads(file.text) if file else {}
        self._batches: Counter[str] = Counter()  # since its small files were made one

    def wrote(self, table: str, batches: int) -> None:
        """So many batches were written to a table."""
        self._batches[table] += batches

    def is_due(self, table: str) -> bool:
        """Whether it has many small files, or its time has come.

        A table that was never looked after waits for up to the whole time, each for another part of it: all at once
        would hold up the flows.
        """
        if table.partition(".")[0] not in (*LAYERS, "error_lane", "audit"):
            return False
        return self._batches[table] >= _MOST_BATCHES or self._is_its_time(table)

    def _is_its_time(self, table: str) -> bool:
        if table not in self._done:
            # Kept, or a service that is started anew each day would begin to wait with each start.
            self._keep(table, self._clock() - zlib.crc32(table.encode()) % 1000 / 1000 * self._every)
        return self._clock() - self._done[table] >= self._every

    def look_after(self, table: str) -> None:
        """Do it. What goes wrong is told and tried again when its time comes again: no flow fails by it."""
        began, is_its_time = time.monotonic(), self._is_its_time(table)
        self._batches[table] = 0
        try:
            if is_its_time:
                for done in maintain(self._service, [table]):
                    log.info("table maintained", **vars(done), seconds=round(time.monotonic() - began, 1))
            else:
                compact(self._service, table)
        except Exception as error:
            log.warning("table could not be maintained", table=table, error=str(error))
        if is_its_time:
            self._keep(table, self._clock())

    def _keep(self, table: str, at: float) -> None:
        self._done[table] = at
        try:
            change(self._files, _DONE, lambda file: json.dumps((json.loads(file.text) if file else {}) | {table: at}))
        except StreamsError as error:
            log.warning("when tables were maintained could not be kept", error=str(error))
