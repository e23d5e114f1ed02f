"""Where each flow stands in the picture of the flows: a column a layer, a line for each that reads another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from streams.supervisor.page.overview import FlowView

NODE_WIDTH: Final = 198
NODE_HEIGHT: Final = 44
SOURCE_WIDTH: Final = 156
_COLUMN_GAP: Final = 38
_ROW: Final = 54
_TOP: Final = 32  # under the columns' names
_LAYERS: Final = ("sources", "bronze", "silver", "gold", "warehouses")


@dataclass(frozen=True)
class Node:
    """A source (its view is None) or a flow; x and y are of its upper left corner."""

    name: str
    label: str
    view: FlowView | None
    x: int
    y: int

    @property
    def width(self) -> int:
        """As wide as it is drawn."""
        return NODE_WIDTH if self.view else SOURCE_WIDTH

    @property
    def warehouse(self) -> str | None:
        """Which warehouse it publishes to, for its column has several."""
        return self.view.layer if self.view and self.view.layer not in _LAYERS else None


@dataclass(frozen=True)
class Edge:
    """Who reads whom, as an SVG path."""

    upstream: str
    downstream: str
    path: str
    is_cut: bool  # what is upstream of it does not come through


@dataclass(frozen=True)
class Graph:
    """The picture."""

    width: int
    height: int
    columns: tuple[tuple[str, int], ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


def draw(views: Sequence[FlowView]) -> Graph:
    """Place the flows: each as near as there is room to what it reads.

    Args:
        views: the flows, upstream ones first.
    """
    by_name = {view.name: view for view in views}
    sources = list(dict.fromkeys(name for view in views for name in view.reads if name not in by_name))
    columns: dict[str, list[str]] = {layer: [] for layer in _LAYERS}
    columns["sources"] = sources
    for view in views:
        columns[view.layer if view.layer in columns else "warehouses"].append(view.name)
    reads = {view.name: view.reads for view in views}
    centres: dict[str, float] = {name: index * _ROW for index, name in enumerate(sources)}
    for layer in _LAYERS[1:]:
        centres |= _spread(columns[layer], reads, centres)
    lowest = min(centres.values(), default=0.0)
    tops = {name: round(centre - lowest) + _TOP for name, centre in centres.items()}
    nodes, places, x = [], [], 0
    for layer, names in columns.items():
        if not names:
            continue
        places.append((layer, x))
        nodes += [Node(name, _label(name, by_name), by_name.get(name), x, tops[name]) for name in names]
        x += (SOURCE_WIDTH if layer == "sources" else NODE_WIDTH) + _COLUMN_GAP
    height = max(tops.values(), default=0) + NODE_HEIGHT + 8
    placed = {node.name: node for node in nodes}
    edges = [
        _edge(placed[upstream], placed[view.name]) for view in views for upstream in view.reads if upstream in placed
    ]
    return Graph(max(x - _COLUMN_GAP, 0), height, tuple(places), tuple(nodes), tuple(edges))


def _spread(names: Sequence[str], reads: Mapping[str, Iterable[str]], centres: Mapping[str, float]) -> dict[str, float]:
    """A column: each at the middle of what it reads, moved only as far as it must be for all to have room."""
    wished: dict[str, float] = {}
    for name in names:  # one may read another of the same column, which comes before it
        at = [wished.get(one, centres.get(one, 0.0)) for one in reads[name] if one in wished or one in centres]
        wished[name] = sum(at) / len(at) if at else 0.0
    order = sorted(names, key=lambda name: wished[name])  # stable: one that reads another stays below it
    placed: list[float] = []
    for name in order:
        placed.append(max(wished[name], placed[-1] + _ROW) if placed else wished[name])
    off = sum(wished[name] - at for name, at in zip(order, placed, strict=True)) / max(1, len(order))
    return {name: at + off for name, at in zip(order, placed, strict=True)}


def _label(name: str, flows: Mapping[str, FlowView]) -> str:
    if name in flows:
        return flows[name].table
    what, _, where = name.partition(" ")
    if what == "files":
        return f"files: {where.rstrip('/').rsplit('/', 1)[-1]}"
    return name


def _edge(upstream: Node, downstream: Node) -> Edge:
    is_cut = upstream.view is not None and not upstream.view.is_well
    if upstream.x == downstream.x:
        x = upstream.x + 14
        path = f"M{x} {upstream.y + NODE_HEIGHT}V{downstream.y}"
        if downstream.y - upstream.y > _ROW * 1.5 or downstream.y < upstream.y:  # around what lies between
            right, start, end = upstream.x + upstream.width, upstream.y + 22, downstream.y + 22
            path = f"M{right} {start}C{right + 30} {start} {right + 30} {end} {right} {end}"
        return Edge(upstream.name, downstream.name, path, is_cut)
    start_x, start_y = upstream.x + upstream.width, upstream.y + NODE_HEIGHT // 2
    end_x, end_y = downstream.x, downstream.y + NODE_HEIGHT // 2
    bend = max(18, (end_x - start_x) // 2)
    path = f"M{start_x} {start_y}C{start_x + bend} {start_y} {end_x - bend} {end_y} {end_x} {end_y}"
    return Edge(upstream.name, downstream.name, path, is_cut)
