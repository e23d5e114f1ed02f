"""Configuration, contracts, check files and flows held against each other, without Spark."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from streams.errors import StreamsError
from streams.flows import all_flows
from streams.flows.bronze import PULLED_TABLES
from streams.flows.checks import check_file
from streams.jobs import JOB_MAP
from streams.micro_batch import Upsert
from streams.quality.check_files import validate_checks
from streams.quality.contract import load_contracts
from streams.settings import CONFIGURATION_FOLDER, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streams.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and what is wrong with it; None when nothing is."""

    what: str
    problem: str | None = None
    code: str | None = None


def validate_project(env: str | None, config: str | None) -> list[Finding]:
    """Look at one configuration, or at all of them, and at all that they share."""
    names = [env] if env or config else [file.stem for file in sorted(CONFIGURATION_FOLDER.glob("*.yaml"))]
    findings = []
    settings = None
    for name in names:
        # Whether a secret is there is asked where it is used; here another environment's are not at hand.
        load = partial(load_settings, name, config, os.environ, check_secrets=False)
        finding, loaded = _attempt(f"configuration {config or name}", load)
        findings.append(finding)
        settings = settings or loaded
    if settings is not None:
        findings.extend(_shared(settings))
    return findings


def _shared(settings: Settings) -> Iterator[Finding]:
    root = Path(settings.contracts_root)
    contracts, _ = _attempt(f"contracts in {root / 'bronze'}", lambda: load_contracts(root / "bronze"))
    yield contracts
    for file in sorted((root / "soda").glob("*/*.yml")):
        problems = validate_checks(file)
        yield Finding(
            f"checks {file.relative_to(root)}", "; ".join(problems) or None, "CHECKS_INVALID" if problems else None
        )
    flows_finding, flows = _attempt("flows", lambda: all_flows(settings))
    yield flows_finding
    if flows is None:
        return
    for flow in flows.values():
        if isinstance(flow.processor, Upsert) and not check_file(flow.name, settings).is_file():
            yield Finding(f"checks of {flow.name}", f"there is no {check_file(flow.name, settings)}", "CHECKS_MISSING")
    for name in settings.flows:
        if name not in flows:
            yield Finding(
                f"configuration flows.{name}",
                f"there is no such flow; the flows are {', '.join(flows)}",
                "FLOW_UNKNOWN",
            )
    in_jobs = {flow for job in JOB_MAP.values() for flow in job.flows}
    # The flows of a source that is not configured are not there, and their job says so when it is called.
    absent = {table.flow for table in PULLED_TABLES if settings.sources.named(table.system) is None}
    for lost in sorted((set(flows) ^ in_jobs) - absent):
        yield Finding(f"job of {lost}", "a flow without a job, or a job of no flow", "JOB_UNKNOWN")


def _attempt(what: str, load: Callable[[], T]) -> tuple[Finding, T | None]:
    try:
        return Finding(what), load()
    except StreamsError as error:
        return Finding(what, f"{error.message} {error.way_out or ''}".strip(), error.code), None
