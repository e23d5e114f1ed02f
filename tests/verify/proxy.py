"""A line between the service and a server that can be made to fail: by HTTP, or byte by byte for PostgreSQL's protocol.

Ways: ``500``, ``503`` (answered here, the server is not asked), ``before`` (cut before the server was asked), ``in``
(asked, cut before it has answered), ``after`` (it has answered, cut before anyone here knows), ``half`` (cut in the
middle of the answer), ``late`` (answered after some seconds), ``silent`` (not answered for so long).
"""

from __future__ import annotations

import gzip
import http.client
import re
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

_SLOW_DOWN = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>slow</Message></Error>'
_BROKEN = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>InternalError</Code><Message>no</Message></Error>'
_HOP_BY_HOP = ("connection", "transfer-encoding", "content-length", "keep-alive")
_EXECUTE = b"E\x00\x00\x00\x09\x00\x00\x00\x00\x00"


@dataclass
class Fault:
    """What happens to the next requests that a regular expression is found in.

    Args:
        way: see above.
        what: looked for in ``METHOD path`` and the body.
        times: how many requests.
        seconds: how long ``late`` and ``silent`` last.
    """

    way: str
    what: str = ""
    times: int = 1
    seconds: float = 2.0
    met: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def meets(self, said: str) -> bool:
        """Whether it is this request's turn; counts it."""
        with self._lock:
            if self.met >= self.times or not re.search(self.what, said, re.IGNORECASE):
                return False
            self.met += 1
            return True


class _Line:
    """What both kinds have: a fault, while one is wanted."""

    def __init__(self) -> None:
        self.fault: Fault | None = None

    def meets(self, said: str) -> Fault | None:
        fault = self.fault
        return fault if fault is not None and fault.meets(said) else None


class HttpProxy(_Line):
    """Before a server that speaks HTTP; its own address in answers becomes ours.

    Args:
        host, port: the server.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self.host, self.far = "127.0.0.1", (host, port)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass(self) -> None:
                proxy.handle(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = _pass  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((self.host, 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def handle(self, near: BaseHTTPRequestHandler) -> None:
        """One request."""
        body = _body(near)
        fault = self.meets(f"{near.command} {near.path}\n{_readable(near, body)}")
        way = fault.way if fault else ""
        if way in ("500", "503"):
            _answer(near, int(way), _SLOW_DOWN if way == "503" else _BROKEN)
            return
        if way == "silent":
            assert fault is not None
            time.sleep(fault.seconds)
        if way in ("before", "silent"):
            _cut(near)
            return
        far = http.client.HTTPConnection(*self.far, timeout=120)
        try:
            headers = {name: value for name, value in near.headers.items() if name.lower() not in _HOP_BY_HOP}
            far.request(near.command, near.path, body, headers)
            if way == "in":
                _cut(near)
            answer = far.getresponse()
            content = answer.read()
            if way == "in":
                return
            if way == "after":
                _cut(near)
                return
            if way == "late":
                assert fault is not None
                time.sleep(fault.seconds)
            self._relay(near, answer, content, is_half=way == "half")
        except (OSError, http.client.HTTPException):
            _cut(near)
        finally:
            far.close()

    def _relay(
        self, near: BaseHTTPRequestHandler, answer: http.client.HTTPResponse, content: bytes, *, is_half: bool
    ) -> None:
        theirs, ours = (f"{host}:{port}".encode() for host, port in (self.far, (self.host, self.port)))
        is_text = any(kind in (answer.getheader("Content-Type") or "") for kind in ("json", "xml"))
        if is_text and not answer.getheader("Content-Encoding"):
            content = content.replace(theirs, ours)
        # Without a date of our own: the server's is its clock.
        near.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                near.send_header(name, value)
        length = answer.getheader("Content-Length") if near.command == "HEAD" else str(len(content))
        if length is not None:
            near.send_header("Content-Length", length)
        near.end_headers()
        if near.command != "HEAD":
            near.wfile.write(content[: len(content) // 2] if is_half else content)
        if is_half:
            near.wfile.flush()
            _cut(near)


def _body(near: BaseHTTPRequestHandler) -> bytes:
    if "chunked" in (near.headers.get("Transfer-Encoding") or ""):
        parts = []
        while size := int(near.rfile.readline().split(b";")[0], 16):
            parts.append(near.rfile.read(size))
            near.rfile.readline()
        near.rfile.readline()
        return b"".join(parts)
    return near.rfile.read(int(near.headers.get("Content-Length") or 0))


def _readable(near: BaseHTTPRequestHandler, body: bytes) -> str:
    if near.headers.get("Content-Encoding") == "gzip":
        with suppress(OSError):
            body = gzip.decompress(body)
    return body[:20_000].decode("utf-8", "replace")


def _answer(near: BaseHTTPRequestHandler, status: int, content: bytes) -> None:
    near.send_response(status)
    near.send_header("Content-Type", "application/xml")
    near.send_header("Content-Length", str(len(content)))
    near.end_headers()
    if near.command != "HEAD":
        near.wfile.write(content)


def _cut(near: BaseHTTPRequestHandler) -> None:
    near.close_connection = True
    with suppress(OSError):
        near.connection.shutdown(socket.SHUT_RDWR)


class SqlProxy(_Line):
    """Before a server that speaks PostgreSQL's protocol, without TLS.

    Args:
        host, port: the server.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self.host, self._far = "127.0.0.1", (host, port)
        self._listening = socket.create_server((self.host, 0))
        self.port = int(self._listening.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._lines: list[_SqlLine] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()
        for line in self._lines:
            line.end()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._far)
            except OSError:
                near.close()
                continue
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = _SqlLine(self, near, far)
            self._lines = [one for one in self._lines if one.thread.is_alive()] + [line]
            line.thread.start()


class _SqlLine:
    def __init__(self, proxy: SqlProxy, near: socket.socket, far: socket.socket) -> None:
        self.proxy, self.near, self.far = proxy, near, far
        self.fault: Fault | None = None
        self.thread = threading.Thread(target=self._both_ways, daemon=True)

    def end(self) -> None:
        """Cut it, and return when nothing of it is left."""
        self._cut()
        self.thread.join()

    def _both_ways(self) -> None:
        answering = threading.Thread(target=self._guarded, args=(self._answering,), daemon=True)
        answering.start()
        self._guarded(self._asking)
        answering.join()
        self.near.close()
        self.far.close()

    def _guarded(self, work: Callable[[], None]) -> None:
        with suppress(OSError):
            work()
        self._cut()

    def _cut(self) -> None:
        for one in (self.near, self.far):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _asking(self) -> None:
        tail = b""
        while data := self.near.recv(1 << 16):
            tail = (tail + data)[-4096:]
            if self.fault is None:
                self.fault = self.proxy.meets(tail.decode("latin-1"))
                if self.fault is not None:
                    tail = data
            way = self.fault.way if self.fault else ""
            if way == "before":
                return
            if way in ("late", "silent"):
                assert self.fault is not None
                seconds, self.fault = self.fault.seconds, None
                time.sleep(seconds)
                tail = b""
                if way == "silent":
                    return
            self.far.sendall(data)
            if way == "in" and (_EXECUTE in tail or data[:1] == b"Q"):
                self.near.shutdown(socket.SHUT_RDWR)
                time.sleep(1.0)  # the server is at it, or done; then its client is gone
                return

    def _answering(self) -> None:
        while data := self.far.recv(1 << 16):
            if self.fault is not None and self.fault.way == "after" and re.search(rb"C....[A-Z]{3}", data, re.DOTALL):
                return
            if self.fault is not None and self.fault.way == "in":
                with suppress(OSError):
                    self.near.sendall(data)
                continue
            self.near.sendall(data)
