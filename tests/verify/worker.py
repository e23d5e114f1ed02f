"""A process of the service's that waits, does what it is told, and is there to be killed.

``python -m tests.verify.worker CONFIG`` builds its session, says so, and then reads lines of JSON from its standard
input: ``{"do": "drain", "flows": [...], "failpoint": "..." or null}``, ``up``, ``maintain``, ``reset``, ``use``. Each is answered
by lines of JSON, the last of which has the key ``done``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from streams.errors import ConfigurationError, FatalError, StreamsError
from streams.flows import all_flows
from streams.settings import load_settings
from streams.supervisor.attach import run_or_attach
from streams.supervisor.maintenance import maintain
from streams.supervisor.reset import reset
from streams.supervisor.service import Service, started
from streams.supervisor.supervisor import Supervisor
from streams.telemetry.logs import configure_logging
from tests.verify.workers import armed

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.flows.flow import Flow


class Worker:
    """What the process does.

    Args:
        service: its session and lake.
        say: sends a line to the one who asks.
    """

    def __init__(self, service: Service, say: Callable[[dict[str, Any]], None]) -> None:
        self.service, self.say = service, say
        self.flows: dict[str, Flow] = all_flows(service.settings)

    def use(self, config: str) -> None:
        """Another configuration, in the same session."""
        settings = load_settings(None, config, os.environ)
        configure_logging(settings.logging, self.service.run_id)
        self.service = Service(self.service.session, settings, self.service.run_id)
        self.flows = all_flows(settings)

    def drain(self, flows: list[str], failpoint: str | None = None) -> None:
        """Run flows, one after the other; the last with the failpoint, if one is wanted."""
        for place, name in enumerate(flows):
            began = time.monotonic()
            with armed(failpoint if place == len(flows) - 1 else None):
                run = run_or_attach(self.flows[name], self.service)
            written = run.total("rows_written")
            self.say(
                {"flow": name, "seconds": time.monotonic() - began, "read": run.total("rows_read"), "written": written}
            )

    def up(self, flows: list[str], seconds: float) -> None:
        """The supervisor over these flows, until they are idle or the time is over."""
        supervisor = Supervisor([self.flows[name] for name in flows], self.service)
        supervisor.start()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not supervisor.is_idle():
            supervisor.wait(0.2)
        supervisor.drain(60)
        self.service.draining.clear()
        if errors := supervisor.errors():
            raise RuntimeError(str(errors))

    def maintain(self, table: str, failpoint: str | None = None) -> None:
        """Look after a table."""
        with armed(failpoint):
            maintain(self.service, [table])

    def reset(self, table: str, failpoint: str | None = None) -> None:
        """Make a table anew."""
        with armed(failpoint):
            reset(table, self.service)


def main(config: str) -> None:
    # What the JVM prints is not for the one who asks.
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(said: dict[str, Any]) -> None:
        print(json.dumps(said), file=pipe, flush=True)

    began = time.monotonic()
    with started(load_settings(None, config, os.environ)) as service:
        service.spark.range(1).count()
        worker = Worker(service, say)
        jvm = service.spark.sparkContext._gateway.proc.pid  # type: ignore[union-attr]
        say({"ready": time.monotonic() - began, "jvm": jvm})
        for line in sys.stdin:
            said = json.loads(line)
            try:
                getattr(worker, said.pop("do"))(**said)
            except StreamsError as error:
                is_final = isinstance(error, FatalError | ConfigurationError)
                say({"done": False, "error": error.code, "message": error.message, "final": is_final})
            except Exception as error:
                say({"done": False, "error": type(error).__name__, "message": str(error)[:500], "final": False})
            else:
                say({"done": True})


if __name__ == "__main__":
    main(sys.argv[1])
