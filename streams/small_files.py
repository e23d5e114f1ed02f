"""Small files that several processes and machines read and change, without losing each other's changes. No JVM.

A change says which content it has seen; it is refused where another came before it. On a local or shared disk by
moving folders, in S3 by conditional writes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import tempfile
import time
import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlparse

from streams.errors import ConfigurationError, UnavailableError
from streams.failpoints import failpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.errors import StreamsError


_ASKED: Final = "_conditions"
_TRIES: Final = 50
_CHANGE_SECONDS: Final = 1.0  # a change takes a few milliseconds; who takes longer is refused


@dataclass(frozen=True)
class SmallFile:
    """A file's text, and the tag that a change of it must name."""

    text: str
    tag: str


class SmallFiles(Protocol):
    """The files below one root."""

    def read(self, name: str) -> SmallFile | None:
        """The file; None where there is none."""
        ...

    def write(self, name: str, text: str, tag: str | None) -> bool:
        """Write the file if it still has that tag (None: if there is none yet); false when it was changed meanwhile.

        Readers see the old text or the new one, never half of it.
        """
        ...


def small_files(root: str) -> SmallFiles:
    """The files below a path or ``s3://bucket/prefix``.

    Raises:
        ConfigurationError: ``STORAGE_UNKNOWN``.
    """
    place = urlparse(root)
    if place.scheme in ("", "file"):
        return LocalFiles(Path(place.path))
    if place.scheme in ("s3", "s3a"):
        return S3Files(place.netloc, place.path.strip("/"))
    raise ConfigurationError(
        "STORAGE_UNKNOWN",
        f"Flows are not controlled through {place.scheme}://.",
        way_out="Keep the checkpoints on a disk or in S3.",
    )


def require_conditions(files: SmallFiles, place: str) -> None:
    """Make sure that the storage refuses what comes second; some that speak S3's language take no notice of conditions.

    Leaves a small file there, which the next call asks about.

    Raises:
        ConfigurationError: ``CONDITIONS_IGNORED``.
        StreamsError: it does not answer, or may not be used.
    """
    if files.write(_ASKED, "Whether a second write of this is refused.\n", None) and files.write(_ASKED, "", None):
        raise ConfigurationError(
            "CONDITIONS_IGNORED",
            f"{place} takes a write that must be refused (If-None-Match), so that two writers would lose commits.",
            way_out="Use a storage with conditional writes: S3 itself, or a newer version of this one.",
        )


def change(files: SmallFiles, name: str, edit: Callable[[SmallFile | None], str]) -> str | None:
    """Change a file by what it holds, and again where another change came before; gives the new text.

    None when others change it all the time.
    """
    for _ in range(_TRIES):
        file = files.read(name)
        text = edit(file)
        if files.write(name, text, file.tag if file else None):
            return text
    return None


@dataclass(frozen=True)
class LocalFiles:
    """Files of a folder on a disk, local or shared.

    Who changes a file first moves a folder, with the new text in it, to where only one can be: a folder is not moved
    over one that is not empty. The new text is then moved from there over the old one, which leaves that folder empty,
    and so to be had again, in the same step. Whoever stays there for long, stopped or killed, has their text taken
    away by the next, and can't write it any more. (A lock of the kernel's would be kept by a process that is stopped.)
    """

    root: Path

    def read(self, name: str) -> SmallFile | None:
        """See `SmallFiles`."""
        try:
            text = (self.root / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._away(error) from error
        return SmallFile(text, hashlib.sha256(text.encode()).hexdigest())

    def write(self, name: str, text: str, tag: str | None) -> bool:
        """See `SmallFiles`."""
        try:
            return self._write(name, text, tag)
        except OSError as error:
            raise self._away(error) from error

    def _away(self, error: OSError) -> UnavailableError:
        return UnavailableError("STORAGE_AWAY", f"{self.root} can't be used: {error.strerror or error}.")

    def _write(self, name: str, text: str, tag: str | None) -> bool:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.", ignore_cleanup_errors=True) as made:
            draft = Path(made) / uuid.uuid4().hex
            with draft.open("w", encoding="utf-8") as opened:
                opened.write(text)
                opened.flush()
                os.fsync(opened.fileno())
            place = file.parent / f".{file.name}.change"
            self._move_in(Path(made), place)
            mine = place / draft.name
            try:
                now = self.read(name)
                if (now and now.tag) != tag:
                    return False
                failpoint(file.name, "draft_written")
                mine.replace(file)
            except FileNotFoundError:  # taken away: others may have changed the file since it was read
                return False
            finally:
                mine.unlink(missing_ok=True)
        return True

    def _move_in(self, made: Path, place: Path) -> None:
        seen: list[Path] = []
        since = time.monotonic()
        while True:
            try:
                made.rename(place)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                return
            there = list(place.iterdir())
            if there != seen:
                seen, since = there, time.monotonic()
            elif time.monotonic() - since > _CHANGE_SECONDS:
                for one in there:
                    one.unlink(missing_ok=True)
            time.sleep(random.uniform(0.001, 0.01))


@dataclass(frozen=True)
class S3Files:
    """Objects below a prefix, by boto3 and its own configuration."""

    bucket: str
    prefix: str

    def read(self, name: str) -> SmallFile | None:
        """See `SmallFiles`."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = self._client.get_object(Bucket=self.bucket, Key=self._key(name))
            with answer["Body"] as body:
                return SmallFile(body.read().decode(), answer["ETag"])
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                return None
            raise self._refused(error) from error
        except BotoCoreError as error:
            raise self._away(error) from error

    def write(self, name: str, text: str, tag: str | None) -> bool:
        """See `SmallFiles`."""
        from botocore.exceptions import BotoCoreError, ClientError

        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        try:
            self._client.put_object(Bucket=self.bucket, Key=self._key(name), Body=text.encode(), **condition)
        except ClientError as error:
            # NoSuchKey: it was there, and is not any more. Conflict: another write of it is on its way.
            if error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"):
                return False
            raise self._refused(error) from error
        except BotoCoreError as error:
            raise self._away(error) from error
        return True

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}".strip("/")

    def _refused(self, error: Any) -> StreamsError:
        code = error.response["Error"]["Code"]
        if code in ("NoSuchBucket", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
            return ConfigurationError(
                "STORAGE_REFUSED",
                f"s3://{self.bucket}/{self.prefix} can't be used: {code}.",
                way_out="Check the configured roots, and that this service may read and write there.",
            )
        return self._away(error)

    def _away(self, error: Exception) -> UnavailableError:
        return UnavailableError("STORAGE_AWAY", f"s3://{self.bucket}/{self.prefix} does not answer: {error}.")

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        # Leases are of seconds: one answer that does not come must not outlast them.
        limits = Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 3, "mode": "standard"})
        return boto3.client("s3", config=limits)
