"""A standalone Spark cluster on loopback: a master and workers, each a process of its own, from the installed pyspark."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil
import pyspark

from streams.jars import find_java
from tests.conftest import QUICK_START
from tests.waiting import wait_until

_SPARK = Path(pyspark.__file__).parent
# What Spark's own scripts set, of which the package has not those that start a cluster.
_ENVIRONMENT = {"SPARK_HOME": str(_SPARK), "SPARK_SCALA_VERSION": "2.13", "SPARK_LOCAL_IP": "127.0.0.1"}
_READY = {
    "master": re.compile(r"Starting Spark master at (spark://\S+)"),
    "worker": re.compile(r"Successfully registered with master"),
}
_LOGGING = """\
rootLogger.level = info
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n
"""


@dataclass
class SparkCluster:
    """The cluster, while the context lasts. Its executors see nothing of this process's environment but the path.

    Args:
        folder: for logs and the executors' work.
        workers: how many, with one core each.
        memory: of each, for executors.
    """

    folder: Path
    workers: int = 2
    memory: str = "1g"
    master: str = ""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "log4j2.properties").write_text(_LOGGING)
        with ExitStack() as starting:
            place = ("--host", "127.0.0.1", "--webui-port", "0")
            name = "org.apache.spark.deploy.master.Master"
            self.master = self._start(starting, "master", name, *place, "--port", "0")
            for number in range(self.workers):
                self.add_worker(starting, number)
            self._stack = starting.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add_worker(self, stack: ExitStack, number: int) -> None:
        size = ("--cores", "1", "--memory", self.memory, "--work-dir", str(self.folder / f"work-{number}"))
        place = ("--host", "127.0.0.1", "--webui-port", "0")
        name = "org.apache.spark.deploy.worker.Worker"
        self._start(stack, f"worker-{number}", name, *place, *size, self.master)

    def kill_worker(self, number: int) -> None:
        """End one as a machine that loses its power does: its executors and their Python with it."""
        worker = self.processes[1 + number]
        family = [*psutil.Process(worker.pid).children(recursive=True), psutil.Process(worker.pid)]
        for process in family:
            process.kill()
        worker.wait()

    def executors(self) -> list[psutil.Process]:
        """Those that live now."""
        found = [child for one in self.processes[1:] if one.poll() is None for child in _children(one.pid)]
        return [child for child in found if "CoarseGrainedExecutorBackend" in " ".join(_command(child))]

    def _start(self, stack: ExitStack, name: str, main: str, *arguments: str) -> str:
        log = self.folder / f"{name}.log"
        logging = f"-Dlog4j2.configurationFile={(self.folder / 'log4j2.properties').as_uri()}"
        command = [find_java(), "-Xmx192m", *QUICK_START.split(), logging, "-cp", f"{_SPARK / 'jars'}/*", main]
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "JAVA_HOME") if name in os.environ}
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*command, *arguments],
                stdout=out,
                stderr=out,
                env=environment | _ENVIRONMENT,
            )
        self.processes.append(process)
        stack.callback(_end, process)
        ready = _READY[name.partition("-")[0]]

        def said() -> re.Match[str] | None:
            assert process.poll() is None, log.read_text()[-2000:]
            return ready.search(log.read_text())

        found = wait_until(said, seconds=60)
        return found.group(1) if found.groups() else ""


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _end(process: subprocess.Popen[bytes]) -> None:
    for child in _children(process.pid):
        child.kill()
    process.kill()
    process.wait()
