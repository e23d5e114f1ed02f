"""The jar cache, as far as it goes without Java; with Java: tests/stack/test_jars.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams import jars
from streams.errors import ConfigurationError


def test_missing_java_is_a_configuration_error_and_leaves_nothing_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMS_CACHE", str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "no java here"))
    with pytest.raises(ConfigurationError) as caught:
        jars.resolve(("org.example:anything:1.0",))
    assert caught.value.code == "JAVA_MISSING"
    assert "apt-get" in str(caught.value.way_out)
    assert "brew" in str(caught.value.way_out)
    assert [entry.name for entry in (tmp_path / "jars").iterdir()] == ["lock"]


def test_java_that_only_says_that_it_is_missing_counts_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = tmp_path / "bin" / "java"
    stub.parent.mkdir()
    stub.write_text("#!/bin/sh\nexit 1\n")
    stub.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ConfigurationError) as caught:
        jars.find_java()
    assert caught.value.code == "JAVA_MISSING"


@pytest.mark.parametrize("coordinate", ["spark", "a:b", "a:b:c:d", "a:b:", "a:b:1'/>"])
def test_what_is_not_a_coordinate_is_refused(coordinate: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        jars.resolve((coordinate,))
    assert caught.value.code == "JAR_COORDINATE"


def test_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STREAMS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert jars.cache_root() == Path.home() / ".cache" / "streams"
    monkeypatch.setenv("XDG_CACHE_HOME", "/shared")
    assert jars.cache_root() == Path("/shared/streams")
    monkeypatch.setenv("STREAMS_CACHE", "/mine")
    assert jars.cache_root() == Path("/mine")
