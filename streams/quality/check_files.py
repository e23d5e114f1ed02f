"""Soda check files, read without Soda: its import alone takes most of a second, which `validate` cannot spend.

This knows the part of SodaCL that the check files use, and refuses the rest; the scan has Soda's own parser.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any, Final

import yaml

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator
    from pathlib import Path

_METRICS: Final = (
    *("row_count", "missing_count", "missing_percent", "invalid_count", "invalid_percent", "valid_count"),
    *("duplicate_count", "duplicate_percent", "min", "max", "avg", "sum", "min_length", "max_length", "avg_length"),
)
_NEEDS_COLUMN: Final = frozenset(_METRICS) - {"row_count"}
_VALIDITY: Final = (
    *("valid min", "valid max", "valid values", "valid format", "valid regex", "valid length"),
    *("valid min length", "valid max length", "invalid values", "invalid format", "invalid regex"),
)
_KEYS: Final = (
    *("name", "warn", "fail", "filter", "missing values", "missing regex", "missing format", "attributes"),
    *_VALIDITY,
)
_FAILED_ROWS_KEYS: Final = ("name", "warn", "fail", "fail condition", "fail query", "attributes")
_VALUE = r"-?(?:\d+(?:\.\d+)?|\$\{\s*\w+\s*\})\s*%?"
_THRESHOLD = rf"(?:(?:<=|>=|!=|<>|=|<|>)\s*{_VALUE}|(?:not\s+)?between\s+[\[(]?{_VALUE}\s+and\s+{_VALUE}[\])]?)"
_LINE: Final = re.compile(rf"^(?P<metric>[A-Za-z_]\w*)\s*(?:\((?P<columns>[^()]*)\))?\s*(?P<threshold>{_THRESHOLD})?$")
_ALARM: Final = re.compile(rf"^when\s+{_THRESHOLD}$")
_REFERENCE: Final = re.compile(r"^values in \([^()]+\) must (?:not )?exist in \S+ \([^()]+\)$")
_FRESHNESS: Final = re.compile(r"^freshness\s*\(\s*\w+\s*\)\s*(?:<|<=)\s*(?:\d+[dhms])+$")
_HEADER: Final = re.compile(r"^checks for (?P<dataset>\w+)$")


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key given twice, of which PyYAML would drop the first in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def validate_checks(path: Path) -> list[str]:
    """What is wrong with a check file, one sentence each; empty when nothing is. Starts neither Soda nor Spark.

    The file's name, up to its first dot, must be the dataset that its checks are about.
    """
    try:
        # A loader of ours on top of PyYAML's safe one: it builds plain values only.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)  # noqa: S506
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return [f"cannot be read: {error}"]
    if not isinstance(content, dict) or not content:
        return ["there is no check in it"]
    dataset = path.name.partition(".")[0]
    return [problem for header, checks in content.items() for problem in _section(str(header), checks, dataset)]


def _section(header: str, checks: object, dataset: str) -> Iterator[str]:
    match = _HEADER.match(header)
    if match is None:
        yield f"{header!r} is not understood: write `checks for {dataset}:`"
    elif match["dataset"] != dataset:
        yield f"{header!r} must be about {dataset}, as the file is named"
    elif not isinstance(checks, list) or not checks:
        yield f"{header!r} has no list of checks"
    else:
        for check in checks:
            yield from _check(check)


def _check(check: object) -> Iterator[str]:
    if isinstance(check, str):
        yield from _line(check, {})
    elif isinstance(check, dict) and len(check) == 1:
        line, settings = next(iter(check.items()))
        if isinstance(settings, dict):
            yield from _line(str(line), settings)
        else:
            yield f"{line!r} must be followed by settings, or have no colon"
    else:
        yield f"{check!r} is no check: a check is a line, or a line and its settings"


def _line(line: str, settings: dict[str, object]) -> Iterator[str]:
    if line == "failed rows":
        yield from _failed_rows(settings)
    elif _REFERENCE.match(line) or _FRESHNESS.match(line):
        yield from _unknown_keys(line, settings, ("name", "attributes"))
    elif match := _LINE.match(line):
        yield from _metric(line, match, settings)
    else:
        yield f"{line!r} is not understood"
    yield from _alarms(line, settings)
    yield from _patterns(line, settings)


def _failed_rows(settings: dict[str, object]) -> Iterator[str]:
    yield from _unknown_keys("failed rows", settings, _FAILED_ROWS_KEYS)
    if ("fail condition" in settings) == ("fail query" in settings):
        yield "'failed rows' needs either a `fail condition` or a `fail query`"
    if not settings.get("name"):
        yield "'failed rows' needs a `name`: its line says nothing"


def _metric(line: str, match: re.Match[str], settings: dict[str, object]) -> Iterator[str]:
    metric = match["metric"]
    own = (f"{metric} expression", f"{metric} query")
    is_own = any(key in settings for key in own)
    if metric not in _METRICS and not is_own:
        yield f"{line!r}: there is no metric {metric!r}{_nearest(metric, _METRICS)}, and no `{own[0]}` beside it"
    if metric in _NEEDS_COLUMN and not match["columns"]:
        yield f"{line!r}: {metric} needs a column"
    if metric in ("invalid_count", "invalid_percent", "valid_count") and not set(settings) & set(_VALIDITY):
        yield f"{line!r} does not say what is valid"
    if not match["threshold"] and not {"warn", "fail"} & set(settings):
        yield f"{line!r} has no threshold, such as `= 0`, and neither `warn` nor `fail`"
    yield from _unknown_keys(line, settings, (*_KEYS, *own))


def _alarms(line: str, settings: dict[str, object]) -> Iterator[str]:
    for key in ("warn", "fail"):
        if key in settings and not _ALARM.match(str(settings[key])):
            yield f"{line!r}: `{key}` must be like `when > 0`, not {settings[key]!r}"


def _patterns(line: str, settings: dict[str, object]) -> Iterator[str]:
    for key in (key for key in settings if key.endswith(" regex")):
        try:
            re.compile(str(settings[key]))
        except re.error as error:
            yield f"{line!r}: `{key}` is no regular expression: {error}"


def _unknown_keys(line: str, settings: dict[str, object], known: tuple[str, ...]) -> Iterator[str]:
    for key in settings:
        if key not in known:
            yield f"{line!r}: unknown setting {key!r}{_nearest(str(key), known)}"


def _nearest(word: str, known: tuple[str, ...]) -> str:
    found = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""
