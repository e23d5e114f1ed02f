"""What the replay sends is what its plan says, judged by the csv, json and jsonschema modules alone."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from collections import Counter
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from streams.local.purchases import expected_months, purchases, reference_rates
from streams.local.replay import Message, RateFile, ReplayPlan, plan_replay

_CONTRACTS = Path(__file__).parents[2] / "contracts" / "bronze"
_EVENTS = json.loads((_CONTRACTS / "kafka_events.schema.json").read_text())
_RATES = json.loads((_CONTRACTS / "fx_rates.schema.json").read_text())
_COLUMNS = list(_EVENTS["properties"])
_LIMIT = 2_000


@pytest.fixture(scope="module")
def plan() -> ReplayPlan:
    return plan_replay(seed=7, limit=_LIMIT)


class NotAnEventError(ValueError):
    """The message is not one event in keeping with the contract."""


def _event(value: bytes) -> dict[str, Any]:
    """Read a message strictly: one record of ten columns that keeps the contract, or NotAnEventError."""
    try:
        records = list(csv.reader(io.StringIO(value.decode(), newline=""), strict=True))
        if len(records) != 1 or len(records[0]) != len(_COLUMNS):
            raise NotAnEventError("not one record of ten columns")
        event: dict[str, Any] = {name: text for name, text in zip(_COLUMNS, records[0], strict=True) if text}
        for name in {"sequence", "quantity"} & event.keys():
            event[name] = int(event[name])
        event["occurred_at"] = dt.datetime.strptime(event["occurred_at"], "%Y-%m-%dT%H:%M:%S%z").isoformat()
        amount = Decimal(event.get("amount", "0"))
        if amount != round(amount, 2):
            raise NotAnEventError("more than two decimals")
    except (csv.Error, ValueError, InvalidOperation, KeyError) as error:
        raise NotAnEventError(str(error)) from error
    if "amount" in event:
        event["amount"] = float(amount)
    for violation in Draft202012Validator(_EVENTS).iter_errors(event):
        raise NotAnEventError(violation.message)
    return event


def _sound(plan: ReplayPlan) -> list[Message]:
    return [message for message in plan.messages if message.value is not None and not message.kind.startswith("broken")]


def test_same_seed_gives_the_same_plan_and_another_seed_another(plan: ReplayPlan) -> None:
    assert plan_replay(seed=7, limit=_LIMIT) == plan
    assert plan_replay(seed=8, limit=_LIMIT).messages != plan.messages


def test_every_sound_message_keeps_the_contract_and_every_broken_one_breaks_it(plan: ReplayPlan) -> None:
    for message in _sound(plan):
        event = _event(message.value or b"")
        assert (message.key or b"").decode() == event["order_id"]
    broken = [message for message in plan.messages if message.kind.startswith("broken")]
    assert len({message.kind for message in broken}) >= 8
    for message in broken:
        with pytest.raises(NotAnEventError):
            _event(message.value or b"")


def test_sound_messages_alone_hold_every_order_once_with_its_amount(plan: ReplayPlan) -> None:
    events = {event["event_id"]: event for event in (_event(message.value or b"") for message in _sound(plan))}
    made = {event["order_id"]: event for event in events.values() if event["event_type"] == "created"}
    bought = {order_id: event for order_id, event in made.items() if order_id.startswith("CD-")}
    assert len(bought) == _LIMIT
    for order in purchases(_LIMIT):
        event = bought[order.order_id]
        assert (event["customer_id"], event["quantity"], event["currency"]) == (
            order.customer_id,
            order.quantity,
            "USD",
        )
        assert Decimal(str(event["amount"])) == order.amount
        assert event["occurred_at"].startswith(str(order.day))
    assert expected_months(plan.orders) == expected_months(purchases(_LIMIT))
    for order_id in made:
        sequences = sorted(event["sequence"] for event in events.values() if event["order_id"] == order_id)
        assert sequences == list(range(1, len(sequences) + 1))


def test_deleted_orders_are_none_of_the_purchases(plan: ReplayPlan) -> None:
    deleted = {message.key for message in plan.messages if message.value is None}
    assert len(deleted) == plan.counts()["tombstone"] > 0
    assert deleted.isdisjoint(order.order_id.encode() for order in plan.orders)
    extra = {m.key for m in _sound(plan)} - {order.order_id.encode() for order in plan.orders}
    assert extra == deleted


def test_order_of_arrival_is_not_the_order_of_events_but_never_more_than_three_days_off(plan: ReplayPlan) -> None:
    assert [message.at for message in plan.messages] == sorted(message.at for message in plan.messages)
    delays = []
    for message in plan.messages:
        if message.kind in ("event", "late event"):
            occurred = dt.datetime.fromisoformat(_event(message.value or b"")["occurred_at"])
            delays.append(message.at - occurred)
    assert min(delays) >= dt.timedelta(0)
    assert dt.timedelta(days=2) < max(delays) <= dt.timedelta(days=3)
    assert 0.02 < sum(delay > dt.timedelta(minutes=1) for delay in delays) / len(delays) < 0.08


def test_repeats_are_byte_for_byte_what_was_sent_before(plan: ReplayPlan) -> None:
    seen: set[tuple[bytes | None, bytes | None]] = set()
    repeated = 0
    for message in plan.messages:
        if message.kind == "repeated message":
            repeated += 1
            assert (message.key, message.value) in seen
        seen.add((message.key, message.value))
    assert repeated == plan.counts()["repeated message"] > 0


def test_notes_hold_what_csv_is_hard_about(plan: ReplayPlan) -> None:
    notes = "".join(_event(message.value or b"").get("note", "") for message in _sound(plan))
    assert all(mark in notes for mark in (",", '"', "\n", "ü", "日"))


def test_lane_counts_one_row_for_each_broken_message_file_and_record(plan: ReplayPlan) -> None:
    counts = plan.counts()
    broken = sum(number for kind, number in counts.items() if kind.startswith("broken"))
    half_written = counts["rate file, half written"]
    whole = [file for file in plan.files if file.kind != "rate file, half written"]
    records = sum(not _keeps_contract(record) for file in whole for record in _records(file.content))
    assert records >= 2 * counts["rate file, two records broken"] > 0
    assert sum(plan.lane.values()) == broken + half_written + records
    assert plan.lane["not_json"] == half_written
    assert plan.lane.get("columns", 0) == counts.get("broken: columns missing", 0) + counts.get(
        "broken: a column too many", 0
    )


def _records(content: bytes) -> list[dict[str, Any]]:
    """The records of a file in any of the three forms, or ValueError."""
    try:
        document = json.loads(content)
    except ValueError:
        return [json.loads(line) for line in content.splitlines()]
    return document if isinstance(document, list) else [document]


def _keeps_contract(record: dict[str, Any]) -> bool:
    return Draft202012Validator(_RATES).is_valid(record)


def test_newest_sound_record_of_each_rate_is_the_real_rate(plan: ReplayPlan) -> None:
    newest: dict[tuple[str, str], tuple[str, float]] = {}
    wrong_at_first = 0
    for file in plan.files:
        if file.kind == "rate file, half written":
            continue
        wrong_at_first += file.kind == "rate file, wrong"
        for record in filter(_keeps_contract, _records(file.content)):
            key = (record["rate_date"], record["quote_currency"])
            newest[key] = max(newest.get(key, ("", 0.0)), (record["published_at"], record["rate"]))
    real = reference_rates(dt.date(2024, 12, 27), dt.date(2026, 6, 30))
    assert {key: rate for key, (_, rate) in newest.items()} == {
        (str(rate.day), rate.currency): float(rate.value) for rate in real
    }
    assert wrong_at_first == plan.counts()["rate file, correction"] > 0


def test_files_are_broken_only_where_the_plan_says_so(plan: ReplayPlan) -> None:
    def broken_records(file: RateFile) -> int:
        return sum(not _keeps_contract(record) for record in _records(file.content))

    sent: set[bytes] = set()
    for file in plan.files:
        if file.kind == "rate file, half written":
            with pytest.raises(ValueError, match=r".+"):
                _records(file.content)
        elif file.kind == "rate file, repeated":
            assert file.content in sent
        else:
            assert broken_records(file) == (2 if file.kind == "rate file, two records broken" else 0)
        sent.add(file.content)
    assert len({file.name for file in plan.files}) == len(plan.files)


def test_files_come_in_three_forms_and_not_in_the_order_of_their_days(plan: ReplayPlan) -> None:
    forms = Counter(
        "array" if file.content.startswith(b"[{") else "lines" if file.content.startswith(b"{") else "indented"
        for file in plan.files
    )
    assert min(forms[form] for form in ("array", "lines", "indented")) > 100
    names = [file.name for file in plan.files]
    assert names != sorted(names)
