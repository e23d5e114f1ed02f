"""A source of the shop as a service: what it holds in the beginning, after a restart, and after its changes."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from streams.local.shop import make_shop
from streams.local.shop_source import ShopSource
from streams.local.snowflake_server import SnowflakeServer

if TYPE_CHECKING:
    from pathlib import Path

ORDERS = 60


def changed_since(server: SnowflakeServer, at: dt.datetime) -> int:
    with server.connect() as connection:
        cursor = connection.cursor()
        cursor.execute(f"SELECT COUNT(*) FROM orders WHERE updated_at >= '{at:%Y-%m-%d %H:%M:%S}+00:00'")
        found = cursor.fetchone()
    assert isinstance(found, tuple)
    return int(found[0])


def test_source_changes_and_keeps_its_changes(tmp_path: Path) -> None:
    shop, began = make_shop(7, ORDERS), dt.datetime.now(dt.UTC).replace(microsecond=0)
    expected = shop.expected["snowflake_orders"]
    kept = {"tables": tmp_path / "tables", "stages": tmp_path / "stages"}
    with SnowflakeServer(tmp_path, **kept) as server:
        source = ShopSource("snowflake", server, 7, ORDERS)
        assert server.count("ORDERS") == len(shop.tables["snowflake_orders"])
        assert changed_since(server, began) == 0
        for _ in range(60):
            source.change()
        changed = changed_since(server, began)
        assert changed == len(shop.changes["snowflake_orders"]) > 0
        assert server.count("ORDERS") == expected.keys
    with SnowflakeServer(tmp_path, **kept) as again:
        ShopSource("snowflake", again, 7, ORDERS)
        assert again.count("ORDERS") == expected.keys
        assert changed_since(again, began) == changed
