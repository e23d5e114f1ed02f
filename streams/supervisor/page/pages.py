"""What is where: each page, each button, and what programs ask for."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import structlog
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from streams.errors import ConfigurationError, StreamsError
from streams.quality.error_lane import shape_of
from streams.supervisor.control import Control
from streams.supervisor.page import charts, words
from streams.supervisor.page.gate_files import LAYERS, GateFiles
from streams.supervisor.page.graph import draw
from streams.supervisor.page.guard import Guard, Sessions, Visitor, cookie_text, is_own_form, safe_next
from streams.supervisor.page.lanes import PAGE_ROWS, STATUSES, Aftermath, LaneFilter, Settling
from streams.supervisor.page.overview import MEANINGS, overview
from streams.supervisor.page.whereabouts import verdicts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from streams.flows.flow import Flow
    from streams.small_files import SmallFiles
    from streams.supervisor.control import Order, Report
    from streams.supervisor.page.lanes import LaneRow, Lanes
    from streams.supervisor.page.overview import FlowView, Overview
    from streams.supervisor.page.recent import Recent

log = structlog.get_logger(__name__)
_HERE: Final = Path(__file__).parent
_READ_AGAIN_AFTER: Final = 1.0  # seconds: however many look, the report is read so often
_RATE_SECONDS: Final = 60.0
_CHANGES_SHOWN: Final = 15
_ASKED_OF_FLOWS: Final = {"pause": "ends its batch and waits", "resume": "goes on", "restart": "is started again"}
_SETTLED: Final = {"replay": "replayed", "discard": "discarded"}
# What may be said on the next page: words of ours, never of the address.
_SAID: Final = {
    "pause": "It ends its batch and waits; that takes some seconds.",
    "resume": "It goes on within seconds.",
    "restart": "It is started again within seconds.",
    "replayed": "Replayed: the flow takes it with its next batch.",
    "discarded": "Discarded. It stays in the lane, marked.",
    "settled": "Nothing was changed: it no longer waits.",
    "wrong": "That is not the token, or too many wrong ones were tried; wait a minute.",
}


@dataclass
class _Known:
    """The report and the orders, as they were read last."""

    report: Report | None = None
    orders: Mapping[str, Order] = field(default_factory=dict)
    read_at: float = float("-inf")
    error: str | None = None


@dataclass(frozen=True)
class Facts:
    """Where the pages have what they show from.

    Attributes:
        environment: the configuration's name.
        run_id: this process's.
        flows: those that are declared, upstream ones first.
        files: those beside the checkpoints, with the orders and the report.
        recent: the newest batches.
        gates: the gates' results.
        lanes: who knows the rows.
        metrics: what Prometheus reads, and its content type; None: nothing is mounted there.
        is_draining: whether the service is about to end.
        clock: the time, in UTC.
        looked_at: set when somebody looks at a page.
    """

    environment: str
    run_id: str
    flows: Sequence[Flow]
    files: SmallFiles
    recent: Recent
    gates: GateFiles
    lanes: Lanes
    metrics: Callable[[], tuple[bytes, str]] | None = None
    is_draining: Callable[[], bool] = lambda: False
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    looked_at: threading.Event = field(default_factory=threading.Event)


class Pages:
    """The pages.

    Args:
        facts: what they show.
        sessions: who has logged in.
        cookie: the session cookie's name.
    """

    def __init__(self, facts: Facts, sessions: Sessions, cookie: str) -> None:
        self._facts, self._sessions, self._cookie = facts, sessions, cookie
        self._known = _Known()
        self._samples: deque[tuple[float, dict[str, int]]] = deque(maxlen=120)
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            one.__name__: one
            for one in (
                words.clock,
                words.span,
                words.number,
                words.short,
                words.rows,
                words.by_name,
                words.tail,
                words.error,
            )
        }
        self._templates.globals |= {
            "ago": words.ago,
            "asked_of_flows": tuple(_ASKED_OF_FLOWS),
            "instant": words.instant,
            "meanings": MEANINGS,
        }

    def app(self, *, is_local: bool) -> ASGIApp:
        """The whole, guarded."""
        routes = [
            Route("/", self.first),
            Route("/flows/{name}", self.flow),
            Route("/flows/{name}/{action}", self.order, methods=["POST"]),
            Route("/lane", self.lane),
            Route("/lane", self.settle_some, methods=["POST"]),
            Route("/lane/{error_id}", self.lane_row),
            Route("/lane/{error_id}/reveal", self.reveal, methods=["POST"]),
            Route("/lane/{error_id}/{action}", self.settle, methods=["POST"]),
            Route("/find", self.find),
            Route("/gates", self.gates),
            Route("/login", self.login),
            Route("/login", self.log_in, methods=["POST"]),
            Route("/logout", self.log_out, methods=["POST"]),
            Route("/healthz", self.is_alive),
            Route("/readyz", self.is_ready),
            Route("/api/status", self.status),
            Mount("/static", StaticFiles(directory=_HERE / "static")),
        ]
        if self._facts.metrics is not None:
            routes.append(Route("/metrics", self.metrics))
        handlers: dict[Any, Any] = {
            StreamsError: self._on_error,
            HTTPException: self._on_http_error,
            Exception: self._on_bug,
        }
        pages = Starlette(routes=routes, exception_handlers=handlers)
        return Guard(pages, self._sessions, self._cookie, is_local=is_local)

    # What people look at.

    def first(self, request: Request) -> Response:
        """The flows, and what needs a person."""
        seen = self._overview()
        changes = self._known.report.changes[-_CHANGES_SHOWN:] if self._known.report else ()
        return self._page(
            request, "first.html", "Flows", seen=seen, graph=draw(seen.flows), changes=changes[::-1], now=seen.now
        )

    def flow(self, request: Request) -> Response:
        """One flow."""
        seen = self._overview()
        view = seen.flow(request.path_params["name"])
        if view is None:
            raise HTTPException(404, "There is no such flow.")
        batches = self._facts.recent.batches(view.name)
        counted = [charts.rows_of(one) for one in batches]
        report = self._known.report
        return self._page(
            request,
            "flow.html",
            view.name,
            view=view,
            now=seen.now,
            readers=[one for one in seen.flows if view.name in one.reads],
            by_name={one.name: one for one in seen.flows},
            batches=batches[::-1],
            rows_chart=charts.chart(batches, counted, charts.ROWS),
            seconds_chart=charts.chart(batches, [one.seconds for one in batches], charts.PHASES),
            lying=self._lying(batches),
            failing=[(one, check) for one in batches[::-1] for check in one.checks if check.outcome != "pass"][:10],
            newest_checks=next((one for one in batches[::-1] if one.checks), None),
            gate=[
                check
                for run in self._facts.gates.newest(self._facts.recent.gates_judged)
                for check in run.worst_first
                if check.table == view.name
            ],
            changes=[one for one in (report.changes if report else ())[::-1] if one.flow == view.name][:20],
            phases=charts.PHASES,
        )

    def lane(self, request: Request) -> Response:
        """The error lanes."""
        asked = request.query_params
        status = asked.get("status", "waiting")
        wanted = LaneFilter(
            flow=asked.get("flow") or None,
            status=status if status in STATUSES else None,
            code=asked.get("code") or None,
            text=asked.get("text", "").strip() or None,
        )
        offset = int(asked["from"]) if asked.get("from", "").isdigit() else 0
        found = self._facts.lanes.page(wanted, offset)
        self._facts.recent.count_lanes(found.waiting)
        same = {name: value for name, value in asked.items() if name not in ("from", "said", "count")}
        return self._page(
            request,
            "lane.html",
            "Error lane",
            wanted=wanted,
            found=found,
            statuses=STATUSES,
            flows=[flow.name for flow in self._facts.flows],
            now=self._facts.clock(),
            first=offset + 1,
            older=f"/lane?{urlencode(same | {'from': offset + PAGE_ROWS})}" if found.has_more else None,
            newer=f"/lane?{urlencode(same | {'from': max(0, offset - PAGE_ROWS)})}" if offset else None,
            query=urlencode(same),
            count=int(asked["count"]) if asked.get("count", "").isdigit() else None,
        )

    def lane_row(self, request: Request) -> Response:
        """One row of a lane, by its shape."""
        return self._row_page(request, self._facts.lanes.row(request.path_params["error_id"]), reveals=False)

    def find(self, request: Request) -> Response:
        """Where the row of a key is."""
        key = request.query_params.get("key", "").strip()
        where = self._facts.lanes.find(key) if key else None
        said = verdicts(where, self._overview().flows) if where else []
        return self._page(
            request, "find.html", "Where is my row?", key=key, where=where, verdicts=said, now=self._facts.clock()
        )

    def gates(self, request: Request) -> Response:
        """What the gates found, lately and before."""
        judged = self._facts.recent.gates_judged
        runs = {layer: self._facts.gates.runs(layer, judged) for layer in LAYERS}
        return self._page(request, "gates.html", "Gates", runs=runs, now=self._facts.clock())

    def login(self, request: Request) -> Response:
        """The form that asks for the token."""
        if self._sessions.token is None:
            return RedirectResponse("/", 303)
        return self._page(request, "login.html", "Log in", next=safe_next(request.query_params.get("next")))

    # What people do.

    async def order(self, request: Request) -> Response:
        """Pause, resume or restart a flow."""
        name, action = request.path_params["name"], request.path_params["action"]
        await self._own_form(request)
        if action not in _ASKED_OF_FLOWS or name not in {flow.name for flow in self._facts.flows}:
            raise HTTPException(404, "There is no such thing to do.")
        who = _visitor(request).name

        def give() -> None:
            getattr(Control(self._facts.files, by=who), action)(name)
            self._known.read_at = float("-inf")

        await run_in_threadpool(give)
        log.info("asked on the page", flow=name, wanted=action, by=who)
        return self._done(request, f"/flows/{name}", action)

    async def reveal(self, request: Request) -> Response:
        """Show a row as it came. Who looked is in the log."""
        await self._own_form(request)
        row = await run_in_threadpool(self._facts.lanes.row, request.path_params["error_id"])
        log.warning(
            "a row of the error lane was revealed", error_id=row.error_id, flow=row.flow, by=_visitor(request).name
        )
        return await run_in_threadpool(lambda: self._row_page(request, row, reveals=True))

    async def settle(self, request: Request) -> Response:
        """Replay or discard one row."""
        form = await self._own_form(request)
        action = request.path_params["action"]
        if action not in _SETTLED:
            raise HTTPException(404, "There is no such thing to do.")
        mended = form.get("payload", "") if action == "replay" and form.get("is_mended") else ""
        row = await run_in_threadpool(self._facts.lanes.row, request.path_params["error_id"])
        # A browser sends a text's lines ended by CR LF.
        payload = mended.replace("\r\n", "\n").encode() if mended else None
        count = await self._settle(request, action, (row.error_id,), form.get("note", ""), payload)
        if count:
            self._facts.recent.settled(row.flow, count)
        return self._done(request, f"/lane/{row.error_id}", _SETTLED[action] if count else "settled")

    async def settle_some(self, request: Request) -> Response:
        """Replay or discard the rows that were ticked."""
        form = await self._own_form(request)
        action = form.get("action", "")
        chosen = tuple(name.removeprefix("row-") for name in form if name.startswith("row-"))
        if action not in _SETTLED:
            raise HTTPException(404, "There is no such thing to do.")
        count = await self._settle(request, action, chosen, form.get("note", ""), None) if chosen else 0
        query = request.url.query
        return RedirectResponse(f"/lane?{query}{'&' if query else ''}said={_SETTLED[action]}&count={count}", 303)

    async def log_in(self, request: Request) -> Response:
        """Give a cookie for the token."""
        form = await self._own_form(request)
        there = safe_next(form.get("next"))
        name = "".join(sign for sign in form.get("name", "").strip()[:40] if sign.isprintable())
        session = self._sessions.log_in(form.get("token", ""), name)
        if session is None:
            log.warning("a wrong token on the page", host=request.client.host if request.client else None)
            return RedirectResponse(f"/login?{urlencode({'said': 'wrong', 'next': there})}", 303)
        answer = RedirectResponse(there, 303)
        answer.headers.append("set-cookie", cookie_text(self._cookie, session))
        return answer

    async def log_out(self, request: Request) -> Response:
        """Forget the session."""
        await self._own_form(request)
        self._sessions.log_out(request.cookies.get(self._cookie))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(self._cookie, path="/", httponly=True, samesite="strict")
        return answer

    # What programs ask for.

    async def is_alive(self, request: Request) -> Response:
        """Whether the process lives."""
        return PlainTextResponse("alive\n")

    def is_ready(self, request: Request) -> Response:
        """Whether its flows are looked after: it has said so lately, and does not end."""
        report = self._read().report
        process = report.processes.get(self._facts.run_id) if report else None
        if self._facts.is_draining():
            return PlainTextResponse("ends\n", 503)
        if process is None or process.is_silent:
            return PlainTextResponse("its flows say nothing\n", 503)
        return PlainTextResponse("ready\n")

    def status(self, request: Request) -> Response:
        """What the first page says."""
        seen = self._overview()

        def told(view: FlowView) -> dict[str, Any]:
            facts = asdict(view) | {"freshness": view.freshness(seen.now)}
            return {name: words.clock(value) if isinstance(value, datetime) else value for name, value in facts.items()}

        needs = [
            {
                "urgency": need.urgency.name.lower(),
                "title": need.title,
                "what": need.what,
                "way_out": need.way_out,
                "since": words.clock(need.since),
                "flow": need.flow,
            }
            for need in seen.needs
        ]
        return JSONResponse(
            {
                "environment": self._facts.environment,
                "at": seen.now.isoformat(),
                "flows": [told(view) for view in seen.flows],
                "needs": needs,
            }
        )

    def metrics(self, request: Request) -> Response:
        """Prometheus' text."""
        assert self._facts.metrics is not None
        text, kind = self._facts.metrics()
        return Response(text, headers={"content-type": kind})

    # How.

    def _read(self) -> _Known:
        """The report and the orders, not older than a moment; the last ones while the storage is away."""
        if time.monotonic() - self._known.read_at < _READ_AGAIN_AFTER:
            return self._known
        control = Control(self._facts.files)
        try:
            self._known = _Known(control.report(), control.orders(), time.monotonic())
        except StreamsError as error:
            log.warning("the flows' report can't be read", error=error)
            self._known = _Known(self._known.report, self._known.orders, time.monotonic(), error.message)
        report = self._known.report
        if report is not None:
            read = {name: flow.rows_read for name, flow in report.flows.items()}
            self._samples.append((time.monotonic(), read))
        return self._known

    def _overview(self) -> Overview:
        known, facts = self._read(), self._facts
        return overview(
            facts.flows,
            known.report,
            known.orders,
            facts.recent,
            facts.gates.newest(facts.recent.gates_judged),
            facts.clock(),
            facts.run_id,
            self._rates(),
        )

    def _rates(self) -> dict[str, float]:
        """Of flows that other processes hold only their sums are known, so often as somebody looks."""
        while len(self._samples) > 1 and self._samples[-1][0] - self._samples[0][0] > _RATE_SECONDS:
            self._samples.popleft()
        if len(self._samples) < 2:
            return {}
        (began, before), (ended, after) = self._samples[0], self._samples[-1]
        return {name: max(0, rows - before.get(name, rows)) / (ended - began) for name, rows in after.items()}

    def _lying(self, batches: Sequence[Any]) -> dict[Any, tuple[charts.Part, ...]]:
        longest = max((sum(one.seconds.values()) for one in batches), default=0.0)
        return {one.batch: charts.lying(one.seconds, charts.PHASES, longest) for one in batches}

    def _row_page(self, request: Request, row: LaneRow, *, reveals: bool) -> Response:
        text = words.payload_text(row.payload)
        after = self._facts.lanes.aftermath(row) if row.status == "replayed" else Aftermath()
        return self._page(
            request,
            "lane_row.html",
            f"Row {row.error_id}",
            here=f"/lane/{row.error_id}",  # what reveals it can't be asked for again by a link
            row=row,
            view=self._overview().flow(row.flow),
            payload=None if row.payload is None else text if reveals else shape_of(text),
            is_revealed=reveals,
            is_text=row.payload is None or b"\x00" not in row.payload,
            after=after,
            now=self._facts.clock(),
        )

    async def _settle(
        self, request: Request, action: str, ids: tuple[str, ...], note: str, payload: bytes | None
    ) -> int:
        note, who = note.strip()[:500], _visitor(request).name
        if action == "discard" and not note:
            raise ConfigurationError("NOTE_MISSING", "Why is it discarded?", way_out="Go back and write a note.")
        told = f"{note} ({who})" if note else f"({who})"
        count = await run_in_threadpool(self._facts.lanes.settle, Settling(ids, _SETTLED[action], told, payload))
        log.info(
            "rows of the error lane settled", status=_SETTLED[action], rows=count, by=who, is_mended=payload is not None
        )
        return count

    async def _own_form(self, request: Request) -> dict[str, str]:
        """The form's texts, if the page itself has made it."""
        form = {name: value for name, value in (await request.form()).items() if isinstance(value, str)}
        if not is_own_form(form.get("csrf"), _visitor(request)):
            raise HTTPException(403, "This form is not from this page, or from before the service was started again.")
        return form

    def _done(self, request: Request, page: str, said: str) -> Response:
        if _visitor(request).is_program:
            return JSONResponse({"done": said})
        return RedirectResponse(f"{page}?said={said}", 303)

    def _page(self, request: Request, template: str, title: str, status: int = 200, **shown: Any) -> Response:
        self._facts.looked_at.set()
        visitor: Visitor = _visitor(request)
        facts = {
            "title": title,
            "path": request.url.path,
            "here": f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path,
            "environment": self._facts.environment,
            "csrf": visitor.csrf,
            "who": visitor.name,
            "has_login": self._sessions.token is not None,
            "said": _SAID.get(request.query_params.get("said", "")),
            "storage_error": words.shown_error(self._known.error, "STORAGE"),
            "loaded_at": self._facts.clock(),
        }
        return HTMLResponse(self._templates.get_template(template).render(facts | shown), status)

    def _on_error(self, request: Request, error: StreamsError) -> Response:
        status = 404 if error.code == "ERROR_ID_UNKNOWN" else 400 if isinstance(error, ConfigurationError) else 503
        return self._failed(request, status, words.shown_error(error.message, error.code), error.code, error.way_out)

    def _on_http_error(self, request: Request, error: HTTPException) -> Response:
        return self._failed(request, error.status_code, error.detail)

    def _on_bug(self, request: Request, error: Exception) -> Response:
        log.error("a page failed", path=request.url.path, error=error)
        return self._failed(request, 500, "This page failed; the service's log says more. The flows go on.")

    def _failed(
        self, request: Request, status: int, message: str | None, code: str | None = None, way_out: str | None = None
    ) -> Response:
        if _visitor(request).is_program:
            return JSONResponse({"error": message, "code": code, "way_out": way_out}, status)
        return self._page(
            request, "failed.html", "It did not work", status, message=message, code=code, way_out=way_out
        )


def _visitor(request: Request) -> Visitor:
    visitor: Visitor = request.state.visitor
    return visitor
