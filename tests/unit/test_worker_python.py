"""The Python of Spark's workers takes pyspark from the environment, where it is compiled, and not from an archive."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pyspark

from streams import worker_python

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
