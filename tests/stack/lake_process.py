"""A process of its own that runs jobs on a lake: something to kill. ``python -m tests.stack.lake_process CONFIG JOB…``"""

from __future__ import annotations

import os
import sys

from streams.jobs import run_job
from streams.settings import load_settings
from streams.supervisor.service import started


def main(config: str, *jobs: str) -> None:
    with started(load_settings(None, config, os.environ)) as service:
        for job in jobs:
            run_job(job, service)


if __name__ == "__main__":
    main(*sys.argv[1:])
