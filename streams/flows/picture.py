"""The flows as a picture for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streams.flows.flow import Flow


def picture(flows: Iterable[Flow]) -> Tree:
    """A tree from each source down to what is made of it. A flow that reads several stands under each."""
    declared = list(flows)
    names = {flow.name for flow in declared}
    root = Tree("[bold]sources[/]")
    for source in dict.fromkeys(read for flow in declared for read in flow.reads if read not in names):
        _grow(root.add(f"[cyan]{source}[/]"), source, declared)
    return root


def _grow(branch: Tree, upstream: str, flows: list[Flow]) -> None:
    for flow in flows:
        if upstream in flow.reads:
            _grow(branch.add(flow.name), flow.name, flows)
