"""Small stacked bars: of rows and of seconds, batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from streams.telemetry.audit import BatchAudit

# What becomes of rows, and the phases of a batch: the order is that of the colours.
ROWS: Final = ("written", "duplicate", "stale", "error lane")
PHASES: Final = ("prepare", "append", "check", "lane", "merge", "stage", "load", "sweep")
_HEIGHT: Final = 96.0
_BAR: Final = 9.0
_STEP: Final = 11.0


@dataclass(frozen=True)
class Part:
    """A piece of a bar; `place` is that of its colour."""

    name: str
    place: int
    value: float
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Bar:
    """One batch."""

    batch_id: int
    at: datetime
    total: float
    parts: tuple[Part, ...]
    x: float


@dataclass(frozen=True)
class Chart:
    """Bars beside each other, the oldest first; `top` is what the highest stands for."""

    width: float
    height: float
    top: float
    bars: tuple[Bar, ...]
    names: tuple[tuple[str, int], ...]  # those that there are, with their colours' places


def rows_of(audit: BatchAudit) -> dict[str, float]:
    """Where a batch's rows went."""
    counts = audit.counts
    return dict(
        zip(ROWS, (counts.rows_written, counts.rows_duplicate, counts.rows_stale, counts.rows_error), strict=True)
    )


def chart(audits: Sequence[BatchAudit], values: Sequence[Mapping[str, float]], order: Sequence[str]) -> Chart:
    """Stack each batch's values in that order; names that it does not have come last."""
    found = {name for one in values for name, value in one.items() if value}
    names = [name for name in (*order, *sorted(found - set(order))) if name in found]
    places = {name: order.index(name) if name in order else len(order) for name in names}
    top = max((sum(one.values()) for one in values), default=0.0)
    bars = []
    for index, (audit, one) in enumerate(zip(audits, values, strict=True)):
        x, y, parts = index * _STEP, _HEIGHT, []
        for name in names:
            value = one.get(name, 0.0)
            if value and top:
                height = max(1.0, value / top * _HEIGHT)  # what is there is seen
                y -= height
                parts.append(Part(name, places[name], value, x, round(y, 2), _BAR, round(height, 2)))
        bars.append(Bar(audit.batch.batch_id, audit.finished_at, sum(one.values()), tuple(parts), x))
    return Chart(max(len(bars), 24) * _STEP, _HEIGHT, top, tuple(bars), tuple(places.items()))


def lying(values: Mapping[str, float], order: Sequence[str], longest: float, width: float = 120.0) -> tuple[Part, ...]:
    """One bar that lies: as long as its sum is to the longest."""
    x, parts = 0.0, []
    for name in sorted(values, key=lambda one: order.index(one) if one in order else len(order)):
        length = values[name] / longest * width if longest else 0.0
        place = order.index(name) if name in order else len(order)
        parts.append(Part(name, place, values[name], round(x, 2), 0.0, round(length, 2), 10.0))
        x += length
    return tuple(parts)
