"""Which checks the time alone can change, and what a gate's outcome depends on."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from streams.quality.gate_memory import mark_of, of_the_time

SODA = Path(__file__).parents[2] / "contracts" / "soda"
CHECKS = """
checks for orders:
  - row_count > 0
  - duplicate_count(order_id) = 0
  - freshness(updated_at) < 2d
  - lost:
      name: é is kept
      lost query: SELECT COUNT(*) FROM orders LEFT ANTI JOIN customers USING (customer_id)
      warn: when > 0
  - late:
      late expression: COUNT(CASE WHEN updated_at > NOW() THEN 1 END)
      fail: when > 0
"""


def test_only_what_the_time_changes_is_left() -> None:
    (left,) = of_the_time([CHECKS, "checks for orders:\n  - row_count > 1\n"])
    assert yaml.safe_load(left) == {"checks for orders": yaml.safe_load(CHECKS)["checks for orders"][2::2]}


@pytest.mark.parametrize("file", sorted(SODA.glob("silver/*.gate.yml")), ids=lambda file: file.name)
def test_how_old_the_newest_row_is_is_asked_each_time(file: Path) -> None:
    assert any("stale_hours" in text for text in of_the_time([file.read_text()])), file


def test_what_the_outcome_depends_on() -> None:
    here = {"orders": ["a", 3], "customers": ["b", 1], "products": ["c", 9]}
    mark = mark_of([CHECKS], here)
    assert mark == mark_of([CHECKS], here | {"products": ["c", 10]})
    assert mark not in (
        mark_of([CHECKS], here | {"orders": ["a", 4]}),
        mark_of([CHECKS], here | {"orders": ["z", 3]}),
        mark_of([CHECKS], here | {"customers": ["b", 2]}),
        mark_of([CHECKS.replace("> 0", "> 1")], here),
    )
    assert mark_of([CHECKS], here | {"customers": None}) is None, "what is not there may come"
