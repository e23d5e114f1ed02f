"""Configuration, contracts, check files and flows held against each other, without Spark."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from streams.errors import StreamsError
from streams.flows import all_flows
from streams.flows.checks import check_file
from streams.flows.silver import SILVER_TABLES
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
    findings, loaded = [], {}
    for name in names:
        # Whether a secret is there is asked where it is used; here another environment's are not at hand.
        load = partial(load_settings, name, config, os.environ, check_secrets=False)
        finding, settings = _attempt(f"configuration {config or name}", load)
        findings.append(finding)
        if settings is not None:
            loaded[str(name)] = settings
    for root in dict.fromkeys(settings.contracts_root for settings in loaded.values()):
        findings.extend(_contracts(Path(root)))
    for name, settings in loaded.items():
        findings.extend(_flows(name, settings))
    return findings


def _contracts(root: Path) -> Iterator[Finding]:
    contracts, _ = _attempt(f"contracts in {root / 'bronze'}", lambda: load_contracts(root / "bronze"))
    yield contracts
    for file in sorted((root / "soda").glob("*/*.yml")):
        problems = validate_checks(file)
        yield Finding(
            f"checks {file.relative_to(root)}", "; ".join(problems) or None, "CHECKS_INVALID" if problems else None
        )


def _flows(name: str, settings: Settings) -> Iterator[Finding]:
    finding, flows = _attempt(f"flows of {name}", lambda: all_flows(settings))
    yield finding
    if flows is None:
        return
    for flow in flows.values():
        if isinstance(flow.processor, Upsert) and not check_file(flow.name, settings).is_file():
            yield Finding(f"checks of {flow.name}", f"there is no {check_file(flow.name, settings)}", "CHECKS_MISSING")
    for unknown in settings.flows.keys() - flows.keys():
        yield Finding(
            f"configuration {name}, flows.{unknown}",
            f"there is no such flow; the flows are {', '.join(flows)}",
            "FLOW_UNKNOWN",
        )
    for job in JOB_MAP.values():
        # The flows of what is not configured are not there, and their job says so when it is called.
        if job.is_configured(settings) and job.flows and not set(job.flows) & set(flows):
            yield Finding(f"job {job.name}", "none of its flows is there", "JOB_UNKNOWN")
    for lost in sorted(set(flows) - {flow for job in JOB_MAP.values() for flow in job.flows}):
        yield Finding(f"job of {lost}", "there is none", "JOB_UNKNOWN")
    if settings.personal.hash_key is None and any(
        table.upstream in flows for table in SILVER_TABLES if table.is_pulled
    ):
        yield Finding(
            f"configuration {name}, personal.hash_key",
            "contracts have columns hashed, and there is no key for it; give a reference, such as env:HASH_KEY",
            "HASH_KEY_MISSING",
        )


def _attempt(what: str, load: Callable[[], T]) -> tuple[Finding, T | None]:
    try:
        return Finding(what), load()
    except StreamsError as error:
        return Finding(what, f"{error.message} {error.way_out or ''}".strip(), error.code), None
