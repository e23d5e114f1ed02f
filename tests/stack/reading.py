"""What a topic holds, as kafka-python sees it: a client that shares no code with the one that wrote it."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass

with warnings.catch_warnings():
    # It reads its own files in a way that Python 3.11 calls deprecated, while it is imported.
    warnings.filterwarnings("ignore", r"(read|open)_text is deprecated", DeprecationWarning)
    from kafka import KafkaConsumer, TopicPartition


@dataclass(frozen=True)
class Held:
    """One message as the broker keeps it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


def read_topic(bootstrap_servers: str, topic: str, seconds: float = 60.0) -> list[Held]:
    """All messages of a topic, up to where it ended when the reading began."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap_servers, enable_auto_commit=False)
    try:
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(partitions)
        held: list[Held] = []
        deadline = time.monotonic() + seconds
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            assert time.monotonic() < deadline, f"{topic} could not be read to its end"
            for records in consumer.poll(timeout_ms=500).values():
                held.extend(Held(record.partition, record.offset, record.key, record.value) for record in records)
        return held
    finally:
        consumer.close()
