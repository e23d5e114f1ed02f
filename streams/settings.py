"""Configuration: a YAML file and the environment, as frozen models. Anything unknown or wrong fails here.

``STREAMS__KAFKA__BOOTSTRAP_SERVERS=broker:9092`` overrides ``kafka.bootstrap_servers``.
"""

from __future__ import annotations

import difflib
import json
import types
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from streams.errors import ConfigurationError
from streams.secrets import SecretReference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROJECT: Final = Path(__file__).resolve().parents[1]
CONFIGURATION_FOLDER: Final = PROJECT / "checkpoints_config"
_PREFIX: Final = "STREAMS__"
Seconds = Annotated[float, Field(gt=0)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Root(_Model):
    """A folder: a local path (relative ones are under the project), ``s3a://…``, or any other that Hadoop knows."""

    root: str


class Topics(_Model):
    """The topics' names."""

    order_events: str = "order_events"


class KafkaSettings(_Model):
    """How to reach the brokers."""

    bootstrap_servers: str
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: SecretReference | None = None
    ssl_ca_location: str | None = None
    topics: Topics = Topics()

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
        login = f"username={json.dumps(self.sasl_username)} password={json.dumps(password)}"
        return f"org.apache.kafka.common.security.{module} required {login};"


class Files(_Model):
    """The folders that files arrive in."""

    fx_rates: str


class SparkSettings(_Model):
    """Where Spark runs; `conf` takes any setting of Spark's, and wins over the service's own."""

    master: str = "local[2]"
    app_name: str = "lakehouse-streams"
    driver_memory: str = "2g"
    conf: dict[str, str] = {}


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
    multiplier: Annotated[float, Field(ge=1)] = 2.0
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2
    max_restarts: PositiveInt = 10
    window_seconds: Seconds = 600.0


class LoggingSettings(_Model):
    """`auto` is for people on a terminal and JSON elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Settings(_Model):
    """Everything that differs from one environment to another."""

    environment: str
    lake: Root
    checkpoints: Root
    dq_results_root: str
    contracts_root: str = "contracts"
    reporting_currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "EUR"
    kafka: KafkaSettings
    files: Files
    spark: SparkSettings = SparkSettings()
    flow_defaults: FlowSettings = FlowSettings()
    flows: dict[str, FlowSettings] = {}
    restart: RestartSettings = RestartSettings()
    drain_seconds: Seconds = 30.0
    logging: LoggingSettings = LoggingSettings()

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
    said = _parse(place, _read(place))
    try:
        settings = Settings.model_validate(_overridden(said, environ))
    except ValidationError as error:
        problems = [_problem(found) for found in error.errors(include_url=False, include_input=False)]
        raise ConfigurationError(
            "SETTINGS_INVALID",
            f"{place}: {'; '.join(text for _, text in problems)}.",
            file=place,
            keys=[key for key, _ in problems],
        ) from None  # the original holds the input, which may be a secret
    settings = _with_absolute_paths(settings)
    if check_secrets and settings.kafka.sasl_password is not None:
        settings.kafka.sasl_password.resolve()
    return settings


def _read(place: str) -> str:
    if place.startswith(("s3://", "s3a://")):
        return _read_s3(place)
    file = Path(place)
    if not file.is_file():
        known = ", ".join(sorted(found.stem for found in CONFIGURATION_FOLDER.glob("*.yaml")))
        raise ConfigurationError(
            "SETTINGS_FILE_MISSING", f"There is no configuration {place}.", way_out=f"--env knows: {known}.", file=place
        )
    return file.read_text(encoding="utf-8")


def _read_s3(place: str) -> str:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = place.split("://", 1)[1].partition("/")
    try:
        return str(boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read(), "utf-8")
    except (BotoCoreError, ClientError) as error:
        raise ConfigurationError(
            "SETTINGS_FILE_MISSING", f"The configuration {place} can't be read: {error}.", file=place
        ) from error


def _parse(place: str, text: str) -> dict[str, Any]:
    try:
        said = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError("SETTINGS_NOT_YAML", f"{place} is not YAML: {error}.", file=place) from error
    if not isinstance(said, dict):
        raise ConfigurationError("SETTINGS_NOT_YAML", f"{place} is not a mapping of keys to values.", file=place)
    return said


def _overridden(said: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    # A flow's name has a dot, which the name of no variable can have: `flows` is set in the file only.
    for name, value in environ.items():
        if name.startswith(_PREFIX):
            *parents, last = name.removeprefix(_PREFIX).lower().split("__")
            place = said
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
    return said


def _problem(error: Any) -> tuple[str, str]:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return path, f"{path}: {error['msg']}"
    near = difflib.get_close_matches(
        str(error["loc"][-1]), list(_known_keys(Settings, error["loc"][:-1])), n=1, cutoff=0.5
    )
    return path, f"{path}: no such key" + (f"; did you mean {near[0]!r}?" if near else "")


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
        return path if "://" in path else str(PROJECT / Path(path).expanduser())

    return settings.model_copy(
        update={
            "lake": Root(root=absolute(settings.lake.root)),
            "checkpoints": Root(root=absolute(settings.checkpoints.root)),
            "dq_results_root": absolute(settings.dq_results_root),
            "contracts_root": absolute(settings.contracts_root),
            "files": Files(fx_rates=absolute(settings.files.fx_rates)),
        }
    )
