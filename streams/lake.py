"""Where each table of the lake lies."""

from __future__ import annotations

from dataclasses import dataclass

LAYERS = ("bronze", "silver", "gold")


@dataclass(frozen=True)
class Lake:
    """Paths under the lake's root, and the checkpoints' beside it.

    Args:
        root: the lake's.
        checkpoints_root: the checkpoints'.
        rebuilding: a flow whose table and checkpoint lie beside the live ones (see `streams.supervisor.reset`).
    """

    root: str
    checkpoints_root: str
    rebuilding: str | None = None

    def table(self, name: str) -> str:
        """``silver.order_events`` → its folder."""
        layer, _, table = name.partition(".")
        return f"{self.root.rstrip('/')}/{layer}/{table}{self._beside(name)}"

    def lane(self, layer: str) -> str:
        """The layer's error lane."""
        return self.table(f"error_lane.{layer}")

    @property
    def lanes(self) -> tuple[str, ...]:
        """All error lanes."""
        return tuple(self.lane(layer) for layer in LAYERS)

    @property
    def audit(self) -> str:
        """The run audit: a row a micro-batch."""
        return self.table("audit.batches")

    @property
    def gate_results(self) -> str:
        """The gates' results: a row a check and run."""
        return self.table("audit.gate_results")

    def checkpoint(self, flow: str) -> str:
        """The flow's checkpoint."""
        return f"{self.checkpoints_root.rstrip('/')}/{flow}{self._beside(flow)}"

    def _beside(self, name: str) -> str:
        return ".rebuilt" if name == self.rebuilding else ""
