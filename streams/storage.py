"""Small files on whatever file system the lake is on, through Hadoop's own clients.

Spark reads and writes the tables; this is for what lies beside them: checkpoints, commit files, results.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streams.failpoints import failpoint

if TYPE_CHECKING:
    from py4j.java_gateway import JavaObject
    from pyspark.sql import SparkSession


@dataclass(frozen=True)
class Storage:
    """Files of any Hadoop file system (a local path, ``s3a://``, …), by the session's own configuration."""

    spark: SparkSession

    def read(self, path: str) -> str | None:
        """The file's text, or None where there is no such file."""
        target, system = self._open(path)
        if not system.exists(target):
            return None
        stream = system.open(target)
        try:
            return bytes(stream.readAllBytes()).decode()
        finally:
            stream.close()

    def write(self, path: str, text: str) -> None:
        """Write the whole file; a reader sees the old one or the new one, never half of it, also after a kill."""
        target, system = self._open(path)
        scheme = system.getScheme()
        if scheme == "s3a":  # an upload is whole or absent by itself; a rename would not be
            _fill(system, target, text)
            return
        if scheme == "file":
            # A rename replaces, if no second file with checksums has to follow; an older one's would not fit.
            system.getRawFileSystem().delete(system.getChecksumFile(target), False)
            system = system.getRawFileSystem()
        draft, _ = self._open(f"{path}.{uuid.uuid4().hex}.tmp")
        _fill(system, draft, text)
        failpoint(target.getName(), "draft_written")
        if scheme != "file":  # HDFS's rename does not replace
            system.delete(target, False)
        if not system.rename(draft, target):
            raise OSError(f"could not write {path}")

    def names(self, folder: str) -> list[str]:
        """What lies in a folder, by name; empty where there is no such folder."""
        target, system = self._open(folder)
        if not system.exists(target):
            return []
        return [status.getPath().getName() for status in system.listStatus(target)]

    def written(self, folder: str) -> dict[str, float]:
        """What lies in a folder: name → when it was written (see `modified`), in one listing."""
        target, system = self._open(folder)
        if not system.exists(target):
            return {}
        return {
            status.getPath().getName(): float(status.getModificationTime() / 1000)
            for status in system.listStatus(target)
        }

    def exists(self, path: str) -> bool:
        """Whether a file or folder is there."""
        target, system = self._open(path)
        return bool(system.exists(target))

    def modified(self, path: str) -> float:
        """When the file was written, by the file system's clock, in seconds since 1970."""
        target, system = self._open(path)
        return float(system.getFileStatus(target).getModificationTime() / 1000)

    def move(self, path: str, to: str) -> None:
        """Rename a file or folder."""
        target, system = self._open(path)
        if not system.rename(target, self._open(to)[0]):
            raise OSError(f"could not move {path} to {to}")

    def make_folder(self, path: str) -> None:
        """Make a folder, and those above it; nothing where it is there."""
        target, system = self._open(path)
        system.mkdirs(target)

    def delete(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it; nothing where there is none."""
        target, system = self._open(path)
        system.delete(target, True)

    def _open(self, path: str) -> tuple[JavaObject, JavaObject]:
        jvm = self.spark._jvm
        assert jvm is not None
        target = jvm.org.apache.hadoop.fs.Path(path)
        return target, target.getFileSystem(self.spark._jsparkSession.sessionState().newHadoopConf())


def _fill(system: JavaObject, target: JavaObject, text: str) -> None:
    stream = system.create(target, True)
    stream.write(text.encode())
    stream.close()
