"""Metrics for Prometheus (see `metric_names`), kept as events tell them."""

from __future__ import annotations

import threading
from collections import Counter as Counts
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
    write_to_textfile,
)

from streams.errors import ConfigurationError, FatalError, UnavailableError
from streams.telemetry import metric_names as names
from streams.telemetry.events import BatchDone, FlowChanged, GateJudged, KafkaLag, RunBegan, RunEnded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streams.telemetry.events import Event
    from streams.telemetry.metric_names import MetricName

_KINDS: Final[Mapping[str, type[Any]]] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}
_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_OUTCOMES: Final = ("read", "written", "duplicate", "stale", "error")
_CHECKED: Final = ("pass", "warn", "fail", "error")
_FAILURES: Final = ("fatal", "held", "unavailable", "retriable")
_FAILED_STATES: Final = frozenset({"backing off", "held", "failed"})


class Metrics:
    """A listener that keeps every metric of this process.

    Args:
        version: of this program.
        environment: which configuration it runs with.
        jvm_pid: gives the process of Spark's driver, whose memory and time are most of what is used; None without one.
    """

    def __init__(self, version: str, environment: str, jvm_pid: Callable[[], int | None] | None = None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each
        self._flows, self._process = CollectorRegistry(), CollectorRegistry()
        self._metrics = {one: self._make(one) for one in names.METRICS}
        self._of(names.INFO, version, environment).set(1)
        for to in ("cloudwatch", "webhook"):
            for outcome in ("sent", "failed", "dropped"):
                self._of(names.DELIVERIES, to, outcome)  # 0: what begins at 1 has not increased, for Prometheus
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        if jvm_pid is not None:
            # Of a process that is not there nothing is told.
            ProcessCollector(namespace="spark_driver", pid=lambda: jvm_pid() or "none", registry=self._process)
        self._telling = threading.Lock()  # of what several events make together
        self._errors: dict[str, Exception] = {}
        self._failed: set[str] = set()

    def render(self) -> tuple[bytes, str]:
        """The page that Prometheus reads, and its content type."""
        return generate_latest(self._flows) + generate_latest(self._process), CONTENT_TYPE_LATEST

    def write_textfile(self, path: str) -> None:
        """Write the flows' and tables' metrics for node_exporter's textfile collector; replaced in one step."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_to_textfile(path, self._flows)

    def count_delivery(self, to: str, outcome: str) -> None:
        """Count what was to go elsewhere: ``sent``, ``failed`` or ``dropped``."""
        self._of(names.DELIVERIES, to, outcome).inc()

    def __call__(self, event: Event) -> None:
        """Keep what an event says."""
        if isinstance(event, BatchDone):
            self._on_batch(event)
        elif isinstance(event, KafkaLag):
            for partition, messages in event.messages.items():
                self._of(names.KAFKA_LAG, event.flow, event.topic, str(partition)).set(messages)
        elif isinstance(event, GateJudged):
            self._on_gate(event)
        elif isinstance(event, FlowChanged):
            # In this order: a flow seen in two states for a moment is better than one in none.
            self._of(names.FLOW_STATE, event.flow, event.state).set(1)
            self._of(names.FLOW_STATE, event.flow, event.before).set(0)
            if event.state in _FAILED_STATES and event.error is not None:
                self._on_failure(event.flow, event.error)
        elif isinstance(event, RunEnded):
            if event.error is not None:
                self._on_failure(event.flow, event.error)
        elif isinstance(event, RunBegan):
            self._on_begin(event.flow)

    def _on_batch(self, event: BatchDone) -> None:
        audit, flow = event.audit, event.audit.batch.flow
        for outcome in _OUTCOMES:
            self._of(names.ROWS, flow, outcome).inc(getattr(audit.counts, f"rows_{outcome}"))
        self._of(names.BATCHES, flow).inc()
        for phase, seconds in audit.seconds.items():
            self._of(names.BATCH_SECONDS, flow, phase).observe(seconds)
        self._of(names.LAST_BATCH, flow).set(audit.finished_at.timestamp())
        if audit.freshness is not None:
            for quantile, seconds in (
                ("0.5", audit.freshness.p50),
                ("0.99", audit.freshness.p99),
                ("1", audit.freshness.max),
            ):
                self._of(names.FRESHNESS, flow, quantile).set(seconds)

    def _on_gate(self, event: GateJudged) -> None:
        for table, checks in event.checks.items():
            found = Counts(str(check.outcome) for check in checks)
            for outcome in _CHECKED:
                self._of(names.GATE_CHECKS, table, outcome).set(found[outcome])

    def _on_failure(self, flow: str, error: Exception) -> None:
        """A supervised flow's error is told twice: of its run, and of its state."""
        with self._telling:
            if self._errors.get(flow) is error:
                return
            self._errors[flow] = error
            self._failed.add(flow)
        self._of(names.FAILURES, flow, kind_of(error)).inc()

    def _on_begin(self, flow: str) -> None:
        for kind in _FAILURES:
            self._of(names.FAILURES, flow, kind)
        with self._telling:
            is_restart = flow in self._failed
            self._failed.discard(flow)
        self._of(names.RESTARTS, flow).inc(is_restart)

    def _make(self, metric: MetricName) -> Any:
        more = {"buckets": _SECONDS} if metric.kind == "histogram" else {}
        registry = self._process if metric.is_of_process else self._flows
        return _KINDS[metric.kind](metric.name, metric.meaning, metric.labels, registry=registry, **more)

    def _of(self, metric: MetricName, *labels: str) -> Any:
        return self._metrics[metric].labels(*labels)


def kind_of(error: Exception) -> str:
    """What a failure means for whoever runs the flow: a value of the label ``kind``."""
    if isinstance(error, FatalError | ConfigurationError):
        return "fatal"
    if getattr(error, "code", None) == "BATCH_HELD":
        return "held"
    return "unavailable" if isinstance(error, UnavailableError) else "retriable"
