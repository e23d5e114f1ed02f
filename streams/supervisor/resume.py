"""Letting a flow go on past data that its source has lost, when a person has said so."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from streams.checkpoint import Checkpoint
from streams.sources.kafka import KafkaSource

if TYPE_CHECKING:
    from streams.flows.flow import Flow
    from streams.supervisor.service import Service


def resume_after_loss(flow: Flow, service: Service) -> str:
    """Set the checkpoint aside and begin a new one; gives where the flow goes on, for people.

    A new checkpoint is a new identity, so no batch of it is taken for one of the old. What the flow reads a
    second time is a duplicate, which the merges downstream leave out. Killed at any point, the same call does it.

    Raises:
        RetriableError: ``FLOW_RUNNING``: another process holds the flow.
    """
    with service.hold(flow.name):
        return _begin_anew(flow, service)


def _begin_anew(flow: Flow, service: Service) -> str:
    checkpoint, following = service.checkpoint(flow.name), _following(flow, service)
    # What a killed call had found out and not put in place yet: the checkpoint it came from is set aside by then.
    start = {} if checkpoint.exists() else following.remembered()
    if not start:
        source = flow.inputs[0].source
        start = source.go_on_from(checkpoint) if isinstance(source, KafkaSource) else {}
        following.storage.delete(following.path)
        if start:
            following.remember(start)
    if checkpoint.exists():
        checkpoint.set_aside(f"lost-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    if not start:
        return "the beginning of what is there"
    checkpoint.storage.delete(checkpoint.path)
    following.storage.move(following.path, checkpoint.path)
    offsets = start["starting_offsets"].items()
    return ", ".join(f"partition {partition} offset {offset}" for partition, offset in offsets)


def _following(flow: Flow, service: Service) -> Checkpoint:
    """The new checkpoint, beside the old one until that is set aside."""
    checkpoint = service.checkpoint(flow.name)
    return Checkpoint(checkpoint.storage, f"{checkpoint.path}.resumed")
