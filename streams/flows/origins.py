"""Where one column comes from, all the way up to the sources, for people and programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.tree import Tree

from streams.errors import ConfigurationError

if TYPE_CHECKING:
    from streams.flows.lineage import Lineages
    from streams.telemetry.lineage import ColumnInput, Dataset

_HOW = {"IDENTITY": "as it is", "TRANSFORMATION": "transformed", "AGGREGATION": "one of several"}


@dataclass(frozen=True)
class Origin:
    """A column, and what it is made of.

    Attributes:
        table: the lake's name of it, or the system and the name there.
        column: its name.
        how: what happens to its values on the way to what stands above; None for the column that was asked for.
        is_masked: they are hashed on that way.
        made_of: the columns that its values come from; nothing for a source's, and for a constant.
        decided_by: those that decide which value it is, as ``table.column``.
    """

    table: str
    column: str
    how: str | None
    is_masked: bool
    made_of: tuple[Origin, ...]
    decided_by: tuple[str, ...]


def origin_of(lineages: Lineages, column: str) -> Origin:
    """The origin of ``layer.table.column``.

    Raises:
        ConfigurationError: ``COLUMN_UNKNOWN``.
    """
    table, _, name = column.rpartition(".")
    lineage = lineages.of(table)
    if lineage is None:
        raise ConfigurationError(
            "COLUMN_UNKNOWN",
            f"There is no table {table!r}.",
            way_out=f"A column is called table.column; the tables are: {', '.join(lineages.flows)}.",
        )
    if name not in lineage.columns:
        raise ConfigurationError(
            "COLUMN_UNKNOWN",
            f"{table} has no column {name!r}.",
            way_out=f"Its columns are: {', '.join(lineage.columns)}.",
        )
    makers = {_place(written): flow for flow in lineages.flows if (written := lineages.table(flow)) is not None}

    def origin(table: str, column: str, flow: str | None, of: ColumnInput | None) -> Origin:
        found = lineages.of(flow) if flow is not None else None
        inputs = found.columns[column] if found is not None else ()
        return Origin(
            table=table,
            column=column,
            how=of.subtype if of else None,
            is_masked=bool(of and of.is_masked),
            made_of=tuple(
                origin(_called(one.dataset), one.column, makers.get(_place(one.dataset)), one)
                for one in inputs
                if one.type == "DIRECT"
            ),
            decided_by=tuple(
                dict.fromkeys(f"{_called(one.dataset)}.{one.column}" for one in inputs if one.type == "INDIRECT")
            ),
        )

    return origin(table, name, table, None)


def origin_tree(origin: Origin) -> Tree:
    """For a terminal."""
    tree = Tree(_line(origin))
    _grow(tree, origin)
    return tree


def _grow(branch: Tree, origin: Origin) -> None:
    for one in origin.made_of:
        _grow(branch.add(_line(one)), one)


def _line(origin: Origin) -> str:
    how = ", ".join(part for part in (_HOW.get(origin.how or ""), "hashed" if origin.is_masked else None) if part)
    decided = f"  [dim]decided by {', '.join(origin.decided_by)}[/]" if origin.decided_by else ""
    name = f"{origin.table}.[bold]{origin.column}[/]" if origin.how else f"[bold]{origin.table}.{origin.column}[/]"
    return f"{name}{f'  [cyan]{how}[/]' if how else ''}{decided}"


def _place(dataset: Dataset) -> tuple[str, str]:
    return dataset.namespace, dataset.name


def _called(dataset: Dataset) -> str:
    return dataset.logical or f"{dataset.namespace} {dataset.name}"
