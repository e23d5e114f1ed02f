"""Places in a table ordered by (cursor, key), and the windows between two of them."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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


def condition(
    window: Window,
    cursor: str,
    keys: Sequence[str],
    at: Callable[[Mark], str],
    value: Callable[[str | int], str],
) -> str:
    """A window as a condition of SQL or SOQL, for sources that do not compare rows of values.

    The bare comparison of the cursor stands first: by it a source leaves out what lies elsewhere.

    Args:
        window: the window.
        cursor, keys: the columns, quoted.
        at, value: write a mark's time and a key's value into the text, or bind them: asked in the text's order.
    """
    sides = [] if window.since is None else [_side(">", window.since, cursor, keys, at, value)]
    return " AND ".join([*sides, _side("<", window.until, cursor, keys, at, value)])


def _side(
    sign: str,
    mark: Mark,
    cursor: str,
    keys: Sequence[str],
    at: Callable[[Mark], str],
    value: Callable[[str | int], str],
) -> str:
    """Beyond a mark (``>``), or up to it (``<``)."""
    if mark.key is None:
        return f"{cursor} {'>=' if sign == '>' else '<'} {at(mark)}"
    bare = f"{cursor} {sign}= {at(mark)}"
    ways = [f"{cursor} {sign} {at(mark)}"]
    # (k1, k2) > (a, b): k1 > a OR (k1 = a AND k2 > b); up to it: or both are equal.
    signs = [["="] * place + [sign] for place in range(len(keys))] + ([["="] * len(keys)] if sign == "<" else [])
    for compared in signs:
        parts = [f"{key} {one} {value(bound)}" for key, one, bound in zip(keys, compared, mark.key, strict=False)]
        ways.append(f"({' AND '.join(parts)})")
    return f"{bare} AND ({' OR '.join(ways)})"
