"""Which archive of classes belongs to which Java and which jars."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

import pytest

from streams import class_archive

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def jar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(class_archive, "FOLDER", tmp_path / "an environment")
    jar = tmp_path / "some.jar"
    jar.write_bytes(b"classes")
    return jar


def java(folder: Path, release: str) -> str:
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.touch()
    (folder / "release").write_text(release)
    return str(program)


def test_each_java_and_class_path_has_its_own(jar: Path, tmp_path: Path) -> None:
    one = java(tmp_path / "one", 'JAVA_VERSION="17.0.1"')
    first = class_archive.place(one, [jar])
    assert class_archive.place(one, [jar]) == first
    assert class_archive.place(java(tmp_path / "other", 'JAVA_VERSION="17.0.1"'), [jar]) != first
    assert class_archive.place(one, []) != first
    java(tmp_path / "one", 'JAVA_VERSION="17.0.10"')  # updated where it was
    assert class_archive.place(one, [jar]) != first


def test_a_jar_that_was_fetched_again_makes_another(jar: Path, tmp_path: Path) -> None:
    program = java(tmp_path / "java", "")
    first = class_archive.place(program, [jar])
    os.utime(jar, (1, 1))  # Java refuses an archive when a jar's time is another
    assert class_archive.place(program, [jar]) != first


def test_it_is_named_only_when_it_is_there(jar: Path, tmp_path: Path) -> None:
    program = java(tmp_path / "java", "")
    assert class_archive.options(program, [jar]) == ""
    archive = class_archive.place(program, [jar])
    archive.parent.mkdir()
    archive.touch()
    assert shlex.split(class_archive.options(program, [jar]))[0] == f"-XX:SharedArchiveFile={archive}"
