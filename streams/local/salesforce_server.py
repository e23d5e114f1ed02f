"""A stand-in for Salesforce on the loopback: OAuth, describe, query and queryAll, Bulk API 2.0 query jobs, limits.

Plain HTTP, in a process of its own. It checks secrets and sessions, counts calls, pages results, and makes faults on
demand. Its clock can be moved on. Nothing is kept when it ends.
"""

from __future__ import annotations

import base64
import csv
import datetime as dt
import io
import re
import secrets
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from decimal import Decimal
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qsl

import pyarrow as pa

from streams.local.child import LOOPBACK, Child, Listen, answer
from streams.local.soql import Query, SoqlError, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

_PAGE_ROWS: Final = 2000  # of a query by REST
_USER_ID: Final = "005000000000001AAA"
_UNFINISHED: Final = ("UploadComplete", "InProgress")


class SalesforceServer:
    """The stand-in, while the context lasts.

    Args:
        folder: where its log lies; made if it is not there.
        result_rows: how many rows a page of a bulk job's result has.
        polls: how often a bulk job is asked for before it is done.
        listen: where it listens.
        consumer_secret: the connected app's; any, if none is given.

    Attributes:
        url: its address on this machine.
        consumer_key, consumer_secret: the connected app.
        username, password, security_token: a user.

    Raises:
        FatalError: ``STAND_IN_FAILED``, with the end of its log.
    """

    consumer_key, username = "shop-app", "loader@example.org"

    def __init__(
        self,
        folder: Path,
        result_rows: int = 50_000,
        polls: int = 1,
        *,
        listen: Listen = LOOPBACK,
        consumer_secret: str | None = None,
    ) -> None:
        made, self.password, self.security_token = (secrets.token_urlsafe(16) for _ in range(3))
        self.consumer_secret = consumer_secret or made
        self.url = ""
        self._schemas: dict[str, pa.Schema] = {}
        self._child = Child(
            __name__,
            folder,
            {
                "STAND_IN_SECRETS": f"{self.consumer_secret} {self.password} {self.security_token}",
                "STAND_IN_PAGES": f"{result_rows} {polls}",
                **listen.variables(),
            },
        )

    def __enter__(self) -> Self:
        self.url = self._child.__enter__().said["url"]
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close()

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self._child.is_running

    def create_object(self, name: str, columns: pa.Schema) -> None:
        """Make an object, in place of one of that name; it has Id, SystemModstamp and IsDeleted among its fields.

        A number whose metadata say a ``scale`` is described with it, and told with the digits that it has.
        """
        self._schemas[name] = columns
        self._child.ask("create", name=name, fields=[_described(column) for column in columns])

    def load(self, name: str, rows: pa.Table | Iterable[dict[str, Any]]) -> None:
        """Insert rows, or replace those of the same Id, with the SystemModstamp that they have."""
        columns = self._schemas[name]
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), columns)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, columns) as writer:
            writer.write_table(table.select(columns.names).cast(columns))
        self._child.ask("load", name=name, rows=base64.b64encode(sink.getvalue()).decode())

    def delete(self, name: str, ids: Sequence[str]) -> None:
        """Move rows into the recycle bin, now."""
        self._child.ask("delete", name=name, ids=list(ids))

    def count(self, name: str) -> int:
        """How many rows an object holds, those in the recycle bin too."""
        return int(self._child.ask("count", name=name))

    def advance(self, seconds: float) -> None:
        """Move the clock on."""
        self._child.ask("advance", seconds=seconds)

    def fail_next(self, path: str, status: int, code: str = "", times: int = 1, retry_after: str | None = None) -> None:
        """Answer the next requests, whose path a regular expression is found in, with an error."""
        self._child.ask("fail", path=path, status=status, code=code, times=times, retry_after=retry_after)

    def cut_next(self, path: str, how: str = "bytes") -> None:
        """Cut the next answer: ``bytes`` in the middle, against its own length; ``rows`` for half of its lines."""
        self._child.ask("cut", path=path, how=how)

    def expire_sessions(self) -> None:
        """Every session has ended."""
        self._child.ask("expire")

    def use_api(self, calls: int) -> None:
        """So many of the day's 100,000 calls are used."""
        self._child.ask("use", calls=calls)

    def jobs(self) -> dict[str, str]:
        """The states of all bulk jobs, by id."""
        return dict(self._child.ask("jobs"))


def _described(column: pa.Field) -> dict[str, Any]:
    """A field as describe tells it."""
    kind = column.type
    made: dict[str, Any] = {"name": column.name, "type": "string", "precision": 0, "scale": 0}
    if column.name == "Id":
        return made | {"type": "id"}
    if pa.types.is_timestamp(kind):
        return made | {"type": "datetime"}
    if pa.types.is_decimal(kind):
        scale = int((column.metadata or {}).get(b"scale", kind.scale))
        return made | {"type": "double", "precision": kind.precision, "scale": scale}
    if pa.types.is_integer(kind):
        return made | {"type": "int"}
    if pa.types.is_boolean(kind):
        return made | {"type": "boolean"}
    return made | ({"type": "date"} if pa.types.is_date(kind) else {})


@dataclass
class _Job:
    id: str
    query: Query
    state: str = "UploadComplete"
    asked: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


class _RefusedError(Exception):
    """An HTTP status, Salesforce's error code and a sentence."""


class _Org:
    """What the org holds, and what is to go wrong."""

    def __init__(self, app_secret: str, password: str, token: str, result_rows: int, polls: int) -> None:
        self.app_secret, self.password = app_secret, password + token
        self.result_rows, self.polls = result_rows, polls
        self.fields: dict[str, list[dict[str, Any]]] = {}
        self.objects: dict[str, dict[str, dict[str, Any]]] = {}
        self.sessions: set[str] = set()
        self.results: dict[str, list[dict[str, Any]]] = {}
        self.jobs: dict[str, _Job] = {}
        self.ahead, self.used = 0.0, 0
        self.faults: list[dict[str, Any]] = []
        self.lock = threading.RLock()

    def now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(time.time() + self.ahead, dt.UTC)

    def commands(self) -> dict[str, Any]:
        def create(name: str, fields: list[dict[str, Any]]) -> None:
            self.fields[name], self.objects[name] = fields, {}

        def load(name: str, rows: str) -> None:
            table = pa.ipc.open_stream(base64.b64decode(rows)).read_all()
            with self.lock:
                self.objects[name] |= {
                    row["Id"]: {key: _said(one) for key, one in row.items()} for row in table.to_pylist()
                }

        def delete(name: str, ids: list[str]) -> None:
            with self.lock:
                for one in ids:
                    if one in self.objects[name]:
                        self.objects[name][one] |= {"IsDeleted": True, "SystemModstamp": _said(self.now())}

        def advance(seconds: float) -> None:
            self.ahead += seconds

        def fail(**fault: Any) -> None:
            self.faults.append(fault)

        def cut(path: str, how: str) -> None:
            self.faults.append({"path": path, "how": how, "times": 1})

        def use(calls: int) -> None:
            self.used = calls

        return {
            "create": create,
            "load": load,
            "delete": delete,
            "count": lambda name: len(self.objects[name]),
            "advance": advance,
            "fail": fail,
            "cut": cut,
            "expire": self.sessions.clear,
            "use": use,
            "jobs": lambda: {job.id: job.state for job in self.jobs.values()},
        }

    def fault(self, path: str) -> dict[str, Any] | None:
        """The fault whose turn it is."""
        for fault in self.faults:
            if fault["times"] and re.search(fault["path"], path):
                fault["times"] -= 1
                return fault
        return None

    def query(self, text: str, *, deleted: bool) -> tuple[Query, list[dict[str, Any]]]:
        try:
            query = parse(text)
        except SoqlError as error:
            raise _RefusedError(400, *error.args) from None
        if query.object not in self.objects:
            raise _RefusedError(400, "INVALID_TYPE", f"sObject type '{query.object}' is not supported.")
        unknown = query.named - {one["name"] for one in self.fields[query.object]}
        if unknown:
            raise _RefusedError(400, "INVALID_FIELD", f"No such column '{min(unknown)}' on entity")
        with self.lock:
            held = [row for row in self.objects[query.object].values() if deleted or not row["IsDeleted"]]
            return query, [dict(row) for row in query.run(held)]


def _said(value: Any) -> Any:
    """A value as it is kept: times as texts that sort as the times do."""
    if isinstance(value, dt.datetime):
        utc = value.astimezone(dt.UTC)
        return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}Z"
    return value.isoformat() if isinstance(value, dt.date) else value


class _Web:
    """The org over HTTP."""

    def __init__(self, org: _Org) -> None:
        self.org = org

    def application(self) -> Any:
        from starlette.applications import Starlette
        from starlette.routing import Route

        base = "/services/data/v{version}"
        routes = [
            Route("/services/oauth2/token", self._guarded(self.token, is_free=True), methods=["POST"]),
            Route("/services/oauth2/userinfo", self._guarded(self.user)),
            Route(f"{base}/limits", self._guarded(self.limits)),
            Route(f"{base}/sobjects/{{name}}/describe", self._guarded(self.describe)),
            Route(f"{base}/query", self._guarded(self.query)),
            Route(f"{base}/queryAll", self._guarded(self.query)),
            Route(f"{base}/query/{{place}}", self._guarded(self.more)),
            Route(f"{base}/jobs/query", self._guarded(self.make_job), methods=["POST"]),
            Route(f"{base}/jobs/query", self._guarded(self.list_jobs), methods=["GET"]),
            Route(f"{base}/jobs/query/{{job}}", self._guarded(self.job), methods=["GET", "PATCH", "DELETE"]),
            Route(f"{base}/jobs/query/{{job}}/results", self._guarded(self.job_results)),
            Route(f"{base}/jobs/query/{{job}}/resultPages", self._guarded(self.pages)),
        ]
        return Starlette(routes=routes)

    def _guarded(self, handle: Any, *, is_free: bool = False) -> Any:
        from starlette.responses import JSONResponse

        async def guarded(request: Request) -> Response:
            org = self.org
            fault = org.fault(request.url.path)
            try:
                if fault is not None and "status" in fault:
                    raise _RefusedError(fault["status"], fault["code"], "as it was told to")  # noqa: TRY301
                if not is_free:
                    if request.headers.get("authorization", "").removeprefix("Bearer ") not in org.sessions:
                        raise _RefusedError(401, "INVALID_SESSION_ID", "Session expired or invalid")  # noqa: TRY301
                    org.used += 1
                response: Response = await handle(request)
            except _RefusedError as refused:
                status, code, sentence = refused.args
                body = {"error": code} if is_free else [{"errorCode": code, "message": sentence}]
                response = JSONResponse(body, status)
                if fault is not None and fault.get("retry_after"):
                    response.headers["Retry-After"] = fault["retry_after"]
            response.headers["Sforce-Limit-Info"] = f"api-usage={org.used}/100000"
            response.headers["Date"] = format_datetime(org.now().replace(microsecond=0), usegmt=True)
            return _cut(response, fault["how"]) if fault is not None and "how" in fault else response

        return guarded

    async def token(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        org, said = self.org, dict(parse_qsl((await request.body()).decode()))
        if (said.get("client_id"), said.get("client_secret")) != (SalesforceServer.consumer_key, org.app_secret):
            raise _RefusedError(400, "invalid_client", "")
        is_user = (said.get("username"), said.get("password")) == (SalesforceServer.username, org.password)
        if said.get("grant_type") != "client_credentials" and not is_user:
            raise _RefusedError(400, "invalid_grant", "")
        session = secrets.token_urlsafe(24)
        org.sessions.add(session)
        return JSONResponse({"access_token": session, "instance_url": str(request.base_url).rstrip("/")})

    async def user(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        return JSONResponse({"user_id": _USER_ID})

    async def limits(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        return JSONResponse({"DailyApiRequests": {"Max": 100_000, "Remaining": 100_000 - self.org.used}})

    async def describe(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        name = request.path_params["name"]
        if name not in self.org.fields:
            raise _RefusedError(404, "NOT_FOUND", "The requested resource does not exist")
        return JSONResponse({"name": name, "fields": self.org.fields[name]})

    async def query(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        query, rows = self.org.query(request.query_params["q"], deleted=request.url.path.endswith("queryAll"))
        if not query.fields:
            return JSONResponse({"totalSize": len(rows), "done": True, "records": []})
        place = secrets.token_hex(6)
        self.org.results[place] = [_record(query, row) for row in rows]
        return self._page(request, place, 0)

    async def more(self, request: Request) -> Response:
        place, _, start = request.path_params["place"].partition("-")
        return self._page(request, place, int(start))

    def _page(self, request: Request, place: str, start: int) -> Response:
        from starlette.responses import JSONResponse

        rows = self.org.results[place]
        page: dict[str, Any] = {"totalSize": len(rows), "done": start + _PAGE_ROWS >= len(rows)}
        page["records"] = rows[start : start + _PAGE_ROWS]
        if not page["done"]:
            version = request.path_params["version"]
            page["nextRecordsUrl"] = f"/services/data/v{version}/query/{place}-{start + _PAGE_ROWS}"
        return JSONResponse(page)

    async def make_job(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        said = await request.json()
        query, rows = self.org.query(said["query"], deleted=said["operation"] == "queryAll")
        job = _Job(f"750{secrets.token_hex(6)}AAA", query, rows=rows)
        self.org.jobs[job.id] = job
        return JSONResponse(self._shown(job))

    async def list_jobs(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        return JSONResponse({"done": True, "records": [self._shown(job) for job in self.org.jobs.values()]})

    def _shown(self, job: _Job) -> dict[str, Any]:
        return {
            "id": job.id,
            "object": job.query.object,
            "createdById": _USER_ID,
            "state": job.state,
            "jobType": "V2Query",
        }

    def _job(self, request: Request) -> _Job:
        try:
            return self.org.jobs[request.path_params["job"]]
        except KeyError:
            raise _RefusedError(404, "NOT_FOUND", "The requested resource does not exist") from None

    async def job(self, request: Request) -> Response:
        from starlette.responses import JSONResponse
        from starlette.responses import Response as Empty

        job = self._job(request)
        if request.method == "DELETE":
            del self.org.jobs[job.id]
            return Empty(status_code=204)
        if request.method == "PATCH":
            job.state = (await request.json())["state"]
        elif job.state in _UNFINISHED:
            job.asked += 1
            job.state = "JobComplete" if job.asked >= self.org.polls else "InProgress"
        return JSONResponse(self._shown(job))

    async def job_results(self, request: Request) -> Response:
        from starlette.responses import Response as Plain

        job = self._job(request)
        if job.state != "JobComplete":
            raise _RefusedError(400, "INVALIDJOBSTATE", "The job is not complete")
        start = int(request.query_params.get("locator", 0))
        end = min(start + int(request.query_params.get("maxRecords", self.org.result_rows)), len(job.rows))
        sink = io.StringIO()
        writer = csv.writer(sink, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(job.query.fields)
        writer.writerows([_cell(row[name]) for name in job.query.fields] for row in job.rows[start:end])
        headers = {
            "Sforce-NumberOfRecords": str(end - start),
            "Sforce-Locator": str(end) if end < len(job.rows) else "null",
        }
        return Plain(sink.getvalue(), media_type="text/csv; charset=UTF-8", headers=headers)

    async def pages(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        job, start = self._job(request), int(request.query_params.get("start", 0))
        starts = list(range(0, len(job.rows), self.org.result_rows))
        base = str(request.url.path).removesuffix("/resultPages")
        some = starts[start : start + 5]  # as many as Salesforce tells at once
        shown = [{"resultUrl": f"{base}/results?locator={one}&maxRecords={self.org.result_rows}"} for one in some]
        page: dict[str, Any] = {"resultPages": shown, "done": start + 5 >= len(starts)}
        if not page["done"]:
            page["nextRecordsUrl"] = f"{base}/resultPages?start={start + 5}"
        return JSONResponse(page)


def _record(query: Query, row: dict[str, Any]) -> dict[str, Any]:
    """A row as REST tells it: with its type, numbers as numbers, and the zone of times as ``+0000``."""
    return {"attributes": {"type": query.object}} | {name: _json(row[name]) for name in query.fields}


def _json(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value):
        return value.removesuffix("Z") + "+0000"
    return value if value is None or isinstance(value, str | bool | int) else float(value)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Decimal) and abs(value) >= 10_000_000:  # as Java shows a double
        mantissa, _, exponent = f"{float(value):.15e}".partition("e")
        return f"{float(mantissa)}E{int(exponent)}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cut(response: Response, how: str) -> Response:
    from starlette.responses import Response as Plain

    body = bytes(response.body)
    if how == "rows":
        lines = body.splitlines(keepends=True)
        body = b"".join(lines[: 1 + len(lines) // 2])
        kept = {name: one for name, one in response.headers.items() if name != "content-length"}
        return Plain(body, response.status_code, kept)
    # The server closes the line when less comes than was promised.
    return Plain(body[: len(body) // 2], response.status_code, dict(response.headers))


def _serve(environment: dict[str, str]) -> None:
    import uvicorn

    rows, polls = map(int, environment.pop("STAND_IN_PAGES").split())
    app, password, token = environment.pop("STAND_IN_SECRETS").split(" ")
    org = _Org(app, password, token, rows, polls)
    listen = Listen.said()
    listening = socket.create_server((listen.host, listen.port))
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else an answer waits 40 ms for an ACK
    config = uvicorn.Config(_Web(org).application(), log_level="critical", access_log=False, date_header=False)
    threading.Thread(target=uvicorn.Server(config).run, args=([listening],), daemon=True).start()
    answer({"url": f"http://127.0.0.1:{listening.getsockname()[1]}"}, org.commands())


if __name__ == "__main__":
    import os

    assert Path(sys.argv[1]).is_dir()
    _serve(os.environ)  # type: ignore[arg-type]
