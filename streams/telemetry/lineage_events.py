"""What the service does, told as OpenLineage events.

A run of a flow in which no batch had rows is not told of, unless it failed. Any other is a START (told when its first
batch is done), a RUNNING a batch, and an end: COMPLETE, FAIL, or ABORT where the service was asked to end before the
run was through. What an event says of rows, versions and checks holds for the run so far: the last one says it all.

Under `streams up` a flow may run every second. There its runs within `window` seconds are told as one, with no more
than one RUNNING in that time: a minute of a busy flow is three events.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import attr
import pyspark
from openlineage.client import facet_v2 as facets
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import JobFacet, RunFacet

from streams.errors import StreamsError
from streams.telemetry.events import BatchDone, GateJudged, RunBegan, RunEnded
from streams.telemetry.logs import masked
from streams.version import CODE_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from streams.telemetry.audit import CheckOutcome
    from streams.telemetry.events import Event
    from streams.telemetry.lineage import ColumnInput, Dataset, FlowLineage

_INTEGRATION: Final = "LAKEHOUSE_STREAMS"
_WORST_LAST: Final = ("pass", "warn", "fail", "error")


@attr.define
class RowsRunFacet(RunFacet):
    """``lakehouseStreams_rows``: see ``rows_run_facet.schema.json`` beside this file."""

    batches: int
    read: int
    written: int
    duplicate: int
    stale: int
    errorLane: int  # noqa: N815
    seconds: dict[str, float]
    recovered: int
    lastBatch: dict[str, object]  # noqa: N815

    @staticmethod
    def _get_schema() -> str:
        return "urn:lakehouse-streams:facet:rows:1-0-0"


@dataclass
class _Told:
    """A run of a flow, or several that follow each other, as one."""

    run: str
    began: dt.datetime
    lineage: FlowLineage
    counts: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    versions: dict[str, int] = field(default_factory=dict)
    checks: dict[tuple[str, str], CheckOutcome] = field(default_factory=dict)
    last_batch: dict[str, object] = field(default_factory=dict)
    told_at: dt.datetime | None = None  # the last event of it; None while there is nothing to tell
    ended: dt.datetime | None = None  # when its last run was through

    def add(self, done: BatchDone) -> None:
        audit = done.audit
        self.counts.update(vars(audit.counts) | {"batches": 1, "recovered": int(audit.is_recovered)})
        self.seconds.update(audit.seconds)
        self.versions |= audit.versions
        self.last_batch = {"checkpoint": audit.batch.checkpoint_id, "id": audit.batch.batch_id}
        for check in audit.checks:
            # Of several batches the worst outcome stays.
            key = (check.check, check.definition)
            known = self.checks.get(key, check)
            self.checks[key] = max(known, check, key=lambda one: _WORST_LAST.index(one.outcome))


class Lineage(Protocol):
    """Knows where rows come from (see `streams.flows.lineage`)."""

    def of(self, name: str) -> FlowLineage | None:
        """Of a flow; None where there is none of that name."""
        ...

    def table(self, name: str) -> Dataset | None:
        """What a flow writes."""
        ...


class LineageEvents:
    """Makes of what is told (see `streams.telemetry.events`) the OpenLineage events that say it.

    Args:
        namespace: the jobs'.
        lineage: where the flows' rows come from.
        parent: the job that runs the flows, such as ``daily`` or ``up``; None where that is not told.
        window: how many seconds of a flow's runs are told as one; 0: each run is told as one.
        repository: where this code is kept.
    """

    def __init__(
        self,
        namespace: str,
        lineage: Lineage,
        parent: str | None = None,
        window: float = 0.0,
        repository: str | None = None,
    ) -> None:
        self.namespace, self.lineage, self.repository = namespace, lineage, repository
        self.parent, self.window = parent, dt.timedelta(seconds=window)
        self.is_service = window > 0
        self.producer = repository or f"urn:lakehouse-streams:{CODE_VERSION}"
        facets.set_producer(self.producer)
        self._parent_run = str(uuid.uuid4())
        self._parent_began: dt.datetime | None = None
        self._failed: set[str] = set()  # flows and gates whose last run failed
        self._open: dict[str, _Told] = {}

    def take(self, event: Event, is_ending: bool = False) -> list[RunEvent]:
        """What to tell of an event.

        Args:
            event: what was done.
            is_ending: whether the service had been asked to end by then.
        """
        match event:
            case RunBegan():
                return list(self._begin(event))
            case BatchDone():
                return list(self._batch(event))
            case RunEnded():
                return list(self._end(event, is_ending))
            case GateJudged():
                return list(self._gate(event))
            case _:
                return []

    def due(self, now: dt.datetime) -> list[RunEvent]:
        """The ends of those runs that no other followed within the window."""
        over = [flow for flow, told in self._open.items() if told.ended and now - told.began >= self.window]
        return [event for flow in over for event in self._close(flow)]

    @property
    def is_waiting(self) -> bool:
        """Whether something will become due."""
        return any(told.ended for told in self._open.values())

    def end(self, now: dt.datetime, error: BaseException | None = None, is_ending: bool = False) -> list[RunEvent]:
        """What is still to be told when the service ends, of itself too."""
        told = [event for flow in list(self._open) for event in self._close(flow)]
        if self.parent is None or self._parent_began is None:
            return told
        # To be asked to end is how a service ends well, and a job does not.
        state = RunState.FAIL if error or (self._failed and not self.is_service) else RunState.COMPLETE
        if is_ending:
            state, error = (RunState.COMPLETE if self.is_service else RunState.ABORT), None
        run_facets = self._run_facets(self._parent_began, now)
        if error is not None:
            run_facets["errorMessage"] = _error_facet(error)
        elif state is RunState.FAIL:
            run_facets["errorMessage"] = _error(f"Failed: {', '.join(sorted(self._failed))}.")
        return [*told, self._parent_event(state, now, run_facets)]

    def _begin(self, event: RunBegan) -> Iterator[RunEvent]:
        known = self._open.get(event.flow)
        if known is not None and known.ended and known.told_at and event.at - known.began < self.window:
            known.ended = None  # the same, going on
            return
        if known is not None:
            yield from self._close(event.flow)
        self._start(event.flow, event.run, event.at)

    def _start(self, flow: str, run: str, at: dt.datetime) -> _Told | None:
        lineage = self.lineage.of(flow)
        if lineage is not None:
            self._open[flow] = _Told(run, at, lineage)
        return self._open.get(flow)

    def _batch(self, event: BatchDone) -> Iterator[RunEvent]:
        flow, at = event.audit.batch.flow, event.audit.finished_at
        # What came too thick to be kept may have been its beginning.
        told = self._open.get(flow) or self._start(flow, event.run, event.audit.started_at)
        if told is None:
            return
        told.add(event)
        is_first = told.told_at is None
        if is_first:
            yield from self._first_of(told)
        if is_first or (told.told_at and at - told.told_at >= self.window):
            yield self._flow_event(RunState.RUNNING, told, at)
            told.told_at = at

    def _end(self, event: RunEnded, is_ending: bool) -> Iterator[RunEvent]:
        told = self._open.get(event.flow)
        if told is None:
            return
        told.ended = event.at
        if event.error is not None:
            self._failed.add(event.flow)
            if told.told_at is None:
                yield from self._first_of(told)
                told.told_at = event.at
            yield from self._close(event.flow, RunState.FAIL, event.error)
            return
        self._failed.discard(event.flow)
        if is_ending and not event.is_through:
            yield from self._close(event.flow, RunState.ABORT)
        elif told.told_at is None or event.at - told.began >= self.window:
            yield from self._close(event.flow)

    def _first_of(self, told: _Told) -> Iterator[RunEvent]:
        yield from self._open_parent(told.began)
        yield self._flow_event(RunState.START, told, told.began, is_whole=True)

    def _close(
        self, flow: str, state: RunState = RunState.COMPLETE, error: Exception | None = None
    ) -> Iterator[RunEvent]:
        told = self._open.pop(flow)
        if told.told_at is not None:
            yield self._flow_event(state, told, told.ended or told.told_at, is_whole=True, error=error)

    # Events.

    def _flow_event(
        self,
        state: RunState,
        told: _Told,
        at: dt.datetime,
        *,
        is_whole: bool = False,
        error: Exception | None = None,
    ) -> RunEvent:
        """An event of a flow's run. Schemas and columns are told when it starts and ends, and not in between."""
        lineage = told.lineage
        run_facets = self._run_facets(told.began, told.ended) | self._parent_facet()
        if told.counts["batches"] and state is not RunState.START:
            run_facets["lakehouseStreams_rows"] = _rows_facet(told)
        if error is not None:
            run_facets["errorMessage"] = _error_facet(error)
        # The beginning is told when the first batch is done, but nothing had been written then.
        has_rows = state is not RunState.START
        return RunEvent(
            eventType=state,
            eventTime=at.isoformat(),
            run=Run(told.run, run_facets),
            job=Job(self.namespace, lineage.flow, self._job_facets("FLOW", "BATCH", lineage.code) if is_whole else {}),
            inputs=[self._input(one, is_whole=is_whole) for one in lineage.inputs],
            outputs=list(self._outputs(told, is_whole=is_whole, has_rows=has_rows)),
            producer=self.producer,
        )

    def _outputs(self, told: _Told, *, is_whole: bool, has_rows: bool) -> Iterator[OutputDataset]:
        lineage = told.lineage
        output = self._output(lineage.output, told, told.counts["rows_written"], is_whole=is_whole, has_rows=has_rows)
        assert output.facets is not None
        if is_whole and lineage.columns:
            output.facets["columnLineage"] = _columns_facet(lineage)
        if has_rows and told.checks:
            output.facets["dataQualityAssertions"] = _assertions(told.checks.values())  # type: ignore[assignment]
        yield output
        if lineage.lane is not None:
            yield self._output(lineage.lane, told, told.counts["rows_error"], is_whole=is_whole, has_rows=has_rows)

    def _output(self, dataset: Dataset, told: _Told, rows: int, *, is_whole: bool, has_rows: bool) -> OutputDataset:
        told_facets = self._dataset_facets(dataset) if is_whole else {}
        version = told.versions.get(dataset.path or "")
        if has_rows and version is not None:
            told_facets["version"] = facets.dataset_version_dataset.DatasetVersionDatasetFacet(str(version))
        statistics = facets.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=rows)
        return OutputDataset(
            dataset.namespace,
            dataset.name,
            outputFacets={"outputStatistics": statistics} if has_rows else {},
            facets=told_facets,
        )

    def _input(self, dataset: Dataset, *, is_whole: bool = True) -> InputDataset:
        return InputDataset(dataset.namespace, dataset.name, facets=self._dataset_facets(dataset) if is_whole else {})

    def _gate(self, event: GateJudged) -> Iterator[RunEvent]:
        yield from self._open_parent(event.began)
        job, run = f"dq_{event.layer}_gate", str(uuid.uuid4())
        inputs = []
        for table, checks in event.checks.items():
            dataset = self.lineage.table(table)
            if dataset is not None:
                one = self._input(dataset)
                one.inputFacets = {"dataQualityAssertions": _assertions(checks)}
                inputs.append(one)
        failed = [
            f"{table}: {check.check}"
            for table, checks in event.checks.items()
            for check in checks
            if check.outcome in ("fail", "error")
        ]
        (self._failed.add if failed else self._failed.discard)(job)
        job_facets = self._job_facets("GATE", "BATCH", "streams/quality/gates.py")
        begun = self._run_facets(event.began) | self._parent_facet()
        ended = self._run_facets(event.began, event.at) | self._parent_facet()
        if failed:
            ended["errorMessage"] = _error(f"[CHECKS_FAILED] {'; '.join(failed)}")
        for state, at, run_facets in (
            (RunState.START, event.began, begun),
            (RunState.FAIL if failed else RunState.COMPLETE, event.at, ended),
        ):
            yield RunEvent(
                eventType=state,
                eventTime=at.isoformat(),
                run=Run(run, run_facets),
                job=Job(self.namespace, job, job_facets),
                inputs=inputs,
                producer=self.producer,
            )

    def _open_parent(self, at: dt.datetime) -> Iterator[RunEvent]:
        if self.parent is not None and self._parent_began is None:
            self._parent_began = at
            yield self._parent_event(RunState.START, at, self._run_facets(at))

    def _parent_event(self, state: RunState, at: dt.datetime, run_facets: dict[str, RunFacet]) -> RunEvent:
        kind = ("SERVICE", "SERVICE") if self.is_service else ("JOB", "BATCH")
        return RunEvent(
            eventType=state,
            eventTime=at.isoformat(),
            run=Run(self._parent_run, run_facets),
            job=Job(self.namespace, str(self.parent), self._job_facets(*kind, "streams/jobs.py")),
            producer=self.producer,
        )

    # Facets.

    def _parent_facet(self) -> dict[str, RunFacet]:
        if self.parent is None:
            return {}
        run, job = facets.parent_run.Run(self._parent_run), facets.parent_run.Job(self.namespace, self.parent)
        return {"parent": facets.parent_run.ParentRunFacet(run, job)}

    def _run_facets(self, began: dt.datetime, ended: dt.datetime | None = None) -> dict[str, RunFacet]:
        until = ended.isoformat() if ended else None
        return {
            "nominalTime": facets.nominal_time_run.NominalTimeRunFacet(began.isoformat(), until),
            "processing_engine": facets.processing_engine_run.ProcessingEngineRunFacet(
                pyspark.__version__, "spark", CODE_VERSION
            ),
        }

    def _job_facets(self, kind: str, processing: str, code: str) -> dict[str, JobFacet]:
        pattern = facets.job_type_job.EmissionPattern("EVENT_BASED", "ACCUMULATIVE")
        told: dict[str, JobFacet] = {
            "jobType": facets.job_type_job.JobTypeJobFacet(processing, _INTEGRATION, kind, pattern)
        }
        if self.repository is not None:
            told["sourceCodeLocation"] = facets.source_code_location_job.SourceCodeLocationJobFacet(
                "git", f"{self.repository}/{code}", repoUrl=self.repository, path=code, version=CODE_VERSION
            )
        return told

    def _dataset_facets(self, dataset: Dataset) -> dict[str, facets.DatasetFacet]:
        told: dict[str, facets.DatasetFacet] = {
            "dataSource": facets.datasource_dataset.DatasourceDatasetFacet(dataset.namespace, _uri(dataset.namespace)),
            "datasetType": facets.dataset_type_dataset.DatasetTypeDatasetFacet(dataset.kind),
        }
        if dataset.fields:
            told["schema"] = facets.schema_dataset.SchemaDatasetFacet(
                [
                    facets.schema_dataset.SchemaDatasetFacetFields(one.name, one.type, fields=None)
                    for one in dataset.fields
                ]
            )
        if dataset.path is not None:
            told["storage"] = facets.storage_dataset.StorageDatasetFacet("delta", "parquet")
        if dataset.logical is not None:
            known_as = facets.symlinks_dataset.Identifier(self.namespace, dataset.logical, "TABLE")
            told["symlinks"] = facets.symlinks_dataset.SymlinksDatasetFacet([known_as])
        personal = [one for one in dataset.fields if one.personal]
        if personal:
            told["tags"] = facets.tags_dataset.TagsDatasetFacet(
                [
                    facets.tags_dataset.TagsDatasetFacetFields("personal", str(one.personal), "CONTRACT", one.name)
                    for one in personal
                ]
            )
        return told


def _uri(namespace: str) -> str:
    return namespace if "://" in namespace else f"{namespace}://"


def _rows_facet(told: _Told) -> RowsRunFacet:
    counts = told.counts
    return RowsRunFacet(
        batches=counts["batches"],
        read=counts["rows_read"],
        written=counts["rows_written"],
        duplicate=counts["rows_duplicate"],
        stale=counts["rows_stale"],
        errorLane=counts["rows_error"],
        seconds={name: round(seconds, 3) for name, seconds in told.seconds.items()},
        recovered=counts["recovered"],
        lastBatch=told.last_batch,
    )


def _assertions(
    checks: Iterable[CheckOutcome],
) -> facets.data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet:
    """Soda's outcomes. A check that only warns has found something too."""
    kind = facets.data_quality_assertions_dataset
    return kind.DataQualityAssertionsDatasetFacet(
        [
            kind.Assertion(
                assertion=check.definition.partition("(")[0].partition(" ")[0] or "custom",
                success=check.outcome == "pass",
                column=check.column,
                severity="warn" if check.outcome == "warn" else "error",
                name=check.check,
                actual=None if check.value is None else f"{check.value:g}",
                content=check.definition,
                contentType="expression",
            )
            for check in checks
        ]
    )


def _columns_facet(lineage: FlowLineage) -> facets.column_lineage_dataset.ColumnLineageDatasetFacet:
    return facets.column_lineage_dataset.ColumnLineageDatasetFacet(
        fields={
            name: facets.column_lineage_dataset.Fields(inputFields=_input_fields(inputs))
            for name, inputs in lineage.columns.items()
            if inputs
        },
        dataset=_input_fields(lineage.rows),
    )


def _input_fields(inputs: Iterable[ColumnInput]) -> list[facets.column_lineage_dataset.InputField]:
    """One entry a column, with all the ways in which it counts."""
    kind = facets.column_lineage_dataset
    ways: dict[tuple[str, str, str], list[facets.column_lineage_dataset.Transformation]] = {}
    for one in inputs:
        way = kind.Transformation(one.type, one.subtype, masking=one.is_masked)
        ways.setdefault((one.dataset.namespace, one.dataset.name, one.column), []).append(way)
    return [kind.InputField(*column, transformations=how) for column, how in ways.items()]


def _error_facet(error: BaseException) -> facets.error_message_run.ErrorMessageRunFacet:
    return _error(str(error) if isinstance(error, StreamsError) else f"[{type(error).__name__}] {error}")


def _error(message: str) -> facets.error_message_run.ErrorMessageRunFacet:
    return facets.error_message_run.ErrorMessageRunFacet(masked(message), "PYTHON")
