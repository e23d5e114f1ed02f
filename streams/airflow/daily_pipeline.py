"""The daily run as an Airflow 3 DAG: each task is one job, run by the service's own command in its own environment.

This file needs Airflow and nothing else; it may be copied into a folder of DAGs.

Airflow Variables, all optional (in the environment: ``AIRFLOW_VAR_STREAMS_HOME`` and so on):
    streams_home: the service's folder, in which its command is run; ``/opt/lakehouse-streams``.
    streams_python: the Python of its environment; ``.venv/bin/python`` there.
    streams_env: which configuration, ``checkpoints_config/ENV.yaml``; ``prod``.
    streams_config: a configuration file in its place: a path or ``s3://bucket/key``.

How a task ends, by the command's exit code:
    0: success. XCom has the rows by flow (``rows_read``, ``rows_written``, ``rows_duplicate``, ``rows_stale``,
       ``rows_error``), or, of a gate, the number of checks by outcome.
    1: a flow failed: tried again. A gate's check failed: the task fails at once, for the tables would be judged as
       before; clear it when they are mended.
    2: the call or the configuration is wrong: fails at once. Only what is not configured at all
       (``JOB_NOT_CONFIGURED``) is skipped, and what comes after it runs.
    killed: tried again, once what is left of the killed try has ended.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

DAG_ID: Final = "lakehouse_daily"
_TO_BRONZE: Final = (
    "snowflake_to_bronze",
    "crm_to_bronze",
    "redshift_to_bronze",
    "fx_json_to_bronze",
    "kafka_csv_to_bronze",
)
# Each job, and those that must have done well before it; a test holds it against the service's own.
AFTER: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(_TO_BRONZE, ()),
    "bronze_to_silver": _TO_BRONZE,
    "dq_silver_gate": ("bronze_to_silver",),
    "silver_to_gold": ("dq_silver_gate",),
    "dq_gold_gate": ("silver_to_gold",),
    "publish_gold_to_redshift": ("dq_gold_gate",),
    "publish_gold_to_snowflake": ("dq_gold_gate",),
}
ABOUT: Final = """
Brings the lakehouse up to date: five sources into bronze, bronze into silver, a gate, silver into gold, a gate, and
gold into Redshift and Snowflake. Each task is `streams run --job NAME` in the service's own environment.

**Retries and back-fills are safe.** A flow's checkpoint says what comes next, not the date of the run: a task that runs
again goes on where the tables are, and writes nothing twice. So one run catches up however many days were missed, and a
back-fill of a past day does what today's run would do. To make a table anew there is `streams reset`.

**Failed?** A gate names its checks in its log and is not tried again: mend the data, then clear the gate. A wrong
configuration is not tried again either. Everything else was tried three times, with growing pauses.

**Skipped?** The configuration says nothing of that source or target. What comes after it runs without it.
"""
_COUNTED: Final = ("rows_read", "rows_written", "rows_duplicate", "rows_stale", "rows_error")
_ERROR: Final = re.compile(r"error (?P<message>.*) (?P<code>[A-Z][A-Z0-9_]+)")  # the command's last words
_SET_PARENT_DEATH_SIGNAL: Final = 1  # prctl(2)


@dataclass(frozen=True)
class Ended:
    """How the command ended.

    Args:
        exit_code: below zero when it was killed by a signal.
        rows: the JSON that it printed: a row a flow, or a row a check.
        error: its error's sentence and code, if it ended with one.
    """

    exit_code: int
    rows: tuple[dict[str, Any], ...]
    error: tuple[str, str] | None

    @property
    def failed_checks(self) -> list[str]:
        """The checks of a gate that failed or could not be evaluated."""
        return [f"{row['table']}: {row['check']}" for row in self.rows if row.get("outcome") in ("fail", "error")]

    def summary(self) -> dict[str, Any]:
        """For XCom: the rows by flow; of a gate, the checks by outcome."""
        if any("check" in row for row in self.rows):
            return dict(Counter(row["outcome"] for row in self.rows))
        return {row["flow"]: {name: row[name] for name in _COUNTED} for row in self.rows}


class JobProcess:
    """One run of the service's command, which never outlives a killed task unnoticed.

    Airflow signals a task's whole process group and kills it five seconds later, which is less than a batch may
    take. So the command has a session of its own, and gets its signals from here: SIGTERM lets its batches end,
    and the kernel sends another when the task is killed, which interrupts them. Until it has ended it holds its
    job's lock, for which the next try waits: the same flow never runs twice on this machine.

    Args:
        job: whose lock to hold.
        say: gets each line for people.
        locks: the folder of the locks.
    """

    def __init__(self, job: str, say: Callable[[str], None], locks: Path) -> None:
        self._job = job
        self._say = say
        self._locks = locks
        self._process: subprocess.Popen[str] | None = None
        self.is_stopping = False

    def run(self, command: Sequence[str], home: str, environment: Mapping[str, str]) -> Ended:
        """Run the command to its end, its standard error line by line to `say`.

        Raises:
            OSError: there is no such command or folder.
        """
        # Standard output is the result, which comes at the end; in a file it needs no second reader.
        with self._turn() as lock, tempfile.TemporaryFile("w+") as output:
            if self.is_stopping:
                return Ended(-signal.SIGTERM, (), None)
            error = None
            with self._started(command, home, environment, output.fileno(), lock) as lines:
                for line in lines:
                    self._say(line)
                    if told := _ERROR.fullmatch(line):
                        error = told["message"], told["code"]
            assert self._process is not None
            output.seek(0)
            return Ended(self._process.returncode, self._result(output.read()), error)

    def stop(self) -> None:
        """Let the command's batches end; `run` returns when they have."""
        self.is_stopping = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    @contextmanager
    def _turn(self) -> Iterator[int]:
        """Hold the job's lock; who inherits it holds it too, until both have ended."""
        self._locks.mkdir(parents=True, exist_ok=True)
        with (self._locks / f"{self._job}.lock").open("w") as lock:
            is_told = False
            while not self.is_stopping:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not is_told:
                        self._say(f"An earlier try of {self._job} has not ended yet; waiting for it.")
                    is_told = True
                    time.sleep(0.5)
            yield lock.fileno()

    @contextmanager
    def _started(
        self, command: Sequence[str], home: str, environment: Mapping[str, str], output: int, lock: int
    ) -> Iterator[Iterator[str]]:
        """The lines of a process that has ended afterwards, come what may."""
        self._process = subprocess.Popen(
            command,
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=(lock,),
            preexec_fn=_ending_with_parent(),  # noqa: PLW1509 - Linux has no other way to say so
        )
        with self._process as process:
            assert process.stderr is not None
            lines = (line.rstrip("\n") for line in process.stderr)
            try:
                yield lines
            except BaseException:  # such as Airflow's timeout
                self.stop()
                for line in process.stderr:
                    self._say(line.rstrip("\n"))
                raise

    def _result(self, printed: str) -> tuple[dict[str, Any], ...]:
        try:
            rows = tuple(json.loads(printed))
        except ValueError:  # it failed before it had any
            rows = ()
        for line in map(json.dumps, rows) if rows else printed.splitlines():
            self._say(line)
        return rows


def _ending_with_parent() -> Callable[[], None] | None:
    """What a child calls first, so that it gets SIGTERM when its parent is killed. Only Linux can do that."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def call() -> None:
        prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it was killed just before
            os.kill(os.getpid(), signal.SIGTERM)

    return call


def _service_environment() -> dict[str, str]:
    """This environment without Airflow's own settings, secrets and paths."""
    own = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if "AIRFLOW" not in name and name not in own}


# The service's own environment has no Airflow; it reads only what is above.
if find_spec("airflow") is not None:
    from airflow.sdk import DAG, BaseOperator
    from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

    class StreamsJob(BaseOperator):  # type: ignore[misc]
        """One job of the service; the task's name is the job's."""

        template_fields = ("home", "python", "environment", "config")
        ui_color = "#dceefb"

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.home = "{{ var.value.get('streams_home', '/opt/lakehouse-streams') }}"
            self.python = "{{ var.value.get('streams_python', '') }}"
            self.environment = "{{ var.value.get('streams_env', 'prod') }}"
            self.config = "{{ var.value.get('streams_config', '') }}"
            self._process: JobProcess | None = None

        def execute(self, context: Any) -> dict[str, Any]:
            """Run the job; give the rows by flow."""
            locks = Path(os.environ.get("AIRFLOW_HOME") or Path.home() / "airflow") / "streams"
            self._process = JobProcess(self.task_id, lambda line: self.log.info("%s", line), locks)
            try:
                ended = self._process.run(self._command(context["run_id"]), self.home, _service_environment())
            except OSError as error:
                raise AirflowFailException(f"{error}: are streams_home and streams_python right?") from error
            self._raise_if_failed(ended)
            return ended.summary()

        def on_kill(self) -> None:
            """Let the command's batches end; Airflow calls this on SIGTERM, while `execute` goes on."""
            if self._process is not None:
                self._process.stop()

        def _command(self, run_id: str) -> list[str]:
            # Not resolved: an environment's Python is a link out of it.
            python = self.python or str(Path(self.home) / ".venv" / "bin" / "python")
            configuration = ("--config", self.config) if self.config else ()
            return [
                *(python, "-m", "streams", "run", "--job", self.task_id),
                *("--env", self.environment, *configuration, "--json"),
                # A worker that restarts elsewhere finds the run that its predecessor began, and waits for it.
                *("--run-key", f"{DAG_ID}/{run_id}/{self.task_id}"),
            ]

        def _raise_if_failed(self, ended: Ended) -> None:
            message, code = ended.error or (f"The command ended with {ended.exit_code}.", "")
            why = f"{message} {code}".strip()
            if code == "JOB_NOT_CONFIGURED":
                raise AirflowSkipException(message)
            if ended.exit_code == 2:
                raise AirflowFailException(why)
            if ended.failed_checks:
                raise AirflowFailException(f"Failed checks: {'; '.join(ended.failed_checks)}")
            if ended.exit_code != 0:
                raise AirflowException(why)

    with DAG(
        DAG_ID,
        description="Sources to bronze, silver, gold, and the warehouses.",
        doc_md=ABOUT,
        schedule="@daily",
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        # How long the first pause is says Airflow's own default_task_retry_delay.
        default_args={"retries": 2, "retry_exponential_backoff": 2, "trigger_rule": "none_failed"},
        tags=["lakehouse", "streams"],
    ) as dag:
        tasks = {job: StreamsJob(task_id=job) for job in AFTER}
        for job, before in AFTER.items():
            tasks[job].set_upstream([tasks[name] for name in before])
