"""The jar cache with the real Ivy, against a repository of our own in a folder: no network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from streams import jars
from streams.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

_SETTINGS = """<ivysettings><settings defaultResolver="folder"/><resolvers>
<ibiblio name="folder" m2compatible="true" root="{root}"/></resolvers></ivysettings>"""

_POM = """<project><modelVersion>4.0.0</modelVersion><groupId>{group}</groupId><artifactId>{name}</artifactId>
<version>1.0</version><dependencies>{needs}</dependencies></project>"""

_NEED = "<dependency><groupId>{0}</groupId><artifactId>{1}</artifactId><version>1.0</version></dependency>"

_RESOLVE = "from streams import jars; print(*jars.resolve(('org.example:top:1.0',)), sep='\\n')"


@dataclass(frozen=True)
class Repository:
    """``org.example:top`` needs ``org.example:base`` and a Scala library, which Spark brings too."""

    root: Path

    def publish(self, group: str, name: str, *needs: tuple[str, str]) -> None:
        folder = self.root / group.replace(".", "/") / name / "1.0"
        folder.mkdir(parents=True)
        pom = _POM.format(group=group, name=name, needs="".join(_NEED.format(*need) for need in needs))
        (folder / f"{name}-1.0.pom").write_text(pom)
        with zipfile.ZipFile(folder / f"{name}-1.0.jar", "w") as jar:
            jar.writestr("name.txt", name * 100)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    made = Repository(tmp_path / "repository")
    made.publish("org.example", "top", ("org.example", "base"), ("org.scala-lang", "scala-library"))
    made.publish("org.example", "base")
    made.publish("org.scala-lang", "scala-library")
    settings = tmp_path / "settings.xml"
    settings.write_text(_SETTINGS.format(root=made.root.as_uri()))
    monkeypatch.setenv("STREAMS_IVY_SETTINGS", str(settings))
    monkeypatch.setenv("STREAMS_CACHE", str(tmp_path / "cache"))
    return made


def _top() -> list[str]:
    return [file.name for file in jars.resolve(("org.example:top:1.0",))]


@pytest.mark.usefixtures("repository")
def test_what_is_needed_comes_along_and_what_spark_brings_does_not() -> None:
    assert _top() == ["org.example_base-1.0.jar", "org.example_top-1.0.jar"]
    alone = jars.resolve(("org.example:top:1.0",), beside_spark=False)
    assert "org.scala-lang_scala-library-1.0.jar" in [file.name for file in alone]


def test_second_time_needs_neither_java_nor_repository(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    first = jars.resolve(("org.example:top:1.0",), told.append)
    assert any("top.jar" in line for line in told)
    shutil.rmtree(repository.root)
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    told.clear()
    assert jars.resolve(("org.example:top:1.0",), told.append) == first
    assert told == []


@pytest.mark.usefixtures("repository")
def test_jar_cut_short_is_fetched_again() -> None:
    jar = jars.resolve(("org.example:top:1.0",))[0]
    whole = jar.read_bytes()
    jar.write_bytes(whole[:10])
    assert jars.resolve(("org.example:top:1.0",))[0].read_bytes() == whole


def test_what_cannot_be_had_is_an_error_and_leaves_no_set(repository: Repository, tmp_path: Path) -> None:
    shutil.rmtree(repository.root / "org" / "example" / "base")
    with pytest.raises(ConfigurationError) as caught:
        _top()
    assert caught.value.code == "JARS_UNAVAILABLE"
    assert "org.example#base" in caught.value.message
    assert [entry.name for entry in (tmp_path / "cache" / "jars").iterdir()] == ["lock"]


def test_a_bundle_of_all_of_aws_is_not_fetched(repository: Repository) -> None:
    repository.publish("org.example", "client", ("software.amazon.awssdk", "bundle"), ("org.example", "base"))
    found = [file.name for file in jars.resolve(("org.example:client:1.0",))]
    assert found == ["org.example_base-1.0.jar", "org.example_client-1.0.jar"]


def test_a_class_is_compiled_once_by_what_spark_brings(
    tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = jars.resolve(("org.example:top:1.0",))
    source = tmp_path / "example" / "Answer.java"
    source.parent.mkdir()
    source.write_text(
        "package example; public class Answer { "
        "public static void main(String[] all) { System.out.println(new org.apache.hadoop.fs.Path(all[0]).getName()); } }"
    )
    jar = jars.compiled(source, needed)
    class_path = f"{jar}:{jars.spark_jar_folder()}/*"
    said = subprocess.run(
        ["java", "-cp", class_path, "example.Answer", "/a/b"], capture_output=True, text=True, check=True
    )
    assert said.stdout == "b\n"
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    assert jars.compiled(source, needed) == jar
    monkeypatch.delenv("JAVA_HOME")
    source.write_text("package example; public class Answer { int nothing = none; }")
    with pytest.raises(ConfigurationError, match="none") as caught:
        jars.compiled(source, needed)
    assert caught.value.code == "JARS_UNAVAILABLE"
    assert list(jar.parent.glob("Answer*")) == [jar]


@pytest.mark.usefixtures("repository")
def test_two_processes_at_once_get_the_same_files() -> None:
    both = [
        subprocess.Popen([sys.executable, "-c", _RESOLVE], stdout=subprocess.PIPE, text=True, env=os.environ)
        for _ in range(2)
    ]
    first, second = (process.communicate(timeout=180)[0].split() for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert first == second
    assert len(first) == 2


@pytest.mark.usefixtures("repository")
def test_process_killed_while_resolving_leaves_no_half_set(tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", _RESOLVE], stdout=subprocess.DEVNULL, env=os.environ)
    cache, deadline = tmp_path / "cache" / "jars", time.monotonic() + 120
    while not list(cache.glob("*.partial")):
        assert time.monotonic() < deadline
        assert killed.poll() is None
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not list(cache.glob("*/manifest.json"))
    assert _top() == ["org.example_base-1.0.jar", "org.example_top-1.0.jar"]
