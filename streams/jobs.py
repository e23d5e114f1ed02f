"""The jobs: named groups of flows, run together until what was at their sources is through; and the gates."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from streams.errors import ConfigurationError
from streams.flows import all_flows
from streams.flows.bronze import PULLED_TABLES
from streams.quality.gates import GateResult, run_gate
from streams.supervisor.run import FlowRun, drain

if TYPE_CHECKING:
    from streams.supervisor.service import Service

# Flows of one job that run side by side: more only wait for the same cores.
_SIDE_BY_SIDE = 4


@dataclass(frozen=True)
class Job:
    """Either flows, or the gate of a layer.

    Args:
        name: as Airflow and the command line call it.
        does: one line for people.
        flows: the flows that it runs.
        gate: the layer whose whole tables it judges.
    """

    name: str
    does: str
    flows: tuple[str, ...] = ()
    gate: str | None = None


def _pulled(system: str) -> tuple[str, ...]:
    return tuple(table.flow for table in PULLED_TABLES if table.system == system)


JOB_MAP: Final[dict[str, Job]] = {
    job.name: job
    for job in (
        Job("snowflake_to_bronze", "customers, orders and products from Snowflake into bronze", _pulled("snowflake")),
        Job("crm_to_bronze", "accounts, contacts and opportunities from Salesforce into bronze", _pulled("salesforce")),
        Job("redshift_to_bronze", "customer behaviour from Redshift into bronze", _pulled("redshift")),
        Job("fx_json_to_bronze", "exchange rates from files into bronze", ("bronze.fx_rates",)),
        Job("kafka_csv_to_bronze", "order events from Kafka into bronze", ("bronze.order_events",)),
        Job("bronze_to_silver", "bronze into silver, by key", ("silver.order_events", "silver.fx_rates")),
        Job("dq_silver_gate", "judge the silver tables as they stand", gate="silver"),
        Job("silver_to_gold", "silver into gold", ("gold.fact_orders",)),
        Job("dq_gold_gate", "judge the gold tables as they stand", gate="gold"),
    )
}


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
            "JOB_UNKNOWN", f"There is no job {name!r}.", way_out=f"The jobs are: {', '.join(JOB_MAP)}."
        )
    return JOB_MAP[name]


def run_job(name: str, service: Service) -> JobResult:
    """Run one job to its end.

    Raises:
        StreamsError: a flow failed; the job's other flows have ended before it is raised.
    """
    job = job_named(name)
    if job.gate is not None:
        return JobResult(name, gate=_judge(job.gate, service))
    flows = all_flows(service.settings)
    missing = [flow for flow in job.flows if flow not in flows]
    if missing:
        system = next(table.system for table in PULLED_TABLES if table.flow == missing[0])
        raise ConfigurationError(
            "SOURCE_NOT_CONFIGURED",
            f"{name} needs {system}, which the configuration of {service.settings.environment!r} says nothing of.",
            way_out=f"Add sources.{system} to it; checkpoints_config/prod.yaml has an example.",
        )
    with ThreadPoolExecutor(max_workers=_SIDE_BY_SIDE) as pool:
        runs = [pool.submit(drain, flows[flow], service) for flow in job.flows]
    return JobResult(name, runs=tuple(run.result() for run in runs))


def _judge(layer: str, service: Service) -> GateResult:
    tables = {name: service.lake.table(name) for name in all_flows(service.settings)}
    judged = {name.partition(".")[2]: path for name, path in tables.items() if name.startswith(f"{layer}.")}
    # Gold's checks compare it with silver; a name stands for the layer's own table first.
    others = {name.partition(".")[2]: path for name, path in tables.items() if name.startswith("silver.")}
    return run_gate(
        service.spark,
        layer,
        judged,
        checks_root=Path(service.settings.contracts_root) / "soda",
        results_root=service.settings.dq_results_root,
        run_id=service.run_id,
        clock=lambda: datetime.now(UTC),
        references={name: path for name, path in others.items() if name not in judged},
        results_table=service.lake.gate_results,
    )
