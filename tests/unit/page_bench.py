"""A status page over a report that a test writes, without a JVM: a real server, real files, and lanes in memory."""

from __future__ import annotations

import datetime as dt
import json
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from streams.checkpoint import BatchIdentity
from streams.errors import ConfigurationError
from streams.flows import all_flows
from streams.settings import PageSettings, load_settings
from streams.small_files import LocalFiles
from streams.supervisor.control import Change, Control, FlowReport, Process
from streams.supervisor.page.gate_files import GateFiles
from streams.supervisor.page.lanes import PAGE_ROWS, Aftermath, LanePage, LaneRow, Violation
from streams.supervisor.page.pages import Facts
from streams.supervisor.page.recent import Recent
from streams.supervisor.page.server import PageServer
from streams.supervisor.page.whereabouts import Found, Whereabouts
from streams.telemetry.audit import BatchAudit, CheckOutcome, RowCounts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streams.flows.flow import Flow
    from streams.settings import Settings
    from streams.supervisor.page.lanes import LaneFilter, Settling

RUN = "run-of-test"
NOW = dt.datetime(2026, 6, 30, 10, 0, tzinfo=dt.UTC)


def minutes_ago(minutes: float) -> dt.datetime:
    return NOW - dt.timedelta(minutes=minutes)


@cache
def settings() -> Settings:
    """Production's: every flow that there can be."""
    return load_settings("prod", None, {}, check_secrets=False)


@cache
def declared() -> tuple[Flow, ...]:
    return tuple(all_flows(settings()).values())


def batch(flow: str, number: int, minutes: float, **facts: Any) -> BatchAudit:
    """A batch that ended some minutes ago; `facts` are its rows, or `seconds`, `checks`."""
    seconds = facts.pop("seconds", {"prepare": 0.4, "check": 0.3, "merge": 1.1})
    checks = facts.pop("checks", ())
    counts = {"rows_written": 90, "rows_duplicate": 6, "rows_stale": 1, "rows_error": 3} | facts
    counts["rows_read"] = sum(counts.values())
    ended = minutes_ago(minutes)
    return BatchAudit(
        BatchIdentity(flow, "checkpoint", number),
        RUN,
        ended - dt.timedelta(seconds=sum(seconds.values())),
        ended,
        seconds,
        RowCounts(**counts),
        {f"/lake/{flow.replace('.', '/')}": number + 3},
        is_recovered=number == 2,
        code_version="test",
        checks=tuple(checks),
    )


def check(outcome: str, name: str = "amount is above 0", value: float | None = 2.0) -> CheckOutcome:
    return CheckOutcome(name, name, outcome, value, None)


def lane_row(error_id: str, **facts: Any) -> LaneRow:
    """A row that waits."""
    told = {
        "error_id": error_id,
        "flow": "bronze.order_events",
        "checkpoint_id": "checkpoint",
        "batch_id": 7,
        "run_id": RUN,
        "recorded_at": minutes_ago(30),
        "violations": (Violation("type", "amount", "twelve"),),
        "key": "CD-17",
        "source": "order_events",
        "partition": 2,
        "offset": 4711,
        "source_time": minutes_ago(31),
        "replay_of": None,
        "status": "waiting",
        "status_at": None,
        "status_note": None,
        "payload": b"4f3c,CD-17,1,created,Jane Doe,twelve",
        "is_payload_known": True,
    }
    return LaneRow(**told | facts)


@dataclass
class MemoryLanes:
    """Lanes whose rows are in memory; what is replayed arrives at once."""

    rows: dict[str, LaneRow] = field(default_factory=dict)
    where: dict[str, tuple[Found, ...]] = field(default_factory=dict)
    settled: list[Settling] = field(default_factory=list)

    def put(self, *rows: LaneRow) -> None:
        self.rows |= {row.error_id: row for row in rows}

    def page(self, wanted: LaneFilter, offset: int) -> LanePage:
        text = (wanted.text or "").lower()
        found = [
            row
            for row in self.rows.values()
            if wanted.flow in (None, row.flow)
            and wanted.status in (None, row.status)
            and (wanted.code is None or wanted.code in {one.code for one in row.violations})
            and text in f"{row.key} {row.source} {row.violations}".lower()
        ]
        codes = sorted({one.code for row in self.rows.values() for one in row.violations})
        waiting: dict[str, int] = {}
        for row in self.rows.values():
            waiting[row.flow] = waiting.get(row.flow, 0) + (row.status == "waiting")
        shown = found[offset : offset + PAGE_ROWS]
        return LanePage(tuple(shown), len(found) > offset + PAGE_ROWS, tuple(codes), waiting)

    def row(self, error_id: str) -> LaneRow:
        if error_id not in self.rows:
            raise ConfigurationError("ERROR_ID_UNKNOWN", f"No row has the id {error_id!r}.", way_out="List them.")
        return self.rows[error_id]

    def aftermath(self, row: LaneRow) -> Aftermath:
        return Aftermath((), row.status_at, row.flow)

    def settle(self, settling: Settling) -> int:
        self.settled.append(settling)
        waiting = [self.rows[one] for one in settling.error_ids if self.rows[one].status == "waiting"]
        self.put(*(replace(row, status=settling.status, status_at=NOW, status_note=settling.note) for row in waiting))
        return len(waiting)

    def find(self, key: str, names: Sequence[str] = ()) -> Whereabouts:
        lanes = tuple(row for row in self.rows.values() if row.key == key)
        return Whereabouts(key, self.where.get(key, ()), lanes)


@dataclass(frozen=True)
class FolderFiles:
    """Files of a folder, as the gates' results lie."""

    def written(self, folder: str) -> dict[str, float]:
        return {file.name: file.stat().st_mtime for file in Path(folder).glob("*")}

    def read(self, path: str) -> str | None:
        return Path(path).read_text(encoding="utf-8")


@dataclass
class Stand:
    """A page, what it shows, and a browser's session on it."""

    folder: Path
    address: str
    recent: Recent
    lanes: MemoryLanes
    control: Control
    browser: requests.Session

    def say(self, changes: Sequence[Change] = (), **flows: FlowReport) -> None:
        """Let this process say how flows are; names have two underscores in place of the dot."""
        process = Process(RUN, "etl-1", 23077, dt.datetime.now(dt.UTC).isoformat())
        named = {name.replace("__", "."): replace(flow, holder=flow.holder or RUN) for name, flow in flows.items()}
        self.control.say(process, named, tuple(changes))

    def gate(self, layer: str, run: str, minutes: float, **outcomes: str) -> None:
        """Leave a gate's results: table → outcome of its one check."""
        at = minutes_ago(minutes).isoformat()
        tables = [
            {
                "table": f"{layer}.{table}",
                "results": [
                    {
                        "check": f"no {table} without a day",
                        "definition": "missing_count(day) = 0",
                        "outcome": outcome,
                        "value": 3 if outcome == "fail" else 0,
                        "column": "day",
                    }
                ],
            }
            for table, outcome in outcomes.items()
        ]
        file = self.folder / "results" / layer / f"{run}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            json.dumps({"layer": layer, "run_id": run, "started_at": at, "finished_at": at, "tables": tables})
        )

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.browser.get(self.address + path.lstrip("/"), timeout=20, **options)

    def csrf(self, path: str = "/login") -> str:
        """What a form of a page carries."""
        return self.get(path).text.partition('name="csrf" value="')[2].partition('"')[0]

    def post(self, path: str, form: dict[str, str] | None = None, **options: Any) -> requests.Response:
        """Send a form of the page; what is not said of `csrf` is right."""
        said = {"csrf": self.csrf("/flows/silver.orders")} | (form or {})
        return self.browser.post(self.address + path.lstrip("/"), data=said, timeout=20, **options)


@contextmanager
def stand(folder: Path, page: PageSettings | None = None, **facts: Any) -> Iterator[Stand]:
    """A page on a free port."""
    files, recent, lanes = LocalFiles(folder / "checkpoints"), Recent(), MemoryLanes()
    shown = Facts(
        environment="test",
        run_id=RUN,
        flows=declared(),
        files=files,
        recent=recent,
        gates=GateFiles(FolderFiles(), str(folder / "results")),
        lanes=lanes,
        **{"clock": lambda: NOW} | facts,
    )
    server = PageServer(page or PageSettings(port=0), shown)
    server.start()
    try:
        with requests.Session() as browser:
            yield Stand(folder, server.address, recent, lanes, Control(files), browser)
    finally:
        server.stop()


def well(last_minutes: float = 0.2, **facts: Any) -> FlowReport:
    """A flow that waits for something new."""
    told = {
        "state": "waiting",
        "since": minutes_ago(last_minutes).isoformat(),
        "batches": 12,
        "rows_read": 1200,
        "rows_written": 1100,
        "last_batch_at": minutes_ago(last_minutes).isoformat(),
    }
    return FlowReport(**told | facts)


def ill(state: str, error: str, code: str | None = "SOMETHING_WRONG", **facts: Any) -> FlowReport:
    """A flow that has an error."""
    return well(25, state=state, error=error, code=code, way_out=facts.pop("way_out", "Mend it."), **facts)
