"""What Delta's log says of the commits that our batches made. Reads commit files; runs no Spark job, but for what has

waited so long that a thousand commits lie between.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streams.delta_log import last_transaction, table_version
from streams.errors import FatalError, RetriableError
from streams.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from streams.checkpoint import BatchIdentity

# How far back a repeated batch is looked for at once. Its flow wrote nothing since, so only other writers' commits
# (another flow's rows in the same lane, maintenance) can lie between.
_LOOK_BACK = 1000


@dataclass(frozen=True)
class Commit:
    """One version of a table, as its writer described it."""

    version: int
    metrics: dict[str, str]
    metadata: dict[str, Any]

    def rows(self, metric: str) -> int:
        """An operation metric of Delta's, such as ``numOutputRows``; 0 where the operation has none."""
        return int(self.metrics.get(metric, "0"))


def find_commit(spark: SparkSession, path: str, batch: BatchIdentity) -> Commit | None:
    """The newest commit that carries this batch's identity, or None."""
    storage = Storage(spark)
    # Delta knows it: the log's folder has two files a commit, and to list them takes longer with each.
    newest = table_version(spark, path)
    for version in range(newest, -1, -1):
        # What has waited for long may lie further back: Delta's state says whether it is there at all.
        if version == newest - _LOOK_BACK and not _is_known(spark, path, batch):
            return None
        commit = _read(storage, path, version)
        if commit is None:
            return None
        if commit.metadata.items() >= batch.as_dict().items():
            return commit
    return None


def commit_of(spark: SparkSession, path: str, batch: BatchIdentity, writer: str) -> Commit:
    """The commit that was just made for this batch.

    Raises:
        RetriableError: ``BATCH_WRITTEN_ELSEWHERE``: Delta left the write out, because another process has made it.
        FatalError: ``COMMIT_MISSING``: the table's log does not hold it.
    """
    commit = find_commit(spark, path, batch)
    if commit is None:
        raise FatalError("COMMIT_MISSING", f"The log of {path} does not hold the commit of {batch.as_dict()}.")
    if commit.metadata.get("writer") != writer:
        raise RetriableError(
            "BATCH_WRITTEN_ELSEWHERE",
            f"Batch {batch.batch_id} of {batch.flow} was written by another process, which has taken the flow over.",
        )
    return commit


def _is_known(spark: SparkSession, path: str, batch: BatchIdentity) -> bool:
    known = last_transaction(spark, path, batch.app_id)
    return known is not None and known >= batch.batch_id


def commit_time(storage: Storage, path: str, version: int) -> float | None:
    """When a version was written, in seconds since 1970; None where the log does not have it (any more)."""
    file = _file(path, version)
    return storage.modified(file) if storage.exists(file) else None


def new_writer() -> str:
    """Names one write, so that its commit can be told from another's of the same batch."""
    return uuid.uuid4().hex[:12]


def metadata_of(batch: BatchIdentity, writer: str, **facts: object) -> str:
    """What a batch writes into its commit (Delta's ``userMetadata``)."""
    return json.dumps(batch.as_dict() | {"writer": writer} | facts)


def _read(storage: Storage, path: str, version: int) -> Commit | None:
    text = storage.read(_file(path, version))
    if text is None:
        return None
    for line in text.splitlines():
        if '"commitInfo"' in line[:20]:
            info = json.loads(line)["commitInfo"]
            return Commit(version, info.get("operationMetrics", {}), _our_metadata(info.get("userMetadata")))
    return Commit(version, {}, {})


def _file(path: str, version: int) -> str:
    return f"{path}/_delta_log/{version:020d}.json"


def _our_metadata(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
