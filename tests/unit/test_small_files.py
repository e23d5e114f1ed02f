"""Small files on a disk and in S3: no change is lost, however many make them at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil
import pytest

from streams.errors import ConfigurationError, UnavailableError
from streams.local.s3_server import S3Server
from streams.small_files import LocalFiles, S3Files, SmallFiles, require_conditions, small_files
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUCKET = "checkpoints"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture(params=["disk", "s3"])
def files(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallFiles:
    if request.param == "disk":
        return small_files(str(tmp_path))
    server: S3Server = request.getfixturevalue("s3")
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    return small_files(f"s3a://{BUCKET}/{tmp_path.name}/")


def environment(server: S3Server) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_DEFAULT_REGION": server.region,
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
    }


def test_a_change_names_what_it_has_seen(files: SmallFiles) -> None:
    assert files.read("a/b.json") is None
    assert files.write("a/b.json", "one", None)
    assert not files.write("a/b.json", "other", None), "there is one by now"
    first = files.read("a/b.json")
    assert first is not None
    assert first.text == "one"
    assert files.write("a/b.json", "twö", first.tag)
    assert not files.write("a/b.json", "three", first.tag), "another change came before"
    assert not files.write("a/none.json", "x", first.tag), "it is gone"
    second = files.read("a/b.json")
    assert second is not None
    assert second.text == "twö"


def test_of_many_changes_at_once_none_is_lost(files: SmallFiles) -> None:
    def count(_: int) -> None:
        while True:
            file = files.read("count")
            if files.write("count", str(int(file.text if file else "0") + 1), file.tag if file else None):
                return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(40)))
    last = files.read("count")
    assert last is not None
    assert last.text == "40"


def test_who_is_stopped_within_a_change_keeps_nobody_out_and_overwrites_nothing(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    assert files.write("a.json", "old", None)
    change = (
        "import pathlib, sys; from streams.small_files import LocalFiles;"
        "files = LocalFiles(pathlib.Path(sys.argv[1]));"
        "sys.exit(7 if files.write('a.json', 'late', files.read('a.json').tag) is False else 0)"
    )
    stopped = subprocess.Popen(
        [sys.executable, "-c", change, str(tmp_path)],
        env=os.environ | {"STREAMS_FAILPOINT": "a.json:draft_written:1:stop"},
    )
    with ThreadPoolExecutor(1) as pool:
        try:
            wait_until(lambda: psutil.Process(stopped.pid).status() == psutil.STATUS_STOPPED, stopped)
            old = files.read("a.json")
            assert old is not None
            assert pool.submit(files.write, "a.json", "new", old.tag).result(20)
            stopped.send_signal(signal.SIGCONT)
            assert stopped.wait(20) == 7, "it is refused"
        finally:
            stopped.kill()
            stopped.wait()
    new = files.read("a.json")
    assert new is not None
    assert new.text == "new"
    assert {one.name for one in tmp_path.iterdir()} == {"a.json", ".a.json.change"}


def test_a_storage_that_is_not_there_is_told_from_one_that_is_away(
    monkeypatch: pytest.MonkeyPatch, s3: S3Server
) -> None:
    for name, value in environment(s3).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match="NoSuchBucket"):
        S3Files("no-such-bucket-here", "x").read("a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for ask in (lambda files: files.read("a"), lambda files: files.write("a", "b", None)):
        with pytest.raises(UnavailableError):
            ask(S3Files("bucket", "x"))


def test_a_disk_that_fails_is_away(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    files = LocalFiles(tmp_path / "file")
    for ask in (lambda: files.read("a"), lambda: files.write("a", "b", None)):
        with pytest.raises(UnavailableError, match="STORAGE_AWAY"):
            ask()


def test_a_storage_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        small_files("gs://bucket/checkpoints")
    assert caught.value.code == "STORAGE_UNKNOWN"


def test_a_storage_that_takes_no_notice_of_conditions_is_refused(files: SmallFiles, tmp_path: Path) -> None:
    for _ in range(2):
        require_conditions(files, "here")

    class Heedless(LocalFiles):
        def write(self, name: str, text: str, tag: str | None) -> bool:
            now = self.read(name)
            return super().write(name, text, now and now.tag)

    for _ in range(2):
        with pytest.raises(ConfigurationError) as caught:
            require_conditions(Heedless(tmp_path / "heedless"), "here")
        assert caught.value.code == "CONDITIONS_IGNORED"
