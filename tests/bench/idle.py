"""What the service costs when there is nothing to do, how soon it is up, also after a kill, and the memory of a demo."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

from streams.flows import all_flows
from streams.local.broker import Broker
from streams.local.shop_sources import ShopSources
from streams.quality.contract import load_contracts
from streams.settings import PROJECT
from tests.bench.figure import Figure
from tests.bench.latency import fill, paced, seen_in_gold, send
from tests.bench.service import Up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_ORDERS = 1000


def measure(place: Path, say: Callable[[str], None], *, quick: bool = False) -> Iterator[Figure]:
    """All flows, those that pull and publish too, on a lake that is current."""
    contracts = load_contracts(PROJECT / "contracts" / "bronze")
    with Broker(place / "broker") as broker, ShopSources(place / "sources", contracts) as sources:
        settings = fill(place, broker, sources, orders=_ORDERS, targets=sources.targets())
        flows = len(all_flows(settings))
        with Up(place / "settings.yaml", place / "first.log") as service:
            service.wait_until_quiet(flows, 600)
        with Up(place / "settings.yaml", place / "service.log") as service:
            service.wait(lambda up: len(up.up_at) == flows, 120)
            yield Figure(
                f"`streams up` until all {flows} flows run", max(service.up_at.values()) - service.began, at_most=25
            )
            service.wait_until_quiet(flows, 300)
            seconds = 20 if quick else 60
            cpu, began = service.cpu_seconds(), time.monotonic()
            time.sleep(seconds)
            share = 100 * (service.cpu_seconds() - cpu) / (time.monotonic() - began)
            yield Figure("a quiet service with all flows up, of one core", share, "%", at_most=10)
            killed = time.time()
            service.kill()
        # What keeps it up, systemd or a container's engine, starts it again; meanwhile events go on coming.
        with Up(place / "settings.yaml", place / "again.log") as service:
            sent = send(broker, paced(iter(range(1, 1000)), 30, 10))
            service.wait_until_quiet(flows, 300)
        seen = seen_in_gold(settings)
        back = max(seen[one.order, one.step] for one in sent) - killed
        yield Figure("killed by `kill -9` and started again, until gold has what came meanwhile", back, at_most=30)
    say("  the demo")
    yield Figure(
        "memory of the demo's driver (JVM)", _demo("--orders", "1000") if quick else _demo(), "GiB", at_most=2.5
    )


def _demo(*options: str) -> float:
    """The largest resident size of the JVM that runs Spark, GiB."""
    command = [sys.executable, "-m", "streams", "demo", *options]
    demo = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    largest = 0.0
    while demo.poll() is None:
        with suppress(psutil.Error):
            for process in psutil.Process(demo.pid).children(recursive=True):
                with suppress(psutil.Error):
                    if any("SparkSubmit" in word for word in process.cmdline()):
                        largest = max(largest, process.memory_info().rss / 2**30)
        time.sleep(0.5)
    if demo.returncode:
        raise RuntimeError(f"the demo ended with {demo.returncode}")
    return largest
