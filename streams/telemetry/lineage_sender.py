"""Lineage on its way out: made and sent by a thread of its own, so that no batch waits for it and none fails by it."""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog
from openlineage.client.serde import Serde
from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport, TokenProvider

if TYPE_CHECKING:
    from collections.abc import Callable

    import requests
    from openlineage.client.event_v2 import RunEvent

    from streams.settings import LineageSettings
    from streams.telemetry.events import Event
    from streams.telemetry.lineage_events import LineageEvents

log = structlog.get_logger(__name__)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds, between tries
_FLUSH_SECONDS: Final = 10.0
_AT_MOST: Final = 10_000  # events that wait


class Transport(Protocol):
    """Takes one event, or raises."""

    def emit(self, event: RunEvent) -> Any:
        """Send it."""
        ...


class FileTransport:
    """Lines of JSON, each appended whole: processes may share the file, and one that was killed spoils no other's."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def emit(self, event: RunEvent) -> None:
        """Append it."""
        line = f"{Serde.to_json(event)}\n".encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # The end of a line that another process was killed in the middle of.
            if file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                line = b"\n" + line
            if file.write(line) < len(line):
                raise OSError("the disk is full")


def transport_of(settings: LineageSettings) -> Transport:
    """What the configuration says, and nothing else: OpenLineage's own client would ask the environment too."""
    if settings.file is not None:
        return FileTransport(settings.file)
    token = settings.token.resolve() if settings.token else None
    return HttpTransport(
        HttpConfig(
            url=f"{str(settings.url).rstrip('/')}/",
            endpoint=settings.endpoint.lstrip("/"),
            timeout=5.0,
            auth=ApiKeyTokenProvider({"apiKey": token}) if token else TokenProvider({}),
            session=_session(),
            retry={"total": 0},  # tried again by us, as long as there is room for what comes meanwhile
        )
    )


def _session() -> requests.Session:
    import requests

    session = requests.Session()
    session.auth = lambda request: request  # or it looks for a login in ~/.netrc
    return session


class LineageSender:
    """A listener. What it is told waits in a queue, and is dropped, and counted, when too much waits.

    A server that is away is tried again with growing pauses; what it refuses is dropped. Either is logged once.
    """

    def __init__(
        self,
        events: LineageEvents,
        transport: Transport,
        is_ending: Callable[[], bool] = lambda: False,
        at_most: int = _AT_MOST,
    ) -> None:
        self.events, self.transport, self.is_ending, self.at_most = events, transport, is_ending, at_most
        self.dropped = 0
        self._waiting: queue.SimpleQueue[tuple[Event, bool] | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._closing = threading.Event()
        self._trouble: str | None = None  # what was logged, until it is over
        self._thread = threading.Thread(target=self._work, name="lineage", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Keep it; see `streams.telemetry.events`."""
        if self._waiting.qsize() >= self.at_most:
            self._drop(1)
        else:
            self._waiting.put((event, self.is_ending()))

    def close(self, error: BaseException | None = None, within: float = _FLUSH_SECONDS) -> None:
        """Tell how it ended and send what waits, for no longer than so many seconds."""
        self._error = error
        self._waiting.put(None)
        self._thread.join(within)
        self._closing.set()
        # One that stands in an answer that does not come is left behind.
        self._thread.join(1.0)
        left = self._waiting.qsize()
        if self.dropped or left or self._thread.is_alive():
            log.warning("lineage is not whole", dropped=self.dropped, left=left)

    def _work(self) -> None:
        is_over = False
        while not is_over:
            told, is_over = self._next()
            for event in told:
                self._send(event)
            is_over |= self._closing.is_set()

    def _next(self) -> tuple[list[RunEvent], bool]:
        """What to send next, and whether it is the last; waits for it."""
        try:
            try:
                told = self._waiting.get(timeout=1.0 if self.events.is_waiting else None)
            except queue.Empty:
                return self.events.due(dt.datetime.now(dt.UTC)), False
            if told is None:
                return self.events.end(dt.datetime.now(dt.UTC), self._error, self.is_ending()), True
            return self.events.take(*told), False
        except Exception as error:
            self._drop(1)
            self._say("lineage can't be told", error)
            return [], False

    def _send(self, event: RunEvent) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                self.transport.emit(event)
            except Exception as error:
                if _is_refused(error) or self._closing.is_set():
                    self._drop(1)
                    self._say("lineage is not taken", error)
                    return
                self._say("lineage can't be sent; it waits", error)
                self._closing.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                if self._trouble is not None:
                    log.info("lineage is sent again", dropped=self.dropped)
                self._trouble = None
                return

    def _drop(self, count: int) -> None:
        if not self.dropped:
            log.warning("lineage events are dropped", waiting=self._waiting.qsize())
        self.dropped += count

    def _say(self, what: str, error: Exception) -> None:
        if self._trouble != what:
            log.warning(what, error=str(error))
        self._trouble = what


def _is_refused(error: Exception) -> bool:
    """Whether the same event would be refused again."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status is not None and 400 <= status < 500 and status not in (408, 425, 429)
