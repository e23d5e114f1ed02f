"""What is told of runs, as OpenLineage events: when, and what is in them."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from typing import Any

import pytest
from openlineage.client.serde import Serde

from streams.checkpoint import BatchIdentity
from streams.errors import FatalError
from streams.secrets import SecretReference
from streams.telemetry.audit import BatchAudit, CheckOutcome, RowCounts
from streams.telemetry.events import BatchDone, Event, FlowChanged, GateJudged, RunBegan, RunEnded
from streams.telemetry.lineage import ColumnInput, Dataset, DatasetField, FlowLineage
from streams.telemetry.lineage_events import LineageEvents
from tests.unit.lineage_reader import columns_of, require_event

BRONZE = Dataset(
    "file",
    "/lake/bronze/people",
    "bronze.people",
    "/lake/bronze/people",
    fields=(DatasetField("mail", "string", "hash"),),
)
SILVER = Dataset("file", "/lake/silver/people", "silver.people", "/lake/silver/people")
LANE = Dataset("file", "/lake/error_lane/silver/flow=silver.people", None, "/lake/error_lane/silver")
FLOW = FlowLineage(
    "silver.people",
    (BRONZE, LANE),
    SILVER,
    LANE,
    {
        "mail_hash": (
            ColumnInput(BRONZE, "mail", "DIRECT", "TRANSFORMATION", is_masked=True),
            ColumnInput(BRONZE, "is_deleted", "INDIRECT", "CONDITIONAL"),
        ),
        "is_deleted": (),
    },
    (ColumnInput(BRONZE, "mail", "INDIRECT", "JOIN"),),
    "streams/flows/silver.py",
)
SOUND = CheckOutcome("no address is missing", "missing_count(mail) = 0", "pass", 0.0, "mail")
BROKEN = CheckOutcome("no address is missing", "missing_count(mail) = 0", "fail", 2.0, "mail")
RARE = CheckOutcome("rows", "row_count > 5", "warn", 3.0, None)


class Known:
    """The lineage of one flow."""

    def of(self, name: str) -> FlowLineage | None:
        return FLOW if name == FLOW.flow else None

    def table(self, name: str) -> Dataset | None:
        return SILVER if name == FLOW.flow else None


def at(seconds: float) -> dt.datetime:
    return dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)


def began(run: str, seconds: float = 0) -> RunBegan:
    return RunBegan(FLOW.flow, run, at(seconds))


def done(run: str, seconds: float, batch: int = 0, checks: tuple[CheckOutcome, ...] = (), **versions: int) -> BatchDone:
    counts = RowCounts(rows_read=10, rows_written=6, rows_duplicate=2, rows_stale=1, rows_error=1)
    found = {SILVER.path: batch + 7, LANE.path: batch + 1}
    identity = BatchIdentity(FLOW.flow, "checkpoint", batch)
    audit = BatchAudit(identity, "r", at(seconds - 1), at(seconds), {"merge": 0.5}, counts, found, False, "0", checks)
    return BatchDone(run, audit)


def ended(run: str, seconds: float, **how: Any) -> RunEnded:
    return RunEnded(FLOW.flow, run, at(seconds), **how)


def told(events: LineageEvents, *happened: Event, is_ending: bool = False) -> list[dict[str, Any]]:
    made = [event for one in happened for event in events.take(one, is_ending)]
    return [require_event(json.loads(Serde.to_json(event))) for event in made]


def run_id() -> str:
    return str(uuid.uuid4())


def test_a_run_is_a_start_its_batches_and_an_end_that_says_it_all() -> None:
    run = run_id()
    events = told(
        LineageEvents("jobs", Known()),
        began(run),
        done(run, 2, 0, (BROKEN, RARE)),
        done(run, 3, 1, (SOUND,)),
        ended(run, 4),
    )
    assert [one["eventType"] for one in events] == ["START", "RUNNING", "RUNNING", "COMPLETE"]
    assert [one["eventTime"][17:19] for one in events] == ["00", "02", "03", "04"]
    assert {one["run"]["runId"] for one in events} == {run}
    assert {(one["job"]["namespace"], one["job"]["name"]) for one in events} == {("jobs", "silver.people")}
    start, first, _, last = events
    assert [one["name"] for one in last["inputs"]] == [BRONZE.name, LANE.name]
    table, lane = last["outputs"]
    assert table["outputFacets"]["outputStatistics"]["rowCount"] == 12
    assert table["facets"]["version"]["datasetVersion"] == "8"
    assert (lane["name"], lane["outputFacets"]["outputStatistics"]["rowCount"]) == (LANE.name, 2)
    rows = last["run"]["facets"]["lakehouseStreams_rows"]
    assert {name: rows[name] for name in ("batches", "read", "errorLane")} == {"batches": 2, "read": 20, "errorLane": 2}
    assert rows["lastBatch"] == {"checkpoint": "checkpoint", "id": 1}
    assert first["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 6
    # What nothing was written of yet has neither rows nor a version; what is known beforehand is there.
    assert start["outputs"][0]["outputFacets"] == {}
    assert "version" not in start["outputs"][0]["facets"]
    for whole in (start, last):
        assert columns_of(whole)["mail_hash"] == {
            "people.mail": {"TRANSFORMATION"},
            "people.is_deleted": {"CONDITIONAL"},
        }
        assert whole["outputs"][0]["facets"]["symlinks"]["identifiers"][0]["name"] == "silver.people"
        assert whole["inputs"][0]["facets"]["schema"]["fields"] == [{"name": "mail", "type": "string"}]
    assert "columnLineage" not in first["outputs"][0]["facets"]


def test_hashed_and_personal_columns_are_marked() -> None:
    run = run_id()
    *_, last = told(LineageEvents("jobs", Known()), began(run), done(run, 1), ended(run, 2))
    (mail, _) = last["outputs"][0]["facets"]["columnLineage"]["fields"]["mail_hash"]["inputFields"]
    assert mail["transformations"] == [{"type": "DIRECT", "subtype": "TRANSFORMATION", "masking": True}]
    (tag,) = last["inputs"][0]["facets"]["tags"]["tags"]
    assert (tag["key"], tag["value"], tag["field"]) == ("personal", "hash", "mail")


def test_of_several_batches_the_worst_outcome_of_a_check_stays() -> None:
    run = run_id()
    events = told(
        LineageEvents("jobs", Known()),
        began(run),
        done(run, 1, 0, (BROKEN, RARE)),
        done(run, 2, 1, (SOUND,)),
        ended(run, 3),
    )
    found = {
        one["name"]: (one["success"], one["severity"], one["actual"], one.get("column"))
        for one in events[-1]["outputs"][0]["facets"]["dataQualityAssertions"]["assertions"]
    }
    assert found == {"no address is missing": (False, "error", "2", "mail"), "rows": (False, "warn", "3", None)}


def test_a_run_without_rows_is_not_told_of() -> None:
    run = run_id()
    assert told(LineageEvents("jobs", Known()), began(run), ended(run, 1), FlowChanged("x", "a", "b", at(1))) == []
    other = RunBegan("unknown", run, at(0))
    assert told(LineageEvents("jobs", Known()), other) == []


def test_a_failed_run_says_why_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINEAGE_TEST_SECRET", "hunter2hunter2")
    SecretReference("env:LINEAGE_TEST_SECRET").resolve()
    run = run_id()
    error = FatalError("BATCH_REFUSED", "It says hunter2hunter2, password=abc.", way_out="Mend it.")
    events = told(LineageEvents("jobs", Known()), began(run), ended(run, 1, error=error))
    assert [one["eventType"] for one in events] == ["START", "FAIL"]
    said = events[1]["run"]["facets"]["errorMessage"]["message"]
    assert said == "[BATCH_REFUSED] It says ***, password=*** Mend it."


@pytest.mark.parametrize(("is_ending", "state"), [(True, "ABORT"), (False, "COMPLETE")])
def test_a_run_that_was_cut_short_is_aborted_only_where_the_service_ends(is_ending: bool, state: str) -> None:
    run = run_id()
    events = LineageEvents("jobs", Known())
    told(events, began(run), done(run, 1))
    # Else its turn was over, or it is paused: what it did is whole.
    (last,) = told(events, ended(run, 2, is_through=False), is_ending=is_ending)
    assert last["eventType"] == state


def test_under_a_service_runs_that_follow_each_other_are_one() -> None:
    first, second, third = run_id(), run_id(), run_id()
    events = LineageEvents("jobs", Known(), parent="up", window=60)
    happened: list[Event] = []
    for number, run in enumerate((first, second)):
        happened += [began(run, number * 10), done(run, number * 10 + 1, number), ended(run, number * 10 + 2)]
    made = told(events, *happened)
    assert [(one["job"]["name"], one["eventType"]) for one in made] == [
        ("up", "START"),
        ("silver.people", "START"),
        ("silver.people", "RUNNING"),
    ]
    assert events.is_waiting
    assert events.due(at(59)) == []
    (over,) = [require_event(json.loads(Serde.to_json(one))) for one in events.due(at(61))]
    assert (over["eventType"], over["run"]["runId"], over["eventTime"][17:19]) == ("COMPLETE", first, "12")
    assert over["run"]["facets"]["lakehouseStreams_rows"]["batches"] == 2
    assert over["run"]["facets"]["parent"]["job"]["name"] == "up"
    assert not events.is_waiting
    made = told(events, began(third, 70), done(third, 71), ended(third, 140))
    assert [one["eventType"] for one in made] == ["START", "RUNNING", "COMPLETE"]


def test_a_job_is_the_parent_of_what_it_ran_and_ends_as_that_did() -> None:
    run, again = run_id(), run_id()
    events = LineageEvents("jobs", Known(), parent="daily")
    parent, *_ = made = told(events, began(run), done(run, 1), ended(run, 2, error=FatalError("A", "b")))
    assert (parent["job"]["name"], parent["eventType"]) == ("daily", "START")
    assert {one["run"]["facets"]["parent"]["run"]["runId"] for one in made[1:]} == {parent["run"]["runId"]}
    (end,) = [require_event(json.loads(Serde.to_json(one))) for one in events.end(at(9))]
    assert (end["eventType"], end["run"]["runId"]) == ("FAIL", parent["run"]["runId"])
    told(events, began(again, 10), ended(again, 11))  # tried again, and well
    assert [one.eventType.value for one in events.end(at(12)) if one.eventType] == ["COMPLETE"]
    assert [one.eventType.value for one in events.end(at(12), is_ending=True) if one.eventType] == ["ABORT"]


def test_nothing_done_nothing_told() -> None:
    assert LineageEvents("jobs", Known(), parent="daily").end(at(1)) == []


def test_a_gate_is_a_run_over_the_tables_that_it_judged() -> None:
    checks = {"silver.people": (BROKEN, RARE), "silver.unknown": (SOUND,)}
    begin, end = told(LineageEvents("jobs", Known()), GateJudged("silver", "r", at(0), at(5), checks))
    assert (begin["eventType"], end["eventType"], end["job"]["name"]) == ("START", "FAIL", "dq_silver_gate")
    (table,) = end["inputs"]
    assert table["name"] == SILVER.name
    found = table["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert [(one["name"], one["success"]) for one in found] == [("no address is missing", False), ("rows", False)]
    assert "silver.people: no address is missing" in end["run"]["facets"]["errorMessage"]["message"]
    assert end["outputs"] == []
    (_, passed) = told(
        LineageEvents("jobs", Known()), GateJudged("silver", "r", at(0), at(5), {"silver.people": (RARE,)})
    )
    assert passed["eventType"] == "COMPLETE"


def test_where_the_code_is_kept_is_told_where_it_is_known() -> None:
    run = run_id()
    events = LineageEvents("jobs", Known(), repository="https://git.example/streams")
    *_, last = told(events, began(run), done(run, 1), ended(run, 2))
    location = last["job"]["facets"]["sourceCodeLocation"]
    assert location["url"] == "https://git.example/streams/streams/flows/silver.py"
    assert last["producer"] == "https://git.example/streams"
    kind = last["job"]["facets"]["jobType"]
    assert (kind["processingType"], kind["jobType"]) == ("BATCH", "FLOW")
    assert last["run"]["facets"]["processing_engine"]["name"] == "spark"
