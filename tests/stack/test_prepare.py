"""`streams prepare`: an archive of classes is made once, and a start's Java uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from streams import class_archive, jars

_START = """
from pyspark.sql import SparkSession
from streams import jars
from streams.session import driver_java
builder = SparkSession.builder.master("local[1]")
for key, value in driver_java(jars.find_java(), jars.resolve(jars.SPARK_JARS)).items():
    builder = builder.config(key, value)
spark = builder.getOrCreate()
print(open(f"/proc/{spark.sparkContext._gateway.proc.pid}/maps").read())
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what a process has mapped stands in /proc on Linux")
def test_a_start_uses_the_archive() -> None:
    run("-m", "streams", "prepare")
    archive = class_archive.place(jars.find_java(), jars.resolve(jars.SPARK_JARS))
    made = archive.stat().st_mtime_ns
    assert str(archive) in run("-c", _START).stdout
    again = run("-m", "streams", "prepare")
    assert (archive.stat().st_mtime_ns, again.stderr) == (made, "")
    assert str(archive) in again.stdout.replace("\n", "")
