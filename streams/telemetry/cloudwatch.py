"""Metrics for CloudWatch, under the names and labels of `metric_names` (a counter without ``_total``).

What events tell is added up, and sent every minute by a thread of its own. What can't be sent waits and is sent later
with its own time; when too much waits, the oldest is dropped, and counted.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import structlog

from streams.telemetry import metric_names as names
from streams.telemetry.events import BatchDone, GateJudged, KafkaLag, RunEnded
from streams.telemetry.metrics import kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streams.settings import CloudWatchSettings
    from streams.telemetry.events import Event
    from streams.telemetry.metric_names import MetricName

log = structlog.get_logger(__name__)
_MOST_DATA: Final = 1000  # of one call
_MOST_BYTES: Final = 900_000  # and CloudWatch takes 1 MB
_MOST_WAITING: Final = 20_000  # some 20 MB
_MOST_SECONDS: Final = 600.0  # between two tries
_END_WITHIN: Final = 10.0
_UNITS: Final = {"seconds": "Seconds"}
_Series = tuple[str, str, tuple[tuple[str, str], ...]]  # name, unit, dimensions


@dataclass
class _Statistics:
    """Values of one series since the last sending."""

    count: int
    sum: float
    least: float
    most: float

    def add(self, value: float) -> None:
        self.count += 1
        self.sum += value
        self.least, self.most = min(self.least, value), max(self.most, value)


class CloudWatch:
    """A listener.

    Args:
        settings: where to, and how often.
        environment: a dimension of every metric.
        count: told of each call (``sent``, ``failed``) and of each value that was ``dropped``.
        most_waiting: how many values may wait.
    """

    def __init__(
        self,
        settings: CloudWatchSettings,
        environment: str,
        count: Callable[[str, str], None],
        most_waiting: int = _MOST_WAITING,
    ) -> None:
        self._settings, self._environment, self._count = settings, environment, count
        self._client: Any = None
        self._adding = threading.Lock()
        self._added: dict[_Series, _Statistics] = {}
        self._waiting: deque[dict[str, Any]] = deque()
        self._most_waiting = most_waiting
        self._failures, self._not_before = 0, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="cloudwatch", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Add what an event says to what is sent next."""
        values = list(_values(event))
        with self._adding:
            for metric, value, labels in values:
                name, unit = metric.name.removesuffix("_total"), _UNITS.get(metric.unit, "Count")
                series = (name, unit, (("environment", self._environment), *labels.items()))
                if series in self._added:
                    self._added[series].add(value)
                else:
                    self._added[series] = _Statistics(1, value, value, value)

    def close(self) -> None:
        """Send what is there, once, and end."""
        self._over.set()
        self._thread.join(_END_WITHIN)

    def _work(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._over.wait(self._settings.every_seconds)
            self._collect()
            if is_over or time.monotonic() >= self._not_before:
                self._send()

    def _collect(self) -> None:
        with self._adding:
            added, self._added = self._added, {}
        at = datetime.now(UTC)
        self._waiting.extend(_datum(series, statistics, at) for series, statistics in added.items())
        while len(self._waiting) > self._most_waiting:
            self._waiting.popleft()
            self._count("cloudwatch", "dropped")

    def _send(self) -> None:
        try:
            while self._waiting:
                data = _chunk(self._waiting)
                self._open().put_metric_data(Namespace=self._settings.namespace, MetricData=data)
                for _ in data:
                    self._waiting.popleft()
                self._count("cloudwatch", "sent")
                self._failures = 0
        except Exception as error:
            self._count("cloudwatch", "failed")
            if not self._failures:
                log.warning("metrics could not be sent to CloudWatch; they wait", error=str(error))
            self._failures += 1
            pause = min(self._settings.every_seconds * 2 ** min(self._failures, 10), _MOST_SECONDS)
            self._not_before = time.monotonic() + pause

    def _open(self) -> Any:
        if self._client is None:
            import boto3
            from botocore.config import Config

            # A try that hangs must not outlast the end of the process.
            config = Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 1})
            self._client = boto3.client("cloudwatch", region_name=self._settings.region, config=config)
        return self._client


def _values(event: Event) -> Iterator[tuple[MetricName, float, dict[str, str]]]:
    """What an event adds. Phases and partitions are summed up: each series there costs money."""
    if isinstance(event, BatchDone):
        audit, flow = event.audit, {"flow": event.audit.batch.flow}
        for name, rows in vars(audit.counts).items():
            if rows:
                yield names.ROWS, rows, flow | {"outcome": name.removeprefix("rows_")}
        yield names.BATCHES, 1, flow
        yield names.BATCH_SECONDS, sum(audit.seconds.values()), flow
        if audit.freshness is not None:
            yield names.FRESHNESS, audit.freshness.p50, flow | {"quantile": "0.5"}
            yield names.FRESHNESS, audit.freshness.p99, flow | {"quantile": "0.99"}
    elif isinstance(event, KafkaLag):
        yield names.KAFKA_LAG, sum(event.messages.values()), {"flow": event.flow, "topic": event.topic}
    elif isinstance(event, RunEnded):
        if event.error is not None:
            yield names.FAILURES, 1, {"flow": event.flow, "kind": kind_of(event.error)}
    elif isinstance(event, GateJudged):
        for table, checks in event.checks.items():
            found = Counter(str(check.outcome) for check in checks)
            for outcome in ("pass", "warn", "fail", "error"):
                yield names.GATE_CHECKS, found[outcome], {"table": table, "outcome": outcome}


def _datum(series: _Series, found: _Statistics, at: datetime) -> dict[str, Any]:
    name, unit, dimensions = series
    return {
        "MetricName": name,
        "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions],
        "Timestamp": at,
        "Unit": unit,
        "StatisticValues": {
            "SampleCount": found.count,
            "Sum": found.sum,
            "Minimum": found.least,
            "Maximum": found.most,
        },
    }


def _chunk(waiting: deque[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first of those that wait, as many as one call takes."""
    chunk: list[dict[str, Any]] = []
    size = 0
    for datum in waiting:
        size += 2 * len(json.dumps(datum, default=str))  # the wire's spelling is longer
        if len(chunk) == _MOST_DATA or (chunk and size > _MOST_BYTES):
            break
        chunk.append(datum)
    return chunk
