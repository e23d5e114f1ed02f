"""Every metric's name, once: what Prometheus, CloudWatch, the alert rules and the dashboard call it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True)
class MetricName:
    """One metric.

    Args:
        name: as it is exposed; a counter's ends in ``_total``.
        kind: of Prometheus.
        labels: their names. What they hold is bounded: flows, partitions, tables, and words of this program.
        unit: of its values.
        meaning: for people.
        is_of_process: of the process rather than of a flow or table: left out of a textfile, where the files of
            several runs stand side by side.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    unit: str
    meaning: str
    is_of_process: bool = False


ROWS: Final = MetricName(
    "streams_rows_total",
    "counter",
    ("flow", "outcome"),
    "rows",
    "Rows `read`, and what became of them: `written`, `duplicate`, `stale`, `error` (to the error lane).",
)
BATCHES: Final = MetricName("streams_batches_total", "counter", ("flow",), "batches", "Batches done.")
BATCH_SECONDS: Final = MetricName(
    "streams_batch_seconds",
    "histogram",
    ("flow", "phase"),
    "seconds",
    "How long a phase of a batch took: `append`, `prepare`, `check`, `lane`, `merge`, `stage`, `load`, `sweep`.",
)
LAST_BATCH: Final = MetricName(
    "streams_last_batch_timestamp_seconds", "gauge", ("flow",), "seconds since 1970", "When the last batch was done."
)
FRESHNESS: Final = MetricName(
    "streams_freshness_seconds",
    "gauge",
    ("flow", "quantile"),
    "seconds",
    "How old the last batch's rows were when it was committed, by their source's own time: `0.5`, `0.99`, and `1` for "
    "the oldest.",
)
KAFKA_LAG: Final = MetricName(
    "streams_kafka_lag_messages",
    "gauge",
    ("flow", "topic", "partition"),
    "messages",
    "Messages of a partition that the flow has not read.",
)
FLOW_STATE: Final = MetricName(
    "streams_flow_state",
    "gauge",
    ("flow", "state"),
    "0 or 1",
    "1 for the state that the flow is in (see `streams status`), 0 for those that it was in before. Of `streams up`.",
)
FAILURES: Final = MetricName(
    "streams_failures_total",
    "counter",
    ("flow", "kind"),
    "failures",
    "Runs that failed: `fatal` (a person must look), `held` (by a check), `unavailable` (something outside is away), "
    "`retriable` (anything else).",
)
RESTARTS: Final = MetricName(
    "streams_restarts_total", "counter", ("flow",), "restarts", "Runs that began after one that had failed."
)
GATE_CHECKS: Final = MetricName(
    "streams_gate_checks",
    "gauge",
    ("table", "outcome"),
    "checks",
    "Checks of the last gate over the table, by what they found: `pass`, `warn`, `fail`, `error`.",
)
INFO: Final = MetricName(
    "streams_info", "gauge", ("version", "environment"), "1", "The process is up.", is_of_process=True
)
DELIVERIES: Final = MetricName(
    "streams_deliveries_total",
    "counter",
    ("to", "outcome"),
    "messages",
    "What was to go to `cloudwatch` or the `webhook`: `sent`, `failed`, or `dropped` because too much waited.",
    is_of_process=True,
)

METRICS: Final = (
    ROWS,
    BATCHES,
    BATCH_SECONDS,
    LAST_BATCH,
    FRESHNESS,
    KAFKA_LAG,
    FLOW_STATE,
    FAILURES,
    RESTARTS,
    GATE_CHECKS,
    INFO,
    DELIVERIES,
)


def as_markdown() -> str:
    """The table of `.github/metrics.md`."""
    head = ["| metric | kind | labels | unit | |", "|---|---|---|---|---|"]
    return "\n".join(
        [
            *head,
            *(
                f"| `{one.name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.labels)} | {one.unit} | "
                f"{one.meaning} |"
                for one in METRICS
            ),
        ]
    )
