"""The status page beside the flows: a server in a thread of its own. Whatever becomes of it, the flows go on."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import structlog
import uvicorn

from streams.errors import ConfigurationError, StreamsError
from streams.flows import all_flows
from streams.small_files import small_files
from streams.storage import Storage
from streams.supervisor.page.gate_files import GateFiles
from streams.supervisor.page.guard import Sessions
from streams.supervisor.page.pages import Facts, Pages
from streams.supervisor.page.spark_lanes import SparkLanes
from streams.telemetry.logs import bound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streams.settings import PageSettings
    from streams.supervisor.page.recent import Recent
    from streams.supervisor.service import Service

log = structlog.get_logger(__name__)
_STARTS_WITHIN: Final = 20.0  # seconds
_ENDS_WITHIN: Final = 5.0
# Reading the audit is as much work as a flow's first batch, and the flows' own come first.
_FILL_BEGINS_WITHIN: Final = 90.0  # seconds
_AT_ONCE: Final = 100  # requests; the next ones are told to come later


class PageServer:
    """The server of some pages, from `start` to `stop`.

    Args:
        settings: where it listens, and the token.
        facts: what it shows.
    """

    def __init__(self, settings: PageSettings, facts: Facts) -> None:
        self._settings, self._facts = settings, facts
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self.address = ""

    def start(self) -> str:
        """Listen; gives the address.

        Raises:
            ConfigurationError: ``PAGE_PORT_BUSY``, ``PAGE_HOST_WRONG`` or ``SECRET_MISSING``.
        """
        token = self._settings.token.resolve() if self._settings.token else None
        listening = _listen(self._settings)
        port = listening.getsockname()[1]
        shown = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        self.address = f"http://{shown}:{port}/"
        pages = Pages(self._facts, Sessions(token), cookie=f"streams_{port}")
        config = uvicorn.Config(
            pages.app(is_local=self._settings.is_local),
            log_config=None,
            log_level="critical",  # what fails is logged once, by the pages
            access_log=False,  # an address may hold a key that somebody looked for
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_AT_ONCE,
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, args=(self._server, listening), name="page", daemon=True)
        self._thread.start()
        return self.address

    def stop(self) -> None:
        """Let the pages that are asked for go out, then end."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(_ENDS_WITHIN)

    def _serve(self, server: uvicorn.Server, listening: socket.socket) -> None:
        with bound(run=self._facts.run_id), listening:
            try:
                server.run(sockets=[listening])
            except Exception as error:
                log.exception("the status page ended; the flows go on", error=str(error))


@contextmanager
def page_of(
    service: Service,
    recent: Recent,
    say: Callable[[str], None],
) -> Iterator[str | None]:
    """The service's page, while the block runs; gives its address, or None where there is none.

    That it can't be is told and stops nothing.

    Args:
        service: whose flows it shows.
        recent: a listener of that service.
        say: told, for people, where it is or why it is not.
    """
    settings = service.settings.page
    if not settings.enabled:
        yield None
        return
    flows = list(all_flows(service.settings).values())
    lanes = SparkLanes(service, flows)
    facts = Facts(
        environment=service.settings.environment,
        run_id=service.run_id,
        flows=flows,
        files=small_files(service.settings.checkpoints.root),
        recent=recent,
        gates=GateFiles(Storage(service.spark), service.settings.dq_results_root),
        lanes=lanes,
        metrics=service.metrics.render if service.metrics else None,
        is_draining=service.draining.is_set,
    )
    server, address = PageServer(settings, facts), None
    try:
        address = server.start()
        say(f"Status page: {address}")
    except StreamsError as error:
        log.warning("there is no status page; the flows go on", error=error.message, code=error.code)
        say(f"There is no status page: {error.message} {error.way_out or ''}")
    threading.Thread(target=_fill, args=(recent, facts, lanes, service), name="page-fill", daemon=True).start()
    try:
        yield address
    finally:
        server.stop()
        lanes.close()


def _fill(recent: Recent, facts: Facts, lanes: SparkLanes, service: Service) -> None:
    """What happened before this process began, when somebody looks or the flows have had time to begin."""
    facts.looked_at.wait(_FILL_BEGINS_WITHIN)
    if service.draining.is_set():
        return
    with bound(run=service.run_id):
        try:
            recent.fill(lanes.newest_audits())
            recent.count_lanes(lanes.waiting(recent.began))
        except Exception as error:
            if not service.draining.is_set():
                log.warning("the status page does not know what was before", error=error)


def _listen(settings: PageSettings) -> socket.socket:
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigurationError(
            "PAGE_HOST_WRONG",
            f"The status page can't listen at {settings.host!r}: there is no such address here.",
            way_out="Set page.host: 127.0.0.1 for this machine, 0.0.0.0 for all.",
        ) from error
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        # A server that was killed leaves its port in waiting for a minute.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise ConfigurationError(
            "PAGE_PORT_BUSY",
            f"The status page can't listen at {settings.host}:{settings.port} ({error.strerror}).",
            way_out="Set page.port, or --page-port: another one, or 0 for any that is free. "
            "Without a page: --no-page, or page.enabled: false.",
        ) from error
    return listening
