"""The DAG's order is the jobs' own, and reading it takes neither Airflow nor the service's packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from streams.airflow.daily_pipeline import AFTER
from streams.jobs import JOB_MAP

ROOT = Path(__file__).parents[2]


def test_the_dag_has_the_order_of_the_jobs() -> None:
    assert {job.name: job.after for job in JOB_MAP.values()} == AFTER
    assert list(JOB_MAP) == list(AFTER)


def test_it_is_imported_with_the_standard_library_alone() -> None:
    # Isolated and without site-packages: only what Python brings, and this project's folder.
    code = f"import sys; sys.path.append({str(ROOT)!r}); from streams.airflow.daily_pipeline import AFTER; print(len(AFTER))"
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.stdout.strip(), ended.stderr) == ("11", "")
