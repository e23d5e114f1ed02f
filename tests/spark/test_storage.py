"""Small files beside the tables: whole, whenever they are read."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

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


def test_a_file_with_checksums_is_replaced(spark: SparkSession, tmp_path: Path) -> None:
    storage, path = Storage(spark), str(tmp_path / "state.json")
    target, system = storage._open(path)
    stream = system.create(target, True)  # as Spark writes, with a second file
    stream.write(b"old")
    stream.close()
    assert (tmp_path / ".state.json.crc").exists()
    storage.write(path, "new")
    assert storage.read(path) == "new"
