"""Resolves Maven coordinates once into a cache, and hands the jars out as files from then on.

A set of coordinates is one folder of the cache, complete or absent. Spark is then started with files instead of
coordinates, which takes neither a network nor the ten seconds that asking the repositories costs on each start.
The resolving is done by the Ivy that lies among Spark's own jars.

Environment:
    STREAMS_CACHE: the cache's folder; else ``$XDG_CACHE_HOME/streams``, else ``~/.cache/streams``.
    STREAMS_IVY_SETTINGS: an Ivy settings file, for those who use a mirror or a repository of their own.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import quoteattr

from streams.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Progress = Callable[[str], None]

SPARK_JARS: Final = ("io.delta:delta-spark_4.2_2.13:4.4.0", "org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0")
# Hadoop's client of S3 asks for a bundle of all of AWS, 686 MB; these are the parts of it that it needs, 9 MB.
_AWS: Final = ("s3", "s3-transfer-manager", "sts")
S3_JARS: Final = (
    "org.apache.hadoop:hadoop-aws:3.5.0",
    *(f"software.amazon.awssdk:{part}:2.35.4" for part in _AWS),
)
KAFKA_BROKER_JARS: Final = ("org.apache.kafka:kafka_2.13:4.2.0", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4")

_LEFT_OUT = ("bundle",)
_MANIFEST = "manifest.json"
_COORDINATE = re.compile(r"[\w.\-]+:[\w.\-]+:[\w.\-]+")
_DOWNLOADED = re.compile(r"\[SUCCESSFUL ?\] \S+#\S+?;\S+!(\S+\.jar)")
_UNREACHABLE = re.compile(r"Exception|access error|Host .* not found|timed out", re.IGNORECASE)
_UNKNOWN = re.compile(r"#\S+;\S+: not found|configuration not found|checksum|problem occurred", re.IGNORECASE)


@dataclass(frozen=True)
class _Jar:
    """One file of a set, as its manifest describes it."""

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, file: Path) -> _Jar:
        with file.open("rb") as stream:
            return cls(file.name, file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())


def resolve(
    coordinates: Sequence[str], progress: Progress | None = None, *, beside_spark: bool = True
) -> tuple[Path, ...]:
    """Give the jars of some Maven coordinates and of all that they need, sorted by name.

    Args:
        coordinates: ``group:artifact:version`` each.
        progress: is told, in a few words, what is being downloaded; not called when the cache has all.
        beside_spark: leave out what Spark itself brings, whose own version would win on the class path anyway.

    Raises:
        ConfigurationError: ``JAR_COORDINATE``, ``JAVA_MISSING``, ``JARS_UNAVAILABLE`` (no network, or no such jar).
    """
    if bad := [coordinate for coordinate in coordinates if not _COORDINATE.fullmatch(coordinate)]:
        raise ConfigurationError("JAR_COORDINATE", f"{bad[0]!r} is not group:artifact:version.", coordinate=bad[0])
    folder = cache_root() / "jars" / _key(coordinates, beside_spark)
    if (found := _read(folder)) is not None:
        return found
    with _only_process(folder.parent):
        # Another process may have finished the set while this one waited.
        if (found := _read(folder)) is None:
            _fill(folder, coordinates, progress or (lambda _: None), beside_spark)
            found = _read(folder)
    if found is None:
        raise ConfigurationError("JARS_UNAVAILABLE", f"The jar cache {folder} changed while it was written.")
    return found


def compiled(source: Path, beside: Sequence[Path]) -> Path:
    """Compile one Java class into a jar of the cache, once, by the compiler that Spark brings: no JDK is needed.

    Args:
        source: its file, in a folder named like its package.
        beside: the jars that it needs beside Spark's.

    Raises:
        ConfigurationError: ``JAVA_MISSING``, or ``JARS_UNAVAILABLE``: it does not compile with these jars.
    """
    made_of = "\n".join([source.read_text(encoding="utf-8"), version("pyspark"), *(jar.name for jar in beside)])
    jar = cache_root() / "jars" / f"{source.stem}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.jar"
    if not jar.is_file():
        with _only_process(jar.parent):
            if not jar.is_file():
                _compile(source, beside, jar)
    return jar


def cache_root() -> Path:
    """The folder in which everything lies that can be fetched again."""
    if chosen := os.environ.get("STREAMS_CACHE"):
        return Path(chosen)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "streams"


def find_java() -> str:
    """Give the path of a Java that runs.

    Raises:
        ConfigurationError: ``JAVA_MISSING``.
    """
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java and shutil.which(java):
        # On macOS there is a /usr/bin/java that only says that there is none.
        asked = subprocess.run([java, "-version"], capture_output=True, check=False)
        if asked.returncode == 0:
            return java
    where = f"JAVA_HOME is {home}, and no Java runs there." if home else "No Java is installed; Spark needs 17 or 21."
    raise ConfigurationError(
        "JAVA_MISSING",
        where,
        way_out="On Debian or Ubuntu: sudo apt-get install openjdk-17-jre-headless. On macOS: brew install openjdk@17, "
        "then export JAVA_HOME=$(brew --prefix openjdk@17).",
    )


def _key(coordinates: Sequence[str], beside_spark: bool) -> str:
    # What Spark brings is part of what was asked for, so a new Spark makes a new set.
    asked = [*sorted(coordinates), f"beside spark {version('pyspark')}" if beside_spark else "alone"]
    return hashlib.sha256("\n".join(asked).encode()).hexdigest()[:16]


def _read(folder: Path) -> tuple[Path, ...] | None:
    """The set's files; None when it is not there or a file of it is gone or cut short."""
    try:
        entries = [_Jar(**entry) for entry in json.loads((folder / _MANIFEST).read_text())["jars"]]
        files = [folder / entry.name for entry in entries]
        whole = all(file.stat().st_size == entry.size for file, entry in zip(files, entries, strict=True))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    return tuple(files) if whole else None


@contextmanager
def _only_process(root: Path) -> Iterator[None]:
    """Let one process at a time fill the cache; the kernel frees the lock of one that was killed."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fill(folder: Path, coordinates: Sequence[str], progress: Progress, beside_spark: bool) -> None:
    """Resolve into a folder of its own, which takes its name when all of it is there."""
    for left_over in folder.parent.glob("*.partial"):
        shutil.rmtree(left_over, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        progress(f"Resolving {len(coordinates)} packages into {folder.parent}")
        result = draft / "set"
        _run_ivy(_ivy_command(draft, result, coordinates, beside_spark), coordinates, progress)
        jars = [_Jar.of(file) for file in sorted(result.glob("*.jar"))]
        manifest = {"coordinates": list(coordinates), "jars": [vars(jar) for jar in jars]}
        (result / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        result.rename(folder)
        progress(f"{len(jars)} jars, {sum(jar.size for jar in jars) / 1e6:.0f} MB, are in {folder}")
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _ivy_command(draft: Path, result: Path, coordinates: Sequence[str], beside_spark: bool) -> list[str]:
    description = draft / "ivy.xml"
    description.write_text(_ivy_file(coordinates, _spark_modules() if beside_spark else []))
    settings = os.environ.get("STREAMS_IVY_SETTINGS")
    return [
        find_java(),
        # Without these a firewall that drops packets would hang the first start for ever.
        "-Dsun.net.client.defaultConnectTimeout=20000",
        "-Dsun.net.client.defaultReadTimeout=60000",
        *("-cp", str(_ivy_jar()), "org.apache.ivy.Main"),
        *(("-settings", settings) if settings else ()),
        *("-ivy", str(description), "-confs", "default", "-types", "jar", "bundle"),
        *("-cache", str(draft / "cache")),
        *("-retrieve", f"{result}/[organisation]_[artifact]-[revision](-[classifier]).[ext]"),
    ]


def _ivy_file(coordinates: Sequence[str], provided: Sequence[str]) -> str:
    """Ivy's description of a module that needs the coordinates, whatever they need, and not what is provided."""
    needed = "".join(
        f"<dependency org={quoteattr(group)} name={quoteattr(name)} rev={quoteattr(revision)} conf='default->default'/>"
        for group, name, revision in (coordinate.split(":") for coordinate in coordinates)
    )
    excluded = "".join(f"<exclude module={quoteattr(name)}/>" for name in (*_LEFT_OUT, *provided))
    return (
        "<ivy-module version='2.0'><info organisation='streams' module='jars'/>"
        "<configurations><conf name='default'/></configurations>"
        f"<dependencies>{needed}{excluded}</dependencies></ivy-module>"
    )


def spark_jar_folder() -> Path:
    """Where Spark's own jars lie."""
    import pyspark

    return Path(pyspark.__file__).parent / "jars"


def _spark_modules() -> list[str]:
    """The names of the modules that lie in Spark's own folder, without their versions."""
    names = (re.match(r"(.+?)-\d", file.name) for file in spark_jar_folder().glob("*.jar"))
    return sorted({name.group(1) for name in names if name})


def _ivy_jar() -> Path:
    found = sorted(spark_jar_folder().glob("ivy-*.jar"))
    if not found:
        raise ConfigurationError("JARS_UNAVAILABLE", f"There is no Ivy in {spark_jar_folder()}; is pyspark whole?")
    return found[-1]


def _run_ivy(command: list[str], coordinates: Sequence[str], progress: Progress) -> None:
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.strip())
            if match := _DOWNLOADED.search(line):
                progress(f"Downloaded {match.group(1)}")
    if process.returncode:
        raise ConfigurationError(
            "JARS_UNAVAILABLE",
            f"Some of {', '.join(coordinates)} could not be fetched: {_reason(lines)}.",
            way_out="The first start needs a network. Behind a mirror, name its Ivy settings file in "
            "STREAMS_IVY_SETTINGS; behind a proxy, give Java its address in JAVA_TOOL_OPTIONS.",
            coordinates=tuple(coordinates),
        )


def _compile(source: Path, beside: Sequence[Path], jar: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f"{source.stem}.", suffix=".partial", dir=jar.parent) as draft:
        class_path = ":".join([*map(str, spark_jar_folder().glob("*.jar")), *map(str, beside)])
        compiler = ["org.codehaus.commons.compiler.samples.CompilerDemo", "-d", draft, "-classpath", class_path]
        run = [find_java(), "-cp", f"{spark_jar_folder()}/*", *compiler, str(source)]
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        classes = list(Path(draft).rglob("*.class"))
        if done.returncode or not classes:
            said = (done.stderr or done.stdout).strip()
            raise ConfigurationError("JARS_UNAVAILABLE", f"{source.name} does not compile: {said}")
        file = Path(draft) / jar.name
        with zipfile.ZipFile(file, "w") as archive:
            for one in classes:
                archive.write(one, one.relative_to(draft))
        file.rename(jar)


def _reason(lines: Sequence[str]) -> str:
    """What Ivy says went wrong: "not found" is also what it says of a repository that it could not reach."""
    for pattern in (_UNREACHABLE, _UNKNOWN):
        if told := [line.strip(": ") for line in lines if pattern.search(line)]:
            return " | ".join(dict.fromkeys(told[:3]))
    return " | ".join(lines[-3:]) or "Ivy did not say why"
