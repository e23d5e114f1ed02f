"""Appending one batch to a Delta table, exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.sinks.commits import Commit, commit_of, metadata_of, new_writer

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from streams.checkpoint import BatchIdentity


def append(rows: DataFrame, path: str, batch: BatchIdentity, *, ledger: bool = False) -> Commit:
    """Append rows in one commit that carries the batch's identity.

    Args:
        rows: the table's columns, in any order.
        path: the table.
        batch: whose rows they are.
        ledger: the table only describes batches (the audit). Then Delta is not asked to look its ``txn``
            actions up, which costs a reading of the table's whole state; the caller looks for the batch's
            commit when, and only when, the batch may be a repeated one (see `streams.telemetry.audit.read_audit`).
    """
    writer = new_writer()
    writing = rows.write.format("delta").mode("append").option("userMetadata", metadata_of(batch, writer))
    if not ledger:
        writing = writing.option("txnAppId", batch.app_id).option("txnVersion", batch.batch_id)
    writing.save(path)
    return commit_of(rows.sparkSession, path, batch, writer)
