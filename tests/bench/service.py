"""The service as a process of its own, watched from outside: its start, its processor time, its memory, what it logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

import psutil

from streams.settings import PROJECT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_BUSY = ("queued", "running")
_QUIET_SECONDS = 4.0  # longer than a flow waits before it looks again, and than a query lingers


class Up:
    """`streams up` on a configuration whose log level is ``debug``, as long as the context lasts.

    Args:
        config: the configuration's file.
        log: where what it logs is kept.
        java: options for its JVM, such as those of a profiler.
    """

    def __init__(self, config: Path, log: Path, java: str = "") -> None:
        self._config, self._log, self._java = config, log, java
        self.states: dict[str, str] = {}
        self.up_at: dict[str, float] = {}  # when each flow was ready for its first run, seconds since 1970
        self.rows_read: dict[str, int] = {}
        self.batches: list[tuple[float, str, float]] = []  # when each ended (seconds since 1970), its flow, seconds
        self.failures: list[str] = []
        self._busy_at = time.monotonic()
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        self.began = time.time()
        environment = os.environ | ({"JDK_JAVA_OPTIONS": self._java} if self._java else {})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "streams", "up", "--config", str(self._config)],
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(90)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reader.join(10)

    def wait(self, is_so: Callable[[Up], bool], seconds: float) -> None:
        """Until something is so of what was logged.

        Raises:
            RuntimeError: it was not within the time, or the service has ended, or a flow has failed.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while not is_so(self):
                self.require_well()
                if time.monotonic() > deadline:
                    raise RuntimeError(f"The service did not get there: {self.states}")
                self._changed.wait(0.5)

    def require_well(self) -> None:
        """Make sure that it runs, and that none of its flows has failed.

        Raises:
            RuntimeError: it does not, or one has.
        """
        if self.failures or self._process.poll() is not None:
            raise RuntimeError(f"The service is not well: {self.failures[:3]} {self.states}")

    def wait_until_quiet(self, flows: int, seconds: float) -> None:
        """Until that many flows are up and none has had anything to do for some seconds."""
        self.wait(lambda up: up._quiet_for(flows) > _QUIET_SECONDS, seconds)

    def _quiet_for(self, flows: int) -> float:
        if len(self.up_at) < flows or any(state in _BUSY for state in self.states.values()):
            self._busy_at = time.monotonic()
        return time.monotonic() - self._busy_at

    def cpu_seconds(self) -> float:
        """User and system time of all its processes so far, of those too that have ended."""
        return self._sum(lambda process: sum(process.cpu_times()[:4]))

    def resident_mib(self) -> float:
        """Memory of its JVM and its Python."""
        return self._sum(lambda process: process.memory_info().rss) / 2**20

    def kill(self) -> None:
        """Let all its processes be gone at once."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def threads(self) -> int:
        """Of all its processes."""
        return int(self._sum(psutil.Process.num_threads))

    def open_files(self) -> int:
        """Files, pipes and sockets of all its processes."""
        return int(self._sum(psutil.Process.num_fds))

    def _sum(self, of: Callable[[psutil.Process], float]) -> float:
        """Over all its processes; Spark's Python workers may end while they are being asked."""
        total = 0.0
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                total += of(process)
        return total

    def _processes(self) -> list[psutil.Process]:
        found = []
        with suppress(psutil.NoSuchProcess):
            me = psutil.Process(self._process.pid)
            found = [me, *me.children(recursive=True)]
        return found

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._log.open("w") as kept:
            for line in self._process.stderr:
                kept.write(line)
                with suppress(ValueError):
                    said = json.loads(line)
                    if isinstance(said, dict):
                        self._take(said)

    def _take(self, said: dict[str, Any]) -> None:
        with self._changed:
            flow = said.get("flow")
            if said.get("event") == "flow state":
                self.states[flow] = said["state"]
                if said["state"] in _BUSY:
                    self._busy_at = time.monotonic()
                at = datetime.fromisoformat(said["timestamp"]).timestamp()
                self.up_at.setdefault(flow, at)
            elif said.get("event") == "batch done":
                at = datetime.fromisoformat(said["timestamp"]).timestamp()
                self.batches.append((at, said["flow"], said["seconds"]))
                self.rows_read[flow] = self.rows_read.get(flow, 0) + said["rows_read"]
            elif str(said.get("event", "")).startswith("flow failed"):
                self.failures.append(f"{flow}: {said.get('error')}")
            self._changed.notify_all()
