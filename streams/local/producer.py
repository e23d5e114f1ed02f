"""Sending a replay: messages to the broker, files to the landing folder, side by side in the order of arrival."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException, Producer

from streams.errors import RetriableError
from streams.local.replay import Message, RateFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from confluent_kafka import KafkaError
    from confluent_kafka import Message as Delivered

    from streams.local.replay import ReplayPlan

_SLICES = 60


def send_replay(
    plan: ReplayPlan,
    bootstrap_servers: str,
    topic: str,
    landing: Path,
    *,
    seconds: float = 0.0,
    on_progress: Callable[[int], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> None:
    """Send everything, spread over some seconds.

    Args:
        plan: what to send.
        bootstrap_servers: the broker.
        topic: its topic.
        landing: the folder for the rates' files.
        seconds: how long it should take; 0 is as fast as can be.
        on_progress: told how many messages and files went out since it was last told.
        stop: ends the sending early.

    Raises:
        RetriableError: ``REPLAY_NOT_DELIVERED``.
    """
    stop = stop or threading.Event()
    arrivals: list[Message | RateFile] = sorted((*plan.messages, *plan.files), key=lambda sent: sent.at)
    size = max(1, -(-len(arrivals) // _SLICES))
    # One for the whole replay: a new producer takes half a second before its first message is through.
    producer = _producer(bootstrap_servers)
    began = time.monotonic()
    for number, start in enumerate(range(0, len(arrivals), size), start=1):
        part = arrivals[start : start + size]
        _deliver(producer, (sent for sent in part if isinstance(sent, Message)), topic)
        for file in part:
            if isinstance(file, RateFile):
                write_file(file, landing)
        on_progress(len(part))
        if stop.wait(max(0.0, began + seconds * number / _SLICES - time.monotonic())):
            return


def send_messages(messages: Iterable[Message], bootstrap_servers: str, topic: str) -> None:
    """Produce messages and wait until the broker has them all.

    Raises:
        RetriableError: ``REPLAY_NOT_DELIVERED``, with the first reason.
    """
    _deliver(_producer(bootstrap_servers), messages, topic)


def _producer(bootstrap_servers: str) -> Producer:
    return Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "enable.idempotence": True,
            "linger.ms": 20,
            # A topic that is not there is an error; by default that is found out after half a minute.
            "topic.metadata.propagation.max.ms": 5000,
            "log_level": 0,
        }
    )


def _deliver(producer: Producer, messages: Iterable[Message], topic: str) -> None:
    failed: list[KafkaError] = []

    def on_delivery(error: KafkaError | None, _: Delivered) -> None:
        if error is not None:
            failed.append(error)

    for message in messages:
        while True:
            try:
                producer.produce(topic, key=message.key, value=message.value, on_delivery=on_delivery)
                break
            except BufferError:  # the queue is full: let some of it go out
                producer.poll(0.1)
            except KafkaException as error:
                raise RetriableError("REPLAY_NOT_DELIVERED", f"A message could not be sent: {error}.") from error
    if producer.flush(60) or failed:
        reason = failed[0].str() if failed else "no answer within a minute"
        raise RetriableError("REPLAY_NOT_DELIVERED", f"{len(failed)} messages did not reach {topic}: {reason}.")


def write_file(file: RateFile, landing: Path) -> None:
    """Write under a name that is not read, then rename: what is half written is so by plan."""
    landing.mkdir(parents=True, exist_ok=True)
    draft = landing / f".{file.name}.tmp"
    draft.write_bytes(file.content)
    draft.rename(landing / file.name)
