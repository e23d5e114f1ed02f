"""Kafka CSV → bronze with contract, lane and audit, beside a hand-written `from_csv` append of the same topic."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from streams.flows import all_flows
from streams.local.broker import Broker
from streams.local.producer import send_messages
from streams.local.replay import plan_replay
from streams.supervisor.attach import run_or_attach
from streams.supervisor.service import started
from tests.bench.figure import Figure
from tests.spark.flow_bench import settings_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pyspark.sql import SparkSession

_ROUNDS = 3
_HAND_WRITTEN = (
    "event_id string, order_id string, sequence bigint, event_type string, occurred_at timestamp, customer_id string, "
    "quantity bigint, amount decimal(18,2), currency string, note string"
)


def measure(place: Path, say: Callable[[str], None], *, quick: bool = False) -> Iterator[Figure]:
    """The median of some rounds, taking turns; the first round of each, which warms both up, does not count.

    The real replay five times over, about a million messages: ours has a start and an audit beside the rows.
    """
    messages = plan_replay(seed=1, limit=20_000 if quick else None).messages * (1 if quick else 5)
    with Broker(place / "broker", say) as broker:
        broker.create_topic("bench", 4)
        send_messages(messages, broker.bootstrap_servers, "bench")
        kafka = {"bootstrap_servers": broker.bootstrap_servers, "topics": {"order_events": "bench"}}
        settings = settings_for(place, kafka=kafka)
        with started(settings) as service:
            flow = all_flows(settings)["bronze.order_events"]
            ours, by_hand, as_text = [], [], []
            for turn in range(_ROUNDS + 1):
                began = time.perf_counter()
                run_or_attach(flow, service)
                ours.append(time.perf_counter() - began)
                service.checkpoint(flow.name).set_aside(f"round-{turn}")
                spark, servers = service.spark, broker.bootstrap_servers
                by_hand.append(_append_by_hand(spark, servers, place / f"hand-{turn}", is_typed=True))
                as_text.append(_append_by_hand(spark, servers, place / f"text-{turn}", is_typed=False))
                say(f"  round {turn}: {ours[-1]:.1f} s, typed by hand {by_hand[-1]:.1f} s, text {as_text[-1]:.1f} s")
    rows, mine = len(messages), median(ours[1:])
    what = "Kafka CSV → bronze, against a"
    yield Figure(f"{what} `from_csv` typed append", mine, theirs=median(by_hand[1:]), rows=rows, at_least=0.85)
    yield Figure(f"{what} raw string append", mine, theirs=median(as_text[1:]), rows=rows, at_least=0.55)


def _append_by_hand(spark: SparkSession, servers: str, place: Path, *, is_typed: bool) -> float:
    began = time.perf_counter()
    reader = spark.readStream.format("kafka").option("kafka.bootstrap.servers", servers).option("subscribe", "bench")
    rows = reader.option("startingOffsets", "earliest").load()
    typed = rows.select(F.from_csv(F.col("value").cast("string"), _HAND_WRITTEN).alias("row")).select("row.*")
    kept = typed if is_typed else rows.select(F.col("value").cast("string"))
    writer = kept.writeStream.format("delta").option("checkpointLocation", str(place / "checkpoint"))
    writer.trigger(availableNow=True).start(str(place / "table")).awaitTermination()
    return time.perf_counter() - began
