"""The shop's three sources on the loopback: Snowflake, Redshift (with S3) and Salesforce stand-ins, filled."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, Self

import pyarrow as pa

from streams.flows.bronze import PULLED_TABLES
from streams.local.redshift_server import RedshiftServer
from streams.local.s3_server import S3Server
from streams.local.salesforce_server import SalesforceServer
from streams.local.snowflake_server import DATABASE, SnowflakeServer

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping
    from pathlib import Path

    from streams.flows.bronze import PulledTable
    from streams.local.shop import Shop
    from streams.quality.contract import Contract

STAGING: Final = "lakehouse-staging"


class ShopSources:
    """The sources, while the context lasts.

    Args:
        folder: where they keep what they need; made if it is not there.
        contracts: the bronze contracts, by name: keys and cursors of the tables.
    """

    def __init__(self, folder: Path, contracts: Mapping[str, Contract]) -> None:
        self._folder, self._contracts = folder, contracts
        self._stack = ExitStack()
        self._changed_at: dt.datetime | None = None

    def __enter__(self) -> Self:
        with ExitStack() as starting, ThreadPoolExecutor() as pool:
            self.s3 = starting.enter_context(S3Server(self._folder / "s3"))
            self.s3.make_bucket(STAGING)
            servers = (
                SnowflakeServer(self._folder / "snowflake"),
                RedshiftServer(self._folder / "redshift", self.s3),
                SalesforceServer(self._folder / "salesforce"),
            )
            for server in servers:
                starting.push(server)
            self.snowflake, self.redshift, self.salesforce = pool.map(lambda server: server.__enter__(), servers)
            self._stack = starting.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def fill(self, shop: Shop) -> None:
        """Make the tables, with what they hold in the beginning."""
        for table in PULLED_TABLES:
            rows = shop.tables[table.contract]
            key = self._contracts[table.contract].primary_key
            if table.system == "salesforce":
                self.salesforce.create_object(table.table, rows.schema)
            elif table.system == "redshift":
                self.redshift.create_table(table.table, rows.schema, key)
            else:
                self.snowflake.create_table(table.table, rows.schema, key)
            self._load(table, rows)

    def change(self, shop: Shop, at: dt.datetime) -> None:
        """What happens at the sources afterwards, at one moment."""
        self._changed_at = at
        for table in PULLED_TABLES:
            self._load(table, self.changed(shop, table.contract))

    def changed(self, shop: Shop, contract: str) -> pa.Table:
        """The rows of a table that `change` has written, with its moment as their cursor."""
        assert self._changed_at is not None
        return dated(shop.changes[contract], self._contracts[contract], self._changed_at)

    def count(self, table: PulledTable) -> int:
        """How many rows a table holds, asked of the source itself."""
        return getattr(self, table.system).count(table.table)  # type: ignore[no-any-return]

    def settings(self) -> dict[str, dict[str, Any]]:
        """`sources` as a configuration says it; the secrets lie in files beside the stand-ins' own."""
        snowflake, redshift, salesforce = self.snowflake, self.redshift, self.salesforce
        pull = {"every_seconds": 20, "lag_seconds": 1, "lookback_seconds": 0}
        return {
            "snowflake": {
                "host": snowflake.host,
                "port": snowflake.port,
                "protocol": "http",
                "account": snowflake.account,
                "user": snowflake.user,
                "password": self._secret("snowflake", snowflake.password),
                "database": DATABASE,
                "pull": pull,
            },
            "redshift": {
                "host": redshift.host,
                "port": redshift.port,
                "database": redshift.database,
                "user": redshift.user,
                "password": self._secret("redshift", redshift.password),
                "ssl": False,
                "mode": "unload",
                "staging": f"s3://{STAGING}/pulls",
                "s3_endpoint": self.s3.endpoint,
                "s3_access_key": self._secret("s3_access_key", self.s3.access_key),
                "s3_secret_key": self._secret("s3_secret_key", self.s3.secret_key),
                "pull": pull,
            },
            "salesforce": {
                "instance_url": salesforce.url,
                "consumer_key": salesforce.consumer_key,
                "consumer_secret": self._secret("salesforce", salesforce.consumer_secret),
                "pull": pull,
            },
        }

    def targets(self) -> dict[str, dict[str, Any]]:
        """`targets` as a configuration says it: the same two warehouses, for gold."""
        said = self.settings()
        left_out = {"redshift": ("mode", "pull"), "snowflake": ("pull",)}
        kept = {
            system: {name: value for name, value in said[system].items() if name not in names}
            for system, names in left_out.items()
        }
        kept["redshift"]["staging"] = f"s3://{STAGING}/loads"
        return kept

    def _secret(self, name: str, value: str) -> str:
        file = self._folder / f"{name}.secret"
        file.touch(mode=0o600)
        file.write_text(value)
        return f"file:{file}"

    def _load(self, table: PulledTable, rows: pa.Table) -> None:
        getattr(self, table.system).load(table.table, rows)


def dated(rows: pa.Table, contract: Contract, at: dt.datetime) -> pa.Table:
    """The rows with one moment as their cursor."""
    place = rows.schema.get_field_index(contract.sequence[0])
    field = rows.schema.field(place)
    return rows.set_column(place, field, pa.repeat(pa.scalar(at, field.type), len(rows)))
