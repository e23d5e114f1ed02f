"""How to reach the databases that tables are pulled from, how they are pulled, and where gold is published to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from streams.secrets import SecretReference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batch_adapters.adapter import SourceTable, TableOptions
    from batch_adapters.redshift import RedshiftLogin
    from batch_adapters.snowflake import SnowflakeLogin

    OpenTable = Callable[[TableOptions], SourceTable]

Text = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PullSettings(_Model):
    """How often and how far a source's tables are pulled (see `batch_adapters.adapter.TableOptions`)."""

    every_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 300.0  # under the supervisor
    start: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$")] | None = None
    lag_seconds: Seconds = 60.0
    lookback_seconds: Seconds = 600.0
    reconcile_seconds: Seconds = 86400.0  # 0: never
    max_delete_share: Annotated[float, Field(gt=0, le=1)] = 0.5


class SalesforcePullSettings(PullSettings):
    """The same; deletes are marked there, so none has to be looked for."""

    reconcile_seconds: Seconds = 0.0


class _Connection(_Model):
    def secrets(self) -> Iterator[SecretReference]:
        """The references in it."""
        return (value for _, value in self if isinstance(value, SecretReference))

    def _said(self, *left_out: str) -> dict[str, Any]:
        """The fields as an adapter's login takes them."""
        values = {name: value for name, value in self if name not in ("tables", "pull", "stage", *left_out)}
        return {
            name: value.resolve() if isinstance(value, SecretReference) else value
            for name, value in values.items()
            if value is not None
        }


class _Source(_Connection):
    tables: dict[str, Text] = {}  # a contract's name: what its table is called there
    pull: PullSettings = PullSettings()

    def login(self) -> OpenTable:
        """What opens a table there; resolves the secrets."""
        raise NotImplementedError


def _one_of(ways: dict[str, bool]) -> None:
    if sum(ways.values()) != 1:
        raise PydanticCustomError("login_unclear", "give exactly one of {ways}", {"ways": ", ".join(ways)})


class _Snowflake(_Connection):
    """A Snowflake account. One of `password`, `private_key` (PEM) and `token` (OAuth)."""

    account: Text
    user: Text
    password: SecretReference | None = None
    private_key: SecretReference | None = None
    passphrase: SecretReference | None = None
    token: SecretReference | None = None
    warehouse: Text | None = None
    role: Text | None = None
    database: Text
    schema_name: Text = Field(default="PUBLIC", alias="schema")
    query_tag: Text = "lakehouse-streams"
    statement_timeout_seconds: PositiveInt = 3600
    host: Text | None = None
    port: PositiveInt | None = None
    protocol: Literal["https", "http"] = "https"

    @model_validator(mode="after")
    def _has_one_login(self) -> Self:
        _one_of({name: getattr(self, name) is not None for name in ("password", "private_key", "token")})
        return self

    def login(self) -> SnowflakeLogin:
        """By the real connector."""
        from batch_adapters.snowflake import SnowflakeLogin

        return SnowflakeLogin(**self._said("schema_name"), schema=self.schema_name)


class SnowflakeSource(_Snowflake, _Source):
    """A Snowflake account that tables are pulled from."""


class SnowflakeTarget(_Snowflake):
    """A Snowflake account that gold is published to; files are staged in `stage`, which is made if it is not there."""

    stage: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "LAKEHOUSE_STREAMS"


class _Redshift(_Connection):
    """A Redshift cluster or workgroup.

    Its login is one of `password`, `cluster_identifier` and `workgroup`; the latter two are IAM's.
    """

    host: Text | None = None
    port: PositiveInt = 5439
    database: Text
    schema_name: Text = Field(default="public", alias="schema")
    user: Text | None = None
    password: SecretReference | None = None
    cluster_identifier: Text | None = None
    workgroup: Text | None = None
    region: Text | None = None
    ssl: bool = True
    staging: Annotated[str, Field(pattern=r"^s3://[^/]+/.+")] | None = None
    iam_role: Text | None = None
    s3_endpoint: Text | None = None
    s3_access_key: SecretReference | None = None
    s3_secret_key: SecretReference | None = None

    @model_validator(mode="after")
    def _has_one_login(self) -> Self:
        ways = ("password", "cluster_identifier", "workgroup")
        _one_of({name: getattr(self, name) is not None for name in ways})
        if self.password is not None and not (self.host and self.user):
            raise PydanticCustomError("login_unclear", "a password needs host and user beside it")
        return self

    def login(self) -> RedshiftLogin:
        """By redshift-connector, and S3."""
        from batch_adapters.redshift import RedshiftLogin

        return RedshiftLogin(**self._said("schema_name"), schema=self.schema_name)


class RedshiftSource(_Redshift, _Source):
    """A Redshift database that tables are pulled from: `unload` goes by S3, `direct` through the connection."""

    mode: Literal["unload", "direct"] = "unload"

    @model_validator(mode="after")
    def _has_staging(self) -> Self:
        if self.mode == "unload" and not self.staging:
            raise PydanticCustomError("staging_missing", "unload needs staging: s3://bucket/prefix")
        return self


class RedshiftTarget(_Redshift):
    """A Redshift database that gold is published to, by files in `staging`."""

    staging: Annotated[str, Field(pattern=r"^s3://[^/]+/.+")]


class SalesforceSource(_Source):
    """A Salesforce org: a connected app's key and secret, alone or with a user's name and password."""

    instance_url: Annotated[str, Field(pattern=r"^https?://[^/]+$")]
    consumer_key: Text
    consumer_secret: SecretReference
    username: Text | None = None
    password: SecretReference | None = None
    security_token: SecretReference | None = None
    api_version: Annotated[str, Field(pattern=r"^\d+\.0$")] = "62.0"
    mode: Literal["auto", "bulk", "rest"] = "auto"
    max_api_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    pull: SalesforcePullSettings = SalesforcePullSettings()

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise PydanticCustomError("login_unclear", "give username and password, or neither")
        return self

    def login(self) -> OpenTable:
        """By OAuth."""
        from batch_adapters.salesforce import SalesforceLogin

        return SalesforceLogin(**self._said())


AnySource = SnowflakeSource | RedshiftSource | SalesforceSource


class SourceSettings(_Model):
    """The sources that there are; the jobs of one that is left out say so."""

    snowflake: SnowflakeSource | None = None
    redshift: RedshiftSource | None = None
    salesforce: SalesforceSource | None = None

    def named(self, system: str) -> AnySource | None:
        """The source of that name; None where nothing is said of it."""
        return getattr(self, system)  # type: ignore[no-any-return]

    def secrets(self) -> Iterator[SecretReference]:
        """All references to secrets in them."""
        for source in (self.snowflake, self.redshift, self.salesforce):
            yield from source.secrets() if source is not None else ()


class TargetSettings(_Model):
    """The warehouses that gold is published to; the flows of one that is left out are not there."""

    redshift: RedshiftTarget | None = None
    snowflake: SnowflakeTarget | None = None

    def secrets(self) -> Iterator[SecretReference]:
        """All references to secrets in them."""
        for target in (self.redshift, self.snowflake):
            yield from target.secrets() if target is not None else ()
