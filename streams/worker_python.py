"""What Spark starts as the Python of its workers: this environment's, quick to answer on a busy machine.

Spark waits a fixed 10 seconds for the worker of each source that an adapter pulls, and all of them begin at once when a
service starts. Left to itself a worker says its first word when it has imported pyspark, and takes that from archives
that Spark puts first on the path, in which nothing is compiled: some seconds of a core each, on a slow machine, while
Spark itself wants all of them. So pyspark is imported from the environment, a third of the work, and a source's worker
connects before it imports it.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from io import BufferedRWPair

_SPARKS_OWN: Final = re.compile(r"(pyspark|py4j-[\w.]+-src)\.zip")
_SOURCE: Final = "pyspark.sql.streaming.python_streaming_source_runner"
_PORT, _SECRET = "PYTHON_WORKER_FACTORY_PORT", "PYTHON_WORKER_FACTORY_SECRET"


def path() -> str:
    """The program, where the project is installed with its scripts; else this interpreter."""
    program = Path(sys.executable).with_name("streams-worker-python")
    return str(program if program.is_file() else sys.executable)


def main() -> None:
    """Be the interpreter, with the arguments and the environment that Spark gave."""
    os.environ["PYTHONPATH"] = os.pathsep.join(_without_archives(os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    if sys.argv[1:] == ["-m", _SOURCE] and {_PORT, _SECRET} <= os.environ.keys():
        with _connected() as stream:
            sys.path[:] = _without_archives(sys.path)
            import_module(_SOURCE).main(stream, stream)
    else:
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])  # noqa: S606


def _without_archives(entries: list[str]) -> list[str]:
    return [entry for entry in entries if not _SPARKS_OWN.fullmatch(Path(entry).name)]


def _connected() -> BufferedRWPair:
    """The connection to the JVM, as `pyspark.worker_util.get_sock_file_to_executor` makes it."""
    host = "::1" if os.environ.get("SPARK_PREFER_IPV6", "").lower() == "true" else "127.0.0.1"
    waits = float(os.environ.get("SPARK_AUTH_SOCKET_TIMEOUT", "15"))
    connection = socket.create_connection((host, int(os.environ[_PORT])), waits)
    stream = connection.makefile("rwb")
    secret = os.environ[_SECRET].encode()
    stream.write(struct.pack("!i", len(secret)) + secret)
    stream.flush()
    (size,) = struct.unpack("!i", stream.read(4))
    answer = stream.read(size)
    if answer != b"ok":
        raise ConnectionError(f"Spark does not take its worker: {answer!r}")
    connection.settimeout(None)
    stream.write(struct.pack("!i", os.getpid()))
    stream.flush()
    return stream
