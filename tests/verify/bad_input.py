"""The mutations sent through every bronze flow, and on to gold, in a process whose log is kept and searched."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from streams.flows import all_flows
from streams.local.producer import write_file
from streams.supervisor.service import Service
from tests.verify.judge import json_file
from tests.verify.mutation import Mutations, personal_values_in
from tests.verify.oracle import compare_bronze
from tests.verify.workers import RefusedError
from tests.verify.workload import CONTRACTS, EVENTS, PULLED, RATES, Sender, Sent

if TYPE_CHECKING:
    from typing import Any

    from pyspark.sql import SparkSession

    from tests.verify.stack import Stack
    from tests.verify.tally import Tally
    from tests.verify.workers import WorkerProcess
    from tests.verify.workload import Workload

_ANSWER_SECONDS = 900.0


def send_bad_input(
    stack: Stack,
    workload: Workload,
    spark: SparkSession,
    tally: Tally,
    worker: WorkerProcess,
    *,
    seed: int,
    count: int,
    pulled: bool = True,
) -> None:
    """So many inputs, over all sources, into a lake of their own, by a process whose log is kept.

    Args:
        stack, workload: whose servers and contracts are used.
        spark: to read with.
        tally: told what came of it.
        worker: the process.
        seed: the same inputs for the same one.
        count: how many.
        pulled: whether the tables that are pulled get their share.
    """
    began = time.monotonic()
    mark = uuid.uuid4().hex[:8]
    folder = stack.folder / f"bad-{mark}"
    folder.mkdir()
    mutations, sent = Mutations(seed, workload.rules, count), Sent()
    topic, landing = f"bad-{mark}", folder / "landing"
    stack.broker.create_topic(topic, partitions=2)
    Sender(stack.broker.bootstrap_servers, topic, workload.rules[EVENTS], sent).send(mutations.messages())
    for file in mutations.files():
        write_file(file, landing)
        sent.files[file.name] = json_file(workload.rules[RATES], file.content)
    settings = stack.settings_with(
        folder,
        kafka={"bootstrap_servers": stack.broker.bootstrap_servers, "topics": {"order_events": topic}},
        files={"fx_rates": str(landing)},
        sources=_load(stack, workload, mutations, sent, mark) if pulled else {},
        targets={},
        logging={"level": "debug", "format": "json"},
    )
    inputs = sum(sent.count(flow) for flow in CONTRACTS)
    tally.say(f"      {inputs} bad inputs are sent, {time.monotonic() - began:.0f} s")
    worker.await_ready()
    worker.tell("use", config=str(folder / "settings.yaml"))
    list(worker.answers(_ANSWER_SECONDS))
    for flow in all_flows(settings):
        worker.tell("drain", flows=[flow])
        try:
            list(worker.answers(_ANSWER_SECONDS))
        except RefusedError as error:
            tally.failed(f"bad input stops {flow}: {error}")
    found = compare_bronze(Service(lambda: spark, settings, run_id="verify"), sent, workload.rules)
    tally.checked(found, "bad input", (f"{inputs} mutated inputs",))
    for file, hits in personal_values_in([worker.log, folder / "results"]).items():
        tally.failed(f"{hits} personal values in {file}")
    tally.inputs += inputs
    seconds = time.monotonic() - began
    tally.note(f"{inputs} mutated inputs in {seconds:.0f} s: {_accounted(sent)}")


def _accounted(sent: Sent) -> str:
    sound = sum(m.verdict.row is not None for m in sent.messages)
    sound += sum(v.row is not None for verdicts in sent.files.values() for v in verdicts)
    sound += sum(v.row is not None for rows in sent.rows.values() for _, v in rows)
    all_of_them = sum(sent.count(flow) for flow in CONTRACTS)
    return f"{sound} sound, {all_of_them - sound} for the error lane"


def _load(stack: Stack, workload: Workload, mutations: Mutations, sent: Sent, mark: str) -> dict[str, Any]:
    said = stack.settings.sources.model_dump(mode="json", exclude_none=True, by_alias=True)
    for flow, table in PULLED.items():
        server, rules = getattr(stack.sources, table.system), workload.rules[flow]
        rows = mutations.rows(flow, stack.now(table.system))
        name = stack.make_table(table.system, f"bad_{mark}_{table.table}", mutations.schema(flow), rules.key)
        server.load(name, rows)
        said[table.system].setdefault("tables", {})[table.contract] = name
        sent.rows[flow] = [(row[rules.key[0]], rules.of_values(row)) for row in rows]
    stack.pass_time("salesforce")
    return said
