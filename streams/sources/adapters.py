"""Tables of other databases as streams: `batch_adapters` under the names and with the guards of this service."""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batch_adapters.adapter import Offset, Pull, TableOptions, data_source, patiently
from streams.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import DataFrame, SparkSession

    from batch_adapters.adapter import SourceTable
    from streams.checkpoint import Checkpoint
    from streams.settings import FlowSettings
    from streams.source_settings import PullSettings


@dataclass(frozen=True)
class AdapterSource:
    """One table of one source.

    Args:
        flow: the flow that reads it, named in errors.
        system: the configured source's name, such as ``snowflake``; also the data source's in Spark.
        table: the table's name there.
        key: its key columns.
        cursor: the column that every change moves forward.
        columns: those that are read, as far as they are there.
        pull: how far and how often it is pulled.
        login: gives what opens a table; asked when the stream starts, so that secrets are not read before.
    """

    flow: str
    system: str
    table: str
    key: tuple[str, ...]
    cursor: str
    columns: tuple[str, ...]
    pull: PullSettings
    login: Callable[[], Callable[[TableOptions], SourceTable]]

    def stream(self, spark: SparkSession, limits: FlowSettings, checkpoint: Checkpoint) -> DataFrame:
        """The table's columns with their types there, and those of `batch_adapters.adapter.ADDED`."""
        # At each start, so that a login that was changed meanwhile is the one that is used.
        spark.dataSource.register(data_source(self.system, self.login()))
        return spark.readStream.format(self.system).options(**self.options(limits.max_rows_per_batch)).load()

    def options(self, max_rows: int | None = None) -> dict[str, str]:
        """The stream's options (see `batch_adapters.adapter.TableOptions`)."""
        pull = self.pull
        options = {
            "table": self.table,
            "key": ",".join(self.key),
            "cursor": self.cursor,
            "columns": ",".join(self.columns),
            "start": pull.start,
            "lag_seconds": pull.lag_seconds,
            "lookback_seconds": pull.lookback_seconds,
            "reconcile_seconds": pull.reconcile_seconds,
            "max_rows": max_rows,
        }
        return {name: str(value) for name, value in options.items() if value is not None}

    def position(self, spark: SparkSession) -> Any:
        """How many intervals of pulling have gone by. Asking the source itself would cost there.

        Each flow's intervals begin at a moment of its own: all pulls at once would want all cores at once.
        """
        share = zlib.crc32(self.flow.encode()) % 1000 / 1000
        return int(time.time() / self.pull.every_seconds + share)

    def is_idle(self, checkpoint: Checkpoint, place: int, was: Any, position: Any) -> bool:
        """Whether the source, when it is asked, has no rows beyond those that were read and no comparison is due.

        What a query would ask it too, but that starts a Python process for each table, to ask in it.
        """
        said = checkpoint.committed_offsets(place)
        if said is None:
            return False
        options = TableOptions.parse(self.options())
        open_table = self.login()

        def ask() -> bool:
            table = open_table(options)
            try:
                pull, start = Pull(table, options), Offset.of(said)
                return pull.next(start, pull.target(), max_rows=None) == start
            finally:
                table.close()

        return patiently(ask)

    def guard(self, spark: SparkSession, checkpoint: Checkpoint) -> None:
        """A checkpoint's windows mean something for the table and cursor that it was made for, and no other."""
        known, now = checkpoint.remembered(), {"table": self.table, "key": list(self.key), "cursor": self.cursor}
        if "table" not in known:
            checkpoint.remember(known | now)
            return
        changed = [name for name, value in now.items() if known.get(name) != value]
        if changed:
            was = ", ".join(f"{name} {known.get(name)}" for name in changed)
            raise FatalError(
                "SOURCE_CHANGED",
                f"{self.flow} now reads {self.system} {self.table!r} in another way (its checkpoint has {was}).",
                way_out=f"To pull the table from its beginning: streams resume {self.flow} --accept-loss",
                changed=changed,
            )
