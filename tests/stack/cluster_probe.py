"""A driver that says what its executors see and what its pages show. ``python -m tests.stack.cluster_probe CONFIG``"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psutil
import pyarrow as pa
import requests
from py4j.protocol import Py4JJavaError

from streams.settings import load_settings
from streams.storage import Storage
from streams.supervisor.service import started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession


def places(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Where an executor has our modules from."""
    import batch_adapters.snowflake
    import streams.sinks.redshift

    for _ in batches:
        yield pa.RecordBatch.from_pydict({"file": [batch_adapters.snowflake.__file__, streams.sinks.redshift.__file__]})


def one_version(spark: SparkSession, path: str) -> dict[str, Any]:
    """Who of several that write one version of a log at once has written it, and who comes again with the same."""
    jvm: Any = spark._jvm
    configuration = spark._jsparkSession.sessionState().newHadoopConf()
    store = jvm.streams.ConditionalLogStore(configuration)

    def write(text: str) -> bool:
        lines = jvm.java.util.ArrayList()
        lines.add(text)
        try:
            store.write(jvm.org.apache.hadoop.fs.Path(path), lines.iterator(), False, configuration)
        except Py4JJavaError as error:
            if "FileAlreadyExistsException" not in str(error.java_exception):
                raise
            return False
        return True

    texts = [f"writer {number}" for number in range(6)]
    with ThreadPoolExecutor(len(texts)) as pool:
        won = [text for text, is_ours in zip(texts, pool.map(write, texts), strict=True) if is_ours]
    there = (Storage(spark).read(path) or "").strip()
    return {"won": won, "there": there, "again": [text for text in texts if write(text)]}


def main(config: str) -> None:
    with started(load_settings(None, config, os.environ)) as service:
        spark = service.spark
        files = spark.range(2, numPartitions=2).mapInArrow(places, "file string").collect()
        storage, root = Storage(spark), service.settings.checkpoints.root
        for name in ("a", "b/c"):
            storage.write(f"{root}/probe/{name}", name)
        storage.move(f"{root}/probe", f"{root}/moved")
        versions = [one_version(spark, f"{root}/log/_delta_log/{version:020d}.json") for version in range(10)]
        pages = [f"{spark.sparkContext.uiWebUrl}{page}" for page in ("/environment/", _environment(spark))]
        said = {
            "files": [row["file"] for row in files],
            "moved": [storage.read(f"{root}/moved/{name}") for name in ("a", "b/c")],
            "left": storage.names(f"{root}/probe"),
            "knows": all(
                spark.sparkContext.getConf().get(key) == reference.resolve()
                for key, reference in service.settings.spark.secrets.items()
            ),
            "versions": versions,
            "pages": [requests.get(page, timeout=30).text for page in pages],
            "commands": [_command(pid) for pid in psutil.pids()],
        }
    print(json.dumps(said))  # noqa: T201


def _environment(spark: Any) -> str:
    return f"/api/v1/applications/{spark.sparkContext.applicationId}/environment"


def _command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


if __name__ == "__main__":
    main(*sys.argv[1:])
