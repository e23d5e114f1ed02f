"""From the producer to gold, through the whole service: how old an order's event is when gold shows it."""

from __future__ import annotations

import datetime as dt
import random
import statistics
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka import Producer
from pyspark.sql import functions as F

from streams.flows import all_flows
from streams.local.broker import Broker
from streams.local.producer import send_messages, write_file
from streams.local.replay import plan_replay
from streams.local.shop import make_shop
from streams.local.shop_sources import ShopSources
from streams.quality.contract import load_contracts
from streams.settings import PROJECT
from streams.supervisor.service import started
from tests.bench.figure import Figure
from tests.bench.service import Up
from tests.spark.flow_bench import settings_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streams.settings import Settings

_TOPIC = "bench"
_STEPS = ("created", "paid", "shipped")
_SECONDS_BETWEEN_STEPS = 2.0
_SHOP_ORDERS = 20_000
_WARM_UP_SECONDS = 60


@dataclass(frozen=True)
class Sent:
    """An event, and when it was handed to the producer (seconds since 1970)."""

    order: str
    step: str
    at: float


def measure(place: Path, say: Callable[[str], None], *, quick: bool = False, java: str = "") -> Iterator[Figure]:
    """1,000 events a second after a warm-up, then a backlog as fast as it goes; sources filled, checks on."""
    seconds, backlog = (60, 60_000) if quick else (300, 600_000)
    contracts = load_contracts(PROJECT / "contracts" / "bronze")
    with Broker(place / "broker") as broker, ShopSources(place / "sources", contracts) as sources:
        settings = fill(place, broker, sources, orders=_SHOP_ORDERS)
        flows = len(all_flows(settings))
        with Up(place / "settings.yaml", place / "service.log", java) as service:
            service.wait_until_quiet(flows, 900)
            say(f"  {flows} flows are up and quiet after {time.time() - service.began:.0f} s")
            numbers = iter(range(1, 10**9))
            send(broker, paced(numbers, 1000, _WARM_UP_SECONDS))
            cpu, began = service.cpu_seconds(), time.monotonic()
            sent = send(broker, paced(numbers, 1000, seconds))
            cpu, took = service.cpu_seconds() - cpu, time.monotonic() - began
            service.wait_until_quiet(flows, 120)
            say(f"  {len(sent):,} events sent; the service used {cpu / took:.2f} cores meanwhile")
            burst_began = time.time()
            burst = send(broker, at_once(numbers, backlog))
            service.wait_until_quiet(flows, 900)
        seen = seen_in_gold(settings)
    ages = _ages(sent, seen)
    yield Figure("produced → in gold at 1,000 events/s, p50", ages[len(ages) // 2], rows=len(ages), at_most=5)
    yield Figure("produced → in gold at 1,000 events/s, p99", ages[len(ages) * 99 // 100], rows=len(ages), at_most=12)
    say(f"  slices of p50: {_in_time(sent, seen)}")
    through = max(seen[one.order, one.step] for one in burst) - burst_began
    yield Figure("a backlog through all flows to gold", len(burst) / through, "rows/s", rows=len(burst))


def fill(place: Path, broker: Broker, sources: ShopSources, *, orders: int, targets: Any = None) -> Settings:
    """The shop's customers, products and visits at the sources; its first orders and the rates as they came."""
    shop, plan = make_shop(orders=orders), plan_replay(seed=7, limit=orders)
    sources.fill(shop)
    broker.create_topic(_TOPIC, partitions=2)
    send_messages(plan.messages, broker.bootstrap_servers, _TOPIC)
    for file in plan.files:
        write_file(file, place / "fx")
    pull = {"lag_seconds": 0, "lookback_seconds": 0}  # and every_seconds as it is: 300
    return settings_for(
        place,
        kafka={"bootstrap_servers": broker.bootstrap_servers, "topics": {"order_events": _TOPIC}},
        sources={system: said | {"pull": pull} for system, said in sources.settings().items()},
        targets=targets or {},
        logging={"level": "debug", "format": "json"},
        flows={"bronze.order_events": {"max_rows_per_batch": 200_000}},
    )


def paced(numbers: Iterator[int], rate: int, seconds: float) -> Iterator[tuple[float, int, int]]:
    """Due time (seconds from now), order and step of each event: an order's steps come two seconds apart."""
    orders_a_second = rate / len(_STEPS)
    count = int(orders_a_second * seconds)
    events = [
        (order / orders_a_second + step * _SECONDS_BETWEEN_STEPS, order, step)
        for order in range(count)
        for step in range(len(_STEPS))
    ]
    names = [next(numbers) for _ in range(count)]
    return iter(sorted((due, names[order], step) for due, order, step in events))


def at_once(numbers: Iterator[int], events: int) -> Iterator[tuple[float, int, int]]:
    names = [next(numbers) for _ in range(events // len(_STEPS))]
    return ((0.0, name, step) for name in names for step in range(len(_STEPS)))


def send(broker: Broker, events: Iterator[tuple[float, int, int]]) -> list[Sent]:
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "linger.ms": 5, "log_level": 0})
    chance, began, sent = random.Random(1), time.monotonic(), []
    for due, number, step in events:
        early = began + due - time.monotonic()
        if early > 0.002:
            producer.poll(0)
            time.sleep(early)
        order, kind, now = f"BN-{number:09d}", _STEPS[step], time.time()
        made = f"{chance.randrange(1, 8000):05d},1,19.90,USD," if kind == "created" else ",,,,"
        at = dt.datetime.fromtimestamp(now, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        event = uuid.UUID(int=number * 8 + step)
        line = f"{event},{order},{step + 1},{kind},{at},{made}".encode()
        while True:
            try:
                producer.produce(_TOPIC, key=order.encode(), value=line)
                break
            except BufferError:
                producer.poll(0.1)
        sent.append(Sent(order, kind, now))
    producer.flush(60)
    return sent


def seen_in_gold(settings: Settings) -> dict[tuple[str, str], float]:
    """When gold's table first had each step of each order: when the file of that commit was written."""
    with started(settings) as service:
        path = service.lake.table("gold.fact_orders")
        changes = service.spark.read.format("delta").option("readChangeFeed", "true").option("startingVersion", 0)
        rows = changes.load(path).where("order_id LIKE 'BN-%' AND _change_type IN ('insert', 'update_postimage')")
        first = [
            F.min(F.when(F.col(f"{step}_at").isNotNull(), F.col("_commit_version"))).alias(step) for step in _STEPS
        ]
        found = rows.groupBy("order_id").agg(*first).collect()
    written: dict[int, float] = {}
    seen = {}
    for row in found:
        for step in _STEPS:
            version = row[step]
            if version is not None:
                if version not in written:
                    log = f"{path}/_delta_log/{version:020d}.json"
                    written[version] = _modified(log)
                seen[row["order_id"], step] = written[version]
    return seen


def _modified(file: str) -> float:
    return Path(file).stat().st_mtime


def _ages(sent: list[Sent], seen: dict[tuple[str, str], float]) -> list[float]:
    """Each event's age when gold first showed it, youngest first.

    Raises:
        KeyError: gold never did.
    """
    return sorted(seen[one.order, one.step] - one.at for one in sent)


def _in_time(sent: list[Sent], seen: dict[tuple[str, str], float]) -> str:
    """Whether it grows: the median of each tenth of the time."""
    size = max(1, len(sent) // 10)
    parts = [sent[start : start + size] for start in range(0, len(sent), size)]
    return " ".join(f"{statistics.median(_ages(part, seen)):.1f}" for part in parts)
