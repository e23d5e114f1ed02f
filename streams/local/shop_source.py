"""One source of the shop as a service: filled, and changing for as long as it is up."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from streams.flows.bronze import PULLED_TABLES
from streams.local.salesforce_server import SalesforceServer
from streams.local.shop import make_shop
from streams.local.shop_sources import dated
from streams.quality.contract import load_contracts
from streams.settings import PROJECT

if TYPE_CHECKING:
    from streams.local.redshift_server import RedshiftServer
    from streams.local.snowflake_server import SnowflakeServer

_ROUND: Final = 60  # after so many changes each row that changes has done so, and they begin anew


class ShopSource:
    """Fills a stand-in with the shop's tables of its system; what it has kept from earlier stays as it is.

    Args:
        system: as `streams.flows.bronze.PULLED_TABLES` calls it.
        server: the stand-in, running.
        seed: which shop.
        orders: of how many purchases; all, if None.
    """

    def __init__(
        self,
        system: str,
        server: RedshiftServer | SalesforceServer | SnowflakeServer,
        seed: int,
        orders: int | None,
    ) -> None:
        self._server = server
        self._turn = 0
        self._contracts = load_contracts(PROJECT / "contracts" / "bronze")
        self._tables = [table for table in PULLED_TABLES if table.system == system]
        self._shop = make_shop(seed, orders)
        for table in self._tables:
            rows, key = self._shop.tables[table.contract], self._contracts[table.contract].primary_key
            if isinstance(server, SalesforceServer):
                server.create_object(table.table, rows.schema)
            else:
                server.create_table(table.table, rows.schema, key, replace=False)
            if server.count(table.table) == 0:
                server.load(table.table, rows)

    def change(self) -> None:
        """Write the next of the rows that change, as changed now."""
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        for table in self._tables:
            rows = self._shop.changes[table.contract]
            size = -(-len(rows) // _ROUND)
            part = rows.slice(self._turn * size, size)
            if len(part):
                self._server.load(table.table, dated(part, self._contracts[table.contract], now))
        self._turn = (self._turn + 1) % _ROUND
