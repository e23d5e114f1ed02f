"""What the service does, as events for those who want to know: metrics, lineage, alerts, the page, the demo.

An event is told in the thread that did the thing, between two batches: a listener keeps it and returns. One that
fails is logged and fails nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from streams.telemetry.audit import BatchAudit, CheckOutcome

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RunBegan:
    """A flow's query is about to start.

    Attributes:
        run: names this run of the flow, a UUID.
    """

    flow: str
    run: str
    at: datetime


@dataclass(frozen=True)
class BatchDone:
    """A micro-batch is written and in the audit."""

    run: str
    audit: BatchAudit


@dataclass(frozen=True)
class RunEnded:
    """A flow's query has ended: through, or asked to end early (`is_through` is false), or failed (`error`)."""

    flow: str
    run: str
    at: datetime
    is_through: bool = True
    error: Exception | None = None


@dataclass(frozen=True)
class FlowChanged:
    """A flow of the supervisor's has another state (see `streams.supervisor.supervisor.State`)."""

    flow: str
    state: str
    before: str
    at: datetime
    error: Exception | None = None


@dataclass(frozen=True)
class GateJudged:
    """A gate has judged a layer's whole tables; by table, such as ``silver.orders``, what each check found."""

    layer: str
    run_id: str
    began: datetime
    at: datetime
    checks: dict[str, tuple[CheckOutcome, ...]]


@dataclass(frozen=True)
class KafkaLag:
    """How far a flow is behind its topic: by partition, how many messages there it has not read."""

    flow: str
    topic: str
    messages: dict[int, int]
    at: datetime


Event = RunBegan | BatchDone | RunEnded | FlowChanged | GateJudged | KafkaLag
Listener = Callable[[Event], None]


def tell(listeners: Iterable[Listener], event: Event) -> None:
    """Tell each of them; none can fail the work that it is told of."""
    for listener in listeners:
        try:
            listener(event)
        except Exception as error:
            log.warning("a listener failed", listener=type(listener).__name__, told=type(event).__name__, error=error)
