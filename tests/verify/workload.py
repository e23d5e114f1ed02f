"""The seeded workload: what is sent to each source, a little at a time, and a record of all that was sent."""

from __future__ import annotations

import datetime as dt
import random
from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from confluent_kafka import Producer

from streams.errors import RetriableError
from streams.flows.bronze import PULLED_TABLES
from streams.local.producer import write_file
from streams.local.replay import Message, RateFile, plan_replay
from streams.local.shop import make_shop
from tests.verify.judge import Rules, Verdict, csv_message, json_file

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.verify.judge import Row
    from tests.verify.stack import Stack

EVENTS, RATES = "bronze.order_events", "bronze.fx_rates"
PULLED = {table.flow: table for table in PULLED_TABLES}
SOURCES = (EVENTS, RATES, *PULLED)
CONTRACTS = {EVENTS: "kafka_events", RATES: "fx_rates"} | {flow: table.contract for flow, table in PULLED.items()}
_MESSAGES, _ROWS = 8, 5  # a feed
_BROKEN_EVERY = 6  # of the rows that are changed over and over

# A sound change of a row that no other number makes, and a change that breaks its contract.
_CHANGES: dict[str, Any] = {
    "snowflake_customers": lambda n: ({"city": f"City {n}"}, {"segment": "vip"}),
    "snowflake_orders": lambda n: ({"amount": Decimal(100 + n) / 100}, {"currency": "usd"}),
    "snowflake_products": lambda n: ({"unit_price": Decimal(100 + n) / 100}, {"name": ""}),
    "crm_accounts": lambda n: ({"NumberOfEmployees": n}, {"Type": "Reseller"}),
    "crm_contacts": lambda n: ({"Title": f"Title {n}"}, {"Email": "call me instead"}),
    "crm_opportunities": lambda n: ({"Amount": Decimal(100 + n) / 100}, {"Probability": Decimal("140.00")}),
    "redshift_behavior": lambda n: ({"page_views": n % 90_000}, {"device": "fridge"}),
}


@dataclass(frozen=True)
class SentMessage:
    """A message as the broker has it; `at` is its timestamp there."""

    partition: int
    offset: int
    at: dt.datetime
    verdict: Verdict


@dataclass
class Sent:
    """All that was sent, judged. What a person accepted as lost is in none of it."""

    messages: list[SentMessage] = field(default_factory=list)
    files: dict[str, list[Verdict]] = field(default_factory=dict)
    rows: dict[str, list[tuple[str, Verdict]]] = field(default_factory=dict)  # by bronze flow: key and verdict
    made_anew: set[str] = field(default_factory=set)  # tables that a reset has read all of once more

    def count(self, flow: str) -> int:
        """How many inputs a bronze flow has to read."""
        if flow == EVENTS:
            return len(self.messages)
        if flow == RATES:
            return sum(map(len, self.files.values()))
        return len(self.rows.get(flow, ()))


class Sender:
    """Sends messages to a topic, and notes where the broker put them."""

    def __init__(self, bootstrap_servers: str, topic: str, rules: Rules, sent: Sent) -> None:
        self.topic, self.rules, self.sent = topic, rules, sent
        self._producer = Producer({"bootstrap.servers": bootstrap_servers, "log_level": 0})
        self._failed: list[Any] = []

    def send(self, messages: Iterable[Message]) -> None:
        """Return when the broker has them all."""
        for message in messages:
            verdict = csv_message(self.rules, message.key, message.value, "order_id")
            while True:
                try:
                    self._producer.produce(
                        self.topic, key=message.key, value=message.value, on_delivery=partial(self._note, verdict)
                    )
                    break
                except BufferError:  # the queue is full: let some of it go out
                    self._producer.poll(0.1)
            self._producer.poll(0)
        if self._producer.flush(60) or self._failed:
            raise RetriableError("WORKLOAD_NOT_SENT", f"Messages did not reach {self.topic}: {self._failed[:1]}.")

    def _note(self, verdict: Verdict, error: Any, made: Any) -> None:
        if error is not None:
            self._failed.append(error)
            return
        at = dt.datetime.fromtimestamp(made.timestamp()[1] / 1000, dt.UTC)
        self.sent.messages.append(SentMessage(made.partition(), made.offset(), at, verdict))


class Workload:
    """Feeds the sources of a stack.

    Args:
        seed: the same seed feeds the same, but for the times at which it does.
        stack: where.
        orders: of how many purchases.
    """

    def __init__(self, seed: int, stack: Stack, orders: int = 600) -> None:
        self.sent, self._stack = Sent(), stack
        self.rules = {
            flow: Rules(stack.contracts / "bronze" / f"{name}.schema.json") for flow, name in CONTRACTS.items()
        }
        self._chance = random.Random(f"workload {seed}")
        plan, shop = plan_replay(seed, orders), make_shop(seed, orders)
        self._messages = deque(_mixed(plan.messages))
        self._files = deque(plan.files)
        self._rows = {
            flow: deque([*shop.tables[name].to_pylist(), *shop.changes[name].to_pylist()])
            for flow, name in CONTRACTS.items()
            if flow in PULLED
        }
        self._known: dict[str, dict[str, Row]] = {flow: {} for flow in PULLED}
        self._number = 0
        self._sender = Sender(stack.broker.bootstrap_servers, stack.topic, self.rules[EVENTS], self.sent)
        for flow, table in PULLED.items():
            stack.create(table.system, table.table, shop.tables[table.contract].schema, self.rules[flow].key)

    def feed(self, flow: str, count: int | None = None) -> int:
        """Send some more to the source of a bronze flow; gives how many inputs that were."""
        if flow == EVENTS:
            some = [self._message() for _ in range(count or _MESSAGES)]
            return self.produce(some)
        if flow == RATES:
            return self.write(self._file())
        return self.load(flow, self._some_rows(flow, count or _ROWS))

    def produce(self, messages: Iterable[Message]) -> int:
        """Send messages, and note where the broker put them."""
        known = len(self.sent.messages)
        self._sender.send(messages)
        return len(self.sent.messages) - known

    def write(self, file: RateFile) -> int:
        """Land a file."""
        write_file(file, self._stack.landing)
        self.sent.files[file.name] = json_file(self.rules[RATES], file.content)
        return len(self.sent.files[file.name])

    def load(self, flow: str, rows: list[Row]) -> int:
        """Write rows at a source, now; what was there of their keys must have been pulled before."""
        table, rules = PULLED[flow], self.rules[flow]
        at = self._stack.now(table.system)
        dated = [row | {rules.cursor: at} for row in rows]
        getattr(self._stack.sources, table.system).load(table.table, dated)
        self._stack.pass_time(table.system)
        for row in dated:
            verdict, key = rules.of_values(row), row[rules.key[0]]
            self.sent.rows.setdefault(flow, []).append((key, verdict))
            if verdict.row is not None:
                self._known[flow][key] = row
        return len(rows)

    def _message(self) -> Message:
        message = self._messages.popleft()
        self._messages.append(message)  # when all were sent, they are repeated
        return message

    def _file(self) -> RateFile:
        file = self._files.popleft()
        self._number += 1
        self._files.append(RateFile(file.at, f"again-{self._number}-{file.name[-60:]}", file.content, "repeated"))
        return file

    def _some_rows(self, flow: str, count: int) -> list[Row]:
        """Rows that were not there yet; when there are none any more, changes of those that are."""
        waiting, some = self._rows[flow], {}
        key = self.rules[flow].key[0]
        while waiting and len(some) < count and waiting[0][key] not in some:
            row = waiting.popleft()
            some[row[key]] = row
        known = self._known[flow]
        candidates = [name for name in known if name not in some]
        for name in self._chance.sample(candidates, min(len(candidates), count - len(some))):
            self._number += 1
            change, breach = _CHANGES[CONTRACTS[flow]](self._number)
            some[name] = known[name] | (change if self._number % _BROKEN_EVERY else breach)
        return list(some.values())


def _mixed(messages: Iterable[Message]) -> list[Message]:
    """The messages in their order, the broken ones spread evenly among them."""
    sound, broken = [], []
    for message in messages:
        (broken if message.kind.startswith("broken") else sound).append(message)
    every = max(1, len(sound) // max(1, len(broken)))
    mixed = []
    for place, message in enumerate(sound):
        mixed.append(message)
        if place % every == every // 2 and broken:
            mixed.append(broken.pop())
    return [*mixed, *broken]
