"""Makes starts faster: a small lake that comes and goes, from which Java learns what classes a service loads."""

from __future__ import annotations

import secrets
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml
from pyspark import SparkContext

from streams import class_archive, jars
from streams.errors import ConfigurationError
from streams.jobs import run_job
from streams.local.producer import write_file
from streams.local.replay import plan_replay
from streams.session import DRIVER_OPTIONS, driver_jars
from streams.settings import load_settings
from streams.supervisor.service import started

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.settings import Settings

# Exchange rates from files through contract, lane, Soda, a merge and a gate; no other machine is asked for anything.
_JOBS: Final = ("fx_json_to_bronze", "bronze_to_silver", "dq_silver_gate")
_FILES: Final = 20
_WRITING_SECONDS: Final = 300


def prepare(progress: Callable[[str], None]) -> Path:
    """Fetch the jars, and make the archive of classes for this Java and these packages, where it is not there.

    Args:
        progress: told, for people, of what is being done.

    Raises:
        ConfigurationError: ``JAVA_MISSING``, ``JARS_UNAVAILABLE``, ``ARCHIVE_NOT_MADE``.
    """
    archive = class_archive.place(jars.find_java(), driver_jars(progress))
    if archive.is_file():
        return archive
    progress("Rehearsing a start, for an archive of what Java loads (once; a minute or two)")
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        # Beside the archive, so that it appears whole; and a run that is broken off leaves nothing.
        with tempfile.TemporaryDirectory(dir=archive.parent, ignore_cleanup_errors=True) as folder:
            draft = Path(folder) / archive.name
            _rehearse(Path(folder), draft, progress)
            for old in archive.parent.glob("*.jsa"):
                old.unlink()  # of another Java or other packages; whoever has one open keeps it
            draft.rename(archive)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(
            "ARCHIVE_NOT_MADE",
            f"The archive of classes was not written to {archive.parent}: {error}.",
            way_out="Run it as the owner of the environment, with half a GB free. Only a start's speed depends on it.",
        ) from error
    return archive


def _rehearse(folder: Path, archive: Path, progress: Callable[[str], None]) -> None:
    for file in plan_replay(seed=1, limit=1).files[:_FILES]:
        write_file(file, folder / "landing")
    with started(_settings(folder, archive), progress=progress) as service:
        for job in _JOBS:
            run_job(job, service)
    # Java writes the archive when it ends, which it does when our end of its input is closed.
    gateway = SparkContext._gateway
    assert gateway is not None
    SparkContext._gateway = SparkContext._jvm = None
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait(_WRITING_SECONDS)


def _settings(folder: Path, archive: Path) -> Settings:
    key, file = folder / "hash.key", folder / "rehearsal.yaml"
    key.write_text(secrets.token_hex(32))
    said = {
        "environment": "rehearsal",
        "lake": {"root": str(folder / "lake")},
        "checkpoints": {"root": str(folder / "checkpoints")},
        "dq_results_root": str(folder / "dq_results"),
        "kafka": {"bootstrap_servers": "localhost:1"},  # not asked
        "files": {"fx_rates": str(folder / "landing")},
        "personal": {"hash_key": f"file:{key}"},
        "logging": {"level": "error"},
        "spark": {"conf": {"spark.driver.extraJavaOptions": f"{DRIVER_OPTIONS} {class_archive.making(archive)}"}},
    }
    file.write_text(yaml.safe_dump(said))
    return load_settings(None, str(file), {})
