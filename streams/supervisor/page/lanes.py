"""The error lanes, as the page asks for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from streams.supervisor.page.whereabouts import Whereabouts

PAGE_ROWS: Final = 25
STATUSES: Final = ("waiting", "replayed", "discarded")


@dataclass(frozen=True)
class Violation:
    """What is wrong with a row; its value as it may be shown."""

    code: str
    column: str | None
    value: str | None


@dataclass(frozen=True)
class LaneRow:
    """A row of a lane (see `streams.quality.error_lane.LANE`), its key as it may be shown; times are UTC.

    Attributes:
        payload: as it came; None where it was not asked for, or nothing came.
        is_payload_known: whether it was asked for.
    """

    error_id: str
    flow: str
    checkpoint_id: str
    batch_id: int
    run_id: str
    recorded_at: datetime
    violations: tuple[Violation, ...]
    key: str | None
    source: str | None
    partition: int | None
    offset: int | None
    source_time: datetime | None
    replay_of: str | None
    status: str
    status_at: datetime | None
    status_note: str | None
    payload: bytes | None = None
    is_payload_known: bool = False

    @property
    def place(self) -> str:
        """Where it is from: topic/partition/offset, file and record, or an adapter's window."""
        is_file = self.partition is None and self.offset is not None
        parts = [str(part) for part in (self.source, self.partition, self.offset) if part is not None]
        return f"{parts[0]}, record {parts[1]}" if is_file and len(parts) == 2 else "/".join(parts)


@dataclass(frozen=True)
class LaneFilter:
    """Which rows: of a flow, with a status (None: any), with a code, with a text in key, source or violations."""

    flow: str | None = None
    status: str | None = "waiting"
    code: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class LanePage:
    """Some rows, the newest first; what there is to choose from; and whether there are more."""

    rows: tuple[LaneRow, ...]
    has_more: bool
    codes: tuple[str, ...]
    waiting: Mapping[str, int]  # by flow


@dataclass(frozen=True)
class Aftermath:
    """What became of a row that was replayed.

    Attributes:
        came_back: the rows of the lane that it came back as.
        arrived_at: when it came into its table; None: not yet, or that can't be told of this table.
    """

    came_back: tuple[str, ...] = ()
    arrived_at: datetime | None = None
    table: str | None = None


@dataclass(frozen=True)
class Settling:
    """What a person wants done with rows.

    Attributes:
        error_ids: their whole ids.
        status: ``replayed`` or ``discarded``.
        note: why, and who says so.
        payload: the mended bytes in place of those that came, for one row.
    """

    error_ids: tuple[str, ...]
    status: str
    note: str
    payload: bytes | None = field(default=None, repr=False)


class Lanes(Protocol):
    """Who knows the rows: Spark, in a service; any other in a test."""

    def page(self, wanted: LaneFilter, offset: int) -> LanePage:
        """Rows of the lanes, without payloads."""
        ...

    def row(self, error_id: str) -> LaneRow:
        """One row, with its payload.

        Raises:
            ConfigurationError: ``ERROR_ID_UNKNOWN``.
        """
        ...

    def aftermath(self, row: LaneRow) -> Aftermath:
        """What became of it."""
        ...

    def settle(self, settling: Settling) -> int:
        """Replay or discard rows; gives how many. Those that no longer wait are left as they are."""
        ...

    def find(self, key: str, names: Sequence[str] = ()) -> Whereabouts:
        """Where the row of that key is: in which tables and lanes."""
        ...


def lane_row(row: Any, key: str | None, *, with_payload: bool) -> LaneRow:
    """A row as Spark gives it."""

    def utc(at: datetime | None) -> datetime | None:
        return at.astimezone(UTC) if at else None

    recorded = utc(row["recorded_at"])
    assert recorded is not None
    return LaneRow(
        **{name: row[name] for name in ("error_id", "flow", "checkpoint_id", "batch_id", "run_id")},
        recorded_at=recorded,
        violations=tuple(Violation(one["code"], one["column"], one["value"]) for one in row["violations"] or ()),
        key=key,
        **{name: row[name] for name in ("source", "partition", "offset", "replay_of", "status", "status_note")},
        source_time=utc(row["source_time"]),
        status_at=utc(row["status_at"]),
        payload=bytes(row["payload"]) if with_payload and row["payload"] is not None else None,
        is_payload_known=with_payload,
    )
