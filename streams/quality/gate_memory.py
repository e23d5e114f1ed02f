"""What gates remember of each table: where it stood when it was judged last, what was found, and how many rows it had.

By it a table that has not moved is not read again, and one that has lost rows is found out.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import yaml

from streams.quality.soda_scan import CheckResult, Outcome, ScanResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streams.storage import Storage

# What a check's text has when its outcome changes with the time alone.
_OF_THE_TIME: Final = re.compile(r"\bcurrent_|\bnow\s*\(|\bfreshness\b|\btoday\b", re.IGNORECASE)


@dataclass(frozen=True)
class Judged:
    """A table as a gate left it.

    Attributes:
        mark: what the outcome depended on (see `mark_of`); None where that was not known.
        rows: how many there were at the last gate whose checks of the row count passed; 0 before that. A gate that
            failed sets no new measure, or rows that are gone would be found missing only once.
        scan: what was found.
    """

    mark: str | None
    rows: int
    scan: ScanResult

    @classmethod
    def of(cls, mark: str | None, scan: ScanResult, before: Judged | None) -> Judged:
        """After a scan."""
        counts = [one for one in scan.results if one.definition.startswith("row_count ")]
        rows = before.rows if before else 0
        if counts and all(one.outcome is Outcome.PASS for one in counts):
            rows = int(max(one.value or 0 for one in counts))
        return cls(mark, rows, scan)

    def holds_for(self, mark: str | None) -> bool:
        """Whether another scan would find the same, time apart. What failed is looked at again in any case."""
        return mark is not None and mark == self.mark and not self.scan.failed


def mark_of(checks: Sequence[str], positions: Mapping[str, object]) -> str | None:
    """A digest of the checks' text and of where each table stands that they name; None where one is not known."""
    text = "\n".join(checks)
    named = {name: where for name, where in positions.items() if re.search(rf"\b{re.escape(name)}\b", text)}
    if not named or None in named.values():
        return None
    return hashlib.sha256(json.dumps([text, named], sort_keys=True).encode()).hexdigest()


def of_the_time(checks: Sequence[str]) -> list[str]:
    """The checks whose outcome changes with the time alone, such as how old the newest row is."""
    found = [_without_others(yaml.safe_load(text)) for text in checks]
    return [yaml.safe_dump(one, sort_keys=False, width=2**31, allow_unicode=True) for one in found if one]


def _without_others(said: Any) -> dict[str, Any]:
    lists = {
        section: [check for check in items if _OF_THE_TIME.search(yaml.safe_dump(check, width=2**31))]
        for section, items in (said or {}).items()
        if section.startswith("checks for")
    }
    return {section: items for section, items in lists.items() if items}


def together(before: ScanResult, now: ScanResult) -> ScanResult:
    """What was found before, with those checks replaced that were made again."""
    again = {one.check: one for one in now.results}
    return ScanResult(now.table, tuple(again.get(one.check, one) for one in before.results), now.queries, now.seconds)


def recall(storage: Storage, place: str) -> dict[str, Judged]:
    """What `remember` kept, by table; empty where nothing was kept."""
    text = storage.read(place)
    return {table: _judged(said) for table, said in json.loads(text).items()} if text else {}


def remember(storage: Storage, place: str, judged: Mapping[str, Judged]) -> None:
    """Keep it in a file."""
    storage.write(place, json.dumps({table: asdict(one) for table, one in judged.items()}, indent=1))


def _judged(said: dict[str, Any]) -> Judged:
    scan = said["scan"]
    results = tuple(CheckResult(**one | {"outcome": Outcome(one["outcome"])}) for one in scan["results"])
    return Judged(said["mark"], said["rows"], ScanResult(**scan | {"results": results}))
