"""The Python of Spark's workers: it takes pyspark from the environment, and a source's answers before it has it."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pyspark

from streams import worker_python
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    import pytest

ARCHIVES = sorted(Path(pyspark.__file__).parent.glob("python/lib/*.zip"))


def started(program: str, tmp_path: Path) -> dict[str, str]:
    """Where a worker that Spark starts so finds three modules, one of them on the path of whoever runs the service."""
    (tmp_path / "users_own.py").touch()
    names = ("pyspark", "py4j", "users_own")
    path = os.pathsep.join([*map(str, ARCHIVES), str(tmp_path)])
    told = subprocess.run(
        [program, "-c", f"for name in {names}: print(__import__(name).__file__)"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(names, told.stdout.splitlines(), strict=True))


def test_without_it_a_worker_takes_the_archives(tmp_path: Path) -> None:
    found = started(sys.executable, tmp_path)
    assert len(ARCHIVES) == 2
    assert ".zip" in found["pyspark"]
    assert ".zip" in found["py4j"]


def test_a_worker_takes_the_environments_own_and_keeps_the_users(tmp_path: Path) -> None:
    found = started(worker_python.path(), tmp_path)
    assert found["pyspark"] == pyspark.__file__
    assert ".zip" not in found["py4j"]
    assert found["users_own"] == str(tmp_path / "users_own.py")


def test_an_environment_without_the_projects_scripts_has_its_interpreter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert worker_python.path() == str(tmp_path / "python")


def answer(connection: socket.socket, secret: str) -> int:
    """Spark's part of the conversation; gives the worker's process."""
    stream = connection.makefile("rwb")
    (size,) = struct.unpack("!i", stream.read(4))
    assert stream.read(size) == secret.encode()
    stream.write(struct.pack("!i", 2) + b"ok")
    stream.flush()
    (process,) = struct.unpack("!i", stream.read(4))
    return int(process)


def test_a_sources_worker_connects_before_it_imports_pyspark(tmp_path: Path) -> None:
    slow = tmp_path / "pyspark" / "sql" / "streaming"
    slow.mkdir(parents=True)
    waits = f"import pathlib, time\nwhile not pathlib.Path({str(tmp_path / 'go')!r}).exists(): time.sleep(0.01)\n"
    (tmp_path / "pyspark" / "__init__.py").write_text(waits)
    (slow.parent / "__init__.py").touch()
    (slow / "__init__.py").touch()
    runs = "def main(infile, outfile):\n    outfile.write(infile.read(4)[::-1])\n    outfile.flush()\n"
    (slow / "python_streaming_source_runner.py").write_text(runs)
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:
        server.settimeout(PATIENCE)
        told = {"PYTHON_WORKER_FACTORY_PORT": str(server.getsockname()[1]), "PYTHON_WORKER_FACTORY_SECRET": "s3cret"}
        worker = subprocess.Popen(
            [worker_python.path(), "-m", "pyspark.sql.streaming.python_streaming_source_runner"],
            env={**os.environ, **told, "PYTHONPATH": os.pathsep.join([*map(str, ARCHIVES), str(tmp_path)])},
        )
        with worker, server.accept()[0] as connection:
            assert answer(connection, "s3cret") == worker.pid
            assert worker.poll() is None
            (tmp_path / "go").touch()
            connection.sendall(b"abcd")
            assert connection.recv(4) == b"dcba"
        assert worker.returncode == 0
