"""The demo: real data, sent with all its dirt, through every flow, and what gold holds beside what it must."""

from __future__ import annotations

import datetime as dt
import json
import secrets
import shutil
import threading
import time
from collections import ChainMap, Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import yaml
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from streams.errors import ConfigurationError, FatalError
from streams.flows import all_flows
from streams.flows.bronze import PULLED_TABLES
from streams.flows.publish import WAREHOUSES
from streams.local.broker import Broker
from streams.local.demo_report import compare, show_comparison, show_flows, show_plan
from streams.local.producer import send_replay
from streams.local.replay import ReplayPlan, plan_replay
from streams.local.shop import Shop, make_shop
from streams.local.shop_sources import ShopSources
from streams.quality.contract import load_contracts
from streams.settings import PROJECT, Settings, load_settings
from streams.supervisor.page.recent import Recent
from streams.supervisor.page.server import page_of
from streams.supervisor.service import started
from streams.supervisor.supervisor import State, Supervisor
from streams.telemetry.events import BatchDone

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from rich.console import Console

    from streams.supervisor.service import Service
    from streams.telemetry.events import Event

TOPIC: Final = "order_events"
_PARTITIONS: Final = 4
_SEND_SECONDS: Final = 45.0
_SENT: Final = "sent"  # a file that is there when all of the replay has gone out
_CHANGED: Final = "changed"  # a file that says when the sources changed
_GIVE_UP_AFTER: Final = 600.0  # seconds without any flow doing anything


def run_demo(out: Console, *, orders: int | None, seed: int, keep: bool, folder: Path | None = None) -> bool:
    """Run it; True when gold agrees with the files that were sent, and bronze with the sources.

    Args:
        out: where to show progress and the result.
        orders: how many of the purchases; None for all.
        seed: which dirt.
        keep: go on with what an earlier demo left in the folder.
        folder: where the demo's broker and lake live; ``.streams/demo`` in the project by default.
    """
    began = time.monotonic()
    place = folder or PROJECT / ".streams" / "demo"
    _make_place(place, {"orders": orders, "seed": seed}, keep=keep)
    out.print("[bold]1[/] Planning the replay, and what the sources hold", highlight=False)
    plan, shop = plan_replay(seed, orders), make_shop(seed, orders)
    show_plan(out, plan)
    out.print("[bold]2[/] Starting Kafka, Snowflake, Redshift, S3 and Salesforce stand-ins, and Spark", highlight=False)

    def say(line: str) -> None:
        out.print(f"  {line}", highlight=False, soft_wrap=True)

    with ExitStack() as stack:
        broker = stack.enter_context(Broker(place / "broker", say))
        if not keep:
            broker.create_topic(TOPIC, _PARTITIONS)
        contracts = load_contracts(PROJECT / "contracts" / "bronze")
        sources = stack.enter_context(ShopSources(place / "sources", contracts))
        sources.fill(shop)
        counted, recent = _Counted(), Recent()
        settings = _settings(place, broker.bootstrap_servers, sources)
        service = stack.enter_context(started(settings, (counted, recent), say))
        say(f"broker at {broker.bootstrap_servers}, lake in {settings.lake.root}")
        out.print("[bold]3[/] Every flow is up; the replay runs, and the sources change meanwhile", highlight=False)
        with page_of(service, recent, say):
            _Run(out, place, plan, shop, service, broker, sources, counted).settle()
        show_flows(out, counted.by_flow)
        comparison = compare(plan, shop, sources, service)
    show_comparison(out, comparison)
    verdict = "[bold green]all agrees[/]" if comparison.agrees else "[bold red]something does not agree[/]"
    out.print(f"{verdict} · {time.monotonic() - began:.0f} s in all", highlight=False)
    out.print(
        f"Look around: .venv/bin/streams errors list --config {place / 'settings.yaml'}",
        highlight=False,
        soft_wrap=True,
    )
    return comparison.agrees


def _make_place(place: Path, plan: dict[str, int | None], *, keep: bool) -> None:
    note = place / "demo.json"
    if keep and not (place / _SENT).is_file():
        raise ConfigurationError(
            "DEMO_NOT_SENT",
            f"No whole replay was sent in {place}: there is nothing to go on with.",
            way_out="Leave --keep out.",
        )
    if keep and json.loads(note.read_text()) != plan:
        raise ConfigurationError(
            "DEMO_DIFFERS",
            f"The demo kept in {place} was another one ({note.read_text()}).",
            way_out="Leave --keep out.",
        )
    if place.exists() and not keep:
        shutil.rmtree(place)
    # The warehouses are new and empty each time, so what is published begins anew.
    for system in WAREHOUSES:
        for checkpoint in (place / "checkpoints").glob(f"{system}.*"):
            shutil.rmtree(checkpoint)
    place.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(plan))


def _settings(place: Path, bootstrap_servers: str, sources: ShopSources) -> Settings:
    """The development configuration, in a place of its own."""
    overrides = {
        "STREAMS__ENVIRONMENT": "demo",
        "STREAMS__LAKE__ROOT": str(place / "lake"),
        "STREAMS__CHECKPOINTS__ROOT": str(place / "checkpoints"),
        "STREAMS__DQ_RESULTS_ROOT": str(place / "dq_results"),
        "STREAMS__FILES__FX_RATES": str(place / "landing"),
        "STREAMS__KAFKA__BOOTSTRAP_SERVERS": bootstrap_servers,
        "STREAMS__KAFKA__TOPICS__ORDER_EVENTS": TOPIC,
        "STREAMS__LOGGING__LEVEL": "warning",
        "STREAMS__PAGE__PORT": "0",
        "STREAMS__PERSONAL__HASH_KEY": _hash_key(place),
        **_as_variables("STREAMS__SOURCES", sources.settings()),
        **_as_variables("STREAMS__TARGETS", sources.targets()),
    }
    settings = load_settings("dev", None, overrides)
    # So that every other command can be tried on what the demo leaves.
    (place / "settings.yaml").write_text(
        yaml.safe_dump(settings.model_dump(mode="json", exclude_none=True, by_alias=True))
    )
    return settings


def _hash_key(place: Path) -> str:
    file = place / "hash.key"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(32))
    return f"file:{file}"


def _as_variables(prefix: str, said: Mapping[str, Any]) -> dict[str, str]:
    named = {f"{prefix}__{name.upper()}": value for name, value in said.items()}
    deeper = (_as_variables(name, value) for name, value in named.items() if isinstance(value, dict))
    flat = {name: str(value) for name, value in named.items() if not isinstance(value, dict)}
    return dict(ChainMap(flat, *deeper))


class _Counted:
    """Sums over the audits of all batches, kept while they are made in the flows' threads."""

    def __init__(self) -> None:
        self.by_flow: dict[str, Counter[str]] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        if not isinstance(event, BatchDone):
            return
        audit = event.audit
        with self._lock:
            sums = self.by_flow.setdefault(audit.batch.flow, Counter())
            sums.update(vars(audit.counts) | {"batches": 1})
            sums.update({"milliseconds": int(1000 * sum(audit.seconds.values()))})

    def rows_in(self, *flows: str) -> int:
        with self._lock:
            return sum(self.by_flow.get(flow, Counter())["rows_read"] for flow in flows)


@dataclass
class _Run:
    """Everything is sent, and the sources change, while the supervisor runs; then every flow gets through."""

    out: Console
    place: Path
    plan: ReplayPlan
    shop: Shop
    service: Service
    broker: Broker
    sources: ShopSources
    counted: _Counted

    def settle(self) -> None:
        """Return when every flow has nothing left to do."""
        supervisor = Supervisor(all_flows(self.service.settings).values(), self.service)
        was_sent = (self.place / _SENT).is_file()
        is_changed = self._is_changed_already()
        supervisor.start()
        with Progress(
            TextColumn("  {task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.out,
        ) as progress:
            total = len(self.plan.messages) + len(self.plan.files)
            sending = progress.add_task("sent", total=total, completed=total if was_sent else 0)
            reading = progress.add_task("messages in bronze", total=len(self.plan.messages))
            pulling = progress.add_task("rows pulled into bronze", total=self._rows_sent())
            sender = None if was_sent else self._send(lambda count: progress.advance(sending, count))
            last_change, last_seen = time.monotonic(), -1
            while True:
                supervisor.wait(0.5)
                _raise_what_failed(supervisor, sender)
                seen = self.counted.rows_in(*self.counted.by_flow)
                progress.update(reading, completed=self.counted.rows_in("bronze.order_events"))
                progress.update(pulling, completed=self.counted.rows_in(*(table.flow for table in PULLED_TABLES)))
                if seen != last_seen:
                    last_change, last_seen = time.monotonic(), seen
                if not is_changed and self._has_pulled({name: len(rows) for name, rows in self.shop.tables.items()}):
                    self._change()
                    is_changed = True
                if self._is_through(supervisor, sender, pulled=was_sent or self._has_pulled(self._sent())):
                    break
                if time.monotonic() - last_change > _GIVE_UP_AFTER:
                    raise FatalError(
                        "DEMO_STALLED", f"Nothing has moved for {_GIVE_UP_AFTER:.0f} s: {supervisor.states()}."
                    )
        if not supervisor.drain(self.service.settings.drain_seconds):
            raise FatalError("DRAIN_TOO_SLOW", "The flows did not end in time.")

    def _is_changed_already(self) -> bool:
        """In a demo that goes on the sources are as its predecessor left them."""
        note = self.place / _CHANGED
        if note.is_file():
            self.sources.change(self.shop, dt.datetime.fromisoformat(note.read_text()))
        return note.is_file()

    def _change(self) -> None:
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        (self.place / _CHANGED).write_text(now.isoformat())
        self.sources.change(self.shop, now)

    def _sent(self) -> dict[str, int]:
        return {name: expected.rows for name, expected in self.shop.expected.items()}

    def _rows_sent(self) -> int:
        return sum(self._sent().values())

    def _has_pulled(self, rows: Mapping[str, int]) -> bool:
        return all(self.counted.rows_in(table.flow) >= rows[table.contract] for table in PULLED_TABLES)

    def _send(self, on_progress: Callable[[int], None]) -> _Sender:
        sender = _Sender(self.plan, self.broker, self.place, on_progress)
        sender.start()
        return sender

    def _is_through(self, supervisor: Supervisor, sender: _Sender | None, *, pulled: bool) -> bool:
        return pulled and (sender is None or not sender.is_alive()) and supervisor.is_idle()


class _Sender(threading.Thread):
    """Sends the replay; keeps the error that ended it."""

    def __init__(self, plan: ReplayPlan, broker: Broker, place: Path, on_progress: Callable[[int], None]) -> None:
        super().__init__(name="replay", daemon=True)
        self._arguments = (plan, broker.bootstrap_servers, TOPIC, place / "landing")
        self._sent = place / _SENT
        self._on_progress = on_progress
        self.error: Exception | None = None

    def run(self) -> None:
        seconds = _SEND_SECONDS * len(self._arguments[0].messages) / 220_000
        try:
            send_replay(*self._arguments, seconds=seconds, on_progress=self._on_progress)
            self._sent.touch()
        except Exception as error:
            self.error = error


def _raise_what_failed(supervisor: Supervisor, sender: _Sender | None) -> None:
    if sender is not None and sender.error is not None:
        raise sender.error
    for flow, state in supervisor.states().items():
        if state is State.FAILED:
            raise FatalError("FLOW_FAILED", f"{flow} failed: {supervisor.errors().get(flow)}")
