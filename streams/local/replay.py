"""The replay: real purchases and rates as a shop and a bank would send them, dirt included, by a seed.

Every purchase becomes the events of one order. What is broken is sent beside what is sound and never in its
place, so what must come out is known exactly.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import random
import uuid
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from streams.local.purchases import purchases, reference_rates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streams.local.purchases import Purchase, Rate

_NAMESPACE: Final = uuid.UUID("7d2c3f51-4f53-4c44-9a55-5b1e8a1f0a10")
_NOTES: Final = (
    "",
    "",
    "",
    "",
    "leave at the door",
    'he said "ring twice", so ring twice',
    "gift, wrapped\nwith a card",
    "c/o Müller, 2. Stock",
    "日本語のメモ",
)
GHOSTS: Final = 25


@dataclass(frozen=True, slots=True)
class Message:
    """One message for the topic; `at` is when it arrives, `kind` what it is there for."""

    at: dt.datetime
    key: bytes | None
    value: bytes | None
    kind: str


@dataclass(frozen=True, slots=True)
class RateFile:
    """One file for the landing folder; `at` is when it arrives."""

    at: dt.datetime
    name: str
    content: bytes
    kind: str


@dataclass(frozen=True)
class ReplayPlan:
    """All that is sent, in the order of its arrival, and what must become of it.

    Attributes:
        messages: for the topic.
        files: for the landing folder.
        lane: how many rows must end in the error lane, by the code of what is wrong with them.
    """

    orders: tuple[Purchase, ...]
    messages: tuple[Message, ...]
    files: tuple[RateFile, ...]
    lane: dict[str, int]

    def counts(self) -> dict[str, int]:
        """How many of each kind are sent."""
        kinds = [message.kind for message in self.messages] + [file.kind for file in self.files]
        return dict(sorted(Counter(kinds).items()))


def plan_replay(seed: int, limit: int | None = None) -> ReplayPlan:
    """Plan a replay of the first `limit` purchases (all: None). The same seed gives the same plan."""
    chance = random.Random(seed)
    orders = tuple(purchases(limit))
    sound = [message for order in orders for message in _order_messages(order, chance)]
    ghosts = list(_ghost_messages(chance))
    repeats = [_again(message, chance) for message in chance.sample(sound, max(1, len(sound) // 50))]
    broken = list(_broken_messages(sound, chance))
    messages = sorted((*sound, *ghosts, *repeats, *(message for message, _ in broken)), key=lambda message: message.at)
    files = list(_rate_files(chance))
    lane = Counter(code for _, code in broken) + Counter(code for _, codes in files for code in codes)
    sent = sorted((file for file, _ in files), key=lambda file: file.at)
    return ReplayPlan(orders, tuple(messages), tuple(sent), dict(sorted(lane.items())))


def _order_messages(order: Purchase, chance: random.Random) -> Iterator[Message]:
    """The events of an order. Some arrive up to three days late, so that they arrive out of order."""
    created = dt.datetime.combine(order.day, dt.time(), dt.UTC) + dt.timedelta(seconds=chance.randrange(86_400))
    paid = created + dt.timedelta(minutes=chance.randrange(1, 600))
    shipped = paid + dt.timedelta(hours=chance.randrange(2, 72))
    steps = [("created", created), ("paid", paid), ("shipped", shipped)]
    fate = chance.random()
    if fate < 0.06:
        steps.append(("delivered", shipped + dt.timedelta(days=chance.randrange(1, 6))))
    elif fate < 0.09:
        steps[2:] = [("cancelled", paid + dt.timedelta(hours=1))]
    elif fate < 0.11:
        steps.append(("refunded", shipped + dt.timedelta(days=chance.randrange(3, 30))))
    for sequence, (kind, at) in enumerate(steps, start=1):
        is_late = chance.random() < 0.05
        arrival = at + dt.timedelta(seconds=chance.randrange(259_200) if is_late else chance.randrange(5))
        made = (
            (order.customer_id, order.quantity, order.amount, "USD", chance.choice(_NOTES))
            if kind == "created"
            else ("",) * 5
        )
        yield Message(
            arrival,
            order.order_id.encode(),
            _line(_event_id(order.order_id, sequence), order.order_id, sequence, kind, at, *made),
            "late event" if is_late else "event",
        )


def _ghost_messages(chance: random.Random) -> Iterator[Message]:
    """Orders that are deleted again, by a message without a value; half have an event that comes after it."""
    for number in range(1, GHOSTS + 1):
        order_id = f"GH-{number:06d}"
        at = dt.datetime(2025, 1, 2, tzinfo=dt.UTC) + dt.timedelta(
            days=chance.randrange(500), seconds=chance.randrange(86_400)
        )
        made = ("99999", 1, Decimal("666.00"), "USD", "")
        created = _line(_event_id(order_id, 1), order_id, 1, "created", at, *made)
        yield Message(at, order_id.encode(), created, "event of a deleted order")
        yield Message(at + dt.timedelta(hours=6), order_id.encode(), None, "tombstone")
        if number % 2:
            paid_at = at + dt.timedelta(hours=1)
            paid = _line(_event_id(order_id, 2), order_id, 2, "paid", paid_at, *("",) * 5)
            yield Message(at + dt.timedelta(days=2), order_id.encode(), paid, "event of a deleted order")


def _again(message: Message, chance: random.Random) -> Message:
    return Message(
        message.at + dt.timedelta(seconds=chance.randrange(172_800)), message.key, message.value, "repeated message"
    )


# What is done to a line, and the code of the violation that it must be found to be.
_BREAKERS: Final[dict[str, tuple[Callable[[list[str]], bytes], str]]] = {
    "columns missing": (lambda fields: _csv(fields[:6]), "columns"),
    "a column too many": (lambda fields: _csv([*fields, "more"]), "columns"),
    "quote not closed": (lambda fields: _csv(fields[:-1]) + b',"never closed', "quoting"),
    "two records": (lambda fields: _csv(fields) + b"\n" + _csv(fields), "records"),
    "amount in words": (lambda fields: _csv([*fields[:7], "twelve", *fields[8:]]), "type"),
    "a third decimal": (lambda fields: _csv([*fields[:7], "1.005", *fields[8:]]), "type"),
    "a day that is not": (lambda fields: _csv([*fields[:4], "2025-02-30T10:00:00Z", *fields[5:]]), "type"),
    "unknown type": (lambda fields: _csv([*fields[:3], "teleported", *fields[4:]]), "enum"),
    "no order": (lambda fields: _csv([fields[0], "", *fields[2:]]), "required"),
    "negative quantity": (lambda fields: _csv([*fields[:6], "-3", *fields[7:]]), "minimum"),
    "Latin-1": (lambda fields: _csv([*fields[:9], "Grüße"]).decode().encode("latin-1"), "encoding"),
    "empty": (lambda _: b"", "empty"),
}


def _broken_messages(sound: list[Message], chance: random.Random) -> Iterator[tuple[Message, str]]:
    """Lines with an event id of their own, so that what is broken never stands for what is sound."""
    created = [message for message in sound if message.value and b",1,created," in message.value]
    for model in chance.sample(created, min(len(created), max(24, len(sound) // 500))):
        kind = chance.choice(sorted(_BREAKERS))
        breaker, code = _BREAKERS[kind]
        fields = next(csv.reader(io.StringIO((model.value or b"").decode(), newline="")))
        fields[0] = str(uuid.uuid5(_NAMESPACE, f"broken {kind} {fields[0]}"))
        yield Message(model.at, model.key, breaker(fields), f"broken: {kind}"), code


def _line(event_id: str, order_id: str, sequence: int, kind: str, at: dt.datetime, *made: object) -> bytes:
    return _csv([event_id, order_id, sequence, kind, f"{at:%Y-%m-%dT%H:%M:%SZ}", *made])


def _csv(fields: list[object] | list[str]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\r\n").writerow(fields)
    return buffer.getvalue().removesuffix("\r\n").encode()


def _event_id(order_id: str, sequence: int) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{order_id} {sequence}"))


def _rate_files(chance: random.Random) -> Iterator[tuple[RateFile, list[str]]]:
    """A file a working day, in three forms by turn; wrong, late, repeated and broken ones among them."""
    days: dict[dt.date, list[Rate]] = {}
    for rate in reference_rates(dt.date(2024, 12, 27), dt.date(2026, 6, 30)):
        days.setdefault(rate.day, []).append(rate)
    for number, day in enumerate(sorted(days)):
        records = [_record(rate) for rate in days[day]]
        published = dt.datetime.combine(day, dt.time(15), dt.UTC)
        arrival = published + dt.timedelta(hours=chance.randrange(72))
        codes: list[str] = []
        kind = "rate file"
        if chance.random() < 0.04:
            arrival, kind = arrival + dt.timedelta(days=20), "rate file, weeks late"
        if chance.random() < 0.04:
            wrong = [record | {"rate": round(float(str(record["rate"])) * 1.1, 4)} for record in records]
            yield RateFile(arrival, f"rates-{day}.json", _form(wrong, number), "rate file, wrong"), []
            corrected = [
                record | {"published_at": f"{published + dt.timedelta(days=5):%Y-%m-%dT%H:%M:%SZ}"}
                for record in records
            ]
            yield (
                RateFile(
                    arrival + dt.timedelta(days=5),
                    f"rates-{day}-corrected.json",
                    _form(corrected, number + 1),
                    "rate file, correction",
                ),
                [],
            )
            continue
        if chance.random() < 0.05:
            records = [
                *records,
                {**records[0], "rate": -1, "quote_currency": "XXX"},
                {**records[0], "quote_currency": "dollar"},
            ]
            codes, kind = ["exclusive_minimum", "pattern"], "rate file, two records broken"
        content = _form(records, number)
        yield RateFile(arrival, f"rates-{day}.json", content, kind), codes
        if chance.random() < 0.03:
            yield (
                RateFile(arrival + dt.timedelta(days=1), f"rates-{day}-copy.json", content, "rate file, repeated"),
                codes,
            )
        if chance.random() < 0.03:
            yield (
                RateFile(
                    arrival,
                    f"rates-{day}-part.json",
                    content[: len(content) * 2 // 3].rstrip(b"\n}"),
                    "rate file, half written",
                ),
                ["not_json"],
            )


def _record(rate: Rate) -> dict[str, object]:
    return {
        "rate_date": f"{rate.day}",
        "base_currency": "EUR",
        "quote_currency": rate.currency,
        "rate": float(rate.value),
        "published_at": f"{rate.day}T15:00:00Z",
    }


def _form(records: list[dict[str, object]], number: int) -> bytes:
    """An array, JSON lines, or an array written for people."""
    if number % 3 == 0:
        return json.dumps(records).encode()
    if number % 3 == 1:
        return "".join(json.dumps(record) + "\n" for record in records).encode()
    return json.dumps(records, indent=2).encode()
