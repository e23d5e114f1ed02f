"""As much of SOQL as the stand-in for Salesforce answers: one object, conditions, ORDER BY, LIMIT and OFFSET."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Row = Mapping[str, Any]

_QUERY: Final = re.compile(
    r"SELECT (?P<fields>.+?) FROM (?P<object>\w+)(?: WHERE (?P<where>.+?))?(?: ORDER BY (?P<order>[\w, ]+?))?"
    r"(?: LIMIT (?P<limit>\d+))?(?: OFFSET (?P<offset>\d+))?",
    re.S,
)
_TOKEN: Final = re.compile(
    r"\s*(?:(?P<text>'(?:[^'\\]|\\.)*')|(?P<time>\d{4}-\d\d-\d\dT[\d:.]+Z)|(?P<number>-?\d+(?:\.\d+)?)"
    r"|(?P<word>\w+)|(?P<sign><=|>=|!=|=|<|>|\(|\)))",
    re.S,
)
_SIGNS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t"}
_MOST_SKIPPED: Final = 2000  # Salesforce's own limit of OFFSET


class SoqlError(Exception):
    """Salesforce's error code and a sentence."""


@dataclass(frozen=True)
class Query:
    """A query, parsed. ``fields`` is empty for COUNT()."""

    object: str
    fields: tuple[str, ...]
    is_wanted: Callable[[Row], bool]
    order: tuple[str, ...]
    limit: int | None
    offset: int
    named: frozenset[str]

    def run(self, rows: Iterable[Row]) -> list[Row]:
        """The rows that it asks for. Times and Ids are compared as the texts that they are."""
        found = [row for row in rows if self.is_wanted(row)]
        if self.order:
            found.sort(key=lambda row: [row[name] for name in self.order])
        return found[self.offset :][: self.limit]


def parse(text: str) -> Query:
    """Parse a query.

    Raises:
        SoqlError: ``MALFORMED_QUERY`` or ``NUMBER_OUTSIDE_VALID_RANGE``.
    """
    found = _QUERY.fullmatch(text.strip())
    if found is None:
        raise SoqlError("MALFORMED_QUERY", "unexpected token")
    fields = () if found["fields"] == "COUNT()" else tuple(name.strip() for name in found["fields"].split(","))
    order = tuple(name.strip() for name in (found["order"] or "").split(",") if name.strip())
    condition = _Condition(found["where"]) if found["where"] else None
    offset = int(found["offset"] or 0)
    if offset > _MOST_SKIPPED:
        raise SoqlError("NUMBER_OUTSIDE_VALID_RANGE", f"Maximum SOQL offset allowed is {_MOST_SKIPPED}")
    named = frozenset((*fields, *order, *(condition.named if condition else ())))
    is_wanted = condition.whole if condition else lambda _: True
    limit = int(found["limit"]) if found["limit"] else None
    return Query(found["object"], fields, is_wanted, order, limit, offset, named)


class _Condition:
    """Recursive descent: alternatives of conjunctions of comparisons."""

    def __init__(self, text: str) -> None:
        self.named: set[str] = set()
        self._tokens = list(_tokens(text))
        self.whole = self._either()
        if self._tokens:
            raise SoqlError("MALFORMED_QUERY", "unexpected token")

    def _take(self) -> tuple[str, str]:
        if not self._tokens:
            raise SoqlError("MALFORMED_QUERY", "unexpected end")
        return self._tokens.pop(0)

    def _is_next(self, word: str) -> bool:
        if self._tokens and self._tokens[0][1].upper() == word:
            self._tokens.pop(0)
            return True
        return False

    def _either(self) -> Callable[[Row], bool]:
        ways = [self._all()]
        while self._is_next("OR"):
            ways.append(self._all())
        return lambda row: any(way(row) for way in ways)

    def _all(self) -> Callable[[Row], bool]:
        parts = [self._one()]
        while self._is_next("AND"):
            parts.append(self._one())
        return lambda row: all(part(row) for part in parts)

    def _one(self) -> Callable[[Row], bool]:
        if self._is_next("("):
            inner = self._either()
            if self._take()[1] != ")":
                raise SoqlError("MALFORMED_QUERY", "expecting a right parenthesis")
            return inner
        name, sign, value = self._take()[1], self._take()[1], _value(*self._take())
        if sign not in _SIGNS:
            raise SoqlError("MALFORMED_QUERY", "expecting an operator")
        self.named.add(name)
        compare = _SIGNS[sign]
        if value is None:
            return lambda row: compare(row[name], None)
        return lambda row: row[name] is not None and compare(row[name], value)


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, place = [], 0
    while place < len(text.rstrip()):
        found = _TOKEN.match(text, place)
        if found is None or found.lastgroup is None:
            raise SoqlError("MALFORMED_QUERY", "unexpected sign")
        tokens.append((found.lastgroup, found[found.lastgroup]))
        place = found.end()
    return tokens


def _value(kind: str, text: str) -> Any:
    if kind == "text":
        return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), text[1:-1], flags=re.S)
    if kind == "time":
        seconds, _, fraction = text.removesuffix("Z").partition(".")
        return f"{seconds}.{fraction.ljust(3, '0')[:3]}Z"
    if kind == "number":
        return float(text)
    words = {"NULL": None, "TRUE": True, "FALSE": False}
    if text.upper() not in words:
        raise SoqlError("MALFORMED_QUERY", f"unexpected token: {text}")
    return words[text.upper()]
