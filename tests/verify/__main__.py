"""``python -m tests.verify``: does the service keep its promises under faults? Exit code 1 where it does not."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tests.conftest import QUICK_START
from tests.verify.campaign import KINDS, Options, clear, run
from tests.verify.tally import Tally
from tests.verify.workload import SOURCES

if TYPE_CHECKING:
    from tests.verify.tally import Failure


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.verify", description=__doc__)
    parser.add_argument("--seed", type=int, default=7, help="the same seed tries the same faults")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"separated by commas: {', '.join(KINDS)}")
    parser.add_argument("--faults", type=int, default=320, help="about how many")
    parser.add_argument("--inputs", type=int, default=100_000, help="mutated inputs")
    parser.add_argument(
        "--sources",
        default=",".join(SOURCES),
        help=f"bronze flows that are fed, separated by commas: {', '.join(SOURCES)}",
    )
    parser.add_argument("--stall", type=float, default=20.0, help="seconds for which what stands still does so")
    parser.add_argument("--check-every", type=int, default=29, help="faults between two comparisons of all tables")
    parser.add_argument(
        "--keep", action="store_true", help="keep lakes and logs; those of a failed run are kept anyway"
    )
    parser.add_argument("--json", action="store_true", help="the result for programs")
    given = parser.parse_args()
    kinds = tuple(kind.strip() for kind in given.kinds.split(",") if kind.strip())
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        parser.error(f"there is no kind {unknown[0]!r}; there are {', '.join(KINDS)}")
    if unknown := [flow for flow in given.sources.split(",") if flow not in SOURCES]:
        parser.error(f"there is no source {unknown[0]!r}; there are {', '.join(SOURCES)}")
    sources = tuple(flow for flow in SOURCES if flow in given.sources.split(","))
    out, err = Console(), Console(stderr=True)
    warnings.simplefilter("ignore")
    os.environ["SPARK_SUBMIT_OPTS"] = QUICK_START
    folder = Path(tempfile.mkdtemp(prefix="streams-verify-"))
    tally = Tally(lambda line: err.print(line, highlight=False, soft_wrap=True, markup=False))
    options = Options(given.seed, kinds, given.faults, given.inputs, given.stall, given.check_every, sources)
    began = time.monotonic()
    try:
        run(options, folder, tally)
    except KeyboardInterrupt:
        tally.failed("interrupted")
    seconds = time.monotonic() - began
    if given.json:
        out.print_json(json.dumps(_result(tally, given.seed, seconds)))
    else:
        _show(out, tally, given.seed, seconds)
    if not (given.keep or tally.failures):
        clear(folder)
    elif not given.json:
        out.print(f"Lakes and logs: {folder}", highlight=False, soft_wrap=True)
    return 1 if tally.failures else 0


def _result(tally: Tally, seed: int, seconds: float) -> dict[str, object]:
    return {
        "seed": seed,
        "seconds": round(seconds),
        "faults": tally.faults,
        "inputs": tally.inputs,
        "comparisons": tally.checks,
        "rows_compared": tally.rows_compared,
        "kinds": [kind.as_row(name) for name, kind in sorted(tally.kinds.items())],
        "failures": [asdict(failure) for failure in tally.failures],
        "notes": tally.notes,
    }


def _show(out: Console, tally: Tally, seed: int, seconds: float) -> None:
    table = Table(box=None, pad_edge=False)
    rows = [kind.as_row(name) for name, kind in sorted(tally.kinds.items())]
    for name in rows[0] if rows else ("kind",):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    out.print(table)
    for note in tally.notes:
        out.print(note, highlight=False, soft_wrap=True, markup=False)
    for failure in tally.failures:
        _show_failure(out, failure, seed)
    verdict = f"{len(tally.failures)} things are wrong" if tally.failures else "nothing lost, nothing twice"
    out.print(
        f"{tally.faults} faults and {tally.inputs} bad inputs in {seconds / 60:.0f} minutes, seed {seed}; "
        f"{tally.rows_compared} rows compared in {tally.checks} comparisons: {verdict}",
        highlight=False,
        soft_wrap=True,
    )


def _show_failure(out: Console, failure: Failure, seed: int) -> None:
    out.print(f"\n{failure.what}", style="bold red", highlight=False, soft_wrap=True, markup=False)
    for fault in failure.after[-8:]:
        out.print(f"  after {fault}", highlight=False, soft_wrap=True, markup=False)
    for example in failure.examples:
        out.print(f"  {example}", highlight=False, soft_wrap=True, markup=False)
    out.print(f"  Once more: --seed {seed} --check-every 1", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
