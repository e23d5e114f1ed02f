"""What Spark starts as the Python of its workers: this environment's, which imports pyspark from the environment.

Spark puts the archives of its own Python code first on the path. Nothing in them is compiled, so each worker would
compile a hundred modules before it says a word: three times the processor's time, at a start where all sources that
adapters pull begin together and Spark gives each 10 seconds, whatever else the machine does.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Final

_SPARKS_OWN: Final = re.compile(r"(pyspark|py4j-[\w.]+-src)\.zip")


def path() -> str:
    """The program, where the project is installed with its scripts; else this interpreter."""
    program = Path(sys.executable).with_name("streams-worker-python")
    return str(program if program.is_file() else sys.executable)


def main() -> None:
    """Become the interpreter, with the arguments and the environment that Spark gave."""
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = (entry for entry in entries if not _SPARKS_OWN.fullmatch(Path(entry).name))
    os.environ["PYTHONPATH"] = os.pathsep.join(kept)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])  # noqa: S606
