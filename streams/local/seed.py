"""What must be there before the service comes up, and whether the stand-ins are there."""

from __future__ import annotations

import http.client
import socket
import struct
from typing import TYPE_CHECKING, Final

from streams.errors import UnavailableError
from streams.local.s3_server import S3Server, client

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SECONDS: Final = 5.0
_TLS_ASKED: Final = struct.pack("!ii", 8, 80877103)
# Any answer but a failure of its own shows that it is there; that we may not ask is an answer.
_ASKED: Final = {
    "s3": ("GET", "/"),
    "snowflake": ("POST", "/stand-in/ready"),
    "salesforce": ("GET", "/services/data/v62.0/limits"),
}


def make_topic(bootstrap_servers: str, name: str, partitions: int) -> bool:
    """Make a topic; false where it was there.

    Raises:
        UnavailableError: ``KAFKA_UNAVAILABLE``.
    """
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    try:
        admin.create_topics([NewTopic(name, partitions, 1)], operation_timeout=30)[name].result(60)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        raise UnavailableError(
            "KAFKA_UNAVAILABLE", f"Topic {name} was not made at {bootstrap_servers}: {error}."
        ) from error
    return True


def make_buckets(endpoint: str, names: Iterable[str]) -> Iterator[str]:
    """Make buckets; one that is there stays as it is."""
    s3 = client(endpoint, S3Server.access_key, S3Server.secret_key)
    for name in names:
        s3.create_bucket(Bucket=name)  # in its region a bucket of one's own may be made again
        yield name


def answers(what: str, port: int) -> bool:
    """Whether a stand-in on this machine answers in its own protocol."""
    try:
        if what == "shop":  # it asks others; nobody asks it
            return True
        if what == "kafka":
            return _broker_answers(port)
        if what == "redshift":
            return _database_answers(port)
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
        try:
            line.request(*_ASKED[what])
            return line.getresponse().status < 500
        finally:
            line.close()
    except (OSError, http.client.HTTPException):
        return False


def _database_answers(port: int) -> bool:
    """The proxy takes a line, and has one to the database behind."""
    with socket.create_connection(("127.0.0.1", port), _SECONDS) as line:
        line.settimeout(_SECONDS)
        line.sendall(_TLS_ASKED)
        return line.recv(1) == b"N"


def _broker_answers(port: int) -> bool:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0}).list_topics(timeout=_SECONDS)
    except KafkaException:
        return False
    return True
