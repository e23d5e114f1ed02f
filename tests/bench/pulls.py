"""A table pulled into bronze, beside the bare client that fetches it into Arrow; and the memory of what reads it."""

from __future__ import annotations

import json
import shutil
import threading
import time
from contextlib import contextmanager, suppress
from statistics import median
from typing import TYPE_CHECKING, Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc

from streams.flows import all_flows
from streams.local.redshift_server import RedshiftServer
from streams.local.s3_server import S3Server
from streams.local.snowflake_server import DATABASE, SnowflakeServer
from streams.settings import PROJECT
from streams.supervisor.attach import run_or_attach
from streams.supervisor.service import Service, started
from tests.bench.figure import Figure
from tests.spark.flow_bench import settings_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from streams.settings import Settings

_ROWS = 1_000_000
_ROUNDS = 3
_WHOLE, _QUARTER = "whole", "quarter"
_CONTRACTS = {"snowflake": "snowflake_orders", "redshift": "redshift_behavior"}


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


def measure(place: Path, say: Callable[[str], None], *, quick: bool = False) -> Iterator[Figure]:
    """Speed over a million rows; memory beside that of a quarter of them."""
    yield from _snowflake(place / "snowflake", say)
    yield from _redshift(place / "redshift", say)


def _snowflake(place: Path, say: Callable[[str], None]) -> Iterator[Figure]:
    with SnowflakeServer(place / "server") as server:
        _fill(server, say)
        login = {
            "account": server.account,
            "user": server.user,
            "password": _secret(place, server.password),
            "database": DATABASE,
            "host": server.host,
            "port": server.port,
            "protocol": "http",
        }

        def fetch() -> pa.Table:
            with server.connect() as connection:
                cursor = connection.cursor()
                cursor.execute(f"SELECT * FROM {DATABASE}.PUBLIC.{_WHOLE}")
                return cursor.fetch_arrow_all(force_return_table=True)

        yield from _beside(place, "snowflake", login, fetch, say)


def _redshift(place: Path, say: Callable[[str], None]) -> Iterator[Figure]:
    with S3Server(place / "s3") as s3, RedshiftServer(place / "server", s3) as server:
        s3.make_bucket("staging")
        columns = _fill(server, say)
        login = {
            "host": server.host,
            "port": server.port,
            "database": server.database,
            "user": server.user,
            "password": _secret(place, server.password),
            "ssl": False,
            "staging": "s3://staging/pulls",
            "s3_endpoint": s3.endpoint,
            "s3_access_key": f"file:{place / 'secret'}",  # any is taken
            "s3_secret_key": f"file:{place / 'secret'}",
        }

        def fetch() -> pa.Table:
            connection = server.connect()
            with connection.cursor() as cursor:
                rows = cursor.execute(f"SELECT * FROM {_WHOLE}").fetchall()
            connection.close()
            arrays = [pa.array(values, one.type) for values, one in zip(zip(*rows, strict=True), columns, strict=True)]
            return pa.table(arrays, schema=columns)

        yield from _beside(place, "redshift", login, fetch, say)


def _fill(server: SnowflakeServer | RedshiftServer, say: Callable[[str], None]) -> pa.Schema:
    say(f"  filling {type(server).__name__} with {_ROWS:,} rows")
    rows = orders(_ROWS)
    for name, held in ((_WHOLE, rows), (_QUARTER, rows.slice(0, _ROWS // 4))):
        server.create_table(name, rows.schema, ["order_id"])
        server.load(name, held)
    return rows.schema


def _secret(place: Path, value: str) -> str:
    file = place / "secret"
    file.write_text(value)
    return f"file:{file}"


def _settings(folder: Path, system: str, login: dict[str, Any], table: str) -> Settings:
    """The orders' contract stands for any: it is what the rows are judged by."""
    folder.mkdir(parents=True)
    pull = {"lag_seconds": 0, "reconcile_seconds": 0}
    said = login | {"tables": {_CONTRACTS[system]: table}, "pull": pull}
    contracts = folder / "contracts"
    shutil.copytree(PROJECT / "contracts", contracts)
    text = json.loads((contracts / "bronze" / "snowflake_orders.schema.json").read_text())
    text["$id"] = f"urn:lakehouse-streams:bronze:{_CONTRACTS[system]}"
    (contracts / "bronze" / f"{_CONTRACTS[system]}.schema.json").write_text(json.dumps(text))
    return settings_for(folder, sources={system: said}, contracts_root=str(contracts))


def _beside(
    place: Path, system: str, login: dict[str, Any], fetch: Callable[[], pa.Table], say: Callable[[str], None]
) -> Iterator[Figure]:
    flow = f"bronze.{_CONTRACTS[system]}"
    with started(_settings(place / "whole", system, login, _WHOLE)) as service:
        ours, theirs, peaks = [], [], {}
        for turn in range(_ROUNDS + 1):
            say(f"  {system}, round {turn + 1} of {_ROUNDS + 1}")
            with _peak_of_workers() as peak:
                ours.append(_timed(lambda: _pull(flow, service, _ROWS)))
            peaks[_ROWS] = peak[0]
            service.checkpoint(flow).set_aside(f"round-{turn}")
            theirs.append(_timed(lambda: _fetch(fetch)))
        smaller = Service(service.session, _settings(place / "quarter", system, login, _QUARTER), "bench")
        with _peak_of_workers() as peak:
            _pull(flow, smaller, _ROWS // 4)
    # The first round warms both up.
    what = f"{system.capitalize()} → bronze"
    told, fetched = median(ours[1:]), median(theirs[1:])
    yield Figure(f"{what}, against the bare client into Arrow", told, theirs=fetched, rows=_ROWS, at_least=0.7)
    memory = f"{what}, largest worker, against a quarter of the rows"
    yield Figure(memory, peaks[_ROWS], "MiB", theirs=peak[0], rows=_ROWS, at_least=0.8)


def _fetch(fetch: Callable[[], pa.Table]) -> None:
    assert len(fetch()) == _ROWS


def _pull(flow: str, service: Service, rows: int) -> None:
    run = run_or_attach(all_flows(service.settings)[flow], service)
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
