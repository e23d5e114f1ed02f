"""A folder of files as a stream of envelopes, each file whole."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from pyspark.sql import functions as F

from streams.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyspark.sql import DataFrame, SparkSession

    from streams.checkpoint import Checkpoint
    from streams.settings import FlowSettings


@dataclass(frozen=True)
class FileSource:
    """The files of one folder, by Spark's file source. Names that begin with ``.`` or ``_`` are not read.

    Each file is read once, by its path: a file that is written again under the same name is not read again.
    """

    path: str
    pattern: str = "*.json*"

    def stream(self, spark: SparkSession, limits: FlowSettings, checkpoint: Checkpoint) -> DataFrame:
        """One envelope a file, with its bytes as they are: what they mean is decided record by record."""
        reader = (
            spark.readStream.format("binaryFile")
            .schema("path string, modificationTime timestamp, length bigint, content binary")
            .option("pathGlobFilter", self.pattern)
            # Spark forgets, and skips, files a week older than the newest; a late file is not an old one.
            .option("maxFileAge", "36500d")
        )
        if limits.max_files_per_batch is not None:
            reader = reader.option("maxFilesPerTrigger", limits.max_files_per_batch)
        return reader.load(self.path).select(
            F.col("content").alias("payload"),
            F.lit(None).cast("string").alias("key"),
            F.col("path").alias("_source"),
            F.lit(None).cast("int").alias("_partition"),
            F.lit(None).cast("bigint").alias("_offset"),
            F.col("modificationTime").alias("_source_time"),
            F.lit(None).cast("string").alias("_replay_of"),
        )

    def position(self, spark: SparkSession) -> Any:
        """What the files are called, as a digest."""
        location = urlparse(self.path)
        if location.scheme not in ("", "file"):
            return self._digest(Storage(spark).names(self.path))
        # The file system itself is asked: through Hadoop each name would be a call into the JVM.
        folder = Path(location.path)
        return self._digest(file.name for file in folder.iterdir()) if folder.is_dir() else None

    def is_idle(self, checkpoint: Checkpoint, place: int, was: Any, position: Any) -> bool:
        """Whether the same files are there."""
        return bool(was == position)

    def _digest(self, names: Iterable[str]) -> str:
        text = "\n".join([self.path, self.pattern, *sorted(names)])
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()

    def guard(self, spark: SparkSession, checkpoint: Checkpoint) -> None:
        """Spark refuses a folder that is not there; an empty one is a source without files yet."""
        location = urlparse(self.path)
        if location.scheme in ("", "file"):
            Path(location.path).mkdir(parents=True, exist_ok=True)
        elif not Storage(spark).exists(self.path):
            Storage(spark).make_folder(self.path)
