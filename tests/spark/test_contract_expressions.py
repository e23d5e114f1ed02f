"""A contract compiled to Spark, held against cases and against an independent validator of JSON Schema."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pyspark.sql import functions as F

from streams.quality.contract import Contract, ContractColumn, load_contract, load_contracts
from streams.quality.contract_expressions import Cell, compile_contract
from streams.sources.envelope import ENVELOPE
from streams.sources.json_records import JsonRecords

if TYPE_CHECKING:
    from pyspark.sql import Row, SparkSession

FOLDER = Path(__file__).parents[2] / "contracts" / "bronze"
EVENTS = load_contracts(FOLDER)["kafka_events"]
SOUND = {
    "event_id": "00000000-0000-4000-8000-000000000001",
    "order_id": "CD-1",
    "sequence": "1",
    "event_type": "created",
    "occurred_at": "2025-01-02T10:00:00Z",
    "customer_id": "7",
    "quantity": "2",
    "amount": "9.99",
    "currency": "USD",
    "note": "ring twice",
}


def judged(spark: SparkSession, contract: Contract, records: list[dict[str, str | None]]) -> list[Row]:
    """Records of text through the compiled contract; each verdict twice, once from the quick expression."""
    names = [column.name for column in contract.columns]
    rows = [(place, *(record.get(name) for name in names)) for place, record in enumerate(records)]
    frame = spark.createDataFrame(rows, ", ".join(["place int", *(f"`{name}` string" for name in names)]))
    compiled = compile_contract(contract, {name: Cell(F.col(name)) for name in names})
    typed = F.struct(*compiled.typed).alias("typed")
    found = frame.select("place", typed, compiled.is_clean.alias("is_clean"), compiled.violations.alias("violations"))
    verdicts = found.orderBy("place").collect()
    for row in verdicts:
        assert row["is_clean"] == (not row["violations"]), row
    return verdicts


@pytest.mark.parametrize(
    ("column", "value", "code"),
    [
        ("event_id", None, "required"),
        ("event_id", "not-a-uuid", "pattern"),
        ("order_id", "CD-1\n", "pattern"),
        ("order_id", " CD-1", "pattern"),
        ("event_type", "teleported", "enum"),
        ("sequence", "0", "minimum"),
        ("sequence", "2147483647", "maximum"),
        ("sequence", "1.5", "type"),
        ("sequence", " 1", "type"),
        ("sequence", "+1", "type"),
        ("sequence", "1e3", "type"),
        ("sequence", "9223372036854775808", "type"),
        ("quantity", "10001", "maximum"),
        ("quantity", None, "required"),  # in a `created` event
        ("amount", "-0.01", "minimum"),
        ("amount", "1.005", "type"),
        ("amount", "9.990000000000000001", "type"),
        ("amount", "1e-15", "type"),
        ("amount", "1.5e-2", "type"),
        ("amount", "1e999", "type"),
        ("amount", "99999999999999999.00", "type"),
        ("amount", "NaN", "type"),
        ("amount", "1,50", "type"),
        ("amount", "", "type"),
        ("currency", "usd", "pattern"),
        ("note", "x" * 2001, "max_length"),
        ("occurred_at", "2025-02-30T10:00:00Z", "type"),
        ("occurred_at", "2025-01-02T10:00:00", "type"),
        ("occurred_at", "2025-01-02", "type"),
        ("occurred_at", "2025-01-02T25:00:00Z", "type"),
        ("occurred_at", "2025-01-02T10:00:00.1234567Z", "type"),
        ("occurred_at", "0000-01-01T00:00:00Z", "type"),
        ("occurred_at", "2025-01-02T10:00:00+23:59", "type"),
        ("occurred_at", "2025-01-02T10:00:00Z\n", "type"),
    ],
)
def test_what_breaks_it(spark: SparkSession, column: str, value: str | None, code: str) -> None:
    (row,) = judged(spark, EVENTS, [SOUND | {column: value}])
    (violation,) = row["violations"]
    assert (violation["code"], violation["column"]) == (code, column)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("amount", "0"),
        ("amount", "9.990"),
        ("amount", "1e2"),
        ("amount", "9.99000000000000000000000000000000000000000000"),
        ("amount", "999E-2"),
        ("amount", "1000e-5"),
        ("amount", "0e-30"),
        ("amount", "9999999999999999.99"),
        ("sequence", "2147483646"),
        ("occurred_at", "2025-01-02T10:00:00.123456+05:30"),
        ("occurred_at", "2024-02-29T23:59:59-12:00"),
        ("note", None),
        ("note", "x" * 2000),
    ],
)
def test_what_keeps_it(spark: SparkSession, column: str, value: str | None) -> None:
    (row,) = judged(spark, EVENTS, [SOUND | {column: value}])
    assert row["violations"] == []
    assert (row["typed"][column] is None) == (value is None)


def test_personal_values_are_masked_and_others_cut(spark: SparkSession) -> None:
    (row,) = judged(spark, EVENTS, [SOUND | {"customer_id": "Jane Doe", "currency": "x" * 200}])
    shown = {violation["column"]: violation["value"] for violation in row["violations"]}
    assert shown == {"customer_id": "***", "currency": "x" * 80}


def test_instants_do_not_depend_on_the_session(spark: SparkSession) -> None:
    rows = judged(
        spark, EVENTS, [SOUND | {"occurred_at": text} for text in ("2025-01-02T10:00:00+02:00", "2025-01-02T08:00:00Z")]
    )
    assert rows[0]["typed"]["occurred_at"] == rows[1]["typed"]["occurred_at"]


def one_column(column: ContractColumn) -> Contract:
    return Contract("made", (column,), (), (), (), None, {}, "made")


@pytest.mark.parametrize(
    ("pattern", "sound", "unsound"),
    [
        ("^a$|^b$", ["a", "b"], ["a\n", "b\n", "ab"]),
        ("^(a$|b$)", ["a", "b"], ["a\n", "b\n"]),
        (r"^a\\$", ["a\\"], ["a\\\n", "a"]),
        (r"^a\$$", ["a$"], ["a$\n", "a"]),
        ("^[$]$", ["$"], ["$\n", "z"]),
        ("b", ["abc", "\nb"], ["ac"]),
    ],
)
def test_a_pattern_ends_where_the_value_does(
    spark: SparkSession, pattern: str, sound: list[str], unsound: list[str]
) -> None:
    contract = one_column(ContractColumn("value", "string", False, False, pattern=pattern))
    rows = judged(spark, contract, [{"value": value} for value in [*sound, *unsound]])
    assert [row["is_clean"] for row in rows] == [True] * len(sound) + [False] * len(unsound)


def test_bounds_are_compared_exactly(spark: SparkSession) -> None:
    column = ContractColumn("value", "number", False, False, decimal=(38, 18), exclusive_minimum=0, maximum=0.1)
    values = ["0.000000000000000001", "0.1", "0", "0.100000000000000001"]
    rows = judged(spark, one_column(column), [{"value": value} for value in values])
    assert [[v["code"] for v in row["violations"]] for row in rows] == [[], [], ["exclusive_minimum"], ["maximum"]]


numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,2})?", fullmatch=True)
prices = st.from_regex(r"-?[1-9][0-9]{0,3}(\.[0-9]{1,2}0{0,3}1?)?([eE]-?[0-2])?", fullmatch=True)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(numbers | prices, min_size=50, max_size=150), st.sampled_from([(18, 2), (38, 6), (9, 0)]))
def test_a_number_is_held_exactly_or_refused(spark: SparkSession, texts: list[str], decimal: tuple[int, int]) -> None:
    precision, scale = decimal
    column = ContractColumn("value", "number", False, False, decimal=decimal)
    rows = judged(spark, one_column(column), [{"value": text} for text in texts])
    for text, row in zip(texts, rows, strict=True):
        exact = Fraction(text)  # Python's, which has no limit
        is_held = (exact * 10**scale).denominator == 1 and abs(exact) < 10 ** (precision - scale)
        assert row["is_clean"] == is_held, text
        assert row["typed"]["value"] is None or Fraction(row["typed"]["value"]) == exact, text


# Records as a program would write them: right, a little wrong, or of another type altogether.
odd = st.one_of(st.none(), st.booleans(), st.integers(-5, 10**6), st.text(max_size=5), st.just([]), st.just({"a": 1}))
rate_records = st.fixed_dictionaries(
    {},
    optional={
        "rate_date": st.one_of(st.sampled_from(["2025-01-02", "2025-02-30", "2025-1-2", "02.01.2025"]), odd),
        "base_currency": st.one_of(st.sampled_from(["EUR", "USD"]), odd),
        "quote_currency": st.one_of(st.sampled_from(["USD", "usd", "USDX", "USD\n"]), odd),
        "rate": st.one_of(st.sampled_from([1.5, 0.000001, 0, -1, 12345678.123456]), odd),
        "published_at": st.one_of(st.sampled_from(["2025-01-02T15:00:00Z", "2025-01-02T15:00:00", "yesterday"]), odd),
    },
)


MADE_UP = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "urn:test:made_up",
    "title": "Made up",
    "description": "What the exchange rates do not have.",
    "type": "object",
    "properties": {
        "id": {"type": "integer", "description": "Its key.", "minimum": 1, "maximum": 9},
        "kind": {"type": "string", "description": "Asks for more.", "enum": ["plain", "rich"]},
        "state": {"type": ["string", "null"], "description": "May be null.", "enum": ["on", "off", None]},
        "is_new": {"type": "boolean", "description": "Either."},
        "share": {"type": ["number", "null"], "description": "A double.", "minimum": 0.1, "maximum": 1},
        "name": {"type": "string", "description": "Counted.", "minLength": 2, "maxLength": 3, "pattern": "^[^ ]*$"},
    },
    "required": ["id"],
    "additionalProperties": True,
    "allOf": [
        {
            "if": {"properties": {"kind": {"enum": ["rich"]}}, "required": ["kind"]},
            "then": {"required": ["name", "is_new"]},
        }
    ],
    "x-primary-key": ["id"],
    "x-sequence": ["id"],
    "x-evolution": {"add": "allow", "widen": "allow", "narrow": "stop", "drop": "stop"},
}
made_up_records = st.fixed_dictionaries(
    {"id": st.one_of(*[st.integers(1, 9)] * 4, st.sampled_from([0, 10, 1.5]), odd)},
    optional={
        "kind": st.one_of(*[st.sampled_from(["plain", "rich"])] * 3, odd),
        "state": st.one_of(*[st.sampled_from(["on", None])] * 3, odd),
        "is_new": st.one_of(*[st.booleans()] * 3, odd),
        "share": st.one_of(*[st.sampled_from([0.1, 0.5, None, 1])] * 3, st.sampled_from([0.0999, 1.01]), odd),
        "name": st.one_of(*[st.sampled_from(["ab", "\U0001f600\U0001f600\U0001f600"])] * 3, st.just("a b"), odd),
    },
)


def assert_same_verdicts(spark: SparkSession, file: Path, records: list[dict[str, Any]]) -> None:
    """The compiled contract and the validator agree on each record, and both verdicts of the former agree."""
    contract, schema = load_contract(file), json.loads(file.read_text())
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    reader = JsonRecords(tuple(column.name for column in contract.columns))
    payload = bytearray(json.dumps(records).encode())
    rows = reader.decode(spark.createDataFrame([(payload, None, "f", None, None, None, None)], ENVELOPE))
    cells = {name: Cell(F.col("_texts")[name], F.col("_kinds")[name]) for name in reader.columns}
    compiled = compile_contract(contract, cells)
    found = rows.select(
        "_offset", compiled.is_clean.alias("is_clean"), compiled.violations.alias("violations")
    ).orderBy("_offset")
    for record, row in zip(records, found.collect(), strict=True):
        # Python's `$` lets a last line end pass, which JSON Schema's does not.
        is_sound = validator.is_valid(record) and record.get("quote_currency") != "USD\n"
        assert row["is_clean"] == is_sound == (not row["violations"]), (record, row["violations"])


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rate_records, min_size=20, max_size=60))
def test_the_verdict_is_that_of_an_independent_validator(spark: SparkSession, records: list[dict[str, Any]]) -> None:
    assert_same_verdicts(spark, FOLDER / "fx_rates.schema.json", records)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(made_up_records, min_size=60, max_size=120))
def test_and_so_for_all_that_a_contract_may_say(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    root = tmp_path_factory.mktemp("contracts")
    shutil.copy(FOLDER.parent / "contract.meta.schema.json", root)
    file = root / "bronze" / "made_up.schema.json"
    file.parent.mkdir()
    file.write_text(json.dumps(MADE_UP))
    assert_same_verdicts(spark, file, records)
