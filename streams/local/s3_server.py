"""A stand-in for S3 on the loopback: moto's server, in a process of its own.

It holds everything in memory; what `S3Server.save` writes to a file, `S3Server.load` brings back.
"""

from __future__ import annotations

import datetime as dt
import io
import os
import sys
import tarfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from streams.local.child import LOOPBACK, Child, Listen, answer


@dataclass(frozen=True)
class S3Login:
    """How a stand-in is reached from another process."""

    endpoint: str
    access_key: str
    secret_key: str


class S3Server:
    """The stand-in, while the context lasts. Who may do what is not imitated: every key is taken.

    Args:
        folder: where its log lies; made if it is not there.
        listen: where it listens.

    Attributes:
        endpoint: its address on this machine.
        access_key, secret_key: for clients, which insist on some.
    """

    access_key, secret_key, region = "stand-in", "stand-in-secret", "us-east-1"

    def __init__(self, folder: Path, listen: Listen = LOOPBACK) -> None:
        # A bucket is named by the path, whatever host the client says: in a network of containers "s3:5000".
        self._child = Child(__name__, folder, listen.variables() | {"S3_IGNORE_SUBDOMAIN_BUCKETNAME": "true"})
        self.endpoint = ""

    def __enter__(self) -> Self:
        self.endpoint = self._child.__enter__().said["endpoint"]
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close()

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self._child.is_running

    def save(self, file: Path) -> None:
        """Write all buckets and what they hold to a file, whole or not at all."""
        self._child.ask("save", file=str(file))

    def load(self, file: Path) -> None:
        """Bring back what `save` wrote."""
        self._child.ask("load", file=str(file))

    def client(self) -> Any:
        """boto3's client of it."""
        return client(self.endpoint, self.access_key, self.secret_key)

    def make_bucket(self, name: str) -> None:
        """Make a bucket."""
        self.client().create_bucket(Bucket=name)

    def keys(self, bucket: str) -> list[str]:
        """All keys in a bucket."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [found["Key"] for page in pages for found in page.get("Contents", ())]


def client(endpoint: str, access_key: str, secret_key: str) -> Any:
    """boto3's client of a stand-in."""
    import boto3

    keys = {"aws_access_key_id": access_key, "aws_secret_access_key": secret_key}
    return boto3.client("s3", endpoint_url=endpoint, region_name=S3Server.region, **keys)


def _save(file: str) -> None:
    """A tar file: a folder a bucket, in it its keys; the times are those of the objects."""
    draft = Path(f"{file}.part")
    with tarfile.open(draft, "w") as tar:
        for bucket in _buckets().buckets.values():
            folder = tarfile.TarInfo(bucket.name)
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            for key in bucket.keys.values():
                entry, content = tarfile.TarInfo(f"{bucket.name}/{key.name}"), key.value
                entry.size, entry.mtime = len(content), key.last_modified.replace(tzinfo=dt.UTC).timestamp()
                tar.addfile(entry, io.BytesIO(content))
    with draft.open("rb") as written:
        os.fsync(written.fileno())
    draft.replace(file)


def _load(file: str) -> None:
    held = _buckets()
    with tarfile.open(file) as tar:
        for entry in tar:
            bucket, _, key = entry.name.partition("/")
            if entry.isdir():
                held.create_bucket(bucket, S3Server.region)
                continue
            content = tar.extractfile(entry)
            assert content is not None
            made = held.put_object(bucket, key, content.read())
            made.last_modified = dt.datetime.fromtimestamp(entry.mtime, dt.UTC).replace(tzinfo=None)


def _buckets() -> Any:
    """What moto's server answers from."""
    from moto.core.models import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]


class _Deciding:
    """One conditional write at a time: moto looks whether the condition holds, and then writes."""

    def __init__(self, application: Any) -> None:
        self._application, self._lock = application, threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if environ["REQUEST_METHOD"] == "GET" or not {"HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"} & environ.keys():
            return self._application(environ, start_response)
        # All of it before the lock is taken: a client that stops in its middle must hold up nobody.
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        with self._lock:
            return list(self._application(environ, start_response))


def _serve() -> None:
    import logging

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    assert Path(sys.argv[1]).is_dir()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    listen = Listen.said()
    application = _Deciding(DomainDispatcherApplication(create_backend_app))
    server = make_server(listen.host, listen.port, application, threaded=True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    answer({"endpoint": f"http://127.0.0.1:{server.server_port}"}, {"save": _save, "load": _load})


if __name__ == "__main__":
    _serve()
