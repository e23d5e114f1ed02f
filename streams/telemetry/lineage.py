"""What a flow says of where its rows come from: plain facts, which `streams.flows.lineage` reads from declarations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class DatasetField:
    """A column of a dataset, or a field of its messages.

    Args:
        name: its name there.
        type: its type, as Spark spells it.
        personal: what the contract says becomes of it in silver: ``keep``, ``hash``, ``drop``; None: not personal.
    """

    name: str
    type: str
    personal: str | None = None


@dataclass(frozen=True)
class Dataset:
    """Something that is read or written, by its name in the whole world (OpenLineage's naming).

    Args:
        namespace: the system that it is in, such as ``kafka://broker:9092``, ``s3://bucket`` or ``file``.
        name: its name there.
        logical: what it is called here, such as ``silver.orders``; None for what is not the lake's.
        path: a Delta table's, by which the audit names it.
        kind: ``TABLE``, ``TOPIC`` or ``FILE``.
        fields: its columns.
    """

    namespace: str
    name: str
    logical: str | None = None
    path: str | None = None
    kind: str = "TABLE"
    fields: tuple[DatasetField, ...] = ()


@dataclass(frozen=True)
class ColumnInput:
    """A column that another one is made of.

    Args:
        dataset: whose.
        column: which.
        type: ``DIRECT`` where values come from it, ``INDIRECT`` where it only decides which values or rows.
        subtype: ``IDENTITY``, ``TRANSFORMATION`` or ``AGGREGATION``; ``CONDITIONAL``, ``WINDOW``, ``JOIN``,
            ``FILTER``, ``GROUP_BY`` or ``SORT``.
        is_masked: the value can't be told from what is made of it: it is hashed.
    """

    dataset: Dataset
    column: str
    type: str
    subtype: str
    is_masked: bool = False


@dataclass(frozen=True)
class FlowLineage:
    """Where the rows of a flow's output come from.

    Args:
        flow: which.
        inputs: what it reads; the rows of the error lane that are its own among them.
        output: what it writes.
        lane: the rows of the error lane that are its own; None for a flow that has none.
        columns: for each column of the output what it is made of; nothing for a constant.
        rows: what decides which rows there are.
        code: the file that declares it, in the project.
    """

    flow: str
    inputs: tuple[Dataset, ...]
    output: Dataset
    lane: Dataset | None
    columns: Mapping[str, tuple[ColumnInput, ...]] = field(default_factory=dict)
    rows: tuple[ColumnInput, ...] = ()
    code: str = ""
