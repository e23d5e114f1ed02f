"""A real Kafka broker of one node (KRaft), started from jars, on the loopback, with its data in a folder.

The folder holds all there is: ``address.json`` (ports and cluster id, kept for ever), ``server.properties``,
``broker.log`` and ``data/``. A broker that was stopped or killed is started again by a new `Broker` on that folder.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from streams import jars
from streams.errors import FatalError, RetriableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from io import TextIOWrapper
    from pathlib import Path

HEAP: Final = "-Xmx512m"
_LOCK_SECONDS: Final = 3.0
# Ends the broker when the pipe from us breaks, so also when we are killed. (Linux's PR_SET_PDEATHSIG would do it when
# the thread that started the broker ends, and needs code between fork and exec, which is unsafe beside threads.)
_WATCHER: Final = 'read -r _; kill -KILL "$1"'
_LOG_LINES_SHOWN: Final = 12

_LOGGING = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
rootLogger.level = WARN
rootLogger.appenderRef.out.ref = out
"""


@dataclass(frozen=True)
class _Address:
    """What must stay the same from one start to the next."""

    cluster_id: str
    port: int
    controller_port: int

    @classmethod
    def kept_in(cls, folder: Path, port: int | None) -> _Address:
        """As the folder has it; with a port of one's choice in the beginning."""
        file = folder / "address.json"
        if not file.exists():
            free, controller_port = _free_ports()
            cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            file.write_text(json.dumps(vars(cls(cluster_id, port or free, controller_port))))
        return cls(**json.loads(file.read_text()))


class Broker:
    """One broker; as a context manager it is started on entry and stopped on exit.

    Args:
        folder: where the broker lives; made when missing, its data is used when there is some.
        progress: is told what is being downloaded, the first time.
        port: where it listens from its first start on; any that is free, if none is given.
        settings: Kafka's own, over those that it has here.
    """

    def __init__(
        self,
        folder: Path,
        progress: Callable[[str], None] | None = None,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self._progress = progress
        self._settings = dict(settings or {})
        folder.mkdir(parents=True, exist_ok=True)
        self._address = _Address.kept_in(folder, port)
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._lock: TextIOWrapper | None = None

    @property
    def bootstrap_servers(self) -> str:
        """``host:port``, the same for the life of the folder."""
        return f"127.0.0.1:{self._address.port}"

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self._is_running()

    @property
    def process_id(self) -> int | None:
        """The Java process, while it runs."""
        return self._process.pid if self._process and self._is_running() else None

    def start(self, timeout: float = 60.0) -> None:
        """Start, and return when the broker answers; nothing happens when it runs already.

        Args:
            timeout: in seconds.

        Raises:
            ConfigurationError: ``JAVA_MISSING``, ``JARS_UNAVAILABLE``.
            FatalError: ``BROKER_IN_USE``, another process runs a broker on this folder.
            RetriableError: ``BROKER_NOT_UP``, with the last lines of its log.
        """
        if self._is_running():
            return
        class_path = _class_path(self._progress)
        self._hold_folder()
        try:
            self._write_configuration()
            self._format_storage(class_path)
            self._launch(class_path)
            self._wait_until_it_answers(time.monotonic() + timeout)
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout: float = 30.0) -> None:
        """Ask the broker to end and wait for it; after ``timeout`` seconds it is killed."""
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """End the broker at once (SIGKILL), as a power cut would."""
        atexit.unregister(self.kill)
        # The watcher goes first: once the broker is waited for, its process id may be someone else's.
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
            self._watcher = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def create_topic(self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        """Make a topic and return when the broker knows it.

        Raises:
            RetriableError: ``TOPIC_NOT_MADE``, one of that name exists, or the broker does not answer.
        """
        topic = NewTopic(name, partitions, 1, config=dict(config or {}))
        try:
            admin = self._admin()
            admin.create_topics([topic], operation_timeout=30)[name].result(30)
        except KafkaException as error:
            raise RetriableError("TOPIC_NOT_MADE", f"Topic {name} was not made: {error}.", topic=name) from error
        self._wait_for_topic(name, is_there=True)

    def delete_topic(self, name: str) -> None:
        """Delete a topic and return when the broker no longer knows it.

        Raises:
            RetriableError: ``TOPIC_NOT_DELETED``, there is none of that name, or the broker does not answer.
        """
        try:
            admin = self._admin()
            admin.delete_topics([name], operation_timeout=30)[name].result(30)
        except KafkaException as error:
            raise RetriableError("TOPIC_NOT_DELETED", f"Topic {name} was not deleted: {error}.", topic=name) from error
        self._wait_for_topic(name, is_there=False)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _hold_folder(self) -> None:
        """Lock the folder. The broker inherits the lock, so it lasts as long as either of us lives."""
        lock, deadline = (self.folder / "lock").open("w"), time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                # A killed process's broker is gone within moments; wait for that.
                if time.monotonic() > deadline:
                    lock.close()
                    raise FatalError("BROKER_IN_USE", f"Another process runs the broker of {self.folder}.") from error
                time.sleep(0.05)
            else:
                self._lock = lock
                return

    def _write_configuration(self) -> None:
        address = self._address
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "listeners": f"PLAINTEXT://{self.bootstrap_servers},CONTROLLER://127.0.0.1:{address.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap_servers}",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"1@127.0.0.1:{address.controller_port}",
            "log.dirs": self.folder / "data",
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 1,
            "group.initial.rebalance.delay.ms": 0,
            # A killed broker is let in again only when its old session is over: 9 seconds by default.
            "broker.session.timeout.ms": 4000,
            "broker.heartbeat.interval.ms": 1000,
        }
        lines = (f"{key}={value}\n" for key, value in (settings | self._settings).items())
        (self.folder / "server.properties").write_text("".join(lines))
        (self.folder / "log4j2.properties").write_text(_LOGGING)

    def _format_storage(self, class_path: str) -> None:
        if (self.folder / "data" / "meta.properties").exists():
            return
        # With "=", because an id may begin with a dash.
        cluster = f"--cluster-id={self._address.cluster_id}"
        storage = ("format", cluster, "--config", str(self.folder / "server.properties"))
        command = [jars.find_java(), "-cp", class_path, "kafka.tools.StorageTool", *storage]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            told = (done.stderr or done.stdout)[-500:]
            raise FatalError("BROKER_STORAGE", f"{self.folder / 'data'} could not be formatted: {told}")

    def _launch(self, class_path: str) -> None:
        assert self._lock is not None
        logging = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"
        options = (HEAP, "-XX:+UseSerialGC", "-Djava.awt.headless=true", logging)
        command = [jars.find_java(), *options, "-cp", class_path, "kafka.Kafka", str(self.folder / "server.properties")]
        with (self.folder / "broker.log").open("ab") as log:
            # Sessions of their own, so that Ctrl-C at the terminal reaches the broker only through its owner.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(self._lock.fileno(),),
            )
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHER, "sh", str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        atexit.register(self.kill)

    def _wait_until_it_answers(self, deadline: float) -> None:
        admin = self._admin()
        while time.monotonic() < deadline and self._is_running():
            try:
                # Something else may answer on our port, another broker even.
                if admin.list_topics(timeout=1).cluster_id == self._address.cluster_id:
                    return
                time.sleep(0.05)
            except KafkaException:
                continue
        tail = (self.folder / "broker.log").read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
        state = "did not answer in time" if self._is_running() else "ended while starting"
        raise RetriableError(
            "BROKER_NOT_UP",
            f"The broker of {self.folder} {state}. The end of its log:\n" + "\n".join(tail),
            address=self.bootstrap_servers,
        )

    def _wait_for_topic(self, name: str, *, is_there: bool, timeout: float = 30.0) -> None:
        admin, deadline = self._admin(), time.monotonic() + timeout
        while time.monotonic() < deadline:
            topic = admin.list_topics(timeout=10).topics.get(name)
            known = topic is not None and topic.error is None and all(p.leader >= 0 for p in topic.partitions.values())
            if known == is_there:
                return
            time.sleep(0.05)
        message = f"The broker has not settled topic {name} in {timeout:g} s."
        raise RetriableError("TOPIC_UNSETTLED", message, topic=name)

    def _admin(self) -> AdminClient:
        # The client's own log would fill the screen with refused connections while the broker starts.
        return AdminClient(
            {"bootstrap.servers": self.bootstrap_servers, "log_level": 0, "reconnect.backoff.max.ms": 250}
        )


def _class_path(progress: Callable[[str], None] | None) -> str:
    return os.pathsep.join(str(jar) for jar in jars.resolve(jars.KAFKA_BROKER_JARS, progress, beside_spark=False))


def _free_ports() -> tuple[int, int]:
    """Two ports that nobody listens on; held together, so that they differ."""
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]
