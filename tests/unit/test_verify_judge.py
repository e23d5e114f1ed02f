"""The verdicts that `make verify` holds the service against, themselves held against what the replay knows of itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from streams.local.replay import plan_replay
from streams.local.shop import make_shop
from tests.verify.judge import Rules, csv_fields, csv_message, json_file

CONTRACTS = Path(__file__).parents[2] / "contracts" / "bronze"


def rules(name: str) -> Rules:
    return Rules(CONTRACTS / f"{name}.schema.json")


def test_the_replay_s_broken_inputs_are_those_that_it_says() -> None:
    plan, found = plan_replay(7, 300), Counter()
    for message in plan.messages:
        found.update(csv_message(rules_of_events, message.key, message.value, "order_id").why)
    for file in plan.files:
        for verdict in json_file(rules_of_rates, file.content):
            found.update(verdict.why)
    assert dict(found) == plan.lane


rules_of_events, rules_of_rates = rules("kafka_events"), rules("fx_rates")


def test_the_shop_s_broken_rows_are_as_many_as_it_says() -> None:
    shop = make_shop(7, 100)
    for name, table in shop.tables.items():
        held = rules(name)
        rows = [*table.to_pylist(), *shop.changes[name].to_pylist()]
        assert sum(held.of_values(row).row is None for row in rows) == shop.expected[name].broken, name


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("a,b,", ["a", "b", ""]),
        ('"a ""b"", c",d', ['a "b", c', "d"]),
        ('"two\nlines",x', ["two\nlines", "x"]),
        ('"open,b', "quoting"),
        ('a"b",c', "quoting"),
        ('"a"b,c', "quoting"),
        ("a\nb", "records"),
    ],
)
def test_one_record_s_fields(line: str, fields: list[str] | str) -> None:
    assert csv_fields(line) == fields
