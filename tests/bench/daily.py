"""A day in one Spark session, beside its eleven jobs as eleven processes; and a day on which nothing is new."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from streams.jobs import DAILY, JOB_MAP
from streams.local.broker import Broker
from streams.local.producer import send_messages, write_file
from streams.local.replay import plan_replay
from streams.local.shop import make_shop
from streams.local.shop_sources import ShopSources
from streams.quality.contract import load_contracts
from streams.settings import PROJECT
from tests.bench.figure import Figure
from tests.spark.flow_bench import settings_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_ORDERS = 1000
_TOPIC = "bench"
_QUIET_DAY_SECONDS = 30.0


def measure(place: Path, say: Callable[[str], None], *, quick: bool = False) -> Iterator[Figure]:
    """From an empty lake each; both publish to the same warehouses, one after the other."""
    shop, plan = make_shop(orders=_ORDERS), plan_replay(seed=7, limit=_ORDERS)
    contracts = load_contracts(PROJECT / "contracts" / "bronze")
    with Broker(place / "broker") as broker, ShopSources(place / "sources", contracts) as sources:
        sources.fill(shop)
        broker.create_topic(_TOPIC, partitions=2)
        send_messages(plan.messages, broker.bootstrap_servers, _TOPIC)
        for file in plan.files:
            write_file(file, place / "landing")

        def lake(name: str) -> Path:
            folder = place / name
            folder.mkdir()
            pull = {"lag_seconds": 0, "lookback_seconds": 0}
            settings_for(
                folder,
                kafka={"bootstrap_servers": broker.bootstrap_servers, "topics": {"order_events": _TOPIC}},
                files={"fx_rates": str(place / "landing")},
                sources={system: said | {"pull": pull} for system, said in sources.settings().items()},
                targets=sources.targets(),
            )
            return folder / "settings.yaml"

        apart, together = lake("apart"), lake("together")
        seconds = sum(_run(job, apart, say) for job in JOB_MAP)
        whole = _run(DAILY, together, say)
        rows = len(plan.messages) + sum(expected.rows for expected in shop.expected.values())
        what = "daily run in one session, against eleven processes"
        yield Figure(what, whole, theirs=seconds, rows=rows, at_most=0.35)
        quiet = _run(DAILY, together, say)
        yield Figure("daily run with nothing new", quiet, at_most=_QUIET_DAY_SECONDS)


def _run(job: str, config: Path, say: Callable[[str], None]) -> float:
    began = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-m", "streams", "run", "--job", job, "--config", str(config), "--json"],
        cwd=PROJECT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise RuntimeError(f"{job} ended with {ended.returncode}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    took = time.perf_counter() - began
    say(f"{job}: {took:.1f} s")
    return took
