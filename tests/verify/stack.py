"""What a lake needs around it: a broker, the stand-ins, lines to them that can fail, and the service's configuration."""

from __future__ import annotations

import datetime as dt
import shutil
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from streams.local.shop_sources import ShopSources
from streams.quality.contract import load_contracts
from streams.settings import PROJECT
from tests.spark.flow_bench import settings_for
from tests.verify.proxy import HttpProxy, SqlProxy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow as pa

    from streams.local.broker import Broker
    from streams.settings import Settings

# A check that some sound rows fail, so that silver's lane has rows too.
DEAREST = 100
_CHECK = f"""
  - invalid_count(amount) = 0:
      name: amount is at most {DEAREST}
      valid max: {DEAREST}
"""
# Nothing that is written before a pull is left to a later one, and what is pulled comes once.
_PULL = {"lag_seconds": 0, "lookback_seconds": 0}


@dataclass
class Lines:
    """The lines to the stand-ins."""

    s3: HttpProxy
    snowflake: HttpProxy
    salesforce: HttpProxy
    redshift: SqlProxy


class Stack:
    """One lake's surroundings, while the context lasts.

    Args:
        folder: where all of it lies.
        broker: runs already; a topic is made there.
        changes: to the service's settings.
    """

    def __init__(self, folder: Path, broker: Broker, **changes: Any) -> None:
        self.folder, self.broker, self._changes = folder, broker, changes
        self.topic = f"events-{uuid.uuid4().hex[:8]}"
        self.landing = folder / "landing"
        self.contracts = folder / "contracts"
        self.salesforce_ahead = dt.timedelta(0)  # how far its clock was moved on
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(PROJECT / "contracts", self.contracts)
        checks = self.contracts / "soda" / "silver" / "order_events.yml"
        checks.write_text(checks.read_text().rstrip("\n") + _CHECK)
        self.landing.mkdir()
        with ExitStack() as starting:
            self.sources = starting.enter_context(
                ShopSources(self.folder / "sources", load_contracts(self.contracts / "bronze"))
            )
            s3, salesforce = (urlsplit(url) for url in (self.sources.s3.endpoint, self.sources.salesforce.url))
            snowflake, redshift = self.sources.snowflake, self.sources.redshift
            self.lines = Lines(
                starting.enter_context(HttpProxy(str(s3.hostname), int(s3.port or 0))),
                starting.enter_context(HttpProxy(snowflake.host, snowflake.port)),
                starting.enter_context(HttpProxy(str(salesforce.hostname), int(salesforce.port or 0))),
                starting.enter_context(SqlProxy(redshift.host, redshift.port)),
            )
            self.broker.create_topic(self.topic, partitions=2)
            self._stack = starting.pop_all()
        self.settings = self.settings_with()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def now(self, system: str) -> dt.datetime:
        """A source's time, in whole milliseconds."""
        now = dt.datetime.now(dt.UTC) + (self.salesforce_ahead if system == "salesforce" else dt.timedelta(0))
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    def pass_time(self, system: str) -> None:
        """Let so much time pass that what was written is before the source's now: Salesforce tells whole seconds."""
        if system == "salesforce":
            self.sources.salesforce.advance(2)
            self.salesforce_ahead += dt.timedelta(seconds=2)

    def make_table(self, system: str, name: str, schema: pa.Schema, key: Sequence[str]) -> str:
        """Make a table at a source, anew where there is one; gives its name as that source spells it."""
        spelled = {"redshift": name.lower(), "snowflake": name.upper(), "salesforce": f"{name}__c"}[system]
        self.create(system, spelled, schema, key)
        return spelled

    def create(self, system: str, name: str, schema: pa.Schema, key: Sequence[str]) -> None:
        """Make a table of exactly this name."""
        if system == "salesforce":
            self.sources.salesforce.create_object(name, schema)
        else:
            getattr(self.sources, system).create_table(name, schema, key)

    @property
    def config(self) -> Path:
        """The service's configuration, as a file."""
        return self.folder / "settings.yaml"

    def settings_with(self, folder: Path | None = None, **changes: Any) -> Settings:
        """The service's settings, in which what is given is other; of another lake where another folder is given."""
        known = {
            "contracts_root": str(self.contracts),
            "kafka": {"bootstrap_servers": self.broker.bootstrap_servers, "topics": {"order_events": self.topic}},
            "files": {"fx_rates": str(self.landing)},
            "sources": {
                system: said | {"pull": _PULL} for system, said in self._by_lines(self.sources.settings()).items()
            },
            "targets": self._by_lines(self.sources.targets()),
            "spark": {"driver_memory": "1g", "conf": {"spark.sql.warehouse.dir": str(self.folder / "warehouse")}},
            "logging": {"level": "info", "format": "json"},
        }
        own = {} if folder else self._changes
        return settings_for(folder or self.folder, **known | own | changes)

    def _by_lines(self, said: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        lines = self.lines
        said["snowflake"] |= {"host": lines.snowflake.host, "port": lines.snowflake.port}
        said["redshift"] |= {
            "host": lines.redshift.host,
            "port": lines.redshift.port,
            "s3_endpoint": f"http://{lines.s3.host}:{lines.s3.port}",
        }
        if "salesforce" in said:
            said["salesforce"]["instance_url"] = f"http://{lines.salesforce.host}:{lines.salesforce.port}"
        return said
