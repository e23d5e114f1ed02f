"""Making a table of silver or gold anew from what is upstream of it, while readers go on reading the old one."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from streams.errors import ConfigurationError
from streams.failpoints import failpoint
from streams.flows import all_flows
from streams.micro_batch import Upsert
from streams.quality.error_lane import settle
from streams.sinks.merge import replace_rows
from streams.storage import Storage
from streams.supervisor.run import drain

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.flows.flow import Flow
    from streams.supervisor.service import Service


@dataclass(frozen=True)
class Reset:
    """What a reset changed in the table."""

    flow: str
    rows_read: int
    inserted: int
    updated: int
    deleted: int


def reset(name: str, service: Service, progress: Callable[[str], None] = lambda _: None) -> Reset:
    """Make the table of a flow anew beside the live one, then bring the live one to it in one commit.

    That commit holds the rows that differ and no others, so what reads the table's changes (gold, the warehouses)
    follows without seeing a row twice. The flow goes on with the checkpoint of the new table. Killed at any point,
    the same call does it again. Rows that waited in the error lane are judged anew.

    Raises:
        ConfigurationError: ``FLOW_UNKNOWN``, or ``RESET_NOT_POSSIBLE`` for a flow that has no table of silver or gold.
        RetriableError: ``FLOW_RUNNING``: another process holds the flow.
        StreamsError: what the flow raises.
    """
    declared = all_flows(service.settings)
    if name not in declared:
        raise ConfigurationError(
            "FLOW_UNKNOWN", f"There is no flow {name!r}.", way_out=f"The flows are: {', '.join(declared)}."
        )
    if not isinstance(declared[name].processor, Upsert):
        raise ConfigurationError(
            "RESET_NOT_POSSIBLE",
            f"{name} has no table of silver or gold, which could be made anew from what is upstream.",
            way_out=f"To read its source from the beginning: streams resume {name} --accept-loss",
        )
    with service.hold(name):
        return _reset(name, service, declared[name], progress)


def _reset(name: str, service: Service, declared: Flow, progress: Callable[[str], None]) -> Reset:
    beside = replace(service, rebuilding=name, _made=set())
    live, made = service.lake.table(name), beside.lake.table(name)
    checkpoint, new_checkpoint = service.checkpoint(name), beside.checkpoint(name)
    storage = Storage(service.spark)
    for left_over in (made, new_checkpoint.path):
        storage.delete(left_over)
    service.prepare(declared)
    progress(f"making {name} anew in {made}")
    flow = all_flows(service.settings, beside.lake)[name]
    run = drain(flow, beside)
    failpoint(name, "table_rebuilt")
    service.check_held(name)
    progress("bringing the live table to it, in one commit")
    processor = flow.processor
    assert isinstance(processor, Upsert)
    note = json.dumps({"flow": name, "reset": service.run_id})
    changed = replace_rows(service.spark.read.format("delta").load(made), live, processor.ranking, note)
    failpoint(name, "table_replaced")
    # Who has taken the flow over meanwhile runs by the checkpoint that is there.
    service.check_held(name)
    identity = new_checkpoint.identity()
    settle(
        service.spark,
        processor.lane,
        "discarded",
        flow=name,
        note="judged anew by a reset",
        only=F.col("checkpoint_id") != F.lit(identity),
    )
    if checkpoint.exists():
        checkpoint.set_aside(f"reset-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    storage.delete(checkpoint.path)
    storage.move(new_checkpoint.path, checkpoint.path)
    storage.delete(made)
    return Reset(name, run.total("rows_read"), *changed)
