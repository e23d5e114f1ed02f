"""A real Airflow in an environment of its own: API server, scheduler and local executor, on loopback."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import requests

from streams.airflow.daily_pipeline import DAG_ID
from streams.jars import cache_root
from streams.settings import PROJECT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

LOCK = PROJECT / "streams" / "airflow" / "requirements.lock"


def installed() -> Path:
    """The folder of the commands of an environment made from the lock; made once, and kept in the cache."""
    key = hashlib.sha256(f"{sys.version}\n{LOCK.read_text()}".encode()).hexdigest()[:16]
    place = cache_root() / "airflow" / key
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "ready").exists():
            shutil.rmtree(place, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
            pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, "--require-hashes", "-r", str(LOCK)], check=True)
            (place / "ready").touch()
    return place / "bin"


def free_port() -> int:
    """A port of loopback that nothing listens at."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
        return port


@dataclass
class Airflow:
    """An Airflow whose only DAG is the daily one.

    Args:
        home: its folder; nothing outside of it is written.
        variables: Airflow Variables, given by the environment.
    """

    home: Path
    variables: Mapping[str, str]
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self._bin = installed()
        (self.home / "dags").mkdir(parents=True)
        shutil.copy(PROJECT / "streams" / "airflow" / "daily_pipeline.py", self.home / "dags")
        self._environment = self._settings()
        self.command("db", "migrate")

    def command(self, *arguments: str, seconds: float = 300) -> str:
        """What one command prints, on both channels."""
        ended = subprocess.run(
            [str(self._bin / "airflow"), *arguments],
            cwd=self.home,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout[-4000:]
        return ended.stdout

    @contextmanager
    def running(self) -> Iterator[None]:
        """With API server and scheduler. They are asked to end, and killed if they don't."""
        self.command("dags", "reserialize")
        with ExitStack() as stack:
            server = stack.enter_context(self._process("api-server"))
            stack.enter_context(self._process("scheduler", "--skip-serve-logs"))
            wait_until(self._answers, server)
            token = requests.get(f"{self._url}/auth/token", timeout=10).json()["access_token"]
            self._login = {"Authorization": f"Bearer {token}"}
            yield

    def unpause(self) -> None:
        """Let the schedule run the DAG."""
        self._ask("PATCH", f"dags/{DAG_ID}", json={"is_paused": False})

    def trigger(self, name: str) -> str:
        """Run the DAG now; give the run's id."""
        self._ask("POST", f"dags/{DAG_ID}/dagRuns", json={"logical_date": None, "dag_run_id": name})
        return name

    def runs(self) -> dict[str, str]:
        """The state of each run."""
        found = self._ask("GET", f"dags/{DAG_ID}/dagRuns")["dag_runs"]
        return {run["dag_run_id"]: run["state"] for run in found}

    def tasks(self, run: str) -> dict[str, dict[str, Any]]:
        """The tasks of a run, by name."""
        found = self._ask("GET", f"dags/{DAG_ID}/dagRuns/{run}/taskInstances")["task_instances"]
        return {task["task_id"]: task for task in found}

    def outcomes(self, run: str) -> dict[str, tuple[str, int]]:
        """How each task of a run ended, and at which try."""
        return {name: (task["state"], task["try_number"]) for name, task in self.tasks(run).items()}

    def xcom(self, run: str, task: str) -> Any:
        """What a task gave."""
        where = f"dags/{DAG_ID}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value"
        return self._ask("GET", where)["value"]

    def log(self, run: str, task: str, attempt: int = 1) -> list[str]:
        """The lines of one try, an exception's text behind its line."""
        found = self._ask("GET", f"dags/{DAG_ID}/dagRuns/{run}/taskInstances/{task}/logs/{attempt}")
        lines = [line for line in found["content"] if isinstance(line, dict)]
        return [" ".join([line["event"], *(e["exc_value"] for e in line.get("error_detail") or ())]) for line in lines]

    def import_errors(self) -> list[Any]:
        """What was wrong with the files of DAGs."""
        found: list[Any] = self._ask("GET", "importErrors")["import_errors"]
        return found

    def upstream(self) -> dict[str, set[str]]:
        """Each task, and those before it, as Airflow has them."""
        tasks = self._ask("GET", f"dags/{DAG_ID}/tasks")["tasks"]
        return {
            task["task_id"]: {other["task_id"] for other in tasks if task["task_id"] in other["downstream_task_ids"]}
            for task in tasks
        }

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        headers = self._login | {"Accept": "application/json"}
        answer = requests.request(method, f"{self._url}/api/v2/{path}", headers=headers, timeout=30, **options)
        assert answer.ok, answer.text
        return answer.json()

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self._url}/api/v2/version", timeout=5).ok
        except requests.ConnectionError:
            return False

    def _settings(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "JAVA_HOME") if name in os.environ}
        said = {
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__PARALLELISM": "8",
            "CORE__DEFAULT_TASK_RETRY_DELAY": "1",
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "CORE__EXECUTION_API_SERVER_URL": f"{self._url}/execution/",
            "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home}/airflow.db",
            "API__HOST": "127.0.0.1",
            "API__PORT": str(self.port),
            "API__WORKERS": "1",
            "API__SECRET_KEY": secrets.token_hex(32),
            "API_AUTH__JWT_SECRET": secrets.token_hex(32),
        }
        return (
            inherited
            | {"AIRFLOW_HOME": str(self.home)}
            | {f"AIRFLOW__{name}": value for name, value in said.items()}
            | {f"AIRFLOW_VAR_{name.upper()}": value for name, value in self.variables.items()}
        )

    @contextmanager
    def _process(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        with (self.home / f"{arguments[0]}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(self._bin / "airflow"), *arguments],
                cwd=self.home,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
