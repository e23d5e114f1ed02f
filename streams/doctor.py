"""What would lose or repeat data, or soon stop a flow, looked for before it happens."""

from __future__ import annotations

import datetime as dt
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlparse

from pyspark.sql import functions as F

from streams.delta_log import table_identity, table_size
from streams.errors import FatalError, StreamsError
from streams.flows import all_flows
from streams.flows.flow import way_to_begin_anew
from streams.sinks.commits import commit_time
from streams.small_files import small_files
from streams.sources.delta import DeltaSource
from streams.sources.kafka import KafkaSource
from streams.storage import Storage
from streams.supervisor.control import Control
from streams.supervisor.maintenance import LAYERS, SHARED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streams.checkpoint import Checkpoint
    from streams.flows.flow import Flow
    from streams.supervisor.service import Service

_LEAST_FREE: Final = 0.1  # of a disk
_LEAST_FREE_BYTES: Final = 5 << 30
_MOST_SKEW: Final = 5.0  # seconds
_NEAR_ITS_END: Final = 0.1  # of what a topic holds is older than what a flow has read
_DELTA_KEEPS: Final = dt.timedelta(days=7)
_MANY_FILES, _SMALL_BYTES = 200, 8 << 20


@dataclass(frozen=True)
class Diagnosis:
    """One thing that was looked at.

    Attributes:
        what: which.
        level: ``ok``, ``warn`` (it will become trouble) or ``fail`` (it is).
        found: what it is, and what it means; empty when all is well.
        way_out: the command or the change that mends it.
        code: for programs.
    """

    what: str
    level: str = "ok"
    found: str = ""
    way_out: str | None = None
    code: str | None = None


def diagnose(service: Service, progress: Callable[[str], None] = lambda _: None) -> Iterator[Diagnosis]:
    """Look at storage, the service, each flow's checkpoint and sources, and each table."""
    progress("storage")
    for name, root in _roots(service).items():
        yield from _storage(service, name, root)
    yield from _service(service)
    flows = all_flows(service.settings)
    yield from _left_over(service, flows)
    for flow in flows.values():
        progress(flow.name)
        try:
            yield from _flow(service, flow)
        except Exception as error:
            found = f"its checkpoint can't be read: {_first_line(error)}"
            yield Diagnosis(flow.name, "fail", found, way_to_begin_anew(flow.name), "CHECKPOINT_UNREADABLE")
    for name in (*(name for name in flows if name.partition(".")[0] in LAYERS), *SHARED):
        yield from _table(service, name)
    yield from _lanes(service)


def _roots(service: Service) -> dict[str, str]:
    settings = service.settings
    return {
        "lake.root": settings.lake.root,
        "checkpoints.root": settings.checkpoints.root,
        "dq_results_root": settings.dq_results_root,
    }


def _storage(service: Service, name: str, root: str) -> Iterator[Diagnosis]:
    what, storage = f"{name} {root}", Storage(service.spark)
    probe = f"{root.rstrip('/')}/_doctor/{uuid.uuid4().hex}"
    try:
        before = time.time()
        storage.write(probe, "probe")
        written = storage.modified(probe)
        after = time.time()
        storage.delete(f"{root.rstrip('/')}/_doctor")
    except Exception as error:
        found = f"can't be written: {_first_line(error)}"
        yield Diagnosis(what, "fail", found, f"Let this user write there, or change {name}.", "NOT_WRITABLE")
        return
    skew = max(before - 1 - written, written - after, 0.0)
    if skew > _MOST_SKEW:
        yield Diagnosis(
            f"{what}: its clock",
            "warn",
            f"differs from this machine's by {skew:.0f} s, so freshness and ages are wrong by as much",
            "Set both clocks by NTP.",
            "CLOCK_SKEW",
        )
    yield from _disk(what, root)


def _disk(what: str, root: str) -> Iterator[Diagnosis]:
    place = urlparse(root)
    if place.scheme not in ("", "file"):
        yield Diagnosis(f"{what}: written and read")
        return
    usage = shutil.disk_usage(Path(place.path))
    shown = f"{usage.free / 2**30:.1f} GiB of {usage.total / 2**30:.0f} free"
    if usage.free < max(_LEAST_FREE * usage.total, _LEAST_FREE_BYTES):
        yield Diagnosis(what, "warn", f"{shown}; when it is full, batches fail", "streams maintain", "DISK_NEARLY_FULL")
    else:
        yield Diagnosis(f"{what}: written and read, {shown}")


def _service(service: Service) -> Iterator[Diagnosis]:
    control = Control(small_files(service.settings.checkpoints.root))
    report = control.report()
    processes = report.processes.values() if report else ()
    alive = [process for process in processes if not process.is_silent]
    for process in alive:
        yield Diagnosis(f"the service: process {process.pid} on {process.host}, {_ago(process.age_seconds)} ago")
    if report is None:
        yield Diagnosis("the service: never was up")
    elif not alive and any(flow.state not in ("stopped", "failed") for flow in report.flows.values()):
        process = max(processes, key=lambda process: process.at)
        yield Diagnosis(
            "the service",
            "fail",
            f"process {process.pid} on {process.host} has said nothing for {_ago(process.age_seconds)}: it was killed, "
            "or its machine is gone",
            "streams up",
            "SERVICE_SILENT",
        )
    for name, flow in (report.flows if report else {}).items():
        if flow.state == "failed":
            yield Diagnosis(name, "fail", flow.error or "failed", flow.way_out or f"streams restart {name}", flow.code)
    for name, order in control.orders().items():
        if order.paused:
            yield Diagnosis(
                name, "warn", f"paused by {order.by} since {order.at}", f"streams resume {name}", "FLOW_PAUSED"
            )


def _left_over(service: Service, flows: dict[str, Flow]) -> Iterator[Diagnosis]:
    root, storage = service.settings.checkpoints.root, Storage(service.spark)
    for name in sorted(storage.names(root)):
        if name.startswith(("_", ".")) or name in flows:
            continue
        if not storage.exists(f"{root.rstrip('/')}/{name}/metadata"):
            continue
        yield Diagnosis(
            f"checkpoint {name}",
            "warn",
            "belongs to no flow of this configuration: its source is not configured any more, or it was set aside",
            f"Remove {root.rstrip('/')}/{name} when nobody needs it.",
            "CHECKPOINT_UNKNOWN",
        )


def _flow(service: Service, flow: Flow) -> Iterator[Diagnosis]:
    checkpoint = service.checkpoint(flow.name)
    if not checkpoint.exists():
        yield Diagnosis(f"{flow.name}: has not run yet")
        return
    found = [*_declaration(flow, checkpoint), *_sources(service, flow, checkpoint)]
    yield from found
    if not found:
        batch = checkpoint.newest_batch()
        yield Diagnosis(f"{flow.name}: can go on after batch {'none' if batch is None else batch}")


def _declaration(flow: Flow, checkpoint: Checkpoint) -> Iterator[Diagnosis]:
    """The checkpoint has an offset a source, in the order in which the flow declares them."""
    sources = checkpoint.sources()
    if sources is not None and sources > len(flow.inputs):
        yield Diagnosis(
            flow.name,
            "fail",
            f"its checkpoint is of {sources} sources, its declaration has {len(flow.inputs)}: Spark would not start it",
            f"Declare the sources as they were. {way_to_begin_anew(flow.name)}",
            "CHECKPOINT_DIFFERS",
        )


def _sources(service: Service, flow: Flow, checkpoint: Checkpoint) -> Iterator[Diagnosis]:
    for place, one in enumerate(flow.inputs):
        try:
            one.source.guard(service.spark, checkpoint)
        except FatalError as error:
            yield Diagnosis(flow.name, "fail", error.message, error.way_out, error.code)
            continue
        except StreamsError as error:
            found = f"its source does not answer: {error.message}"
            yield Diagnosis(flow.name, "fail", found, error.way_out, error.code)
            continue
        if isinstance(one.source, KafkaSource):
            yield from _near_the_end(flow, one.source, checkpoint)
        if isinstance(one.source, DeltaSource):
            yield from _upstream(service, flow, one.source, checkpoint.committed_offsets(place))


def _near_the_end(flow: Flow, source: KafkaSource, checkpoint: Checkpoint) -> Iterator[Diagnosis]:
    """Where what was not read yet begins among what the topic still holds."""
    for partition, (earliest, reached, latest) in sorted(source.bounds(checkpoint).items()):
        unread, held = latest - reached, latest - earliest
        if unread > 0 and reached - earliest < _NEAR_ITS_END * held:
            yield Diagnosis(
                f"{flow.name}: partition {partition} of {source.topic}",
                "warn",
                f"{unread:,} messages are not read, the oldest of which are among the next that the topic drops",
                f"streams status; raise the topic's retention, or flows.{flow.name}.max_rows_per_batch",
                "KAFKA_NEAR_RETENTION",
            )


def _upstream(service: Service, flow: Flow, source: DeltaSource, offset: Any | None) -> Iterator[Diagnosis]:
    """Whether the versions that were not read yet are still in the table's log."""
    if offset is None:
        return
    identity = table_identity(service.spark, source.path)
    wanted = int(offset["reservoirVersion"])
    if identity is None or offset.get("reservoirId") not in (None, identity[0]):
        yield Diagnosis(
            flow.name,
            "fail",
            f"the table at {source.path} is not the one that it read until now: it was removed, or made anew",
            way_to_begin_anew(flow.name),
            "UPSTREAM_REPLACED",
        )
        return
    newest = int(str(identity[1]))
    if wanted > newest:
        return
    written = commit_time(Storage(service.spark), source.path, wanted)
    if written is None:
        yield Diagnosis(
            flow.name,
            "fail",
            f"version {wanted} of {source.path}, which it reads next, is not in the table's log any more",
            way_to_begin_anew(flow.name),
            "UPSTREAM_VACUUMED",
        )
    elif (age := time.time() - written) > _DELTA_KEEPS.total_seconds():
        yield Diagnosis(
            flow.name,
            "warn",
            f"has not read {source.path} for {_ago(age)}; a vacuum by others may remove what it needs",
            "streams up, or the job it belongs to (streams jobs)",
            "READER_BEHIND",
        )


def _table(service: Service, name: str) -> Iterator[Diagnosis]:
    size = table_size(service.spark, service.lake.table(name))
    if size is None:
        return
    files, size_in_bytes = size
    if files > _MANY_FILES and size_in_bytes / files < _SMALL_BYTES:
        yield Diagnosis(
            f"table {name}",
            "warn",
            f"{files:,} files of {size_in_bytes / files / 1024:,.0f} KiB on average, which makes reading it slow",
            f"streams maintain {name}",
            "SMALL_FILES",
        )


def _lanes(service: Service) -> Iterator[Diagnosis]:
    for layer in LAYERS:
        path = service.lake.lane(layer)
        if table_identity(service.spark, path) is None:
            continue
        waiting = service.spark.read.format("delta").load(path).where(F.col("status") == "waiting").count()
        if waiting:
            found = f"{waiting:,} rows wait for a person"
            yield Diagnosis(f"error lane of {layer}", "warn", found, "streams errors list", "LANE_WAITS")


def _first_line(error: Exception) -> str:
    """What it says; of an error of the JVM's the line after "An error occurred while calling"."""
    lines = [line.removeprefix(": ") for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith("An error occurred while")), type(error).__name__)


def _ago(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
