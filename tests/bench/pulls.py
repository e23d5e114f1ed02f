"""A table pulled into bronze, beside the bare client that fetches it into Arrow; and the memory of what reads it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc

from streams.flows import all_flows
from streams.local.snowflake_server import DATABASE, SnowflakeServer
from streams.supervisor.run import drain
from streams.supervisor.service import Service, started
from tests.bench.figure import Figure
from tests.spark.flow_bench import settings_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from streams.settings import Settings

_ROWS = 1_000_000
_ROUNDS = 3


def orders(rows: int) -> pa.Table:
    """Sound orders, a thousand to an instant."""
    numbers = pa.array(range(rows))
    digits = pc.utf8_lpad(numbers.cast(pa.string()), 7, "0")
    time_type = pa.timestamp("us", "UTC")
    seconds = pc.add(pc.floor(pc.divide(numbers.cast(pa.float64()), 1000)).cast(pa.int64()), 1_740_000_000)
    at = pc.multiply(seconds, 1_000_000).cast(time_type)
    customers = pc.subtract(numbers, pc.multiply(pc.divide(numbers, 20_000), 20_000)).cast(pa.string())

    def all_of(value: object, kind: pa.DataType) -> pa.Array:
        return pa.repeat(pa.scalar(value, kind), rows)

    return pa.table(
        {
            "order_id": pc.binary_join_element_wise("CD", digits, "-"),
            "customer_id": customers,
            "product_id": pc.binary_join_element_wise("P", pc.utf8_slice_codeunits(digits, 4), "-"),
            "ordered_at": at,
            "quantity": all_of(2, pa.int64()),
            "amount": pc.divide(numbers.cast(pa.float64()), 100.0).cast(pa.decimal128(18, 2)),
            "currency": all_of("USD", pa.string()),
            "status": all_of("paid", pa.string()),
            "updated_at": at,
            "is_deleted": all_of(False, pa.bool_()),
        }
    )


def measure(place: Path, say: Callable[[str], None]) -> Iterator[Figure]:
    """Speed over a million rows; memory beside that of a quarter of them."""
    rows = orders(_ROWS)
    with SnowflakeServer(place / "snowflake") as server:
        say(f"  filling Snowflake's stand-in with {_ROWS:,} rows")
        for name, held in (("ORDERS", rows), ("QUARTER", rows.slice(0, _ROWS // 4))):
            server.create_table(name, rows.schema, ["order_id"])
            server.load(name, held)
        secret = place / "snowflake.secret"
        secret.write_text(server.password)
        login = {
            "account": server.account,
            "user": server.user,
            "password": f"file:{secret}",
            "database": DATABASE,
            "host": server.host,
            "port": server.port,
            "protocol": "http",
        }

        def fetch() -> None:
            with server.connect() as connection:
                fetched = connection.cursor().execute(f"SELECT * FROM {DATABASE}.PUBLIC.ORDERS").fetch_arrow_all()
            assert len(fetched) == _ROWS

        yield from _beside(place / "snowflake", Pulled("snowflake", "snowflake_orders", login), fetch, say)


@dataclass(frozen=True)
class Pulled:
    """A table under test: its contract's columns are those of `orders`."""

    system: str
    contract: str
    login: dict[str, Any]

    def settings(self, folder: Path, table: str) -> Settings:
        pull = {"lag_seconds": 0, "reconcile_seconds": 0}
        said = {self.system: self.login | {"tables": {self.contract: table}, "pull": pull}}
        folder.mkdir(parents=True)
        return settings_for(folder, sources=said)


def _beside(place: Path, pulled: Pulled, fetch: Callable[[], None], say: Callable[[str], None]) -> Iterator[Figure]:
    flow = f"bronze.{pulled.contract}"
    settings = pulled.settings(place / "whole", "ORDERS")
    with started(settings) as service:
        ours, theirs, peaks = [], [], {}
        for turn in range(_ROUNDS + 1):
            say(f"  {pulled.system}, round {turn + 1} of {_ROUNDS + 1}")
            with _peak_of_workers() as peak:
                ours.append(_timed(lambda: _pull(flow, service, _ROWS)))
            peaks[_ROWS] = peak[0]
            service.checkpoint(flow).set_aside(f"round-{turn}")
            theirs.append(_timed(fetch))
        smaller = Service(service.spark, pulled.settings(place / "quarter", "QUARTER"), "bench")
        with _peak_of_workers() as peak:
            _pull(flow, smaller, _ROWS // 4)
    # The first round warms both up.
    what = f"{pulled.system.capitalize()} → bronze"
    yield Figure(f"{what}, against the bare client into Arrow", _ROWS, median(ours[1:]), median(theirs[1:]), 0.7)
    yield Figure(f"{what}, largest worker against a quarter of the rows", _ROWS, peaks[_ROWS], peak[0], 0.9, "MiB")


def _pull(flow: str, service: Service, rows: int) -> None:
    run = drain(all_flows(service.settings)[flow], service)
    assert sum(audit.counts.rows_written for audit in run.audits) == rows


def _timed(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@contextmanager
def _peak_of_workers() -> Iterator[list[float]]:
    """The most memory that any one of Spark's Python workers holds meanwhile, in MiB."""
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if "pyspark" in " ".join(process.cmdline()) and process.name().startswith("python"):
                        peak[0] = max(peak[0], process.memory_info().rss / 2**20)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield peak
    finally:
        over.set()
        watching.join()
