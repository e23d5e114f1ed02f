"""Where the archive of Java classes lies that makes a start faster (`streams prepare` makes it).

A start loads some 15,000 classes of Spark and Delta: finds them in jars, reads and verifies them. Java maps them from
an archive instead (application class-data sharing). An archive is of one Java and one class path: with others Java
takes no notice of it, and loads from the jars.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from streams.jars import spark_jar_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

# In the environment, with whose packages it goes.
FOLDER: Final = Path(sys.prefix) / "share" / "streams"
_QUIET: Final = "-Xlog:cds=off -Xlog:cds+dynamic=off"  # what does not fit is not used, and nothing else is wrong


def place(java: str, jars: Sequence[Path]) -> Path:
    """The archive's file, there or not, for a Java and the jars that stand before Spark's own on its class path."""
    said = Path(java).resolve().parents[1] / "release"  # which version it is, where its maker says so
    files = [said, *sorted(spark_jar_folder().glob("*.jar")), *jars]
    found = [(file, file.stat()) for file in files if file.is_file()]
    made_of = "\n".join([java, *(f"{file} {stat.st_size} {stat.st_mtime:.0f}" for file, stat in found)])
    return FOLDER / f"{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.jsa"


def options(java: str, jars: Sequence[Path]) -> str:
    """What has Java use the archive: empty where there is none."""
    archive = place(java, jars)
    return f'"-XX:SharedArchiveFile={archive}" {_QUIET}' if archive.is_file() else ""


def making(archive: Path) -> str:
    """What has Java write the archive when it ends; such a run is short, so Java's first compiler is enough for it."""
    return f'"-XX:ArchiveClassesAtExit={archive}" {_QUIET} -XX:TieredStopAtLevel=1'
