"""Lanes and tables looked at by Spark: in threads of the page's own, two at once, none for longer than a while."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pyspark.sql import functions as F
from pyspark.sql.types import StringType

from streams.delta_log import has_table
from streams.errors import RetriableError, StreamsError
from streams.flows.silver import SILVER_TABLES
from streams.quality.contract import load_contracts
from streams.quality.error_lane import find_row, lane_table, settle, shape_of
from streams.supervisor.page.lanes import PAGE_ROWS, Aftermath, LaneFilter, LanePage, LaneRow, Settling, lane_row
from streams.supervisor.page.recent import newest_audits
from streams.supervisor.page.whereabouts import Found, Place, Whereabouts, places

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from pyspark.sql import Column, DataFrame, SparkSession

    from streams.flows.flow import Flow
    from streams.supervisor.service import Service
    from streams.telemetry.audit import BatchAudit

T = TypeVar("T")
_AT_ONCE: Final = 2
_WITHIN: Final = 45.0  # seconds
_LANE_ROWS_FOUND: Final = 20
_TELLING: Final = 4  # letters; a shorter text stands in any payload


class SparkLanes:
    """See `Lanes`. Each of its threads has a session of its own, and all share a pool of the fair scheduler.

    Args:
        service: its session and lake.
        flows: those that are declared.
    """

    def __init__(self, service: Service, flows: Sequence[Flow]) -> None:
        self._spark, self._lake = service.spark, service.lake
        contracts = load_contracts(Path(service.settings.contracts_root) / "bronze")
        self._places = places(flows, contracts)
        # The keys of these are people's: they are shown by their shape.
        self._private = {
            name
            for table in SILVER_TABLES
            for name in (table.upstream, table.flow, table.versions)
            if name
            and any(contracts[table.contract].column(one).personal for one in contracts[table.contract].primary_key)
        }
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="page-spark", initializer=self._prepare)
        self._own = threading.local()

    def close(self) -> None:
        """Take no more questions."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def newest_audits(self) -> list[BatchAudit]:
        """See `newest_audits`. However long it takes: nobody waits for it."""
        return self._ask(lambda spark: newest_audits(spark, self._lake.audit), within=None)

    def waiting(self, before: datetime) -> dict[str, int]:
        """How many rows that came before a moment wait, by flow; however long it takes."""
        return self._ask(lambda spark: self._waiting(spark, before), within=None)

    def page(self, wanted: LaneFilter, offset: int) -> LanePage:
        """See `Lanes`."""
        return self._ask(lambda spark: self._page(spark, wanted, offset))

    def row(self, error_id: str) -> LaneRow:
        """See `Lanes`."""
        return self._ask(
            lambda spark: self._shown(find_row(spark, self._lake.lanes, error_id), with_payload=True),
        )

    def aftermath(self, row: LaneRow) -> Aftermath:
        """See `Lanes`."""
        return self._ask(lambda spark: self._aftermath(spark, row))

    def settle(self, settling: Settling) -> int:
        """See `Lanes`."""
        return self._ask(
            lambda spark: sum(
                settle(
                    spark,
                    lane,
                    settling.status,
                    ids=list(settling.error_ids),
                    note=settling.note,
                    payload=settling.payload,
                )
                for lane in self._lake.lanes
            )
        )

    def find(self, key: str, names: Sequence[str] = ()) -> Whereabouts:
        """See `Lanes`."""
        return self._ask(lambda spark: self._find(spark, key, names))

    def _prepare(self) -> None:
        self._own.spark = self._spark.newSession()
        self._spark.sparkContext.setLocalProperty("spark.scheduler.pool", "page")

    def _ask(self, question: Callable[[SparkSession], T], within: float | None = _WITHIN) -> T:
        group = f"page-{uuid.uuid4()}"
        context = self._spark.sparkContext

        def work() -> T:
            context.setJobGroup(group, "status page", interruptOnCancel=True)
            return question(self._own.spark)

        asked = self._threads.submit(work)
        try:
            return asked.result(within)
        except TimeoutError:
            asked.cancel()
            context.cancelJobGroup(group)
            raise RetriableError(
                "PAGE_TOO_SLOW",
                f"Spark did not answer within {within:.0f} s.",
                way_out="The flows are busy, or the tables are large: try again, or narrow the question.",
            ) from None
        except StreamsError:
            raise
        except Exception as error:
            # Spark's own texts may quote the data.
            raise RetriableError(
                "PAGE_QUERY_FAILED", f"Spark could not answer ({type(error).__name__}).", way_out="Try again."
            ) from error

    def _waiting(self, spark: SparkSession, before: datetime) -> dict[str, int]:
        there = lane_table(spark, self._lake.lanes).where(F.col("recorded_at") < F.lit(before))
        counted = there.groupBy("flow").count().collect()
        return {row["flow"]: row["count"] for row in counted}

    def _page(self, spark: SparkSession, wanted: LaneFilter, offset: int) -> LanePage:
        waiting, codes = self._count(spark, wanted)
        rows = lane_table(spark, self._lake.lanes, flow=wanted.flow, status=wanted.status)
        if wanted.code:
            rows = rows.where(F.array_contains(F.col("violations.code"), wanted.code))
        if wanted.text:
            rows = rows.where(_mentions(wanted.text))
        newest = rows.drop("payload").orderBy(F.desc("recorded_at"), "error_id").offset(offset).limit(PAGE_ROWS + 1)
        found = [self._shown(row, with_payload=False) for row in newest.collect()]
        return LanePage(tuple(found[:PAGE_ROWS]), len(found) > PAGE_ROWS, codes, waiting)

    def _count(self, spark: SparkSession, wanted: LaneFilter) -> tuple[dict[str, int], tuple[str, ...]]:
        """How many rows wait, by flow, and what is wrong with those of the flow and status that are wanted."""
        kinds = F.array_distinct("violations.code").alias("codes")
        counted = lane_table(spark, self._lake.lanes, status=None).groupBy("flow", "status", kinds).count().collect()
        waiting: dict[str, int] = {}
        codes: set[str] = set()
        for row in counted:
            if row["status"] == "waiting":
                waiting[row["flow"]] = waiting.get(row["flow"], 0) + row["count"]
            if wanted.flow in (None, row["flow"]) and wanted.status in (None, row["status"]):
                codes |= {code for code in row["codes"] or () if code}
        return waiting, tuple(sorted(codes))

    def _aftermath(self, spark: SparkSession, row: LaneRow) -> Aftermath:
        again = lane_table(spark, self._lake.lanes, flow=row.flow, status=None)
        came_back = [one["error_id"] for one in again.where(F.col("replay_of") == row.error_id).limit(5).collect()]
        place = next((one for one in self._places if one.flow == row.flow), None)
        if place is None or not row.flow.startswith("bronze.") or not has_table(spark, place.path):
            return Aftermath(tuple(came_back))
        table = spark.read.format("delta").load(place.path)
        arrived = table.where(F.col("_replay_of") == row.error_id).agg(F.max("_ingested_at").alias("at")).first()
        at = arrived["at"].astimezone(UTC) if arrived and arrived["at"] else None
        return Aftermath(tuple(came_back), at, row.flow)

    def _find(self, spark: SparkSession, key: str, names: Sequence[str]) -> Whereabouts:
        asked = [one for one in self._places if not names or one.flow in names]
        looked_at = [one for one in asked if has_table(spark, one.path)]
        answers = [
            _look(spark, place, key).withColumn("place", F.lit(number)) for number, place in enumerate(looked_at)
        ]
        found = [Found(one.flow, 0, asked=one.ids) for one in asked if one not in looked_at]
        if answers:
            for row in reduce(lambda left, right: left.unionByName(right), answers).collect():
                place = looked_at[row["place"]]
                by = tuple(name for name, count in zip(place.ids, row["by"], strict=True) if count)
                newest = row["newest"] or None
                found.append(
                    Found(
                        place.flow,
                        row["rows"],
                        row["deleted"],
                        newest["at"].astimezone(UTC) if newest and newest["at"] else None,
                        newest["source"] if newest else None,
                        by,
                        place.ids,
                    )
                )
        is_it = (F.col("key") == key) | F.col("key").startswith(f"{key}|") | (F.col("error_id") == key)
        if len(key) >= _TELLING:
            # A record that could not be read has its key nowhere else.
            is_it = is_it | F.col("payload").cast("string").contains(key)
        lanes = lane_table(spark, self._lake.lanes, status=None).where(is_it)
        rows = lanes.drop("payload").orderBy(F.desc("recorded_at")).limit(_LANE_ROWS_FOUND).collect()
        return Whereabouts(key, tuple(found), tuple(self._shown(row, with_payload=False) for row in rows))

    def _shown(self, row: Any, *, with_payload: bool) -> LaneRow:
        key = row["key"]
        is_an_id = key is not None and key.replace("|", "").replace("-", "").replace(":", "").replace(".", "").isalnum()
        if key is not None and (row["flow"] in self._private or not is_an_id or len(key) > 80):
            key = shape_of(key)
        return lane_row(row, key, with_payload=with_payload)


def _mentions(text: str) -> Column:
    """Whether key, source or what is wrong has the text, whatever its case."""
    sought = text.lower()
    said = F.concat_ws(
        " ",
        "key",
        "source",
        "error_id",
        F.transform("violations", lambda one: F.concat_ws(" ", one["code"], one["column"], one["value"])),
    )
    return F.lower(said).contains(sought)


def _look(spark: SparkSession, place: Place, key: str) -> DataFrame:
    """How many of a table's rows have the key, how many of these are deleted, where the newest is from."""
    table = spark.read.format("delta").load(place.path)
    # Of a text as it is, so that Delta leaves out the files that can't have it; null is not kept, nor counted.
    texts = {field.name for field in table.schema if isinstance(field.dataType, StringType)}
    has = [(F.col(name) if name in texts else F.col(name).cast("string")) == key for name in place.ids]
    whole = F.concat_ws("|", *(F.col(name).cast("string") for name in place.key)) == key
    asked = [*has, whole] if len(place.key) > 1 and "|" in key else has
    nothing = F.lit(None)
    is_deleted = F.col(place.tombstone) if place.tombstone else F.lit(False)
    at = F.col("_ingested_at") if "_ingested_at" in place.sources else nothing.cast("timestamp")
    source = (
        F.concat_ws("/", *(F.col(name).cast("string") for name in ("_source", "_partition", "_offset")))
        if "_source" in place.sources
        else nothing.cast("string")
    )
    matching = table.where(reduce(lambda left, right: left | right, asked))
    return matching.agg(
        F.count(F.lit(1)).alias("rows"),
        F.count_if(is_deleted).alias("deleted"),
        F.max_by(F.struct(at.alias("at"), source.alias("source")), at).alias("newest"),
        F.array(*(F.count_if(one) for one in has)).alias("by"),
    )
