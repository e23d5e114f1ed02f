"""Keeping tables small and quick to read: old tombstones, small files, files that nobody needs any more."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from delta.tables import DeltaTable
from pyspark.sql import functions as F

from streams.delta_log import has_table, table_version
from streams.errors import ConfigurationError
from streams.failpoints import failpoint
from streams.flows import all_flows
from streams.flows.silver import SILVER_TABLES
from streams.micro_batch import batch_results
from streams.sinks.commits import commit_time
from streams.sources.delta import DeltaSource
from streams.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streams.flows.flow import Flow
    from streams.supervisor.service import Service

LAYERS: Final = ("bronze", "silver", "gold")
# Those that several flows write: only appended to, but for what people settle in a lane.
SHARED: Final = (*(f"error_lane.{layer}" for layer in LAYERS), "audit.batches", "audit.gate_results")
_KEPT: Final = dt.timedelta(days=7)  # Delta's own: what a table keeps at least of what its newest version does not need
_MARGIN: Final = dt.timedelta(hours=1)


@dataclass(frozen=True)
class Maintained:
    """What was done to one table; `held_by` names the flow for which files were left that could have gone."""

    table: str
    tombstones_removed: int
    files_compacted: int
    files_before: int
    held_by: str | None


def maintain(
    service: Service, tables: Sequence[str] = (), progress: Callable[[str], None] = lambda _: None
) -> list[Maintained]:
    """Look after tables of the lake: those named, or all, the lanes and the audit too.

    May run beside the flows, and be killed at any point.

    - Tombstones of silver that are older than ``maintenance.tombstone_days`` are removed. After that a late change
      of the key brings its row back. What keeps every version of a key keeps its deletes too.
    - Small files are made large ones, in commits that change feeds leave out.
    - Files that the table has not needed for a week are removed, unless a flow has yet to read what was written then.
    - The results of checks of its batches are removed after ``maintenance.results_days``; the audit has them too.

    Raises:
        ConfigurationError: ``TABLE_UNKNOWN``.
    """
    known = [*(name for name in all_flows(service.settings) if name.partition(".")[0] in LAYERS), *SHARED]
    for name in tables:
        if name not in known:
            raise ConfigurationError(
                "TABLE_UNKNOWN", f"There is no table {name!r}.", way_out=f"The tables are: {', '.join(known)}."
            )
    done = []
    for name in tables or known:
        path = service.lake.table(name)
        if not has_table(service.spark, path):
            continue
        progress(name)
        removed = _expire_tombstones(service, name, path)
        failpoint(name, "tombstones_expired")
        metrics = DeltaTable.forPath(service.spark, path).optimize().executeCompaction().first()
        assert metrics is not None  # one row a table
        failpoint(name, "files_compacted")
        reader = _slowest_reader(service, path)
        if reader is None:
            DeltaTable.forPath(service.spark, path).vacuum()
        failpoint(name, "files_vacuumed")
        _expire_results(service, name)
        done.append(
            Maintained(
                table=name,
                tombstones_removed=removed,
                files_compacted=metrics["metrics"]["numFilesRemoved"],
                files_before=metrics["metrics"]["totalConsideredFiles"],
                held_by=reader,
            )
        )
    return done


_SMALL: Final = 16 * 2**20  # bytes


def compact(service: Service, table: str) -> None:
    """Make the small files that batches have left one. Larger ones stay: it must not hold up the next batch."""
    spark, path = service.spark.newSession(), service.lake.table(table)
    spark.conf.set("spark.databricks.delta.optimize.minFileSize", str(_SMALL))
    if has_table(spark, path):
        DeltaTable.forPath(spark, path).optimize().executeCompaction()
        failpoint(table, "files_compacted")


_WITH_TOMBSTONES: Final = frozenset(table.flow for table in SILVER_TABLES)


def _expire_tombstones(service: Service, name: str, path: str) -> int:
    if name not in _WITH_TOMBSTONES:
        return 0
    oldest = dt.datetime.now(dt.UTC) - dt.timedelta(days=service.settings.maintenance.tombstone_days)
    is_old = F.col("is_deleted") & (F.col("_ingested_at") < F.lit(oldest))
    # Asked first: a delete of nothing is a commit all the same, and wakes what reads the table.
    count = service.spark.read.format("delta").load(path).where(is_old).count()
    if count:
        DeltaTable.forPath(service.spark, path).delete(is_old)
    return count


def _slowest_reader(service: Service, path: str) -> str | None:
    """The flow that has yet to read what a vacuum might remove."""
    for flow in all_flows(service.settings).values():
        for number, one in enumerate(flow.inputs):
            if isinstance(one.source, DeltaSource) and one.source.path == path:
                behind = _behind(service, flow, number, path)
                if behind is not None and behind > _KEPT - _MARGIN:
                    return flow.name
    return None


def _behind(service: Service, flow: Flow, source: int, path: str) -> dt.timedelta | None:
    """How old the oldest version is that a flow has not read yet; None when it has read all, or never ran."""
    offset = service.checkpoint(flow.name).committed_offsets(source)
    if offset is None:
        return None
    unread = int(offset["reservoirVersion"])
    if unread > table_version(service.spark, path):
        return None
    written = commit_time(Storage(service.spark), path, unread)
    # A log keeps its versions for longer than tables keep files.
    return dt.timedelta.max if written is None else dt.timedelta(seconds=time.time() - written)


def _expire_results(service: Service, name: str) -> None:
    """Remove the results of a flow's checks, day by day."""
    storage = Storage(service.spark)
    folder = batch_results(service.settings.dq_results_root, name)
    oldest = dt.datetime.now(dt.UTC) - dt.timedelta(days=service.settings.maintenance.results_days)
    for day in storage.names(folder):
        if day < f"{oldest:%Y-%m-%d}":
            storage.delete(f"{folder}/{day}")
