"""How Java starts: from an archive of classes that `streams prepare` makes once, and without processes beside it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from streams import class_archive, jars
from streams.session import driver_jars

_START = """
import sys
from pyspark.sql import SparkSession
from streams import jars
from streams.session import LOCAL, SESSION_DEFAULTS, driver_jars, driver_java
builder = SparkSession.builder.master("local[1]")
for key, value in (SESSION_DEFAULTS | LOCAL | driver_java(jars.find_java(), driver_jars())).items():
    builder = builder.config(key, value)
spark = builder.getOrCreate()
if len(sys.argv) > 1:
    table, copy, checkpoint = (f"{sys.argv[1]}/{name}" for name in ("table", "copy", "checkpoint"))
    spark.range(3).write.format("delta").save(table)
    stream = spark.readStream.format("delta").load(table).writeStream.format("delta")
    stream.option("checkpointLocation", checkpoint).trigger(availableNow=True).start(copy).awaitTermination()
    print(spark.read.format("delta").load(copy).count(), "rows")
else:
    print(open(f"/proc/{spark.sparkContext._gateway.proc.pid}/maps").read())
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=os.environ | environment,
    )
    assert ended.returncode == 0, ended.stderr
    return ended


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what a process has mapped stands in /proc on Linux")
def test_a_start_uses_the_archive() -> None:
    run("-m", "streams", "prepare")
    archive = class_archive.place(jars.find_java(), driver_jars())
    made = archive.stat().st_mtime_ns
    assert str(archive) in run("-c", _START).stdout
    again = run("-m", "streams", "prepare")
    assert (archive.stat().st_mtime_ns, again.stderr) == (made, "")
    assert str(archive) in again.stdout.replace("\n", "")


def test_no_process_is_started_for_a_file(tmp_path: Path) -> None:
    commands, called = tmp_path / "commands", tmp_path / "called"
    commands.mkdir()
    # Those that Hadoop starts for a local file; each says so, and does what it is for.
    for name in ("chmod", "readlink", "ls", "stat"):
        (commands / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {called}\nexec {shutil.which(name)} "$@"\n')
        (commands / name).chmod(0o755)
    search = os.pathsep.join([str(commands), os.environ["PATH"]])
    out = run("-c", _START, str(tmp_path), PATH=search).stdout
    assert "3 rows" in out
    # What the script that starts Spark asks is about other places.
    asked = called.read_text().splitlines() if called.exists() else []
    assert not [line for line in asked if re.search(f"{tmp_path}/(table|copy|checkpoint)", line)]
    assert (tmp_path / "table").stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
