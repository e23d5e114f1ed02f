"""Whether an input keeps its contract, said by plain Python and the `jsonschema` library over the contract's own file.

Shares no code with the service. What is added to JSON Schema is stated here: how text becomes a value, `x-decimal`,
that a pattern's ``$`` is the end and nothing else, what an e-mail address is, and that times have at most microseconds.
"""

from __future__ import annotations

import copy
import datetime as dt
import json
import re
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Row = dict[str, Any]
# JSON Schema's words, as the error lane has them.
_CODES = {
    "required": "required",
    "type": "type",
    "format": "format",
    "enum": "enum",
    "pattern": "pattern",
    "minLength": "min_length",
    "maxLength": "max_length",
    "minimum": "minimum",
    "maximum": "maximum",
    "exclusiveMinimum": "exclusive_minimum",
}
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_TIME = re.compile(r"(.{19})(?:\.([0-9]{1,6}))?(Z|z|[+-][0-9]{2}:[0-9]{2})", re.DOTALL)
_MOST = 2**63


@dataclass(frozen=True)
class Verdict:
    """A row with its types, or why it must wait in the error lane: codes, some of which the lane must name.

    ``place`` counts the records of a file.
    """

    row: Row | None
    why: frozenset[str] = frozenset()
    place: int = 0


class Rules:
    """A contract's file.

    Args:
        file: ``NAME.schema.json``.
    """

    def __init__(self, file: Path) -> None:
        self.schema: dict[str, Any] = json.loads(file.read_text())
        self.columns: dict[str, dict[str, Any]] = self.schema["properties"]
        self.key: tuple[str, ...] = tuple(self.schema["x-primary-key"])
        self.cursor: str = self.schema["x-sequence"][0]
        strict = copy.deepcopy(self.schema)
        for said in strict["properties"].values():
            if "pattern" in said:
                said["pattern"] = re.sub(r"\$$", r"\\Z", said["pattern"])
        self._validator = Draft202012Validator(strict, format_checker=Draft202012Validator.FORMAT_CHECKER)

    @property
    def personal(self) -> tuple[str, ...]:
        """The columns that are personal data."""
        return tuple(name for name, said in self.columns.items() if "x-personal" in said)

    def kind(self, column: str) -> str:
        said = self.columns[column]["type"]
        return said if isinstance(said, str) else said[0]

    def judge(self, instance: Mapping[str, Any]) -> Verdict:
        """A record as JSON has it; numbers are int or Decimal."""
        found = {_code(error) for error in self._validator.iter_errors(dict(instance))}
        for name, said in self.columns.items():
            value = instance.get(name)
            if value is None:
                continue
            if "x-decimal" in said and _is_number(value) and not _fits(Decimal(value), *said["x-decimal"]):
                found.add("type")
            if said.get("format") == "email" and isinstance(value, str) and not _EMAIL.fullmatch(value):
                found.add("format")
            if said.get("format") == "date-time" and isinstance(value, str) and not _is_time(value):
                found.add("type")
            if said["type"] == "integer" and isinstance(value, int) and not -_MOST <= value < _MOST:
                found.add("type")
        if found:
            # A value that is no date has not the type of its column, as the lane says it.
            return Verdict(None, frozenset(found | ({"type"} if "format" in found else set())))
        return Verdict({name: self._typed(name, instance.get(name)) for name in self.columns})

    def _typed(self, name: str, value: Any) -> Any:
        said = self.columns[name]
        if value is None:
            return None
        if said.get("format") == "date":
            return dt.date.fromisoformat(value)
        if said.get("format") == "date-time":
            return _time(value)
        return Decimal(value) if "x-decimal" in said else value

    def of_texts(self, texts: Mapping[str, str | None]) -> Verdict:
        """A record whose values are text, an empty one absent."""
        read = {name: self._read(name, text) for name, text in texts.items() if text is not None}
        return self.judge(read)

    def _read(self, name: str, text: str) -> Any:
        kind = self.kind(name)
        if kind == "integer" and _INTEGER.fullmatch(text):
            return int(text)
        if kind == "number" and _NUMBER.fullmatch(text):
            return Decimal(text)
        if kind == "boolean" and text in ("true", "false"):
            return text == "true"
        return text

    def of_values(self, row: Mapping[str, Any]) -> Verdict:
        """A row of a table: times are aware, numbers int, float or Decimal."""
        return self.judge({name: _told(value) for name, value in row.items() if value is not None})


def csv_message(rules: Rules, key: bytes | None, value: bytes | None, key_column: str) -> Verdict:
    """A Kafka message; one without a value deletes its key."""
    if value is None:
        return _tombstone(key, rules.columns[key_column]["pattern"])
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return Verdict(None, frozenset({"encoding"}))
    text = re.sub(r"\r?\n\Z", "", text.removeprefix("\ufeff"))
    if re.fullmatch(r"[ \t\n\x0B\f\r]*", text):  # what Java and POSIX take for blank
        return Verdict(None, frozenset({"empty"}))
    fields = csv_fields(text)
    if isinstance(fields, str):
        return Verdict(None, frozenset({fields}))
    names = list(rules.columns)
    least = max(place + 1 for place, name in enumerate(names) if "x-added" not in rules.columns[name])
    if not least <= len(fields) <= len(names):
        return Verdict(None, frozenset({"columns"}))
    return rules.of_texts({name: field or None for name, field in zip(names, fields, strict=False)})


def _tombstone(key: bytes | None, pattern: str) -> Verdict:
    text = None if key is None else key.decode("utf-8", "replace")
    if text is None or not re.fullmatch(pattern.removesuffix("$"), text):
        return Verdict(None, frozenset({"empty" if text is None else "key"}))
    return Verdict({"_is_tombstone": True, "_key": text})


def csv_fields(text: str) -> list[str] | str:
    """The fields of one record (RFC 4180), or what is wrong with it: ``quoting``, ``records``."""
    fields, place, several = [], 0, False
    while True:
        if text[place : place + 1] == '"':
            field, place = "", place + 1
            while True:
                end = text.find('"', place)
                if end < 0:
                    return "quoting"
                field, place = field + text[place:end], end + 1
                if text[place : place + 1] != '"':
                    break
                field, place = field + '"', place + 1
        else:
            end = next((at for at in range(place, len(text)) if text[at] in ',"\r\n'), len(text))
            field, place = text[place:end], end
        fields.append(field)
        sign = text[place : place + 1]
        if not sign:
            return "records" if several else fields
        if sign in "\r\n":
            several = True
        elif sign != ",":
            return "quoting"
        place += 1


def json_file(rules: Rules, content: bytes) -> list[Verdict]:
    """Each record of a file: one document, an array, or JSON lines. What can't be read whole is one bad record."""
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        return [Verdict(None, frozenset({"encoding"}))]
    if not text.strip():
        return [Verdict(None, frozenset({"empty"}))]
    records = _records(text)
    if records is None:
        return [Verdict(None, frozenset({"not_json"}))]
    if not records:
        return [Verdict(None, frozenset({"empty"}))]
    judged = []
    for place, record in enumerate(records):
        if isinstance(record, dict):
            judged.append(Verdict(**vars(rules.judge(record)) | {"place": place}))
        else:
            judged.append(Verdict(None, frozenset({"not_an_object", "not_json"}), place))
    return judged


def _records(text: str) -> list[Any] | None:
    with_one = _parsed(text)
    if with_one is not None:
        return with_one[0] if isinstance(with_one[0], list) else with_one
    lines = [_parsed(line) for line in re.split(r"\r?\n", text) if line.strip(" ")]
    return None if None in lines else [line[0] for line in lines if line is not None]


def _parsed(text: str) -> list[Any] | None:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("a key is there twice")
        return dict(pairs)

    def never(word: str) -> Any:
        raise ValueError(word)

    try:
        return [json.loads(text, parse_float=Decimal, parse_constant=never, object_pairs_hook=once)]
    except ValueError:
        return None


def _code(error: Any) -> str:
    if error.validator == "format" and error.validator_value in ("date", "date-time"):
        return "type"
    return _CODES.get(error.validator, str(error.validator))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


@cache
def _largest(whole: int) -> Decimal:
    return Decimal(10) ** whole


def _fits(value: Decimal, precision: int, scale: int) -> bool:
    if not value:
        return True
    exponent = value.normalize().as_tuple().exponent
    return isinstance(exponent, int) and -exponent <= scale and abs(value) < _largest(precision - scale)


def _is_time(text: str) -> bool:
    try:
        _time(text)
    except (ValueError, OverflowError):
        return False
    return True


def _time(text: str) -> dt.datetime:
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(text)
    seconds, fraction, zone = found.groups()
    made = f"{seconds}.{(fraction or '0').ljust(6, '0')}{'+00:00' if zone in 'zZ' else zone}"
    return dt.datetime.fromisoformat(made).astimezone(dt.UTC)


def _told(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, dt.date):
        return value.isoformat()
    return Decimal(repr(value)) if isinstance(value, float) else value
