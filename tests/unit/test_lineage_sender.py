"""How lineage leaves the process: to a file or a server, never in the way of the work, and lost only with a word."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from openlineage.client.serde import Serde

from streams.settings import LineageSettings
from streams.telemetry.lineage_events import LineageEvents
from streams.telemetry.lineage_sender import LineageSender, transport_of
from tests.unit.lineage_reader import require_event
from tests.unit.test_lineage_events import Known, began, done, ended, run_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from streams.telemetry.events import Event


class Server(ThreadingHTTPServer):
    """Takes OpenLineage events as a real one does; answers with the next of `moods`, and else with 201."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.moods: list[int] = []
        self.taken: list[dict[str, Any]] = []
        self.paths: set[str] = set()
        self.logins: set[str | None] = set()
        self.gate = threading.Event()
        self.gate.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.server.gate.wait(60)
        status = self.server.moods.pop(0) if self.server.moods else 201
        if status == 201:
            self.server.taken.append(require_event(event))
        self.server.paths.add(self.path)
        self.server.logins.add(self.headers["Authorization"])
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
        thread.start()
        try:
            yield server
        finally:
            server.gate.set()
            server.shutdown()
            thread.join()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def a_run() -> list[Event]:
    run = run_id()
    return [began(run), done(run, 1), ended(run, 2)]


def send(settings: LineageSettings, *events: Event, at_most: int = 100) -> LineageSender:
    sender = LineageSender(LineageEvents("jobs", Known()), transport_of(settings), at_most=at_most)
    for event in events:
        sender(event)
    return sender


STATES = ["START", "RUNNING", "COMPLETE"]


def test_a_server_gets_every_event_and_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # OpenLineage's own client would take all of these for its configuration.
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login other password other\n")
    for name, value in {
        "OPENLINEAGE_URL": "http://127.0.0.1:9",
        "OPENLINEAGE_DISABLED": "true",
        "OPENLINEAGE__TRANSPORT__TYPE": "console",
        "OPENLINEAGE_API_KEY": "other",
        "HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    token = tmp_path / "token"
    token.write_text("a-token-of-ours\n")
    with serving() as server:
        settings = LineageSettings.model_validate({"url": f"{server.url}/base", "token": f"file:{token}"})
        send(settings, *a_run()).close()
        assert [one["eventType"] for one in server.taken] == STATES
        assert server.paths == {"/base/api/v1/lineage"}
        assert server.logins == {"Bearer a-token-of-ours"}


def test_what_a_server_cannot_take_now_is_sent_again_in_order() -> None:
    with serving() as server:
        server.moods = [503, 429]
        sender = send(LineageSettings(url=server.url, endpoint="other"), *a_run())
        until(lambda: len(server.taken) == 3)
        sender.close()
        assert [one["eventType"] for one in server.taken] == STATES
        assert server.paths == {"/other"}
        assert server.logins == {None}
        assert sender.dropped == 0


def test_what_a_server_refuses_is_dropped_and_the_rest_goes_on(log: list[dict[str, Any]]) -> None:
    with serving() as server:
        server.moods = [401, 422]
        sender = send(LineageSettings(url=server.url), *a_run())
        sender.close()
        assert [one["eventType"] for one in server.taken] == ["COMPLETE"]
        assert sender.dropped == 2
    assert [one["event"] for one in log].count("lineage is not taken") == 1


def test_no_work_waits_for_a_server_that_does_not_answer(log: list[dict[str, Any]]) -> None:
    with serving() as server:
        server.gate.clear()
        sender = send(LineageSettings(url=server.url), *a_run())
        until(lambda: sender._waiting.qsize() == 1)  # the first event is on its way, and stands
        started = time.monotonic()
        for _ in range(200):
            for event in a_run():
                sender(event)
        assert time.monotonic() - started < 1.0
        assert sender.dropped == 501
        sender.close(within=0.1)
        assert not server.taken
    assert [one["event"] for one in log].count("lineage events are dropped") == 1


def test_a_file_gets_lines_also_after_one_that_was_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "new" / "lineage.jsonl"
    settings = LineageSettings(file=str(file))
    send(settings, *a_run()).close()
    with file.open("a") as other:
        other.write('{"eventType": "STA')  # a process that was killed
    send(settings, *a_run()).close()
    lines = file.read_text().splitlines()
    assert [require_event(json.loads(line))["eventType"] for line in (*lines[:3], *lines[4:])] == STATES * 2


def test_processes_share_a_file(tmp_path: Path) -> None:
    settings = LineageSettings(file=str(tmp_path / "lineage.jsonl"))
    senders = [send(settings, *(event for _ in range(30) for event in a_run())) for _ in range(4)]
    for sender in senders:
        sender.close()
    lines = (tmp_path / "lineage.jsonl").read_text().splitlines()
    assert sorted(require_event(json.loads(line))["eventType"] for line in lines) == sorted(STATES * 120)


def test_a_flow_that_cannot_be_described_hurts_no_other(log: list[dict[str, Any]], tmp_path: Path) -> None:
    class Broken(Known):
        def of(self, name: str) -> Any:
            raise RuntimeError(name)

    file = tmp_path / "lineage.jsonl"
    sender = LineageSender(LineageEvents("jobs", Broken()), transport_of(LineageSettings(file=str(file))))
    for event in a_run():
        sender(event)
    sender.close()
    assert [one["event"] for one in log].count("lineage can't be told") == 1
    assert not file.exists()


def test_events_are_what_the_client_writes() -> None:
    (first, *_) = LineageEvents("jobs", Known()).take(done(run_id(), 1))
    assert json.loads(Serde.to_json(first))["eventType"] == "START"


@pytest.fixture
def log() -> Iterator[list[dict[str, Any]]]:
    from structlog.testing import capture_logs

    with capture_logs() as captured:
        yield captured
