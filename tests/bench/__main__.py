"""How fast it is: `python -m tests.bench`, or `python -m tests.bench latency merge` for some parts.

Exit code 1 when a figure is short of its limit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from rich.console import Console
from rich.table import Table

from tests.bench import daily, idle, kafka, latency, merge, pulls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.figure import Figure


class _Part(Protocol):
    def __call__(self, place: Path, say: Callable[[str], None], *, quick: bool = False) -> Iterator[Figure]: ...


PARTS: Final[dict[str, _Part]] = {
    "kafka": kafka.measure,
    "merge": merge.measure,
    "latency": latency.measure,
    "idle": idle.measure,
    "daily": daily.measure,
    "pulls": pulls.measure,
}


def main() -> int:
    """Measure, tell, and say whether all holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="smaller sizes: to see that it runs, not for figures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures, for programs")
    asked = parser.parse_args()
    unknown = set(asked.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    out, figures = Console(width=None if sys.stdout.isatty() else 160), []
    for name in asked.parts or PARTS:
        out.print(name)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            for figure in PARTS[name](Path(place), lambda line: out.print(line, highlight=False), quick=asked.quick):
                figures.append(figure)
                out.print("  ", *figure.as_row(), highlight=False)
    table = Table(box=None, pad_edge=False)
    for title in ("what", "rows", "ours", "theirs", "", "ratio", "must be", ""):
        table.add_column(title, justify="left" if title in ("what", "", "must be") else "right")
    for figure in figures:
        table.add_row(*figure.as_row())
    out.print(table)
    if asked.json:
        asked.json.write_text(json.dumps([figure.as_json() for figure in figures], indent=2, ensure_ascii=False))
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
