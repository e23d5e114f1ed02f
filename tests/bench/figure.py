"""What a benchmark says: ours beside another way to do the same, in one run, as a ratio."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Args:
        what: what was done, and against what.
        rows: how many.
        ours, theirs: seconds, or MiB; less is better.
        at_least: what the ratio of speeds must be.
        unit: of both.
    """

    what: str
    rows: int
    ours: float
    theirs: float
    at_least: float
    unit: str = "s"

    @property
    def ratio(self) -> float:
        """How fast ours is where theirs is 1."""
        return self.theirs / self.ours
