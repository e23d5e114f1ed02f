"""Where each column of each flow's output comes from, read from what the flows declare.

Silver and gold: from the plans that Spark makes of their own transforms over empty tables (`streams.flows.plan`), so
that what is told can't differ from what is done. Bronze: a column of a contract is the field of that name; a test holds
that against the plan too, which with all the contract's rules takes a second to make.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql.types import StringType

from streams.flows import all_flows
from streams.flows.datasets import FILE_FIELDS, KAFKA_FIELDS, lane_of, source_of, table_of, warehouse_table
from streams.flows.gold import GOLD_TABLES
from streams.flows.plan import PlanLineage, Source, read_plan, tagged
from streams.flows.silver import SILVER_TABLES
from streams.lake import Lake
from streams.micro_batch import Ingest, Publish, Upsert
from streams.quality.contract import load_contracts
from streams.quality.contract_expressions import spark_schema
from streams.quality.error_lane import LANE
from streams.sources.adapters import AdapterSource
from streams.sources.delta import DeltaAppends, DeltaChanges, LaneReplays
from streams.sources.kafka import KafkaSource
from streams.telemetry.lineage import ColumnInput, Dataset, DatasetField, FlowLineage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyspark.sql import DataFrame, SparkSession

    from streams.flows.flow import Flow
    from streams.quality.contract import Contract
    from streams.settings import Settings

Columns = dict[str, tuple[ColumnInput, ...]]


class Lineages:
    """The lineage of every flow, each read when it is first asked for; some tenths of a second, and no Spark job."""

    def __init__(self, settings: Settings, session: Callable[[], SparkSession]) -> None:
        self.settings = settings
        self.session = session
        self.lake = Lake(settings.lake.root, settings.checkpoints.root)
        self.flows = all_flows(settings)
        contracts = load_contracts(Path(settings.contracts_root) / "bronze")
        self.contracts = {table.upstream: contracts[table.contract] for table in SILVER_TABLES}
        self._known: dict[str, FlowLineage] = {}
        self._reading = threading.Lock()

    def of(self, name: str) -> FlowLineage | None:
        """The lineage of the flow of that name; None where there is no such flow."""
        with self._reading:
            if name not in self._known and name in self.flows:
                self._known[name] = self._read(self.flows[name])
            return self._known.get(name)

    def table(self, name: str) -> Dataset | None:
        """What the flow of that name writes; costs nothing."""
        return self._output(self.flows[name]) if name in self.flows else None

    def _read(self, flow: Flow) -> FlowLineage:
        inputs, columns, rows = self._columns(flow)
        lane = next((part.source for part in flow.inputs if isinstance(part.source, LaneReplays)), None)
        own = None if lane is None else lane_of(lane.path, flow.name, LANE)
        layer = flow.layer if flow.layer in ("bronze", "silver", "gold") else "publish"
        return FlowLineage(
            flow=flow.name,
            inputs=(*inputs, *(() if own is None else (own,))),
            output=self._output(flow),
            lane=own,
            columns=columns,
            rows=rows,
            code=f"streams/flows/{layer}.py",
        )

    def _output(self, flow: Flow) -> Dataset:
        if isinstance(flow.processor, Publish):
            target = flow.processor.target
            return warehouse_table(flow.layer, target.name, self.settings, target.columns)
        assert isinstance(flow.processor, Ingest | Upsert)
        table = self._tables(flow)[flow.processor.table]
        return table if flow.layer != "bronze" else _personal(table, self.contracts[flow.name])

    def _tables(self, flow: Flow) -> dict[str, Dataset]:
        """The tables that a flow declares, by path."""
        return {table.path: table_of(self.lake, table.path, table.schema) for table in flow.tables}

    def _columns(self, flow: Flow) -> tuple[tuple[Dataset, ...], Columns, tuple[ColumnInput, ...]]:
        """What a flow reads, but for its lane; what makes its columns; what decides which rows there are."""
        if isinstance(flow.processor, Ingest):
            source = self._source(flow)
            return (source,), _bronze_columns(flow, self.contracts[flow.name], source), ()
        sources = [part.source for part in flow.inputs if not isinstance(part.source, LaneReplays)]
        paths = dict.fromkeys(source.path for source in sources if isinstance(source, DeltaAppends | DeltaChanges))
        tables = self._tables(flow)
        inputs = {str(tables[path].logical): tables[path] for path in paths}
        if isinstance(flow.processor, Publish):
            (table,) = inputs.values()
            names = [one.name for one in self._output(flow).fields]
            same = zip(names, flow.processor.target.columns.names, strict=True)
            return (table,), {name: (_same(table, own),) for name, own in same}, ()
        assert isinstance(flow.processor, Upsert)
        plan = read_plan(self._rows(flow, inputs))
        return tuple(inputs.values()), *_told(flow.processor, plan, inputs)

    def _source(self, flow: Flow) -> Dataset:
        contract = self.contracts[flow.name]
        kinds = {one.name: one.dataType.simpleString() for one in spark_schema(contract)}
        fields = tuple(DatasetField(one.name, kinds[one.name], one.personal) for one in contract.columns)
        return source_of(flow.inputs[0].source, self.settings, fields)

    def _rows(self, flow: Flow, inputs: Mapping[str, Dataset]) -> DataFrame:
        """The flow's own transform, of empty tables."""
        schemas = {table.path: table.schema for table in flow.tables}
        frames = {name: tagged(self.session(), name, schemas[str(table.path)]) for name, table in inputs.items()}
        made = {table.flow: table.rows for table in GOLD_TABLES}
        if flow.name in made:
            return made[flow.name](frames, self.settings.reporting_currency)
        (frame,) = frames.values()
        return flow.inputs[0].shape(frame)


def _told(
    processor: Upsert, plan: PlanLineage, inputs: Mapping[str, Dataset]
) -> tuple[Columns, tuple[ColumnInput, ...]]:
    def told(source: Source, kind: str, how: str, is_masked: bool = False) -> ColumnInput:
        return ColumnInput(inputs[source.table], source.column, kind, how, is_masked)

    columns = {
        name: (
            *(told(source, "DIRECT", *way) for source, way in sorted(origins.direct.items())),
            *(told(source, "INDIRECT", how) for source, how in sorted(origins.indirect)),
        )
        for name, origins in plan.columns.items()
    }
    # The merge itself: rows meet by their key, and the newest by the sequence stays.
    ranking = processor.ranking
    merged = {
        (source, how)
        for names, how in ((ranking.key, "JOIN"), (ranking.sequence, "SORT"))
        for name in names
        for source in plan.columns[name].direct
    }
    return columns, tuple(told(source, "INDIRECT", how) for source, how in sorted(plan.rows | merged))


def _bronze_columns(flow: Flow, contract: Contract, source: Dataset) -> Columns:
    """A column is made of the field of its name; where a row is from, of what came with it."""
    reader = flow.inputs[0].source
    schema = flow.tables[0].schema
    # A database gives text as it is; anything else is brought to the contract's type.
    as_it_is = isinstance(reader, AdapterSource)
    columns: Columns = {}
    for one in spark_schema(contract):
        how = "IDENTITY" if as_it_is and isinstance(one.dataType, StringType) else "TRANSFORMATION"
        columns[one.name] = (ColumnInput(source, one.name, "DIRECT", how),)
    columns |= {name: () for name in schema.names if name not in columns}
    if isinstance(reader, AdapterSource):
        columns["_key"] = tuple(ColumnInput(source, name, "DIRECT", "TRANSFORMATION") for name in contract.primary_key)
        columns["_source_time"] = (ColumnInput(source, contract.sequence[0], "DIRECT", "TRANSFORMATION"),)
        return columns
    fields = KAFKA_FIELDS if isinstance(reader, KafkaSource) else FILE_FIELDS
    columns |= {f"_{name.removeprefix('_')}": (_same(source, field),) for name, field in fields.items()}
    del columns["_payload"]
    told = [fields[name] for name in ("payload", "key") if name in fields]
    columns["_is_tombstone"] = tuple(ColumnInput(source, name, "DIRECT", "TRANSFORMATION") for name in told)
    return columns


def _same(dataset: Dataset, column: str) -> ColumnInput:
    return ColumnInput(dataset, column, "DIRECT", "IDENTITY")


def _personal(table: Dataset, contract: Contract) -> Dataset:
    said = {one.name: one.personal for one in contract.columns}
    return replace(table, fields=tuple(replace(one, personal=said.get(one.name)) for one in table.fields))
