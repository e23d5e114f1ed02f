"""Small files beside the tables: whole, whenever they are read."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from py4j.protocol import Py4JJavaError

from streams.storage import Storage

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession


def test_a_reader_sees_the_old_text_or_the_new_one(spark: SparkSession, tmp_path: Path) -> None:
    storage, path = Storage(spark), str(tmp_path / "a" / "state.json")
    texts = [letter * 100_000 for letter in "ab"]
    storage.write(path, texts[0])
    is_over, seen = threading.Event(), set()

    def read() -> None:
        while not is_over.is_set():
            seen.add(storage.read(path))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(100):
        storage.write(path, texts[number % 2])
    is_over.set()
    reader.join()
    assert seen <= set(texts)
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["state.json"]


def test_of_many_who_put_a_file_there_at_once_one_does(spark: SparkSession, tmp_path: Path) -> None:
    """As writers of one version of a Delta table, or two services at one checkpoint, do."""
    jvm = spark._jvm
    assert jvm is not None
    hadoop = jvm.org.apache.hadoop.fs
    files = hadoop.FileContext.getFileContext(jvm.java.net.URI("file:///"), spark._jsc.hadoopConfiguration())
    options = spark.sparkContext._gateway.new_array(hadoop.Options.Rename, 0)

    def put(number: int, name: str) -> str:
        draft = tmp_path / f"{name}-{number}"
        draft.write_text(str(number))
        barrier.wait()
        try:
            files.rename(hadoop.Path(str(draft)), hadoop.Path(str(tmp_path / name)), options)
        except Py4JJavaError as error:
            return str(error.java_exception.getClass().getSimpleName())
        return "done"

    writers = 8
    barrier = threading.Barrier(writers)
    with ThreadPoolExecutor(writers) as pool:
        for version in range(60):
            done = list(pool.map(partial(put, name=f"version-{version}"), range(writers)))
            assert sorted(done) == ["FileAlreadyExistsException"] * (writers - 1) + ["done"], version
            assert (tmp_path / f"version-{version}").read_text() == str(done.index("done"))


def test_a_file_with_checksums_is_replaced(spark: SparkSession, tmp_path: Path) -> None:
    storage, path = Storage(spark), str(tmp_path / "state.json")
    target, system = storage._open(path)
    stream = system.create(target, True)  # as Spark writes, with a second file
    stream.write(b"old")
    stream.close()
    assert (tmp_path / ".state.json.crc").exists()
    storage.write(path, "new")
    assert storage.read(path) == "new"
