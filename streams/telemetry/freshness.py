"""Freshness: how long ago, when a batch is committed, its rows came to be at their source.

A row's own time there is ``_source_time``: Kafka's timestamp, a pulled row's cursor, when a file was written. Bronze
and silver have it of each row; a row of gold has that of the newest change that it was made anew for. Null where
nothing is to be measured: a row sent back from an error lane has waited for a person, and a row that was deleted
downstream tells of its last change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from pyspark.sql import functions as F

if TYPE_CHECKING:
    from datetime import datetime

    from pyspark.sql import Column, Row

SOURCE_TIME: Final = "_source_time"
_ACCURACY: Final = 1000  # a percentile's place is off by one in so many at the most
_OLDEST, _PERCENTILES = "oldest_source_time", "source_time_percentiles"


@dataclass(frozen=True)
class Freshness:
    """Ages of a batch's rows when it was committed, in seconds: half of them are below `p50`, 99 % below `p99`."""

    p50: float
    p99: float
    max: float


@dataclass(frozen=True)
class SourceTimes:
    """Times at the source of a batch's rows, in microseconds since 1970: of the oldest, and percentiles."""

    oldest: int
    first: int  # 99 % are later
    half: int

    @staticmethod
    def aggregates(is_measured: Column | None = None) -> dict[str, Column]:
        """Aggregates over rows with ``_source_time``, by name, for a pass over them that is made anyway."""
        micros = F.unix_micros(SOURCE_TIME)
        measured = micros if is_measured is None else F.when(is_measured, micros)
        return {_OLDEST: F.min(measured), _PERCENTILES: F.percentile_approx(measured, [0.01, 0.5], _ACCURACY)}

    @classmethod
    def of(cls, found: Row | dict[str, object]) -> Self | None:
        """What the aggregates found; None where no row has a time."""
        oldest, percentiles = found[_OLDEST], found[_PERCENTILES]
        return None if oldest is None else cls(oldest, *percentiles)  # type: ignore[misc, arg-type]

    def age_at(self, instant: datetime) -> Freshness:
        """The ages at an instant. A source whose clock is ahead of ours has rows of no age."""
        now = instant.timestamp() * 1e6

        def seconds(micros: int) -> float:
            return round(max(0.0, now - micros) / 1e6, 3)

        return Freshness(p50=seconds(self.half), p99=seconds(self.first), max=seconds(self.oldest))
