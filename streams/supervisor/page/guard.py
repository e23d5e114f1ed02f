"""Whom the page lets in, and what it lets them do.

On the loopback anybody of this machine may look, but no other site that a browser of theirs has open: the host that
is asked for must be the loopback's own (a name that a stranger's server gives to 127.0.0.1 is refused), and what
changes something must come from the page itself. Beyond the loopback a token is asked for: as ``Authorization:
Bearer``, or once, by a form, for a cookie that scripts and other sites do not get.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_OPEN: Final = ("/healthz", "/readyz", "/login", "/static/")
_SESSION_SECONDS: Final = 12 * 3600.0
_SESSIONS: Final = 1000
_TRIES_A_MINUTE: Final = 10
MOST_BYTES: Final = 2 * 1024 * 1024
_AGAIN: Final = '<!doctype html><title>One moment</title><meta http-equiv="refresh" content="0"><p>One moment …'
HEADERS: Final = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with none at all, a form's origin would be "null"
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Visitor:
    """Who asks.

    Attributes:
        name: as orders, notes and logs name them.
        csrf: what a form of theirs must carry.
        is_program: came with the token itself, and not with a cookie that a browser adds by itself.
    """

    name: str
    csrf: str
    is_program: bool = False


@dataclass
class _Session:
    name: str
    until: float


@dataclass
class Sessions:
    """Who has logged in, until the process ends.

    Args:
        token: what they must know; None: nothing.
        clock: seconds that only go on.
    """

    token: str | None
    clock: Callable[[], float] = time.monotonic
    _known: dict[str, _Session] = field(default_factory=dict)
    _failed_at: list[float] = field(default_factory=list)
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def is_token(self, said: str) -> bool:
        """Whether that is the token; takes as long for any that is as long."""
        return self.token is not None and hmac.compare_digest(said.encode(), self.token.encode())

    def log_in(self, said: str, name: str) -> str | None:
        """A new session's id; None for a wrong token, or when too many wrong ones were tried in the last minute."""
        now = self.clock()
        with self._lock:
            self._failed_at = [at for at in self._failed_at if at > now - 60]
            if len(self._failed_at) >= _TRIES_A_MINUTE:
                return None
            if not self.is_token(said):
                self._failed_at.append(now)
                return None
            self._known = {key: one for key, one in self._known.items() if one.until > now}
            while len(self._known) >= _SESSIONS:
                del self._known[next(iter(self._known))]
            session = secrets.token_urlsafe(32)
            self._known[session] = _Session(name, now + _SESSION_SECONDS)
            return session

    def log_out(self, session: str | None) -> None:
        """Forget it."""
        with self._lock:
            self._known.pop(session or "", None)

    def name_of(self, session: str | None) -> str | None:
        """Who has that session; None: nobody."""
        with self._lock:
            found = self._known.get(session or "")
            return found.name if found and found.until > self.clock() else None

    def csrf(self, session: str) -> str:
        """What forms of a session carry: known only to whom the page was shown."""
        return hmac.new(self._key, session.encode(), hashlib.sha256).hexdigest()


class Guard:
    """Between the server and the pages.

    Args:
        app: the pages; they find a `Visitor` in ``request.state``.
        sessions: who has logged in.
        is_local: whether only this machine reaches the page.
        cookie: its name; ports of one host share cookies, so each needs its own.
    """

    def __init__(self, app: ASGIApp, sessions: Sessions, cookie: str, *, is_local: bool) -> None:
        self._app, self._sessions, self._cookie, self._is_local = app, sessions, cookie, is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return
        request = Request(scope)
        # Of a link on another site a browser sends no cookie that is strictly ours; of the page's own refresh it does.
        is_link = request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site"
        is_strange = is_link and self._cookie not in request.cookies
        new_session = None if is_strange else self._new_session(request)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if new_session:
                    headers.append("set-cookie", cookie_text(self._cookie, new_session))
            await send(message)

        answer: ASGIApp | None = self._refusal(request, new_session)
        if is_strange and answer is not None and not isinstance(answer, PlainTextResponse):
            answer = None
        await (answer or (HTMLResponse(_AGAIN) if is_strange else self._app))(scope, receive, send_guarded)

    def _new_session(self, request: Request) -> str | None:
        """A browser without a session gets one, which means nothing but that forms are its own."""
        is_page = request.method == "GET" and not request.url.path.startswith(("/static/", "/healthz", "/readyz"))
        return secrets.token_urlsafe(32) if is_page and self._cookie not in request.cookies else None

    def _refusal(self, request: Request, new_session: str | None) -> Response | None:
        """Why not; None: let them in, and say to the pages who it is."""
        host = request.headers.get("host", "")
        if self._is_local and _name_of(host) not in _LOCAL:
            return PlainTextResponse("This page answers to localhost, and to no other name.", 421)
        session = request.cookies.get(self._cookie) or new_session
        known_as = self._known_as(request, session)
        is_program = self._is_program(request.headers)
        request.state.visitor = Visitor(known_as or "nobody", self._sessions.csrf(session or ""), is_program)
        if known_as is None and not request.url.path.startswith(_OPEN):
            return self._ask_for_token(request)
        if request.method not in ("GET", "HEAD"):
            return self._refused_change(request, host)
        return None

    def _known_as(self, request: Request, session: str | None) -> str | None:
        where = request.client.host if request.client else "?"
        if self._sessions.token is None:
            return f"page, from {where}"
        if self._is_program(request.headers):
            return f"token, from {where}"
        name = self._sessions.name_of(session)
        return None if name is None else f"{name}, from {where}" if name else f"page, from {where}"

    def _is_program(self, headers: Headers) -> bool:
        kind, _, said = headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and self._sessions.is_token(said.strip())

    def _ask_for_token(self, request: Request) -> Response:
        is_for_people = "text/html" in request.headers.get("accept", "") and request.method == "GET"
        if is_for_people:
            query = f"?{request.url.query}" if request.url.query else ""
            return RedirectResponse(f"/login?next={quote(request.url.path + query, safe='')}", 303)
        return PlainTextResponse("A token is asked for.", 401, {"www-authenticate": "Bearer"})

    def _refused_change(self, request: Request, host: str) -> Response | None:
        """Only the page's own forms change something; a program's token is in no browser."""
        length = request.headers.get("content-length", "")
        if not length.isdigit():
            return PlainTextResponse("How long is it?", 411)
        if int(length) > MOST_BYTES:
            return PlainTextResponse("Too long.", 413)
        origin, fetched = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return PlainTextResponse("This came from another site.", 403)
        if fetched not in ("same-origin", "none"):
            return PlainTextResponse("This came from another site.", 403)
        return None


def cookie_text(name: str, session: str) -> str:
    """A cookie that no script and no other site gets."""
    return f"{name}={session}; Path=/; HttpOnly; SameSite=Strict; Max-Age={int(_SESSION_SECONDS)}"


def is_own_form(said: str | None, visitor: Visitor) -> bool:
    """Whether a form carries what the page gave to this visitor."""
    return visitor.is_program or hmac.compare_digest((said or "").encode(), visitor.csrf.encode())


def safe_next(path: str | None) -> str:
    """Where to go after the login: a path of this page, never another site."""
    if not path or not path.startswith("/") or path.startswith(("//", "/\\")) or any(ord(c) < 32 for c in path):
        return "/"
    return path


def _name_of(host: str) -> str:
    return (
        host[: host.index("]") + 1].lower() if host.startswith("[") and "]" in host else host.partition(":")[0].lower()
    )
