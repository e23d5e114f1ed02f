"""How far the flows that read Kafka are: committed to a consumer group, and their lag, off the batches' way.

The checkpoint alone says where a flow goes on; the group only shows it to Kafka's own tools. So whatever goes wrong
here is logged, once until it is well again, and fails nothing.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Final

import structlog

from streams.flows import all_flows
from streams.sources.kafka import KafkaSource
from streams.telemetry.events import BatchDone, FlowChanged, KafkaLag, RunBegan

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.checkpoint import Checkpoint
    from streams.settings import Settings
    from streams.sources.kafka import Offsets
    from streams.telemetry.events import Event

log = structlog.get_logger(__name__)
# A broker forgets a group's offsets when nothing was committed for a week.
_AGAIN_SECONDS: Final = 3600.0
_END_WITHIN: Final = 15.0


@dataclass
class _Followed:
    source: KafkaSource
    batch: int | None = None  # the newest that is written; Spark's checkpoint takes note of it a moment later
    told: Offsets | None = None
    told_at: float = 0.0
    lag: dict[int, int] | None = None
    is_well: bool = True
    is_pending: bool = True


@dataclass
class KafkaProgress:
    """A listener; its thread begins with the first flow that reads Kafka, and ends with `close`.

    Args:
        settings: the configuration.
        checkpoint: a flow's checkpoint.
        tell: told of each `KafkaLag`.
        every_seconds: how often it looks where no batch gives reason to.
    """

    settings: Settings
    checkpoint: Callable[[str], Checkpoint]
    tell: Callable[[Event], None]
    every_seconds: float = 10.0
    _followed: dict[str, _Followed] = field(default_factory=dict)
    _wake: threading.Condition = field(default_factory=threading.Condition)
    _thread: threading.Thread | None = None
    _is_over: bool = False

    def __call__(self, event: Event) -> None:
        """Take note of a flow and its newest batch."""
        if isinstance(event, FlowChanged | RunBegan):
            followed = self._follow(event.flow)
            if followed is not None and isinstance(event, RunBegan):
                followed.batch = None  # what its checkpoint says: a person may have set it aside
        elif isinstance(event, BatchDone):
            followed = self._follow(event.audit.batch.flow)
            if followed is not None:
                followed.batch, followed.is_pending = event.audit.batch.batch_id, True
                with self._wake:
                    self._wake.notify()

    def lag(self, flow: str) -> dict[int, int] | None:
        """By partition, as it was some seconds ago; None where that is not known, or the flow does not read Kafka."""
        followed = self._followed.get(flow)
        return None if followed is None else followed.lag

    @cached_property
    def _sources(self) -> dict[str, KafkaSource]:
        inputs = {name: flow.inputs[0].source for name, flow in all_flows(self.settings).items()}
        return {name: source for name, source in inputs.items() if isinstance(source, KafkaSource)}

    def close(self) -> None:
        """Commit what was not yet, and end; before the Spark session does, through which checkpoints are read."""
        with self._wake:
            self._is_over = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(_END_WITHIN)

    def _follow(self, flow: str) -> _Followed | None:
        with self._wake:
            if flow in self._sources and flow not in self._followed:
                self._followed[flow] = _Followed(self._sources[flow])
                if self._thread is None:
                    self._thread = threading.Thread(target=self._work, name="kafka-progress", daemon=True)
                    self._thread.start()
            return self._followed.get(flow)

    def _work(self) -> None:
        is_over = False
        while not is_over:
            with self._wake:
                self._wake.wait_for(self._has_work, self.every_seconds)
                is_over = self._is_over
            for flow, followed in list(self._followed.items()):
                if followed.is_pending or not is_over:
                    self._look(flow, followed)

    def _has_work(self) -> bool:
        return self._is_over or any(one.is_pending for one in self._followed.values())

    def _look(self, flow: str, followed: _Followed) -> None:
        followed.is_pending = False
        try:
            reached = followed.source.reached(self.checkpoint(flow), followed.batch)
            followed.lag = followed.source.lag(reached)
            self.tell(KafkaLag(flow, followed.source.topic, followed.lag, datetime.now(UTC)))
            self._tell_group(flow, followed, reached)
            followed.is_well = True
        except Exception as error:
            if followed.is_well:
                log.warning("how far a flow is could not be told to Kafka", flow=flow, error=str(error))
            followed.is_well = False

    def _tell_group(self, flow: str, followed: _Followed, reached: Offsets) -> None:
        group = self.settings.kafka.group_of(self.settings.environment, flow)
        is_old = time.monotonic() - followed.told_at > _AGAIN_SECONDS
        if group is not None and reached and (reached != followed.told or is_old):
            followed.source.tell_group(group, reached)
            followed.told, followed.told_at = reached, time.monotonic()
