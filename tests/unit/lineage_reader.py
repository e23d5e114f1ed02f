"""Reads OpenLineage events as a server of it does: every event must be one, whoever made it."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from importlib.resources import files
from typing import Any
from urllib.parse import urlparse

from jsonschema import Draft202012Validator

_ROWS = json.loads((files("streams.telemetry") / "rows_run_facet.schema.json").read_text())


def require_event(event: dict[str, Any]) -> dict[str, Any]:
    """Hold an event against what the specification requires of one, and our own facet against its schema."""
    assert event["eventType"] in ("START", "RUNNING", "COMPLETE", "FAIL", "ABORT")
    assert dt.datetime.fromisoformat(event["eventTime"]).tzinfo is not None
    assert event["schemaURL"].endswith("#/$defs/RunEvent")
    assert urlparse(event["producer"]).scheme
    uuid.UUID(event["run"]["runId"])
    assert event["job"]["namespace"]
    assert event["job"]["name"]
    _require_facets(event["run"]["facets"])
    _require_facets(event["job"]["facets"])
    for dataset in (*event.get("inputs", ()), *event.get("outputs", ())):
        assert set(dataset) <= {"namespace", "name", "facets", "inputFacets", "outputFacets"}
        assert dataset["namespace"]
        assert dataset["name"]
        for facets in ("facets", "inputFacets", "outputFacets"):
            _require_facets(dataset.get(facets, {}))
    rows = event["run"]["facets"].get("lakehouseStreams_rows")
    if rows is not None:
        Draft202012Validator(_ROWS).validate(rows)
        assert rows["_schemaURL"] == _ROWS["$id"]
        assert rows["read"] == sum(rows[name] for name in ("written", "duplicate", "stale", "errorLane"))
    return event


def _require_facets(facets: dict[str, Any]) -> None:
    for facet in facets.values():
        assert urlparse(facet["_producer"]).scheme
        assert urlparse(facet["_schemaURL"]).scheme


def columns_of(event: dict[str, Any]) -> dict[str, dict[str, set[str]]]:
    """The first output's columns: of each, input as ``dataset.column`` → how it counts."""
    fields = event["outputs"][0]["facets"]["columnLineage"]["fields"]
    return {
        name: {
            f"{one['name'].rpartition('/')[2]}.{one['field']}": {way["subtype"] for way in one["transformations"]}
            for one in said["inputFields"]
        }
        for name, said in fields.items()
    }
