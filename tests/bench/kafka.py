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
from streams.supervisor.run import drain
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


def measure(place: Path, say: Callable[[str], None]) -> Iterator[Figure]:
    """The median of three rounds of each; the first round of each, which warms both up, does not count."""
    plan = plan_replay(seed=1)
    with Broker(place / "broker", say) as broker:
        broker.create_topic("bench", 4)
        send_messages(plan.messages, broker.bootstrap_servers, "bench")
        kafka = {"bootstrap_servers": broker.bootstrap_servers, "topics": {"order_events": "bench"}}
        settings = settings_for(place, kafka=kafka)
        with started(settings) as service:
            flow = all_flows(settings)["bronze.order_events"]
            ours, by_hand = [], []
            for turn in range(_ROUNDS + 1):
                began = time.perf_counter()
                drain(flow, service)
                ours.append(time.perf_counter() - began)
                service.checkpoint(flow.name).set_aside(f"round-{turn}")
                by_hand.append(_append_by_hand(service.spark, broker.bootstrap_servers, place / f"hand-{turn}"))
    rows = len(plan.messages)
    yield Figure("Kafka CSV → bronze, against `from_csv`", rows, median(ours[1:]), median(by_hand[1:]), at_least=0.85)


def _append_by_hand(spark: SparkSession, servers: str, place: Path) -> float:
    began = time.perf_counter()
    reader = spark.readStream.format("kafka").option("kafka.bootstrap.servers", servers).option("subscribe", "bench")
    rows = reader.option("startingOffsets", "earliest").load()
    typed = rows.select(F.from_csv(F.col("value").cast("string"), _HAND_WRITTEN).alias("row")).select("row.*")
    writer = typed.writeStream.format("delta").option("checkpointLocation", str(place / "checkpoint"))
    writer.trigger(availableNow=True).start(str(place / "table")).awaitTermination()
    return time.perf_counter() - began
