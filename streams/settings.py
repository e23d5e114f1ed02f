"""Configuration: a YAML file and the environment, as frozen models. Anything unknown or wrong fails here.

``STREAMS__KAFKA__BOOTSTRAP_SERVERS=broker:9092`` overrides ``kafka.bootstrap_servers``.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import random
import re
import types
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from streams.errors import ConfigurationError
from streams.secrets import SecretReference
from streams.source_settings import SourceSettings, TargetSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROJECT: Final = Path(__file__).resolve().parents[1]
CONFIGURATION_FOLDER: Final = PROJECT / "checkpoints_config"
_PREFIX: Final = "STREAMS__"
# Their keys have dots and capitals, which the name of a variable can't be trusted with.
_NAMED_FREELY: Final = (("flows",), ("spark", "conf"), ("spark", "secrets"))
# Spark's settings whose values are secrets, whatever they are called in full.
_SECRET_KEY: Final = re.compile(
    r"(secret[._]?key|access[._]?key|session[._]?token|password|encryption\.key|authenticate\.secret)$", re.IGNORECASE
)
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]  # an empty root would be the project's folder


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Root(_Model):
    """A folder: a local path (relative ones are under the project), ``s3a://…``, or any other that Hadoop knows."""

    root: Text


class Topics(_Model):
    """The topics' names."""

    order_events: Text = "order_events"


class KafkaSettings(_Model):
    """How to reach the brokers."""

    bootstrap_servers: Text
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: Text | None = None
    sasl_password: SecretReference | None = None
    ssl_ca_location: Text | None = None
    topics: Topics = Topics()
    # What Kafka's own tools show a flow's progress and lag as; the service reads nothing from it. null: none.
    group: Annotated[str, Field(min_length=1)] | None = "lakehouse-streams.{environment}.{flow}"

    @model_validator(mode="after")
    def _has_login(self) -> Self:
        if self.security_protocol.startswith("SASL") and not (self.sasl_username and self.sasl_password):
            raise PydanticCustomError(
                "login_missing",
                "{protocol} needs sasl_username and sasl_password",
                {"protocol": self.security_protocol},
            )
        return self

    @field_validator("group")
    @classmethod
    def _has_known_places(cls, group: str | None) -> str | None:
        unknown = set(re.findall(r"\{(.*?)\}", group or "")) - {"environment", "flow"}
        if unknown:
            raise PydanticCustomError("group_unknown_place", "only {{environment}} and {{flow}} can stand in it")
        return group

    def group_of(self, environment: str, flow: str) -> str | None:
        """The consumer group that a flow's progress is committed to."""
        return self.group and self.group.replace("{environment}", environment).replace("{flow}", flow)

    def client_options(self) -> dict[str, Any]:
        """For confluent-kafka."""
        options: dict[str, Any] = {
            "bootstrap.servers": self.bootstrap_servers,
            "security.protocol": self.security_protocol,
        }
        if self.ssl_ca_location:
            options["ssl.ca.location"] = self.ssl_ca_location
        if self.security_protocol.startswith("SASL"):
            options |= {
                "sasl.mechanism": self.sasl_mechanism,
                "sasl.username": self.sasl_username,
                "sasl.password": self.sasl_password.resolve() if self.sasl_password else None,
            }
        return options

    def spark_options(self) -> dict[str, str]:
        """For Spark's Kafka source, whose client is Java's. Spark redacts the login in plans and logs."""
        options = {"kafka.bootstrap.servers": self.bootstrap_servers, "kafka.security.protocol": self.security_protocol}
        if self.ssl_ca_location:
            options |= {"kafka.ssl.truststore.type": "PEM", "kafka.ssl.truststore.location": self.ssl_ca_location}
        if self.security_protocol.startswith("SASL"):
            options |= {"kafka.sasl.mechanism": self.sasl_mechanism, "kafka.sasl.jaas.config": self._jaas()}
        return options

    def _jaas(self) -> str:
        module = "plain.PlainLoginModule" if self.sasl_mechanism == "PLAIN" else "scram.ScramLoginModule"
        password = self.sasl_password.resolve() if self.sasl_password else ""
        # Java's tokenizer knows JSON's escapes, but not its \u.
        name, word = (json.dumps(value, ensure_ascii=False) for value in (self.sasl_username, password))
        login = f"username={name} password={word}"
        return f"org.apache.kafka.common.security.{module} required {login};"


class Files(_Model):
    """The folders that files arrive in."""

    fx_rates: Text


class PersonalSettings(_Model):
    """What becomes of personal columns that contracts have hashed: HMAC-SHA256 under this key, the same for ever."""

    hash_key: SecretReference | None = None


class SparkSettings(_Model):
    """Where Spark runs; `conf` takes any setting of Spark's, and wins over the service's own.

    Settings that are secrets (``spark.hadoop.fs.s3a.secret.key``) are references under `secrets`.
    """

    master: Text = "local[2]"
    app_name: Text = "lakehouse-streams"
    driver_memory: Text = "2g"
    conf: dict[str, str] = {}
    secrets: dict[str, SecretReference] = {}

    @model_validator(mode="after")
    def _has_no_secret_in_clear(self) -> Self:
        if bad := [key for key in self.conf if _SECRET_KEY.search(key)]:
            # Not a word of the value.
            raise PydanticCustomError(
                "secret_in_clear", "{key} is a secret: put it under spark.secrets, as a reference", {"key": bad[0]}
            )
        return self

    @property
    def is_local(self) -> bool:
        """Whether all of Spark runs in this process."""
        return self.master == "local" or self.master.startswith("local[")


class FlowSettings(_Model):
    """How often a flow looks for something new, how much it takes at once, and what a failed check does."""

    poll_seconds: Seconds = 1.0
    max_rows_per_batch: PositiveInt | None = None  # Kafka
    max_files_per_batch: PositiveInt | None = None  # files, and files of upstream tables
    on_breach: Literal["warn", "hold", "stop"] | None = None  # None: as the flow declares


class RestartSettings(_Model):
    """Growing pauses before a failed flow is run again, and when it no longer is."""

    first_pause_seconds: Seconds = 1.0
    max_pause_seconds: Seconds = 60.0
    multiplier: Annotated[float, Field(ge=1, le=100)] = 2.0
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2
    max_restarts: PositiveInt = 10
    window_seconds: Seconds = 600.0
    job_attempts: PositiveInt = 3  # of a flow in a daily job, which then fails
    stall_seconds: Seconds = 600.0  # a batch in which nothing moves for so long is ended, and tried again

    def pause_before(self, restart: int) -> float:
        """Seconds before the so manieth restart; with jitter, so that flows which failed together part."""
        # What is waited for may be away for days: the power of so many restarts would be no number any more.
        pause = min(self.first_pause_seconds * self.multiplier ** min(restart - 1, 64), self.max_pause_seconds)
        return float(pause * random.uniform(1 - self.jitter, 1 + self.jitter))


class LeaseSettings(_Model):
    """How long a process must be silent before another takes its flows over. On its own machine a dead one is seen at

    once.
    """

    expires_seconds: Seconds = 20.0


class SchedulingSettings(_Model):
    """How many flows are at work at once, and how long one with much to do keeps the others waiting.

    As many as `short_turns_at_once`, by default half the processors, for each keeps more than one busy; and beside
    those whose turn lasts longer than `turn_seconds` others, up to `flows_at_once`. Flows that mostly wait for another
    system, pulls and publishes, take turns among themselves.
    """

    short_turns_at_once: PositiveInt = Field(default_factory=lambda: max(1, (os.cpu_count() or 2) // 2))
    flows_at_once: PositiveInt = 4
    turn_seconds: Seconds = 20.0


class MaintenanceSettings(_Model):
    """How often the service looks after each table, and for how long it keeps what nobody may need.

    After `tombstone_days` silver no longer knows that a key was deleted, and a late change brings it back. After
    `results_days` the file of a batch's checks is removed; the audit goes on having them.
    """

    every_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 24.0
    tombstone_days: PositiveInt = 400
    results_days: PositiveInt = 30


class CloudWatchSettings(_Model):
    """Where metrics go, and how often. The login is boto3's own way of finding one."""

    namespace: Text = "LakehouseStreams"
    region: Text | None = None
    every_seconds: Seconds = 60.0


class MetricsSettings(_Model):
    """Where metrics go besides the page that Prometheus reads.

    `textfile` is for node_exporter's collector of text files: written when a command ends, for jobs that run once.
    """

    textfile: Text | None = None
    cloudwatch: CloudWatchSettings | None = None


def _webhook(said: object) -> str | SecretReference:
    if isinstance(said, SecretReference) or str(said).startswith(("http://", "https://")):
        return said if isinstance(said, SecretReference) else str(said)
    return SecretReference(str(said))


class AlertSettings(_Model):
    """Whom to tell of what, and after how long without a batch a flow that has something to do is taken to stall.

    `webhook` is an address, or a reference to one where the address is a secret, as Slack's are.
    """

    webhook: Annotated[str | SecretReference, PlainValidator(_webhook), PlainSerializer(str)] | None = None
    on: tuple[Literal["breach", "failure", "stall", "gate"], ...] = ("breach", "failure", "stall", "gate")
    stall_seconds: Seconds = 900.0


class LoggingSettings(_Model):
    """`auto` is for people on a terminal and JSON elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class LineageSettings(_Model):
    """Where OpenLineage events go: to a file, as lines of JSON, or by HTTP. See `streams.telemetry.lineage_events`."""

    file: Annotated[str, Field(pattern="^[^:]+$")] | None = None  # a local path
    url: Annotated[str, Field(pattern="^https?://[^/].*$")] | None = None
    endpoint: Text = "api/v1/lineage"
    token: SecretReference | None = None  # sent as a bearer's
    namespace: Text | None = None  # of the jobs; lakehouse-streams.{environment} where nothing is said
    every_seconds: Seconds = 60.0  # under `streams up` a flow's runs within so long are told as one
    repository: Annotated[str, Field(pattern="^https?://[^/].*$")] | None = None  # where this code is kept

    @model_validator(mode="after")
    def _has_one_way(self) -> Self:
        if (self.file is None) == (self.url is None):
            raise PydanticCustomError("lineage_unclear", "give exactly one of file and url")
        if self.token is not None and self.url is None:
            raise PydanticCustomError("lineage_unclear", "a token needs a url")
        return self


class PageSettings(_Model):
    """Where the status page of `streams up` is. Beyond the loopback it asks for a token.

    Port 0 takes any that is free.
    """

    enabled: bool = True
    host: Text = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    token: SecretReference | None = None

    @model_validator(mode="after")
    def _has_token(self) -> Self:
        if self.enabled and not self.is_local and self.token is None:
            raise PydanticCustomError(
                "page_token_missing",
                "{host} can be reached from other machines, so page.token must be set, a reference such as "
                "env:PAGE_TOKEN; or leave page.host at 127.0.0.1",
                {"host": self.host},
            )
        return self

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # another name
            return False


class Settings(_Model):
    """Everything that differs from one environment to another."""

    environment: Text
    lake: Root
    checkpoints: Root
    dq_results_root: Text
    contracts_root: Text = "contracts"
    reporting_currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "EUR"
    kafka: KafkaSettings
    files: Files
    sources: SourceSettings = SourceSettings()
    targets: TargetSettings = TargetSettings()
    personal: PersonalSettings = PersonalSettings()
    spark: SparkSettings = SparkSettings()
    flow_defaults: FlowSettings = FlowSettings()
    flows: dict[str, FlowSettings] = {}
    restart: RestartSettings = RestartSettings()
    lease: LeaseSettings = LeaseSettings()
    scheduling: SchedulingSettings = SchedulingSettings()
    maintenance: MaintenanceSettings = MaintenanceSettings()
    metrics: MetricsSettings = MetricsSettings()
    alerts: AlertSettings = AlertSettings()
    page: PageSettings = PageSettings()
    drain_seconds: Seconds = 30.0
    logging: LoggingSettings = LoggingSettings()
    lineage: LineageSettings | None = None

    def flow(self, name: str) -> FlowSettings:
        """A flow's settings: its own where it has some, else the defaults."""
        own = self.flows.get(name)
        return self.flow_defaults.model_copy(update=own.model_dump(exclude_unset=True)) if own else self.flow_defaults


def load_settings(
    env: str | None, config: str | None, environ: Mapping[str, str], *, check_secrets: bool = True
) -> Settings:
    """Read ``checkpoints_config/{env}.yaml``, or the file that `config` names, and the environment's overrides.

    Args:
        env: which of the project's configurations.
        config: a path or ``s3://bucket/key`` in its place.
        environ: the environment.
        check_secrets: make sure that every secret referred to is there.

    Raises:
        ConfigurationError: ``SETTINGS_FILE_MISSING``, ``SETTINGS_NOT_YAML``, ``SETTINGS_INVALID`` (with every
            problem: the key's path, what is wrong, the nearest known key) or ``SECRET_MISSING``.
    """
    place = config or str(CONFIGURATION_FOLDER / f"{env}.yaml")
    said, problems = _overridden(_parse(place, _read(place)), environ)
    settings = None
    try:
        settings = Settings.model_validate(said)
    except ValidationError as error:
        problems += [_problem(found) for found in error.errors(include_url=False, include_input=False)]
    if settings is None or problems:
        # Out of the block above: pydantic's error holds the input, which may be a secret.
        raise ConfigurationError(
            "SETTINGS_INVALID",
            f"{place}: {'; '.join(_told(*problem, environ) for problem in problems)}.",
            file=place,
            keys=[key for key, _ in problems],
        )
    settings = _with_absolute_paths(settings)
    if check_secrets:
        references = (*settings.sources.secrets(), *settings.targets.secrets(), *settings.spark.secrets.values())
        tokens = (
            settings.lineage.token if settings.lineage else None,
            settings.page.token if settings.page.enabled else None,
        )
        named = (settings.kafka.sasl_password, settings.personal.hash_key, settings.alerts.webhook)
        for secret in (*named, *tokens, *references):
            if isinstance(secret, SecretReference):
                secret.resolve()
    return settings


def _read(place: str) -> bytes:
    if place.startswith(("s3://", "s3a://")):
        return _read_s3(place)
    file = Path(place)
    if not file.is_file():
        known = ", ".join(sorted(found.stem for found in CONFIGURATION_FOLDER.glob("*.yaml")))
        raise ConfigurationError(
            "SETTINGS_FILE_MISSING", f"There is no configuration {place}.", way_out=f"--env knows: {known}.", file=place
        )
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            "SETTINGS_FILE_MISSING", f"The configuration {place} can't be read: {error.strerror}.", file=place
        ) from error


def _read_s3(place: str) -> bytes:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = place.split("://", 1)[1].partition("/")
    try:
        with boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"] as body:
            return bytes(body.read())
    except (BotoCoreError, ClientError) as error:
        raise ConfigurationError(
            "SETTINGS_FILE_MISSING", f"The configuration {place} can't be read: {error}.", file=place
        ) from error


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for place, (key, _) in enumerate(node.value):
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in keys[:place]:
                raise yaml.constructor.ConstructorError(None, None, "a key is there twice", key.start_mark)
        return super().construct_mapping(node, deep)


def _parse(place: str, content: bytes) -> dict[str, Any]:
    said: Any = None
    trouble = "is not a mapping of keys to values"
    try:
        said = yaml.load(content.decode("utf-8"), _Loader)  # noqa: S506  a SafeLoader
    except yaml.MarkedYAMLError as error:
        trouble = _where(error)
    except (yaml.YAMLError, ValueError):  # not UTF-8, or the 31st of February
        trouble = "is not YAML"
    if not isinstance(said, dict):
        raise ConfigurationError("SETTINGS_NOT_YAML", f"{place} {trouble}.", file=place)
    return said


def _where(error: yaml.MarkedYAMLError) -> str:
    # Never the error's own text: it quotes the file, and a stray sign in a line is likeliest in a password.
    twice = ": a key is there twice" if error.problem == "a key is there twice" else ""
    mark = error.problem_mark or error.context_mark
    return f"is not YAML in line {mark.line + 1}, column {mark.column + 1}{twice}" if mark else "is not YAML"


def _overridden(said: dict[str, Any], environ: Mapping[str, str]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    problems = []
    for name, value in sorted(environ.items()):  # a parent comes before what lies in it
        if not name.startswith(_PREFIX):
            continue
        path = _path_of(name)
        *parents, last = path
        place: Any = said
        for parent in parents:
            if place.get(parent) is None:
                place[parent] = {}
            place = place[parent]
            if not isinstance(place, dict):
                break
        if not isinstance(place, dict):
            problems.append((".".join(path), f"{parent} is a value, which no key lies in"))
        elif tuple(parents[:1]) in _NAMED_FREELY or tuple(parents[:2]) in _NAMED_FREELY:
            problems.append((".".join(path), "can be set in the file only"))
        else:
            place[last] = value
    return said, problems


def _path_of(variable: str) -> list[str]:
    return variable.removeprefix(_PREFIX).lower().split("__")


def _told(path: str, trouble: str, environ: Mapping[str, str]) -> str:
    """The problem, with the variable that it comes from, if it isn't the file's."""
    variables = [name for name in environ if name.startswith(_PREFIX) and ".".join(_path_of(name)) == path]
    return f"{path or 'the file'}{f' (from {variables[0]})' if variables else ''}: {trouble}"


def _problem(error: Any) -> tuple[str, str]:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return path, str(error["msg"])
    near = difflib.get_close_matches(
        str(error["loc"][-1]), list(_known_keys(Settings, error["loc"][:-1])), n=1, cutoff=0.5
    )
    return path, "no such key" + (f", did you mean {near[0]!r}?" if near else "")


def _known_keys(model: type[BaseModel], path: tuple[Any, ...]) -> Iterator[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        kind: Any = field.annotation if field is not None else model
        if isinstance(kind, types.UnionType):
            kind = get_args(kind)[0]
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return
        model = kind
    yield from model.model_fields


def _with_absolute_paths(settings: Settings) -> Settings:
    def absolute(path: str) -> str:
        return path if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path) else str(PROJECT / Path(path).expanduser())

    certificate, lineage = settings.kafka.ssl_ca_location, settings.lineage
    if lineage is not None and lineage.file is not None:
        lineage = lineage.model_copy(update={"file": absolute(lineage.file)})
    textfile = settings.metrics.textfile
    return settings.model_copy(
        update={
            "lineage": lineage,
            "kafka": settings.kafka.model_copy(update={"ssl_ca_location": certificate and absolute(certificate)}),
            "lake": Root(root=absolute(settings.lake.root)),
            "checkpoints": Root(root=absolute(settings.checkpoints.root)),
            "dq_results_root": absolute(settings.dq_results_root),
            "contracts_root": absolute(settings.contracts_root),
            "metrics": settings.metrics.model_copy(update={"textfile": textfile and absolute(textfile)}),
            "files": Files(fx_rates=absolute(settings.files.fx_rates)),
        }
    )
