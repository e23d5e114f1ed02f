"""Failpoints: nothing happens unasked; asked for, a process dies, stops or fails at that pass and no other."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from streams.failpoints import FailpointError, failpoint

PASSES = "from streams.failpoints import failpoint\nfor _ in range(3): failpoint('a.b', 'data_written'); print('on', flush=True)"


def test_nothing_happens_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STREAMS_FAILPOINT", raising=False)
    failpoint("a.b", "data_written")
    monkeypatch.setenv("STREAMS_FAILPOINT", "a.b:data_written:1:raise")
    failpoint("a.b", "lane_written")
    failpoint("a.c", "data_written")


@pytest.mark.parametrize("flow", ["a.b", "*"])
def test_raises_at_that_pass_only(monkeypatch: pytest.MonkeyPatch, flow: str) -> None:
    monkeypatch.setenv("STREAMS_FAILPOINT", f"{flow}:through:2:raise:{flow}")
    failpoint("a.b", "through")
    with pytest.raises(FailpointError):
        failpoint("a.b", "through")
    failpoint("a.b", "through")


def test_kills_at_the_second_pass() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PASSES],
        env={"STREAMS_FAILPOINT": "a.b:data_written:2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (-signal.SIGKILL, "on\n")


def test_stops_and_goes_on() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PASSES],
        env={"STREAMS_FAILPOINT": "a.b:data_written:1:stop"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        import os

        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate(timeout=30)
        assert (said, process.returncode) == ("on\non\non\n", 0)
