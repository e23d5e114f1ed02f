"""Lineage of what a service does, where the configuration wants it told."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyspark.sql import SparkSession

    from streams.settings import Settings
    from streams.telemetry.events import Listener

SERVICE: Final = "up"  # the command whose runs have no end of their own


@contextmanager
def lineage_listener(
    settings: Settings, session: Callable[[], SparkSession], command: str | None, is_ending: Callable[[], bool]
) -> Iterator[tuple[Listener, ...]]:
    """What is to be told of everything that is done in this block; nothing where the configuration says nothing.

    Args:
        settings: the configuration.
        session: gives the session in which plans are read; it must outlive the block.
        command: what runs the flows: ``up``, or a job's name, or ``daily``.
        is_ending: whether the service was asked to end.
    """
    said = settings.lineage
    if said is None:
        yield ()
        return
    from streams.flows.lineage import Lineages
    from streams.telemetry.lineage_events import LineageEvents
    from streams.telemetry.lineage_sender import LineageSender, transport_of

    events = LineageEvents(
        said.namespace or f"lakehouse-streams.{settings.environment}",
        Lineages(settings, session),
        parent=command,
        window=said.every_seconds if command == SERVICE else 0.0,
        repository=said.repository,
    )
    sender = LineageSender(events, transport_of(said), is_ending)
    try:
        yield (sender,)
    except BaseException as error:
        sender.close(error)
        raise
    sender.close()
