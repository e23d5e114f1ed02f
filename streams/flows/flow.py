"""What a flow is: the inputs of one streaming query, and what happens to its batches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

    from streams.checkpoint import Checkpoint
    from streams.micro_batch import Processor
    from streams.settings import FlowSettings
    from streams.sources.envelope import Source


@dataclass(frozen=True)
class Input:
    """A source, and how its rows are brought into the shape that the flow's other inputs have too."""

    source: Source
    shape: Callable[[DataFrame], DataFrame]


@dataclass(frozen=True)
class Table:
    """A Delta table that a flow needs before it starts.

    Args:
        path: where it lies.
        schema: what it is declared to be.
        evolution: what a change of the declaration does, as a contract's ``x-evolution`` says it; None: what loses
            nothing is allowed.
    """

    path: str
    schema: StructType
    evolution: Mapping[str, str] | None = None


def way_to_begin_anew(flow: str) -> str:
    """The command by which a flow goes on when what it has still to read is not there any more."""
    if flow.startswith(("silver.", "gold.")):
        return f"To make its table anew from what is there: streams reset {flow}"
    return f"To read from the beginning of what is there: streams resume {flow} --accept-loss"


@dataclass(frozen=True)
class Flow:
    """One streaming query with one checkpoint.

    Args:
        name: its layer and table, such as ``silver.order_events``.
        reads: what it reads, for people: a topic, a folder, or the names of other flows.
        inputs: its sources. Their order is part of the checkpoint: add at the end, never swap.
        processor: what happens to a batch.
        tables: the tables that it reads and writes, made before it starts.
        waits_for: the system whose answers it waits for most of its time, for a pull or a publish; empty for others.
    """

    name: str
    reads: tuple[str, ...]
    inputs: tuple[Input, ...]
    processor: Processor
    tables: tuple[Table, ...]
    waits_for: str = ""

    @property
    def layer(self) -> str:
        """``bronze``, ``silver`` or ``gold``."""
        return self.name.partition(".")[0]

    def stream(self, spark: SparkSession, limits: FlowSettings, checkpoint: Checkpoint) -> DataFrame:
        """The streaming DataFrame of all inputs."""
        shaped = [part.shape(part.source.stream(spark, limits, checkpoint)) for part in self.inputs]
        return reduce(lambda left, right: left.unionByName(right), shaped)

    def position(self, spark: SparkSession) -> list[object]:
        """Changes when any source has something new; cheap, and without a Spark job."""
        return [part.source.position(spark) for part in self.inputs]

    def is_idle(self, checkpoint: Checkpoint, position: Sequence[object]) -> bool:
        """Whether a query that starts at this position would find nothing. See `Source.is_idle`."""
        known = checkpoint.through()
        if known is None or len(known) != len(position):
            return False
        was_now = zip(self.inputs, known, position, strict=True)
        return all(one.source.is_idle(checkpoint, place, was, now) for place, (one, was, now) in enumerate(was_now))

    def guard(self, spark: SparkSession, checkpoint: Checkpoint) -> None:
        """Raise when going on would lose data (see `Source.guard`)."""
        for part in self.inputs:
            part.source.guard(spark, checkpoint)
