"""Places in a table ordered by (cursor, key), and the windows between two of them."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Any, Final

_INSTANT: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")


def instant(time: dt.datetime) -> str:
    """An aware time as text: UTC, ISO 8601 with nine digits, so that the order of texts is that of times."""
    if time.tzinfo is None:
        raise ValueError("a time without its zone is not an instant")
    return f"{time.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%S.%f}000Z"


def moment(text: str) -> dt.datetime:
    """The time of an instant's text, to the microsecond below it."""
    found = _INSTANT.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not an instant such as 2025-01-06T00:00:00Z")
    fraction = (found[2] or "").ljust(6, "0")[:6]
    return dt.datetime.fromisoformat(f"{found[1]}.{fraction}+00:00")


@dataclass(frozen=True)
class Mark:
    """A place between rows: just after the row (at, key); without a key, before all rows of that instant.

    Args:
        at: an instant's text (see `instant`); nine digits, because sources count nanoseconds.
        key: the key columns' values, compared by the source itself.
    """

    at: str
    key: tuple[str | int, ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As an offset holds it."""
        keys = {} if self.key is None else {"key": {str(place): value for place, value in enumerate(self.key)}}
        return {"at": self.at} | keys

    @classmethod
    def of(cls, said: dict[str, Any]) -> Mark:
        """What `as_dict` made."""
        key = said.get("key")
        return cls(said["at"], None if key is None else tuple(key[str(place)] for place in range(len(key))))


@dataclass(frozen=True)
class Window:
    """The rows between two marks; from the first row on where ``since`` is None.

    Half open: a row belongs to exactly one of two windows that meet.
    """

    since: Mark | None
    until: Mark

    def __str__(self) -> str:
        def shown(mark: Mark | None) -> str:
            return "the first" if mark is None else f"{mark.at}{'' if mark.key is None else ' (within ties)'}"

        return f"{shown(self.since)} to {shown(self.until)}"


@dataclass(frozen=True)
class Selection:
    """Which rows and columns of a table are read.

    Args:
        columns: the columns, in the order in which they are wanted.
        window: only rows in it; None for all rows, those without a cursor value too.
        without_cursor: in place of a window, only the rows whose cursor is null.
    """

    columns: tuple[str, ...]
    window: Window | None = None
    without_cursor: bool = False
