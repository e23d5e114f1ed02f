"""A stand-in for S3 on the loopback: moto's server, in a process of its own. Nothing is kept when it ends."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING, Any, Self

from streams.local.child import Child, answer

if TYPE_CHECKING:
    from pathlib import Path


class S3Server:
    """The stand-in, while the context lasts. Who may do what is not imitated: every key is taken.

    Args:
        folder: where its log lies; made if it is not there.

    Attributes:
        endpoint: its address.
        access_key, secret_key: for clients, which insist on some.
    """

    access_key, secret_key, region = "stand-in", "stand-in-secret", "us-east-1"

    def __init__(self, folder: Path) -> None:
        self._child = Child(__name__, folder)
        self.endpoint = ""

    def __enter__(self) -> Self:
        self.endpoint = self._child.__enter__().said["endpoint"]
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close()

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

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = _Deciding(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    answer({"endpoint": f"http://127.0.0.1:{server.server_port}"}, {})


if __name__ == "__main__":
    _serve()
