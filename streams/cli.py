"""The commands. Each loads what it needs and no more: ``validate`` and the lists never start Spark."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from streams.errors import ConfigurationError, StreamsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streams.jobs import DayJob, JobResult
    from streams.settings import Settings
    from streams.supervisor.control import Control, FlowReport
    from streams.supervisor.service import Service
    from streams.telemetry.events import Listener
    from streams.validation import Finding

app = typer.Typer(
    name="streams",
    help="Keeps a lakehouse current: Kafka, files, databases and Salesforce into Delta bronze, silver and gold, by "
    "structured streams; gold into Redshift and Snowflake.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
errors_app = typer.Typer(help="The error lane: rows that broke a contract or a check, waiting.", no_args_is_help=True)
app.add_typer(errors_app, name="errors")
sources_app = typer.Typer(help="The databases that tables are pulled from.", no_args_is_help=True)
app.add_typer(sources_app, name="sources")
out = Console(width=None if sys.stdout.isatty() else 140)  # in a pipe it would be 80
err = Console(stderr=True)

Env = Annotated[str, typer.Option("--env", help="Which configuration: checkpoints_config/ENV.yaml.")]
Config = Annotated[
    str | None, typer.Option("--config", help="A configuration file in its place: a path or s3://bucket/key.")
]
_LOOK_SECONDS = 1.0
_FAILED = ("fail", "error")  # of a check: it failed, or could not be evaluated
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


def main() -> None:
    """Run the command line; errors of ours end it with one sentence and their exit code."""
    try:
        app()
    except StreamsError as error:
        err.print(f"[bold red]error[/] {_escape(error.message)} [dim]{error.code}[/]", highlight=False, soft_wrap=True)
        if error.way_out:
            err.print(f"      {_escape(error.way_out)}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)


@app.command()
def jobs(as_json: AsJson = False) -> None:
    """List the jobs, in the order in which a day runs them.

    Example: `streams jobs --json`
    """
    from streams.jobs import JOB_MAP

    rows = [
        {"job": job.name, "does": job.does, "runs": list(job.flows) or [f"gate {job.gate}"]} for job in JOB_MAP.values()
    ]
    _show(rows, as_json)


@app.command()
def flows(
    env: Env = "dev",
    config: Config = None,
    as_json: AsJson = False,
    draw: Annotated[bool, typer.Option("--draw", help="A picture of how they hang together.")] = False,
) -> None:
    """List the flows: what each reads, and how it writes.

    Example: `streams flows --draw`
    """
    from streams.flows import all_flows

    declared = all_flows(_settings(env, config, check_secrets=False))
    if draw:
        from streams.flows.picture import picture

        out.print(picture(declared.values()), highlight=False)
        return
    _show(
        [
            {"flow": flow.name, "reads": list(flow.reads), "kind": type(flow.processor).__name__.lower()}
            for flow in declared.values()
        ],
        as_json,
    )


@app.command()
def lineage(
    column: Annotated[str, typer.Argument(help="A column: layer.table.column.")],
    env: Env = "dev",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show where a column comes from, up to the sources, and what decides its values.

    It is read from the plans of the flows' own code, so Spark is started; no table is looked at.

    Example: `streams lineage gold.fact_orders.reporting_amount`
    """
    from dataclasses import asdict

    from streams.flows.lineage import Lineages
    from streams.flows.origins import origin_of, origin_tree

    with _service(env, config) as service:
        found = origin_of(Lineages(service.settings, service.session), column)
    if as_json:
        out.print_json(json.dumps(asdict(found)))
    else:
        out.print(origin_tree(found), highlight=False)


@app.command()
def validate(
    env: Annotated[str | None, typer.Option("--env", help="Only this one.")] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Check configuration, contracts, check files and flows against each other, without Spark.

    Example: `streams validate --env prod`
    """
    from streams.validation import validate_project

    findings = validate_project(env, config)
    _show_findings(findings, as_json)
    if any(finding.problem for finding in findings):
        raise typer.Exit(2)


@app.command()
def run(
    job: Annotated[str, typer.Option("--job", help="One of `streams jobs`, or daily for all of them.")],
    env: Env = "dev",
    config: Config = None,
    as_json: AsJson = False,
    run_key: Annotated[
        str | None,
        typer.Option("--run-key", help="Names this run: called again with it, wait for the run that goes on."),
    ] = None,
) -> None:
    """Run one job, once: until what was at its sources when it began is through.

    `daily` runs all of them in one Spark session, each after those that it depends on; what depends on a job that
    failed, or on a gate that did not pass, is skipped. A flow that a service (`streams up`) holds is run by that, and
    waited for.

    Exit code 0 when done, 1 when a flow or a check failed, 2 when the call or the configuration is wrong.

    Example: `streams run --job bronze_to_silver --env dev`
    """
    from streams.jobs import DAILY, job_named

    # What a service runs, and a run that goes on under the same key, is waited for without one.
    is_spark_needed = job == DAILY or job_named(job).gate is not None
    service_for_job = _service_of(_settings(env, config), command=job, is_spark_needed=is_spark_needed)
    with service_for_job as service, _draining_on_signal(service):
        has_passed = _run_under_key(run_key, job, service, as_json) if run_key else _run(job, service, as_json)[1]
    if not has_passed:
        raise typer.Exit(1)


def _run(job: str, service: Service, as_json: bool) -> tuple[list[dict[str, Any]], bool]:
    """Run and show it; gives the rows that were shown, and whether all is well."""
    from streams.jobs import DAILY, run_job

    if job == DAILY:
        rows, has_passed = _run_day(service)
    else:
        result = run_job(job, service)
        rows, has_passed = _result_rows(result), result.has_passed
    _show_result(rows, as_json)
    if service.draining.is_set():
        raise StreamsError("JOB_INTERRUPTED", f"{job} was asked to stop and may not be through; run it again to go on.")
    return rows, has_passed


def _run_under_key(key: str, job: str, service: Service, as_json: bool) -> bool:
    """Run it, unless another process is at it under the same key: then wait, and show what it gave."""
    from streams.small_files import small_files
    from streams.supervisor.run_record import RunRecords

    assert service.leases is not None  # `started` makes them
    records = RunRecords(small_files(service.settings.checkpoints.root), service.leases)
    known = records.begin(key, job, service.draining)
    if known is not None:
        _show_result(list(known.rows), as_json)
        if known.error:
            raise (ConfigurationError if known.exit_code == 2 else StreamsError)(known.error[1], known.error[0])
        return known.exit_code == 0
    try:
        rows, has_passed = _run(job, service, as_json)
    except StreamsError as error:
        records.end(key, error.exit_code, error=(str(error.message), error.code))
        raise
    records.end(key, 0 if has_passed else 1, tuple(rows))
    return has_passed


def _run_day(service: Service) -> tuple[list[dict[str, Any]], bool]:
    from streams.jobs import run_day

    marks = {"done": "[green]✓[/]", "failed": "[bold red]✗[/]"}

    def tell(ended: DayJob) -> None:
        mark = marks.get(ended.outcome, "[dim]–[/]")
        why = f"  {_escape(ended.why)}" if ended.why else ""
        err.print(f"{mark} {ended.job} {ended.outcome}, {ended.seconds:.1f} s{why}", highlight=False, soft_wrap=True)

    ended = run_day(service, tell)
    rows: list[dict[str, Any]] = []
    for one in ended:
        runs = one.result.runs if one.result else ()
        counts = {
            f"rows_{what}": sum(run.total(f"rows_{what}") for run in runs)
            for what in ("read", "written", "duplicate", "stale", "error")
        }
        rows.append(
            {"job": one.job, "outcome": one.outcome, "seconds": round(one.seconds, 1)} | counts | {"why": one.why}
        )
    return rows, not any(one.outcome in ("failed", "skipped") for one in ended)


@app.command()
def up(
    env: Env = "dev",
    config: Config = None,
    page: Annotated[bool, typer.Option("--page/--no-page", help="With or without the status page.")] = True,
    page_port: Annotated[
        int | None, typer.Option("--page-port", help="The status page's port; 0: any that is free.", min=0, max=65535)
    ] = None,
) -> None:
    """Run every flow until SIGTERM or Ctrl-C, which lets each end its batch; a second one interrupts.

    Example: `streams up --env dev`
    """
    from streams.flows import all_flows
    from streams.session import require_alive
    from streams.supervisor.page.recent import Recent
    from streams.supervisor.page.server import page_of
    from streams.supervisor.supervisor import Supervisor

    settings, recent = _with_page(_settings(env, config), page, page_port), Recent()
    with _service_of(settings, (recent,), "up") as service, _draining_on_signal(service):
        supervisor = Supervisor(all_flows(service.settings).values(), service)
        supervisor.start()
        err.print(f"{len(supervisor.states())} flows are up. Ctrl-C lets them end.", highlight=False)
        with page_of(service, recent, _say):
            while not service.draining.wait(_LOOK_SECONDS):
                require_alive(service.spark)
            has_ended = supervisor.drain(service.settings.drain_seconds)
        if not has_ended:
            raise StreamsError(
                "DRAIN_TOO_SLOW",
                f"Some flows did not end within {service.settings.drain_seconds:g} s; they go on at the next start.",
            )


FlowName = Annotated[str, typer.Argument(help="One of `streams flows`.")]


@app.command()
def status(env: Env = "dev", config: Config = None, as_json: AsJson = False) -> None:
    """Show what each flow of the service is doing, as it said some seconds ago. Starts no Spark.

    Exit code 1 when a flow has failed, or the service says nothing any more.

    Example: `streams status --env prod`
    """
    from dataclasses import asdict

    report = _control(_settings(env, config, check_secrets=False)).report()
    if report is None:
        raise ConfigurationError(
            "NEVER_UP", "No service has run on this configuration yet.", way_out="Start one: streams up"
        )
    if as_json:
        _show([{"flow": name} | asdict(flow) for name, flow in report.flows.items()], as_json)
    else:
        _show([_status_line(name, flow) for name, flow in report.flows.items()], as_json)
        for name, flow in report.flows.items():
            if flow.error:
                said = " ".join(part for part in (flow.error, flow.way_out) if part)
                out.print(f"[bold red]{name}[/]: {_escape(said)}", highlight=False, soft_wrap=True)
    is_over = all(flow.state in ("stopped", "failed") for flow in report.flows.values())
    alive = [process for process in report.processes.values() if not process.is_silent]
    newest = max(report.processes.values(), key=lambda process: process.at)
    for process in [newest] if is_over or not alive else alive:
        said = "ended" if is_over else "has said nothing more" if process.is_silent else "is up"
        err.print(
            f"The service {said}: process {process.pid} on {process.host}, {process.age_seconds:.0f} s ago.",
            highlight=False,
        )
    if not alive or is_over or any(flow.state == "failed" for flow in report.flows.values()):
        raise typer.Exit(1)


@app.command()
def doctor(env: Env = "dev", config: Config = None, as_json: AsJson = False) -> None:
    """Look for what would lose or repeat data, or soon stop a flow, and say what mends it. Changes nothing.

    Looks at storage (rights, space, clock), the service, each flow's checkpoint against its declaration and its sources
    (another topic of that name, offsets that aged out, versions that a vacuum took), small files, and the error lane.

    Exit code 1 when something is wrong already.

    Example: `streams doctor --env prod`
    """
    from streams.doctor import diagnose

    with _service(env, config) as service, err.status("looking") as shown:
        found = list(diagnose(service, lambda what: shown.update(f"looking at {what}")))
    if as_json:
        _show([vars(one) for one in found], as_json)
    else:
        marks = {"ok": "[green]✓[/]", "warn": "[yellow]![/]", "fail": "[bold red]✗[/]"}
        for one in sorted(found, key=lambda one: list(marks).index(one.level)):
            said = f"{_escape(one.what)}: {_escape(one.found)} [dim]{one.code or ''}[/]" if one.found else one.what
            out.print(f"{marks[one.level]} {said}", highlight=False, soft_wrap=True)
            if one.found and one.way_out:
                out.print(f"    {_escape(one.way_out)}", highlight=False, soft_wrap=True)
    if any(one.level == "fail" for one in found):
        raise typer.Exit(1)


@app.command()
def pause(flow: FlowName, env: Env = "dev", config: Config = None) -> None:
    """Let a flow of the running service end its batch and wait, also after a restart of the service.

    Example: `streams pause redshift.fact_orders`
    """
    _control_of(flow, env, config).pause(flow)
    out.print(f"{flow} ends its batch and waits. To let it go on: streams resume {flow}", highlight=False)


@app.command()
def restart(flow: FlowName, env: Env = "dev", config: Config = None) -> None:
    """Start a flow of the running service again, with no failure counted: one that had failed or was paused too.

    Example: `streams restart silver.orders`
    """
    _control_of(flow, env, config).restart(flow)
    out.print(f"{flow} is started again within seconds, where a service is up.", highlight=False)


@app.command()
def resume(
    flow: FlowName,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Go on although what was lost can't be read any more.")
    ] = False,
    env: Env = "dev",
    config: Config = None,
) -> None:
    """Let a paused flow go on; with --accept-loss one that stopped because its source lost data it had not read.

    After a loss its checkpoint is set aside, and the flow goes on with the oldest that is there and that it has not
    read. So a table is also pulled, or published, from its beginning once more.

    Example: `streams resume bronze.order_events --accept-loss`
    """
    from streams.flows import all_flows
    from streams.supervisor.resume import resume_after_loss

    control = _control_of(flow, env, config)
    if not accept_loss:
        if not control.is_paused(flow):
            raise ConfigurationError(
                "NOT_PAUSED",
                f"{flow} is not paused.",
                way_out="If it failed: streams restart. If its source lost data: streams resume with --accept-loss.",
            )
        control.resume(flow)
        out.print(f"{flow} goes on.", highlight=False)
        return
    with _service(env, config) as service:
        declared = all_flows(service.settings)
        out.print(f"{flow} goes on from {resume_after_loss(declared[flow], service)}.", highlight=False)
    control.restart(flow)


@app.command()
def reset(
    flow: Annotated[str, typer.Argument(help="A flow of silver or gold.")],
    env: Env = "dev",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a table of silver or gold anew from what is upstream of it; readers go on reading meanwhile.

    The new table is made beside the live one, which is then brought to it in one commit that holds only what
    differs: gold and the warehouses follow, and see no row twice. Pause the flow first, or stop what runs it; resume
    it afterwards. Rows that wait in the error lane are judged anew; those that were discarded may wait again.

    Example: `streams reset gold.fact_orders --env prod`
    """
    from streams.supervisor.reset import reset as reset_flow

    with _service(env, config) as service:
        done = reset_flow(flow, service, _say)
    _show([vars(done)], as_json)


@app.command()
def maintain(
    tables: Annotated[list[str] | None, typer.Argument(help="Tables; all without any.")] = None,
    env: Env = "dev",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Remove old tombstones and files that nobody needs any more, and make large files of small ones.

    May run while the flows do, and as often as you like; once a day is plenty. Nothing is removed that a flow has
    still to read: a flow that is far behind is named under `held_by`.

    Examples: `streams maintain --env prod`, `streams maintain silver.orders gold.fact_orders`
    """
    from streams.supervisor.maintenance import maintain as maintain_tables

    with _service(env, config) as service:
        done = maintain_tables(service, tables or (), _say)
    _show([vars(one) for one in done], as_json)


@app.command()
def prepare() -> None:
    """Fetch what a start needs, and keep an archive of the Java classes that it loads: starts are faster from then on.

    Once for an environment or an image, and again after an update of Java or of the packages. Nothing depends on it.

    Example: `streams prepare`
    """
    from streams.local.rehearsal import prepare as prepare_start

    archive = prepare_start(_say)
    out.print(f"Starts use {archive}", highlight=False, soft_wrap=True)


@app.command()
def demo(
    orders: Annotated[
        int | None, typer.Option("--orders", help="Replay only so many of the 69,659 orders.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Which dirt: the same seed gives the same.")] = 7,
    keep: Annotated[bool, typer.Option("--keep", help="Keep what an earlier demo left, and go on with it.")] = False,
) -> None:
    """Replay real orders and exchange rates through every flow, on a stack of its own; show what gold holds.

    Starts a Kafka broker, replays 18 months of a shop's orders with repeats, broken and late rows, runs every
    flow meanwhile, and ends with exit code 0 when gold holds exactly what it must.

    Example: `streams demo --orders 5000`
    """
    from streams.local.demo import run_demo

    if not run_demo(out, orders=orders, seed=seed, keep=keep):
        raise typer.Exit(1)


@sources_app.command("check")
def sources_check(
    name: Annotated[str, typer.Argument(help="snowflake, redshift or salesforce.")],
    env: Env = "dev",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Log in, look at each table's columns, read one row, and say in words what is wrong.

    Exit code 0 when the source can be pulled, 1 when not, 2 when the call or the configuration is wrong.

    Example: `streams sources check snowflake --env prod`
    """
    from streams.source_check import check_source

    findings = check_source(_settings(env, config), name)
    _show_findings(findings, as_json)
    if any(finding.problem for finding in findings):
        raise typer.Exit(1)


@errors_app.command("list")
def errors_list(
    flow: Annotated[str | None, typer.Option("--flow", help="Only of this flow.")] = None,
    status: Annotated[str, typer.Option("--status", help="waiting, replayed, discarded or all.")] = "waiting",
    limit: Annotated[int, typer.Option("--limit", help="How many at the most.", min=1)] = 50,
    env: Env = "dev",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List the rows that wait, oldest first.

    Example: `streams errors list --flow bronze.order_events`
    """
    from streams.quality.error_lane import lane_table

    with _service(env, config) as service:
        rows = lane_table(service.spark, service.lake.lanes, flow=flow, status=None if status == "all" else status)
        found = rows.limit(limit + 1).collect()
    _show([_lane_line(row) for row in found[:limit]], as_json)
    if len(found) > limit and not as_json:
        out.print(f"… and more. --limit {limit * 10} shows them.", highlight=False)


@errors_app.command("show")
def errors_show(
    error_id: Annotated[str, typer.Argument(help="Its id, or how it begins.")],
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Show the row as it came. It may hold personal data.")
    ] = False,
    env: Env = "dev",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show one row: why it waits, where it came from, and its shape (letters as x, digits as 9).

    Example: `streams errors show 3f2a --reveal`
    """
    from streams.quality.error_lane import find_row, shape_of

    with _service(env, config) as service:
        row = find_row(service.spark, service.lake.lanes, error_id)
    payload = None if row["payload"] is None else bytes(row["payload"]).decode("utf-8", "backslashreplace")
    shown = payload if reveal or payload is None else shape_of(payload)
    facts = _lane_line(row) | {
        "violations": [violation.asDict() for violation in row["violations"]],
        "batch": f"{row['batch_id']} of checkpoint {row['checkpoint_id']}, run {row['run_id']}",
        "replay_of": row["replay_of"],
        "status": " ".join(str(part) for part in (row["status"], row["status_at"], row["status_note"]) if part),
        "payload": shown,
    }
    if as_json:
        out.print_json(json.dumps(facts, default=str))
        return
    for name, value in facts.items():
        out.print(f"[bold]{name:>12}[/]  {_escape(str(value))}", highlight=False, soft_wrap=True)


@errors_app.command("replay")
def errors_replay(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids, or how they begin.")] = None,
    flow: Annotated[str | None, typer.Option("--flow", help="All that wait of this flow.")] = None,
    payload_file: Annotated[
        Path | None,
        typer.Option(
            "--payload-file", help="The mended row, in place of what came (one id).", exists=True, dir_okay=False
        ),
    ] = None,
    note: Annotated[str | None, typer.Option("--note", help="Why; kept with the row.")] = None,
    env: Env = "dev",
    config: Config = None,
) -> None:
    """Send rows back into the flow that they came from, each once; it takes them with its next batch.

    Mend the contract or the check first, or give the mended row by --payload-file.

    Example: `streams errors replay 3f2a --payload-file mended.csv`
    """
    if payload_file is not None and len(ids or []) != 1:
        raise ConfigurationError("CALL_INCOMPLETE", "--payload-file mends one row.", way_out="Name one id.")
    _settle("replayed", ids, flow, note, env, config, payload_file.read_bytes() if payload_file else None)


@errors_app.command("discard")
def errors_discard(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids, or how they begin.")] = None,
    flow: Annotated[str | None, typer.Option("--flow", help="All that wait of this flow.")] = None,
    note: Annotated[str | None, typer.Option("--note", help="Why; kept with the row.")] = None,
    env: Env = "dev",
    config: Config = None,
) -> None:
    """Give rows up. They stay in the lane, marked; nothing is deleted.

    Example: `streams errors discard --flow bronze.order_events --note "test messages"`
    """
    _settle("discarded", ids, flow, note, env, config)


def _settle(
    status: str,
    ids: list[str] | None,
    flow: str | None,
    note: str | None,
    env: str,
    config: str | None,
    payload: bytes | None = None,
) -> None:
    from streams.quality.error_lane import find_row, settle

    if not ids and flow is None:
        raise ConfigurationError(
            "CALL_INCOMPLETE", "Which rows?", way_out="Give ids, or --flow for all that wait of a flow."
        )
    with _service(env, config) as service:
        lanes = service.lake.lanes
        whole = [find_row(service.spark, lanes, start)["error_id"] for start in ids or []] or None
        count = sum(
            settle(service.spark, lane, status, ids=whole, flow=flow, note=note, payload=payload) for lane in lanes
        )
    out.print(f"{count} {'row' if count == 1 else 'rows'} {status}.", highlight=False)
    if status == "replayed" and count:
        out.print(
            "The flow takes them with its next batch: at once under `streams up`, else with its job.", highlight=False
        )


def _show_findings(findings: list[Finding], as_json: bool) -> None:
    if as_json:
        out.print_json(json.dumps([vars(finding) for finding in findings]))
    for finding in () if as_json else findings:
        mark = "[green]✓[/]" if finding.problem is None else "[bold red]✗[/]"
        out.print(f"{mark} {_escape(finding.what)}", _escape(finding.problem or ""), highlight=False, soft_wrap=True)


def _settings(env: str, config: str | None, *, check_secrets: bool = True) -> Settings:
    """Without the secrets for what needs only the flows and the checkpoints' folder: it may run anywhere."""
    from streams.settings import load_settings

    return load_settings(env, config, os.environ, check_secrets=check_secrets)


def _status_line(name: str, flow: FlowReport) -> dict[str, Any]:
    return {
        "flow": name,
        "state": flow.state,
        "since": _clock(flow.since),
        "batches": flow.batches,
        "rows read": flow.rows_read,
        "written": flow.rows_written,
        "to the lane": flow.rows_error,
        "last batch": _clock(flow.last_batch_at),
        "age p50": None if flow.freshness_p50 is None else _age(flow.freshness_p50),
        "p99": None if flow.freshness_p99 is None else _age(flow.freshness_p99),
        "lag": None if flow.kafka_lag is None else sum(flow.kafka_lag.values()),
    }


def _age(seconds: float) -> str:
    """In the unit that people would say it in."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.1f} s"


def _clock(instant: str | None) -> str:
    return instant[:19].replace("T", " ") if instant else ""


def _control(settings: Settings) -> Control:
    from streams.small_files import small_files
    from streams.supervisor.control import Control

    return Control(small_files(settings.checkpoints.root))


def _control_of(flow: str, env: str, config: str | None) -> Control:
    from streams.flows import all_flows

    settings = _settings(env, config, check_secrets=False)
    declared = all_flows(settings)
    if flow not in declared:
        raise ConfigurationError(
            "FLOW_UNKNOWN", f"There is no flow {flow!r}.", way_out=f"The flows are: {', '.join(declared)}."
        )
    return _control(settings)


@contextmanager
def _service(env: str, config: str | None) -> Iterator[Service]:
    """The session and what goes with it, for one command."""
    with _service_of(_settings(env, config)) as service:
        yield service


@contextmanager
def _service_of(
    settings: Settings,
    listeners: tuple[Listener, ...] = (),
    command: str | None = None,
    is_spark_needed: bool = True,
) -> Iterator[Service]:
    from streams.supervisor.service import started

    with started(settings, listeners, _say, command, is_spark_needed) as service:
        yield service


def _say(line: str) -> None:
    """For people, beside the result."""
    err.print(line, highlight=False, markup=False, soft_wrap=True)


def _with_page(settings: Settings, page: bool, port: int | None) -> Settings:
    changes: dict[str, Any] = {"enabled": settings.page.enabled and page}
    if port is not None:
        changes |= {"enabled": page, "port": port}
    return settings.model_copy(update={"page": settings.page.model_copy(update=changes)})


@contextmanager
def _draining_on_signal(service: Service) -> Iterator[None]:
    """The first SIGTERM or Ctrl-C lets batches end; the second interrupts."""

    def on_signal(number: int, _: object) -> None:
        if service.draining.is_set():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        # An event's lock may be held by the very thread that the signal interrupts.
        threading.Thread(target=service.draining.set).start()
        err.print("Letting each flow end its batch. Once more interrupts.", highlight=False)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _result_rows(result: JobResult) -> list[dict[str, Any]]:
    if result.gate is not None:
        from streams.quality.gates import rows

        return [dict(zip(("table", "check", "outcome", "value"), row, strict=True)) for row in rows(result.gate)]
    counted = ("rows_read", "rows_written", "rows_duplicate", "rows_stale", "rows_error")
    return [
        {"flow": run.flow, "batches": run.batches} | {name: run.total(name) for name in counted} for run in result.runs
    ]


def _show_result(rows: list[dict[str, Any]], as_json: bool) -> None:
    _show(rows, as_json)
    failed = [f"{row['table']}: {row['check']}" for row in rows if "check" in row and row["outcome"] in _FAILED]
    if failed and not as_json:
        out.print(f"[bold red]failed[/]: {_escape(', '.join(failed))}", highlight=False, soft_wrap=True)


def _lane_line(row: Any) -> dict[str, Any]:
    where = [str(row[name]) for name in ("source", "partition", "offset") if row[name] is not None]
    why = "; ".join(
        " ".join(part for part in (v["code"], v["column"], v["value"]) if part) for v in row["violations"] or ()
    )
    return {
        "id": row["error_id"],
        "recorded_at": f"{row['recorded_at']:%Y-%m-%d %H:%M:%S}",
        "flow": row["flow"],
        "why": why,
        "from": "/".join(where),
        "status": row["status"],
    }


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Rows as a table for people, or as JSON for programs."""
    if as_json:
        out.print_json(json.dumps(rows, default=str))
        return
    if not rows:
        out.print("None.")
        return
    table = Table(box=None, pad_edge=False)
    for name, value in rows[0].items():
        table.add_column(
            name.replace("_", " "), justify="right" if isinstance(value, int | float) else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    out.print(table)


def _cell(value: object) -> str:
    if isinstance(value, list):
        return _escape(", ".join(str(part) for part in value))
    return f"{value:,}" if isinstance(value, int) else _escape("" if value is None else str(value))


def _escape(text: str) -> str:
    return text.replace("[", "\\[")
