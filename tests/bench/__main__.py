"""How fast it is: `python -m tests.bench`, or `python -m tests.bench pulls` for one part."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import daily, kafka, pulls

_PARTS = {"kafka": kafka.measure, "pulls": pulls.measure, "daily": daily.measure}


def main(names: list[str]) -> None:
    out = Console()
    table = Table(box=None, pad_edge=False)
    for name in ("what", "rows", "ours", "theirs", "", "ratio", "at least"):
        table.add_column(name, justify="left" if name in ("what", "") else "right")
    for name in names or _PARTS:
        with tempfile.TemporaryDirectory() as place:
            for figure in _PARTS[name](Path(place), out.print):
                measured = (f"{figure.ours:.2f}", f"{figure.theirs:.2f}", figure.unit, f"{figure.ratio:.2f}")
                table.add_row(figure.what, f"{figure.rows:,}", *measured, f"{figure.at_least:.2f}")
    out.print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
