"""Named points, at each commit boundary, at which a test can end the process, stop it, or have the work fail.

``STREAMS_FAILPOINT=bronze.order_events:data_written:2`` kills the process with SIGKILL the second time that
flow comes to that point; ``…:2:raise`` raises there, ``…:2:stop`` stops the process with SIGSTOP. More parts only
tell one wish from another that is the same. Nothing happens where the variable is not set.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import Final

# Of each batch of a flow.
FAILPOINTS: Final = (
    "batch_begun",  # Spark's checkpoint has the batch's offsets, nothing of it is written yet
    "lane_written",  # the error lane holds this batch's rows, the table does not (in bronze: both do)
    "target_prepared",  # a warehouse has the ledger and the table, and holds nothing of this batch
    "files_staged",  # what a warehouse is to load lies in its stage, nothing is loaded
    "load_opened",  # the warehouse's transaction has begun
    "load_copied",  # it has copied the staged files
    "load_merged",  # it has merged the rows, the ledger does not say so
    "load_begun",  # the warehouse's transaction has merged the rows and is not committed
    "load_committed",  # it is committed, and nobody here knows
    "data_written",  # the table holds this batch, the audit does not
    "audit_appended",  # the audit holds this batch, the file of its checks' results is not there
    "audit_written",  # the audit holds this batch, Spark's checkpoint does not
    # Of a run, after its last batch.
    "query_ended",  # Spark's checkpoint has every batch, our note of how far that was is not written
    "through_written",  # it is
    "source_remembered",  # the note of what the source was like is written, nothing was read yet
)
# Of what is done beside the batches; in place of a flow stands what it is done to: a table, a file.
OTHER_FAILPOINTS: Final = (
    "table_made",  # a table is there, in its declared form
    "columns_added",  # it has its new columns, wider types are not widened
    "draft_written",  # a small file's new text lies beside the old one
    "tombstones_expired",  # maintenance: old tombstones are gone, small files are still there
    "files_compacted",  # maintenance: large files in place of small ones, the small ones are not removed
    "files_vacuumed",  # maintenance: files that nobody needs are removed, and it is not noted
    "rows_settled",  # rows of an error lane are marked, nobody was told how many
    "table_rebuilt",  # reset: the table is made anew beside the live one
    "table_replaced",  # reset: the live one is brought to it, its checkpoint is the old one's
    "checkpoint_set_aside",  # the flow has no checkpoint
)
_passed: Counter[str] = Counter()


class FailpointError(Exception):
    """What is raised at a failpoint, where that was asked for."""


def failpoint(flow: str, point: str) -> None:
    """Die, stop or fail here if the environment asks for it; ``*`` there stands for every flow."""
    wanted = os.environ.get("STREAMS_FAILPOINT")
    if not wanted:
        return
    wanted_flow, wanted_point, *more = wanted.split(":")
    if wanted_flow not in (flow, "*") or point != wanted_point:
        return
    _passed[wanted] += 1
    if _passed[wanted] != int(more[0] if more else 1):
        return
    action = more[1] if len(more) > 1 else "kill"
    if action == "raise":
        raise FailpointError(f"{flow} was to fail at {point}")
    os.kill(os.getpid(), signal.SIGSTOP if action == "stop" else signal.SIGKILL)
