"""Named points, one at each commit boundary, at which a test can kill the process.

``STREAMS_FAILPOINT=bronze.order_events:data_written:2`` kills the process with SIGKILL the second time that
flow comes to that point. Nothing happens where the variable is not set.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import Final

FAILPOINTS: Final = (
    "batch_begun",  # nothing of this batch is written yet
    "lane_written",  # the error lane holds this batch's rows, the table does not (in bronze: both do)
    "files_staged",  # what a warehouse is to load lies in its stage, nothing is loaded
    "load_begun",  # the warehouse's transaction has merged the rows and is not committed
    "data_written",  # the table holds this batch, the audit does not
    "audit_written",  # the audit holds this batch, Spark's checkpoint does not
)
_passed: Counter[str] = Counter()


def failpoint(flow: str, point: str) -> None:
    """Die here if the environment asks for it."""
    wanted = os.environ.get("STREAMS_FAILPOINT")
    if not wanted:
        return
    wanted_flow, wanted_point, *nth = wanted.split(":")
    if (flow, point) != (wanted_flow, wanted_point):
        return
    _passed[point] += 1
    if _passed[point] == int(nth[0] if nth else 1):
        os.kill(os.getpid(), signal.SIGKILL)
