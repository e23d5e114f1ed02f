"""The metrics' names: one list, which the documentation, the alert rules and the dashboard keep to."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from streams.settings import PROJECT
from streams.telemetry.metric_names import METRICS, as_markdown
from streams.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

RULES = PROJECT / ".docker" / "prometheus" / "rules.yml"
DASHBOARD = PROJECT / ".docker" / "grafana" / "lakehouse-streams.json"
WORDS = {"and", "or", "unless", "on", "by", "sum", "max", "absent", "time", "vector", "rate", "increase", "delta"}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text())


def expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    board = dashboard()
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    """Each name that can be asked for, and its labels: of ours from the list, of the process from what is rendered."""
    found: dict[str, set[str]] = {}
    for one in METRICS:
        endings = {"_bucket": {"le"}, "_sum": set(), "_count": set()} if one.kind == "histogram" else {"": set()}
        found |= {f"{one.name}{ending}": {*one.labels, *more} for ending, more in endings.items()}
    page, _ = Metrics("1", "test", jvm_pid=lambda: 1).render()
    for family in text_string_to_metric_families(page.decode()):
        found |= {sample.name: {"job", "instance"} for sample in family.samples if "process_" in sample.name}
    return found


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_what_is_asked_for_is_there(where: str, expression: str, exposed: dict[str, set[str]]) -> None:
    asked = re.sub(r"\[\w+\]", "", expression)
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"\b(?:by|on) \(([^)]*)\)", asked))))
    asked = re.sub(r"\b(?:by|on) \([^)]*\)", "", asked)
    selectors = re.findall(r"([a-z_][\w]*)(?:\{([^}]*)\})?(?!\w|\()", re.sub(r'"[^"]*"', '""', asked))
    named = [
        (name, re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) for name, matchers in selectors if name not in WORDS
    ]
    assert named, where
    for name, labels in named:
        assert name in exposed, f"{where}: there is no metric {name}"
        assert set(labels) <= exposed[name], f"{where}: {name} has no such labels"
    assert grouped <= set().union(*(exposed[name] for name, _ in named)), where


def test_labels_in_texts_are_there(exposed: dict[str, set[str]]) -> None:
    for rule in rules():
        told = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        names = [name for name in exposed if re.search(rf"\b{name}\b", rule["expr"])]
        grouped = re.match(r"\s*(?:sum|max) by \(([^)]*)\)", rule["expr"])
        left = set(re.findall(r"\w+", grouped[1])) if grouped else exposed[names[0]] if names else set()
        assert told <= left, rule["alert"]


def test_there_is_a_rule_for_each_thing_that_goes_wrong() -> None:
    found = {rule["alert"].removeprefix("LakehouseStreams") for rule in rules()}
    assert {
        "Down",
        "FlowFailed",
        "FlowHeld",
        "FlowStalled",
        "KafkaBehind",
        "NotFresh",
        "LaneGrows",
        "GateFailed",
    } <= found
    assert all(rule["labels"]["severity"] in ("warning", "critical") for rule in rules())


def test_the_dashboards_panels_stand_beside_each_other() -> None:
    places = [panel["gridPos"] for panel in dashboard()["panels"]]
    taken = {
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    }
    assert len(taken) == sum(at["w"] * at["h"] for at in places)
    assert max(x for x, _ in taken) < 24
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(places)


def test_the_documented_names_are_those_that_are_exposed() -> None:
    assert as_markdown() in (PROJECT / ".github" / "metrics.md").read_text()
    page, _ = Metrics("1", "test").render()
    shown = {family.name: family for family in text_string_to_metric_families(page.decode())}
    for one in METRICS:
        family = shown[one.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (one.kind, one.meaning)
