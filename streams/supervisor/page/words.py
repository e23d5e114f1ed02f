"""How times, counts and texts are written on a page."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from streams.quality.error_lane import shape_of
from streams.telemetry.logs import masked

if TYPE_CHECKING:
    from collections.abc import Mapping

_ADDRESS: Final = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+")
_QUOTED: Final = re.compile(r"'[^'\n]{1,200}'")
_UNITS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def instant(text: str | None) -> datetime | None:
    """An ISO 8601 text as a time, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


def clock(at: datetime | None) -> str:
    """The time to the second, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if at else ""


def span(seconds: float | None) -> str:
    """How long: ``0.4 s``, ``12 s``, ``3 min``, ``2 h``, ``5 d``."""
    if seconds is None:
        return ""
    for size, unit in _UNITS:
        if seconds >= (size if unit == "min" else 2 * size):  # 90 min say more than 2 h
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if 0 < seconds < 1 else f"{max(0.0, seconds):.0f} s"


def ago(at: datetime | None, now: datetime) -> str:
    """How long before `now`."""
    return f"{span((now - at).total_seconds())} ago" if at else "never"


def number(value: float | None) -> str:
    """A count with its thousands told apart; none is a dash."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"


def short(value: float) -> str:
    """A count in little room: ``950``, ``12k``, ``3.4M``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f}".removesuffix(".0") + unit
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def rows(count: int) -> str:
    """``1 row``, ``2 rows``."""
    return f"{count:,} {'row' if count == 1 else 'rows'}"


def shown_error(text: str | None, code: str | None) -> str | None:
    """An error as it may be shown: secrets and addresses masked.

    An error that is not ours may quote a value of the data between single quotes: such are shown by their shape.
    """
    if text is None:
        return None
    shown = _ADDRESS.sub(lambda found: shape_of(found[0]), masked(text))
    if code is None or code in ("FLOW_FAILED", "QUERY_FAILED"):
        shown = _QUOTED.sub(lambda found: shape_of(found[0]), shown)
    return shown


def tail(text: str, length: int) -> str:
    """The end of a long text, which of a path says most."""
    return text if len(text) <= length else f"…{text[1 - length :]}"


def error(text: str) -> str:
    """An error as changes of state keep it, its code in front, as it may be shown."""
    code = re.match(r"\[([A-Z0-9_]+)\]", text)
    return shown_error(text, code[1] if code else None) or ""


def payload_text(payload: bytes | None) -> str:
    """Bytes as text; what is not UTF-8 as escapes."""
    return "" if payload is None else payload.decode("utf-8", "backslashreplace")


def by_name(facts: Mapping[str, float]) -> str:
    """``check 0.3 s, merge 1 s``."""
    return ", ".join(f"{name} {span(value)}" for name, value in facts.items())
