"""Small tables kept in memory, each at its newest version: gold reads the same few for every batch.

A scan of a Delta table costs several Spark jobs before its first row, whatever its size: Delta filters the files by a
query, then looks for deletion vectors by another. For a table of some thousand rows that is all of the cost.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from streams.delta_log import table_identity, table_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import DataFrame, SparkSession

_LARGEST: Final = 8 * 2**20  # bytes of Parquet


@dataclass(frozen=True)
class _Copy:
    identity: list[object]
    rows: DataFrame | None  # None: too large


# By application, path and name.
_copies: dict[tuple[str, str, str], _Copy] = {}
_making = threading.Lock()


def held(spark: SparkSession, path: str, name: str, make: Callable[[DataFrame], DataFrame]) -> DataFrame | None:
    """What is made of a table as it stands now, computed once a version; None where the table is too large for it.

    Args:
        spark: any session of the process.
        path: the table.
        name: of what is made, so that two things can be made of one table.
        make: the table's rows → what is kept.
    """
    identity = table_identity(spark, path)
    assert identity is not None  # a flow's tables are made before it starts
    place = (spark.sparkContext.applicationId, path, name)
    with _making:
        known = _copies.get(place)
        if known is None or known.identity != identity:
            _copies[place] = _Copy(identity, _copy(spark, path, str(identity[1]), make))
            if known is not None and known.rows is not None:
                # A batch that still reads it computes it again.
                known.rows.unpersist()
        return _copies[place].rows


def _copy(spark: SparkSession, path: str, version: str, make: Callable[[DataFrame], DataFrame]) -> DataFrame | None:
    size = table_size(spark, path)
    if size is None or size[1] > _LARGEST:
        return None
    # Spark's cache and not a local checkpoint: it outlives a lost executor, and knows its size. The version is named,
    # so that what is computed again is the same.
    return make(spark.read.format("delta").option("versionAsOf", version).load(path)).persist()
