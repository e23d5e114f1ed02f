"""How to reach the databases that tables are pulled from, and how they are pulled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from streams.secrets import SecretReference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batch_adapters.adapter import SourceTable, TableOptions

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


class _Source(_Model):
    tables: dict[str, Text] = {}  # a contract's name: what its table is called there
    pull: PullSettings = PullSettings()

    def secrets(self) -> Iterator[SecretReference]:
        """The references in it."""
        return (value for _, value in self if isinstance(value, SecretReference))

    def login(self) -> OpenTable:
        """What opens a table there; resolves the secrets."""
        raise NotImplementedError

    def _said(self, *left_out: str) -> dict[str, Any]:
        """The fields as an adapter's login takes them."""
        values = {name: value for name, value in self if name not in ("tables", "pull", *left_out)}
        return {
            name: value.resolve() if isinstance(value, SecretReference) else value
            for name, value in values.items()
            if value is not None
        }


def _one_of(ways: dict[str, bool]) -> None:
    if sum(ways.values()) != 1:
        raise PydanticCustomError("login_unclear", "give exactly one of {ways}", {"ways": ", ".join(ways)})


class SnowflakeSource(_Source):
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

    def login(self) -> OpenTable:
        """By the real connector."""
        from batch_adapters.snowflake import SnowflakeLogin

        return SnowflakeLogin(**self._said("schema_name"), schema=self.schema_name)


class SourceSettings(_Model):
    """The sources that there are; the jobs of one that is left out say so."""

    snowflake: SnowflakeSource | None = None

    def named(self, system: str) -> SnowflakeSource | None:
        """The source of that name; None where nothing is said of it."""
        return getattr(self, system)  # type: ignore[no-any-return]

    def secrets(self) -> Iterator[SecretReference]:
        """All references to secrets in them."""
        return self.snowflake.secrets() if self.snowflake is not None else iter(())
