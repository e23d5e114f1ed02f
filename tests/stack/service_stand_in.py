"""In place of the service, for Airflow's tests: does what ``plan.json`` says, try by try, and writes down when.

Is put into a folder as ``streams/__main__.py``, so that Airflow calls it as it calls the service.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

JOB = sys.argv[sys.argv.index("--job") + 1]
COUNTS = {"rows_read": 5, "rows_written": 3, "rows_duplicate": 1, "rows_stale": 0, "rows_error": 1}


def main() -> int:
    """Play the part that is next in the job's plan; without a plan, do well."""
    tries = sum(1 for line in note("started") if (line["job"], line["event"]) == (JOB, "started"))
    parts = json.loads(Path("plan.json").read_text()).get(JOB, [])
    code = PARTS[parts[tries - 1] if tries <= len(parts) else "done"]()
    note("ended", code=code)
    return code


def done() -> int:
    """Rows of a flow; for a gate, its checks."""
    tell(f"{JOB} at work")
    if JOB.startswith("dq_"):
        return show([{"table": "silver.orders", "check": "row_count > 0", "outcome": "pass", "value": 3}])
    return show([{"flow": f"flow.{JOB}", "batches": 1} | COUNTS])


def failing() -> int:
    """As a flow that fails."""
    tell("error The topic is away. KAFKA_UNAVAILABLE")
    return 1


def not_configured() -> int:
    """As a job without a source."""
    tell(f"error {JOB} needs more. JOB_NOT_CONFIGURED")
    tell("      Add it.")
    return 2


def misconfigured() -> int:
    """As any other wrong configuration."""
    tell("error There is no such file. SETTINGS_FILE_MISSING")
    return 2


def checks_failing() -> int:
    """As a gate that does not pass."""
    show([{"table": "silver.orders", "check": "row_count > 0", "outcome": "fail", "value": 0}])
    return 1


def waiting() -> int:
    """As a long batch: ends a second after SIGTERM, as the service does."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    note("waiting", pid=os.getpid(), task=os.getppid())
    signal.sigwait({signal.SIGTERM})
    note("told")
    time.sleep(1)
    tell(f"error {JOB} was asked to stop. JOB_INTERRUPTED")
    return 1


PARTS = {
    "done": done,
    "failing": failing,
    "not configured": not_configured,
    "misconfigured": misconfigured,
    "checks failing": checks_failing,
    "waiting": waiting,
}


def tell(line: str) -> None:
    """A line for people; when the task was killed, nobody reads it any more."""
    with suppress(BrokenPipeError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def show(rows: list[dict[str, Any]]) -> int:
    """The result, as `--json` has it."""
    sys.stdout.write(json.dumps(rows, indent=2))
    return 0


def note(event: str, **facts: Any) -> list[dict[str, Any]]:
    """Write down what happened; give all that did so far."""
    file = Path("events.jsonl")
    with file.open("a") as events:
        events.write(json.dumps({"job": JOB, "event": event, "at": time.time()} | facts) + "\n")
    return [json.loads(line) for line in file.read_text().splitlines()]


if __name__ == "__main__":
    sys.exit(main())
