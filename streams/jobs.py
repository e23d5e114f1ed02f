"""The jobs: named groups of flows, run together until what was at their sources is through; and the gates."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Semaphore
from typing import TYPE_CHECKING, Final

from streams.delta_log import table_identity
from streams.errors import ConfigurationError, StreamsError
from streams.flows import all_flows
from streams.flows.bronze import PULLED_TABLES
from streams.flows.gold import GOLD_TABLES
from streams.flows.silver import SILVER_TABLES
from streams.quality.gates import GateResult, run_gate
from streams.supervisor.attach import run_or_attach
from streams.telemetry.events import GateJudged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from streams.flows.flow import Flow
    from streams.settings import Settings
    from streams.supervisor.run import FlowRun
    from streams.supervisor.service import Service

# Flows of one job that run side by side: more only wait for the same cores.
_SIDE_BY_SIDE = 4


@dataclass(frozen=True)
class Job:
    """Either flows, or the gate of a layer.

    Args:
        name: as Airflow and the command line call it.
        does: one line for people.
        flows: the flows that it runs. Those of sources that are not configured are not there.
        gate: the layer whose whole tables it judges.
        after: the jobs of a day that must have done well before.
        needs: the part of the configuration without which there is nothing to do, such as ``sources.snowflake``.
    """

    name: str
    does: str
    flows: tuple[str, ...] = ()
    gate: str | None = None
    after: tuple[str, ...] = ()
    needs: str | None = None

    def is_configured(self, settings: Settings) -> bool:
        """Whether there is what the job needs."""
        part, _, system = (self.needs or "").partition(".")
        return not part or getattr(getattr(settings, part), system) is not None


def _pull(name: str, does: str, system: str) -> Job:
    flows = tuple(table.flow for table in PULLED_TABLES if table.system == system)
    return Job(name, does, flows, needs=f"sources.{system}")


def _publish(system: str, called: str) -> Job:
    flows = tuple(f"{system}.{table.flow.partition('.')[2]}" for table in GOLD_TABLES)
    name, does = f"publish_gold_to_{system}", f"gold into {called}, in transactions"
    return Job(name, does, flows, after=("dq_gold_gate",), needs=f"targets.{system}")


_TO_BRONZE: Final = (
    _pull("snowflake_to_bronze", "customers, orders and products from Snowflake into bronze", "snowflake"),
    _pull("crm_to_bronze", "accounts, contacts and opportunities from Salesforce into bronze", "salesforce"),
    _pull("redshift_to_bronze", "customer behaviour from Redshift into bronze", "redshift"),
    Job("fx_json_to_bronze", "exchange rates from files into bronze", ("bronze.fx_rates",)),
    Job("kafka_csv_to_bronze", "order events from Kafka into bronze", ("bronze.order_events",)),
)
_SILVER: Final = tuple(name for table in SILVER_TABLES for name in (table.versions, table.flow) if name is not None)
# In the order of a day.
JOB_MAP: Final[dict[str, Job]] = {
    job.name: job
    for job in (
        *_TO_BRONZE,
        Job(
            "bronze_to_silver",
            "bronze into silver, by key",
            _SILVER,
            after=tuple(job.name for job in _TO_BRONZE),
        ),
        Job("dq_silver_gate", "judge the silver tables as they stand", gate="silver", after=("bronze_to_silver",)),
        Job(
            "silver_to_gold",
            "silver into gold: dimensions with their history, and facts",
            tuple(table.flow for table in GOLD_TABLES),
            after=("dq_silver_gate",),
        ),
        Job("dq_gold_gate", "judge the gold tables as they stand", gate="gold", after=("silver_to_gold",)),
        _publish("redshift", "Redshift"),
        _publish("snowflake", "Snowflake"),
    )
}
DAILY: Final = "daily"  # what the command line calls all of them, in that order


@dataclass(frozen=True)
class JobResult:
    """What a job did: its flows' runs, or its gate's results."""

    job: str
    runs: tuple[FlowRun, ...] = ()
    gate: GateResult | None = None

    @property
    def has_passed(self) -> bool:
        """False when a check of the gate failed. A flow that fails raises instead."""
        return self.gate is None or not self.gate.failed


def job_named(name: str) -> Job:
    """The job of that name.

    Raises:
        ConfigurationError: ``JOB_UNKNOWN``.
    """
    if name not in JOB_MAP:
        raise ConfigurationError(
            "JOB_UNKNOWN",
            f"There is no job {name!r}.",
            way_out=f"The jobs are: {', '.join(JOB_MAP)}; {DAILY} runs all of them.",
        )
    return JOB_MAP[name]


def run_job(name: str, service: Service) -> JobResult:
    """Run one job to its end.

    Raises:
        ConfigurationError: ``JOB_UNKNOWN``, or ``JOB_NOT_CONFIGURED``: what it needs is not configured.
        StreamsError: a flow failed; the job's other flows have ended before it is raised.
    """
    job = job_named(name)
    if not job.is_configured(service.settings):
        raise ConfigurationError(
            "JOB_NOT_CONFIGURED",
            f"{name} needs {job.needs}, which the configuration of {service.settings.environment!r} says nothing of.",
            way_out=f"Add {job.needs} to it; checkpoints_config/prod.yaml has an example.",
        )
    if job.gate is not None:
        return JobResult(name, gate=_judge(job.gate, service))
    return JobResult(name, runs=_run_flows(job, service))


def _run_flows(job: Job, service: Service) -> tuple[FlowRun, ...]:
    """Side by side, but each after those of the same job that it reads."""
    flows = all_flows(service.settings)
    runs: dict[str, Future[FlowRun]] = {}
    turns = Semaphore(_SIDE_BY_SIDE)

    def run(flow: Flow) -> FlowRun:
        for upstream in flow.reads:
            if upstream in runs:
                runs[upstream].result()
        with turns:
            return run_or_attach(flow, service)

    ordered = [flow for name, flow in flows.items() if name in job.flows]  # upstream ones first
    with ThreadPoolExecutor(max_workers=max(1, len(ordered))) as pool:
        for flow in ordered:
            runs[flow.name] = pool.submit(run, flow)
    return tuple(run.result() for run in runs.values())


@dataclass(frozen=True)
class DayJob:
    """What became of one job of a day: ``done``, ``failed``, ``skipped`` or ``not configured``.

    Attributes:
        why: what failed: the error, the checks, or the jobs that it would have had to come after.
    """

    job: str
    outcome: str
    why: str | None = None
    seconds: float = 0.0
    result: JobResult | None = None


def run_day(service: Service, progress: Callable[[DayJob], None] = lambda _: None) -> list[DayJob]:
    """Run all jobs, each after those that it depends on, in the one Spark session that there is.

    Jobs that depend on none of each other run side by side. What depends on a job that failed, or on a gate that
    did not pass, is skipped. `progress` is told of each job when it has ended.
    """
    ended: dict[str, Future[DayJob]] = {}

    def run(job: Job) -> DayJob:
        before = [ended[name].result() for name in job.after]
        done = _run_in_day(job, [one for one in before if one.outcome in ("failed", "skipped")], service)
        progress(done)
        return done

    with ThreadPoolExecutor(max_workers=len(JOB_MAP)) as pool:
        for job in JOB_MAP.values():
            ended[job.name] = pool.submit(run, job)
    return [one.result() for one in ended.values()]


def _run_in_day(job: Job, missing: list[DayJob], service: Service) -> DayJob:
    if missing:
        return DayJob(job.name, "skipped", f"{', '.join(one.job for one in missing)} must do well before it")
    if not job.is_configured(service.settings):
        return DayJob(job.name, "not configured", f"the configuration says nothing of {job.needs}")
    if service.draining.is_set():
        return DayJob(job.name, "skipped", "the run was asked to stop")
    began = time.monotonic()
    try:
        result = run_job(job.name, service)
    except StreamsError as error:
        return DayJob(job.name, "failed", str(error), time.monotonic() - began)
    outcome, why = "done", None
    if result.gate is not None and not result.has_passed:
        outcome, why = "failed", f"failed checks: {'; '.join(result.gate.failed)}"
    return DayJob(job.name, outcome, why, time.monotonic() - began, result)


def _judge(layer: str, service: Service) -> GateResult:
    judged = {
        name: path for name, path in _tables(all_flows(service.settings), service) if name.startswith(f"{layer}.")
    }
    # A check may compare with any table of silver and gold; those of sources that are not configured are empty.
    names = (*_SILVER, *(table.flow for table in GOLD_TABLES))
    result = run_gate(
        service.spark,
        layer,
        {_short(name): path for name, path in judged.items()},
        checks_root=Path(service.settings.contracts_root) / "soda",
        results_root=service.settings.dq_results_root,
        run_id=service.run_id,
        clock=lambda: datetime.now(UTC),
        references={_short(name): path for name, path in _tables(names, service) if name not in judged},
        results_table=service.lake.gate_results,
        position=lambda path: table_identity(service.spark, path),
    )
    service.tell(
        GateJudged(
            layer,
            result.run_id,
            result.started_at,
            result.finished_at,
            {one.table: one.outcomes for one in result.scans},
        )
    )
    return result


def _tables(names: Iterable[str], service: Service) -> Iterator[tuple[str, str]]:
    return ((name, service.lake.table(name)) for name in names)


def _short(name: str) -> str:
    return name.partition(".")[2]
