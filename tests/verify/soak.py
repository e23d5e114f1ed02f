"""Half an hour at a steady rate: ``python -m tests.verify.soak``. Does anything grow? Exit code 1 where it does.

What is level: the last third of what was measured after the fifth minute stays within a tenth of the first third.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console
from rich.table import Table

from streams.flows import all_flows
from streams.local.broker import Broker
from streams.local.shop_sources import ShopSources
from streams.quality.contract import load_contracts
from streams.settings import PROJECT
from tests.bench.latency import fill, paced, send
from tests.bench.service import Up

_WARM_UP_MINUTES: Final = 5
_ORDERS: Final = 5000
_MAY_GROW: Final = 1.1
# `[612.345s][info][gc] GC(96) Pause Young (Normal) (G1 Evacuation Pause) 591M->144M(1024M) 8.123ms`
_COLLECTED: Final = re.compile(r"->(\d+)M\(")
_OURS: Final = ("bronze.order_events", "silver.order_events", "gold.fact_orders")


@dataclass(frozen=True)
class Minute:
    """What was seen in one minute. Sizes are MiB, times seconds; what was not seen is None."""

    minute: int
    resident: float
    heap: float | None  # the least that a collection left
    threads: int
    open_files: int
    cores: float
    bronze: float | None  # the median batch
    silver: float | None
    gold: float | None


@dataclass(frozen=True)
class Level:
    """Whether a figure stays where it is; one that was never seen in a third, None, is not known to."""

    what: str
    first: float | None
    last: float | None

    @property
    def holds(self) -> bool:
        return self.first is not None and self.last is not None and self.last <= self.first * _MAY_GROW


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.verify.soak", description=__doc__)
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--rate", type=int, default=300, help="events a second")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures, for programs")
    asked = parser.parse_args()
    if asked.minutes < _WARM_UP_MINUTES + 3:
        parser.error(f"it takes {_WARM_UP_MINUTES} minutes to warm up: --minutes {_WARM_UP_MINUTES + 3} at least")
    out = Console(width=None if sys.stdout.isatty() else 140)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        minutes = soak(Path(place), asked.minutes, asked.rate, out)
    levels = judge(minutes)
    table = Table("what", "first third", "last third", "", box=None, pad_edge=False)
    for level in levels:
        first, last = ("not seen" if one is None else f"{one:,.2f}" for one in (level.first, level.last))
        table.add_row(level.what, first, last, "level" if level.holds else "not level")
    out.print(table)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(minute) for minute in minutes], indent=1))
    return 0 if all(level.holds for level in levels) else 1


def soak(place: Path, minutes: int, rate: int, out: Console) -> list[Minute]:
    """A service with all flows up, fed at a steady rate; what it holds, minute by minute."""
    contracts, seen = load_contracts(PROJECT / "contracts" / "bronze"), []
    collections = place / "gc.log"
    with (
        ExitStack() as running,
        Broker(place / "broker") as broker,
        ShopSources(place / "sources", contracts) as sources,
    ):
        settings = fill(place, broker, sources, orders=_ORDERS, targets=sources.targets())
        with Up(place / "settings.yaml", place / "service.log", f"-Xlog:gc:file={collections}") as service:
            service.wait_until_quiet(len(all_flows(settings)), 900)
            log = running.enter_context(collections.open())
            log.read()  # what came before the first minute
            feeding = threading.Thread(target=send, args=(broker, paced(iter(range(1, 10**9)), rate, minutes * 60)))
            feeding.start()
            for number in range(1, minutes + 1):
                began, cpu = time.time(), service.cpu_seconds()
                time.sleep(60)
                service.require_well()
                took = {
                    flow: [seconds for at, name, seconds in list(service.batches) if name == flow and at >= began]
                    for flow in _OURS
                }
                left = [int(size) for size in _COLLECTED.findall(log.read())]
                minute = Minute(
                    number,
                    service.resident_mib(),
                    min(left) if left else None,
                    service.threads(),
                    service.open_files(),
                    (service.cpu_seconds() - cpu) / (time.time() - began),
                    *(median(seconds) if seconds else None for seconds in took.values()),
                )
                seen.append(minute)
                said = " ".join(
                    f"{name} {value:.1f}" if isinstance(value, float) else f"{name} {value}"
                    for name, value in asdict(minute).items()
                )
                out.print(said, highlight=False, soft_wrap=True)
            feeding.join()
            service.wait_until_quiet(len(all_flows(settings)), 300)
    return seen


def judge(minutes: list[Minute]) -> list[Level]:
    """Each figure at the beginning and at the end of what comes after the warm-up."""
    warm = minutes[_WARM_UP_MINUTES:]
    third = max(1, len(warm) // 3)
    levels = []
    for what in ("resident", "heap", "threads", "open_files", "bronze", "silver", "gold"):
        first, last = (
            [value for minute in part if (value := getattr(minute, what)) is not None]
            for part in (warm[:third], warm[-third:])
        )
        levels.append(Level(what, *(median(seen) if seen else None for seen in (first, last))))
    return levels


if __name__ == "__main__":
    sys.exit(main())
