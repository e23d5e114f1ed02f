"""When a pulled table is due."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streams.flows.bronze import PULLED_TABLES
from streams.source_settings import PullSettings
from streams.sources.adapters import AdapterSource

if TYPE_CHECKING:
    import pytest


def test_each_table_is_due_once_an_interval_and_not_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_700_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    nothing: Any = None
    sources = [
        AdapterSource(
            table.flow, table.system, table.table, ("id",), "at", (), PullSettings(every_seconds=300), nothing
        )
        for table in PULLED_TABLES
    ]
    due: dict[str, list[float]] = {source.flow: [] for source in sources}
    seen = {source.flow: source.position(nothing) for source in sources}
    for _ in range(600):
        now += 1
        for source in sources:
            position = source.position(nothing)
            if position != seen[source.flow]:
                due[source.flow].append(now)
                seen[source.flow] = position
    assert {len(times) for times in due.values()} == {2}
    assert len({times[0] for times in due.values()}) == len(sources)
