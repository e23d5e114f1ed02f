"""Processes that are killed, and the ones that stand by to take over: sessions are built ahead of the kills."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from streams.settings import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator

_START_SECONDS = 240.0


@contextmanager
def armed(failpoint: str | None) -> Iterator[None]:
    """Have this process meet a failpoint, while the context lasts."""
    if failpoint is not None:
        os.environ["STREAMS_FAILPOINT"] = failpoint
    try:
        yield
    finally:
        os.environ.pop("STREAMS_FAILPOINT", None)


class WorkerGoneError(Exception):
    """The process is not there any more."""


class WorkerStuckError(Exception):
    """It has not answered within the time given."""


@dataclass
class Ran:
    """What a flow's run in a worker did."""

    flow: str
    seconds: float
    read: int
    written: int


@dataclass
class RefusedError(Exception):
    """What a worker was told to do failed; it goes on living."""

    code: str
    message: str
    is_final: bool

    def __str__(self) -> str:
        return f"[{self.code}] {self.message}"


class WorkerProcess:
    """One process with its JVM, in a process group of its own.

    Args:
        config: the service's configuration.
        log: where its standard error goes.
    """

    def __init__(self, config: Path, log: Path) -> None:
        self.log = log
        environment = {name: value for name, value in os.environ.items() if name != "STREAMS_FAILPOINT"}
        with log.open("ab") as opened:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.verify.worker", str(config)],
                cwd=PROJECT,
                env=environment | {"PYTHONWARNINGS": "ignore"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=opened,
                start_new_session=True,
            )
        self._said = b""
        self.start_seconds = 0.0
        self.jvm = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def await_ready(self) -> None:
        """Until its session is built."""
        if not self.jvm:
            said = self._line(time.monotonic() + _START_SECONDS)
            self.start_seconds, self.jvm = said["ready"], said["jvm"]

    def tell(self, do: str, **said: Any) -> None:
        """Have it do something; `answers` gives what came of it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps({"do": do} | said) + "\n").encode())
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkerGoneError from error

    def answers(self, seconds: float) -> Iterator[Ran]:
        """What it did, flow by flow, until it is done.

        Raises:
            WorkerGoneError, WorkerStuckError, RefusedError: see there.
        """
        deadline = time.monotonic() + seconds
        while "done" not in (said := self._line(deadline)):
            yield Ran(**said)
        if not said["done"]:
            raise RefusedError(said["error"], said["message"], said["final"])

    def _line(self, deadline: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        while b"\n" not in self._said:
            ready, _, _ = select.select([self._process.stdout], [], [], 0.2)
            if ready:
                more = os.read(self._process.stdout.fileno(), 1 << 16)
                if not more:
                    raise WorkerGoneError(self.last_words())
                self._said += more
            elif self.is_stopped():
                raise WorkerGoneError
            elif time.monotonic() > deadline:
                raise WorkerStuckError(self.last_words())
        line, _, self._said = self._said.partition(b"\n")
        return dict(json.loads(line))

    def is_stopped(self) -> bool:
        """Whether it stopped itself at a failpoint."""
        with suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        return False

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        """To the process and its JVM."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self, what: str = "both") -> None:
        """End it: ``process`` (its JVM sees that a moment later), ``jvm`` first, or ``both`` at once."""
        if what == "both":
            self.signal(signal.SIGKILL)
        else:
            with suppress(ProcessLookupError):
                os.kill(self.pid if what == "process" else self.jvm, signal.SIGKILL)

    def bury(self) -> None:
        """Wait for its end; a JVM that is left ends by itself."""
        if self.is_alive():
            self.kill("both")
        self._process.wait(30)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()

    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])[-2000:]


@dataclass
class Workers:
    """One process at work, and some that stand by.

    Args:
        config: the service's configuration.
        folder: for their logs.
        ahead: how many stand by.
    """

    config: Path
    folder: Path
    ahead: int = 1
    started: list[float] = field(default_factory=list)
    _waiting: deque[WorkerProcess] = field(default_factory=deque)
    _current: WorkerProcess | None = None
    _number: int = 0

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._fill()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in (*self._waiting, *([self._current] if self._current else [])):
            worker.kill("both")
            worker.bury()

    def current(self) -> WorkerProcess:
        """The one at work; one that stood by takes over where it is gone."""
        if self._current is None:
            if not self._waiting:
                self._fill()
            self._current = self._waiting.popleft()
            self._current.await_ready()
            self.started.append(self._current.start_seconds)
            self._fill()
        return self._current

    def another(self) -> WorkerProcess:
        """One beside the one at work."""
        other = self._waiting.popleft()
        other.await_ready()
        return other

    def replace(self, other: WorkerProcess) -> None:
        """The one at work is gone, and this one is at work now."""
        self.drop()
        self._current = other
        self._fill()

    def drop(self) -> None:
        """The one at work is dead, or not wanted any more."""
        if self._current is not None:
            self._current.bury()
            self._current = None

    def _fill(self) -> None:
        while len(self._waiting) < self.ahead:
            self._number += 1
            self._waiting.append(WorkerProcess(self.config, self.folder / f"worker-{self._number}.log"))
