"""The stand-ins as services of their own, for the compose file or by hand: ``python -m streams.local.serve --help``.

Each is one process in the foreground. It says on standard output, in one line of JSON, where it listens once it has
what it is to hold, and ends on SIGTERM or Ctrl-C. It listens on the loopback unless told otherwise.
"""

from __future__ import annotations

import json
import secrets
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Protocol

import typer

from streams.errors import ConfigurationError, FatalError, StreamsError
from streams.local.child import Listen
from streams.secrets import SecretReference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streams.local.shop_source import ShopSource

app = typer.Typer(
    name="python -m streams.local.serve",
    help="The stand-ins for Kafka, S3, Snowflake, Redshift and Salesforce as services, and the shop that fills them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_READY: Final = "_ready.json"  # a name that Spark reads nothing of

Folder = Annotated[Path, typer.Option("--folder", help="Where it keeps what it needs; made if it is not there.")]
Host = Annotated[str, typer.Option("--host", help="The address to listen at; 0.0.0.0 is every one of this machine.")]
Port = Annotated[int, typer.Option("--port", help="The port to listen at; 0 is any that is free.")]
Secret = Annotated[
    Path | None,
    typer.Option(
        "--password-file", help="The file of the password that it takes; else one that it makes in the folder."
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Which shop: the same seed and orders make the same.")]
Orders = Annotated[int | None, typer.Option("--orders", min=1, help="How many of the 69,659 orders; all by default.")]
ChangeEvery = Annotated[
    float, typer.Option("--change-every", help="Seconds from one change of some rows to the next; 0 changes nothing.")
]
S3Endpoint = Annotated[str, typer.Option("--s3-endpoint", help="The address of S3.")]
Bootstrap = Annotated[str, typer.Option("--bootstrap-servers", help="The address of Kafka.")]
Topic = Annotated[str, typer.Option("--topic", help="The topic of the order events.")]


class _Server(Protocol):
    @property
    def is_running(self) -> bool: ...


def main() -> None:
    """Run the command line; errors of ours end it with one sentence and their exit code."""
    try:
        app()
    except StreamsError as error:
        _say(f"error {error.message} {error.code}")
        if error.way_out:
            _say(f"      {error.way_out}")
        sys.exit(error.exit_code)


@app.command()
def kafka(folder: Folder, port: Port = 9092) -> None:
    """Run a Kafka broker of one node on the loopback, from jars; what it holds is kept in the folder.

    Example: `python -m streams.local.serve kafka --folder .streams/kafka`
    """
    from streams.local.broker import Broker

    with _told_to_end(folder) as ended, Broker(folder, _say, port=port or None) as broker:
        _serve(folder, ended, broker, "kafka", int(broker.bootstrap_servers.rpartition(":")[2]))


@app.command()
def s3(folder: Folder, host: Host = "127.0.0.1", port: Port = 5000) -> None:
    """Run S3, by moto. It takes any key, and holds all in memory.

    When it is told to end it writes what it holds to the folder, from where it reads it at its next start.

    Example: `python -m streams.local.serve s3 --folder .streams/s3`
    """
    from streams.local.s3_server import S3Server

    objects = folder / "objects.tar"
    with _told_to_end(folder) as ended, S3Server(folder, Listen(host, port)) as server:
        if objects.exists():
            server.load(objects)
        _serve(folder, ended, server, "s3", int(server.endpoint.rpartition(":")[2]))
        server.save(objects)


@app.command()
def snowflake(
    folder: Folder,
    host: Host = "127.0.0.1",
    port: Port = 8084,
    password_file: Secret = None,
    stages: Annotated[
        Path | None,
        typer.Option("--stages", help="The folder of its internal stages; clients must have it at the same path."),
    ] = None,
    seed: Seed = 7,
    orders: Orders = None,
    change_every: ChangeEvery = 0,
) -> None:
    """Run Snowflake, by fakesnow, filled with the shop's tables; they are kept in the folder.

    Example: `python -m streams.local.serve snowflake --folder .streams/snowflake --orders 3000`
    """
    from streams.local.shop_source import ShopSource
    from streams.local.snowflake_server import SnowflakeServer

    server = SnowflakeServer(
        folder,
        listen=Listen(host, port),
        password=_password(folder, password_file),
        tables=folder / "tables",
        stages=stages or folder / "stages",
    )
    with _told_to_end(folder) as ended, server:
        source = ShopSource("snowflake", server, seed, orders)
        _serve(
            folder,
            ended,
            server,
            "snowflake",
            server.port,
            source,
            change_every,
            user=server.user,
            account=server.account,
        )


@app.command()
def redshift(
    folder: Folder,
    s3_endpoint: S3Endpoint,
    host: Host = "127.0.0.1",
    port: Port = 5439,
    password_file: Secret = None,
    postgres: Annotated[
        str | None,
        typer.Option("--postgres", help="HOST:PORT of a PostgreSQL to use; else one is started, which keeps nothing."),
    ] = None,
    owner_password_file: Annotated[
        Path | None, typer.Option("--owner-password-file", help="The file of the password of its user postgres.")
    ] = None,
    files: Annotated[
        Path | None, typer.Option("--files", help="A folder that it sees at the same path, for what COPY loads.")
    ] = None,
    seed: Seed = 7,
    orders: Orders = None,
    change_every: ChangeEvery = 0,
) -> None:
    """Run Redshift: a PostgreSQL behind a proxy that speaks its dialect, filled with the shop's table.

    Example: `python -m streams.local.serve redshift --folder .streams/redshift --s3-endpoint http://127.0.0.1:5000`
    """
    from streams.local.redshift_server import Postgres, RedshiftServer
    from streams.local.s3_server import S3Login, S3Server
    from streams.local.shop_source import ShopSource

    behind = None
    if postgres is not None:
        name, _, number = postgres.rpartition(":")
        if not name or not number.isdecimal() or owner_password_file is None or files is None:
            raise ConfigurationError(
                "CALL_INCOMPLETE", "--postgres is HOST:PORT, and needs --owner-password-file and --files beside it."
            )
        behind = Postgres(name, int(number), _password(folder, owner_password_file), files)
    login = S3Login(s3_endpoint, S3Server.access_key, S3Server.secret_key)
    server = RedshiftServer(
        folder, login, listen=Listen(host, port), password=_password(folder, password_file), postgres=behind
    )
    with _told_to_end(folder) as ended, server:
        source = ShopSource("redshift", server, seed, orders)
        _serve(
            folder,
            ended,
            server,
            "redshift",
            server.port,
            source,
            change_every,
            user=server.user,
            database=server.database,
        )


@app.command()
def salesforce(
    folder: Folder,
    host: Host = "127.0.0.1",
    port: Port = 8085,
    password_file: Secret = None,
    seed: Seed = 7,
    orders: Orders = None,
    change_every: ChangeEvery = 0,
) -> None:
    """Run Salesforce, filled with the shop's objects; the password is the connected app's secret. It keeps nothing.

    Example: `python -m streams.local.serve salesforce --folder .streams/salesforce --orders 3000`
    """
    from streams.local.salesforce_server import SalesforceServer
    from streams.local.shop_source import ShopSource

    server = SalesforceServer(folder, listen=Listen(host, port), consumer_secret=_password(folder, password_file))
    with _told_to_end(folder) as ended, server:
        source = ShopSource("salesforce", server, seed, orders)
        place = int(server.url.rpartition(":")[2])
        _serve(folder, ended, server, "salesforce", place, source, change_every, consumer_key=server.consumer_key)


@app.command()
def seed(
    bootstrap_servers: Bootstrap,
    s3_endpoint: Annotated[str | None, typer.Option("--s3-endpoint", help="The address of S3, for buckets.")] = None,
    topic: Topic = "order_events",
    partitions: Annotated[int, typer.Option("--partitions", min=1)] = 4,
    bucket: Annotated[list[str] | None, typer.Option("--bucket", help="Can be given several times.")] = None,
) -> None:
    """Make the topic and the buckets that are not there yet, and end.

    Example: `... seed --bootstrap-servers kafka:9092 --s3-endpoint http://s3:5000 --bucket lakehouse`
    """
    from streams.local.seed import make_buckets, make_topic

    if bucket and s3_endpoint is None:
        raise ConfigurationError("CALL_INCOMPLETE", "--bucket needs --s3-endpoint beside it.")
    is_new = make_topic(bootstrap_servers, topic, partitions)
    _say(f"topic {topic} {'made' if is_new else 'is there'}")
    for name in make_buckets(s3_endpoint, bucket or []) if s3_endpoint else ():
        _say(f"bucket {name} is there")


@app.command()
def shop(
    bootstrap_servers: Bootstrap,
    landing: Annotated[Path, typer.Option("--landing", help="The folder that the files of rates are written to.")],
    topic: Topic = "order_events",
    seconds: Annotated[float, typer.Option("--seconds", min=0, help="How long it takes; 0 is as fast as can be.")] = 0,
    seed: Seed = 7,
    orders: Orders = None,
    stay: Annotated[bool, typer.Option("--stay", help="Stay up when all is sent.")] = False,
) -> None:
    """Send the shop's order events and exchange rates, dirt included, once, and end.

    What was sent as a whole is not sent again with the same folder.

    Example: `... shop --bootstrap-servers localhost:9094 --landing .streams/landing --orders 3000`
    """
    from streams.local.producer import send_replay
    from streams.local.replay import plan_replay

    sent, this = landing / "_sent.json", {"orders": orders, "seed": seed}
    with _told_to_end(landing) as ended, _ready(landing, "shop", 0):
        if sent.exists() and json.loads(sent.read_text()) == this:
            _say("all was sent already")
        else:
            plan = plan_replay(seed, orders)
            send_replay(plan, bootstrap_servers, topic, landing, seconds=seconds, stop=ended)
            if ended.is_set():
                raise StreamsError("REPLAY_INTERRUPTED", "Not all was sent; the next start sends all of it.")
            sent.write_text(json.dumps(this))
            _say(f"{len(plan.messages)} messages and {len(plan.files)} files sent")
        if stay:
            ended.wait()


@app.command()
def healthy(folder: Folder) -> None:
    """Ask the stand-in of a folder whether it is filled and answers; exit code 1 when not.

    Example: `python -m streams.local.serve healthy --folder /var/lib/stand-in`
    """
    from streams.local.seed import answers

    ready = folder / _READY
    if not ready.exists():
        raise StreamsError("NOT_READY", f"The stand-in of {folder} is not ready.")
    said = json.loads(ready.read_text())
    if not answers(said["ready"], said["port"]):
        raise StreamsError("NOT_READY", f"The stand-in for {said['ready']} does not answer at port {said['port']}.")


@contextmanager
def _told_to_end(folder: Path) -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _READY).unlink(missing_ok=True)  # of one that was killed
    ended = threading.Event()
    told = (signal.SIGTERM, signal.SIGINT)
    handlers = {number: signal.signal(number, lambda *_: ended.set()) for number in told}
    try:
        yield ended
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _serve(
    folder: Path,
    ended: threading.Event,
    server: _Server,
    what: str,
    port: int,
    source: ShopSource | None = None,
    change_every: float = 0,
    **login: str,
) -> None:
    """Say that it is ready, and wait until it is told to end.

    Raises:
        FatalError: ``STAND_IN_FAILED``: its process is gone.
    """
    with _ready(folder, what, port, **login):
        waited = 0.0
        while not ended.wait(1):
            if not server.is_running:
                raise FatalError("STAND_IN_FAILED", f"The process of the stand-in for {what} is gone.")
            waited += 1
            if source is not None and change_every and waited >= change_every:
                source.change()
                waited = 0.0


@contextmanager
def _ready(folder: Path, what: str, port: int, **login: str) -> Iterator[None]:
    """Say what is ready, to people and in the folder, where `healthy` finds it."""
    note, said = folder / _READY, json.dumps({"ready": what, "port": port} | login)
    note.write_text(said)
    sys.stdout.write(f"{said}\n")
    sys.stdout.flush()
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def _password(folder: Path, file: Path | None) -> str:
    """What the file says; without one, what the folder has kept, or a new one there."""
    made = folder / "password"
    if file is None and not made.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made.touch(mode=0o600)
        made.write_text(secrets.token_urlsafe(16))
    return SecretReference(f"file:{file or made}").resolve()


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
