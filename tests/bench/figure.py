"""What a benchmark says: ours beside another way to do the same, in one run, as a ratio; or a figure of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One row of the table. One of `at_least` and `at_most` says what it must be; neither: it is only told.

    Args:
        what: what was done, and against what.
        ours: what was measured, less is better unless the unit is one of speed.
        unit: of both.
        theirs: the other way, in the same unit; None where the figure stands alone.
        rows: how many.
        at_least: what the ratio of speeds must be, theirs ÷ ours.
        at_most: how many times as long ours may take, ours ÷ theirs; without `theirs`, what ours may be.
    """

    what: str
    ours: float
    unit: str = "s"
    theirs: float | None = None
    rows: int = 0
    at_least: float | None = None
    at_most: float | None = None

    @property
    def ratio(self) -> float | None:
        """As the limit counts it; None where the figure stands alone."""
        if self.theirs is None:
            return None
        return self.theirs / self.ours if self.at_least is not None else self.ours / self.theirs

    @property
    def limit(self) -> str:
        """In words."""
        unit = "" if self.theirs is not None else f" {self.unit}"
        if self.at_least is not None:
            return f"≥ {self.at_least:g}{unit}"
        return f"≤ {self.at_most:g}{unit}" if self.at_most is not None else "stated"

    @property
    def holds(self) -> bool:
        """Whether it is what it must be."""
        measured = self.ours if self.ratio is None else self.ratio
        if self.at_least is not None:
            return measured >= self.at_least
        return self.at_most is None or measured <= self.at_most

    def as_row(self) -> tuple[str, ...]:
        """For people: what, rows, ours, theirs, unit, ratio, limit, verdict."""
        theirs = "" if self.theirs is None else f"{self.theirs:,.2f}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        verdict = "" if self.limit == "stated" else "holds" if self.holds else "short"
        return (
            self.what,
            f"{self.rows:,}" if self.rows else "",
            f"{self.ours:,.2f}",
            theirs,
            self.unit,
            ratio,
            self.limit,
            verdict,
        )

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return vars(self) | {"ratio": self.ratio, "limit": self.limit, "holds": self.holds}
