"""A contract compiled to Spark, held against cases and against an independent validator of JSON Schema."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pyspark.sql import functions as F

from streams.quality.contract import Contract, load_contracts
from streams.quality.contract_expressions import Cell, compile_contract, plain_line
from streams.sources.csv_records import CsvRecords
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
    cells = {name: Cell(F.col(name)) for name in names}
    compiled = compile_contract(frame, contract, cells)
    typed = F.struct(*compiled.typed).alias("typed")
    found = compiled.rows.select(
        "place", typed, compiled.is_clean.alias("is_clean"), compiled.violations.alias("violations")
    )
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
        ("amount", "1.0000000000000000001", "type"),
        ("amount", "99999999999999999.00", "type"),
        ("amount", "NaN", "type"),
        ("amount", "1,50", "type"),
        ("amount", "", "type"),
        ("currency", "usd", "pattern"),
        ("note", "x" * 2001, "max_length"),
        ("occurred_at", "2025-02-30T10:00:00Z", "type"),
        ("occurred_at", "0000-12-31T10:00:00Z", "type"),
        ("occurred_at", "0001-01-01T00:00:00+01:00", "type"),
        ("occurred_at", "9999-12-31T23:59:59-01:00", "type"),
        ("occurred_at", "2025-01-02T10:00:00", "type"),
        ("occurred_at", "2025-01-02 10:00:00Z", "type"),
        ("occurred_at", "2025-01-02", "type"),
        ("occurred_at", "2025-01-02T25:00:00Z", "type"),
        ("occurred_at", "2025-01-02T10:00:00.1234567Z", "type"),
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
        ("amount", "9999999999999999.99"),
        ("sequence", "2147483646"),
        ("occurred_at", "2025-01-02T10:00:00.123456+05:30"),
        ("occurred_at", "2025-01-02t10:00:00z"),
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


# Records as a program would write them: right, a little wrong, or of another type altogether.
odd = st.one_of(st.none(), st.booleans(), st.integers(-5, 10**6), st.text(max_size=5), st.just([]), st.just({"a": 1}))
rate_records = st.fixed_dictionaries(
    {},
    optional={
        "rate_date": st.one_of(
            st.sampled_from(["2025-01-02", "2025-02-30", "2025-1-2", "02.01.2025", "0000-01-01", "9999-12-31"]), odd
        ),
        "base_currency": st.one_of(st.sampled_from(["EUR", "USD"]), odd),
        "quote_currency": st.one_of(st.sampled_from(["USD", "usd", "USDX", "USD\n"]), odd),
        "rate": st.one_of(st.sampled_from([1.5, 0.000001, 0, -1, 12345678.123456]), odd),
        "published_at": st.one_of(st.sampled_from(["2025-01-02T15:00:00Z", "2025-01-02T15:00:00", "yesterday"]), odd),
    },
)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rate_records, min_size=20, max_size=60))
def test_the_verdict_is_that_of_an_independent_validator(spark: SparkSession, records: list[dict[str, Any]]) -> None:
    schema = json.loads((FOLDER / "fx_rates.schema.json").read_text())
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    contract = load_contracts(FOLDER)["fx_rates"]
    reader = JsonRecords(tuple(column.name for column in contract.columns))
    payload = bytearray(json.dumps(records).encode())
    rows = reader.decode(spark.createDataFrame([(payload, None, "f", None, None, None, None)], ENVELOPE))
    cells = {name: Cell(F.col("_texts")[name], F.col("_kinds")[name]) for name in reader.columns}
    compiled = compile_contract(rows, contract, cells)
    found = compiled.rows.select(
        "_offset", compiled.is_clean.alias("is_clean"), compiled.violations.alias("violations")
    ).orderBy("_offset")
    for record, row in zip(records, found.collect(), strict=True):
        # Python's `$` lets a last line end pass, which JSON Schema's does not.
        is_sound = validator.is_valid(record) and record.get("quote_currency") != "USD\n"
        assert row["is_clean"] == is_sound == (not row["violations"]), (record, row["violations"])


# Lines as a producer would write them: right, a little wrong, or with what CSV has its quotes for.
odd_text = st.one_of(
    st.sampled_from(
        ["", " ", '"', '""', '"a,b"', "a\nb", "\ufeff", "\x00", "é", "0", "-1", "1e3", "00", "9" * 20, "x,y"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
)
odd_values: dict[str, list[str]] = {
    "sequence": ["-0", "01", "9223372036854775807", "2147483647"],
    "occurred_at": [
        "2025-02-30T10:00:00Z",
        "0000-01-01T00:00:00Z",
        "2025-01-02t10:00:00z",
        "2025-01-02T10:00:00+02:00",
    ],
    "amount": ["9999999999999999.99", "99999999999999999", "0.001", "1.10", "-0.00", ".5", "1."],
    "note": ["x" * 2000, "x" * 2001, "ring, twice", 'say "hi"', "😀" * 2000],
}
event_lines = st.fixed_dictionaries(
    {},
    optional={
        name: st.one_of(st.sampled_from(odd_values.get(name, [value])), odd_text) for name, value in SOUND.items()
    },
).map(lambda changes: ",".join((SOUND | changes).values()))


def judged_lines(spark: SparkSession, contract: Contract, lines: list[str], plain: str | None) -> list[Row]:
    """Lines as bronze takes them in, with one look at each first (`plain`) or without."""
    reader = CsvRecords(tuple(column.name for column in contract.columns), len(contract.columns), plain)
    envelopes = [(bytearray(line.encode()), None, "t", 0, place, None, None) for place, line in enumerate(lines)]
    rows = reader.decode(spark.createDataFrame(envelopes, ENVELOPE))
    cells = {name: Cell(F.col("_texts")[name], is_plain=F.col("_is_plain")) for name in reader.columns}
    compiled = compile_contract(rows, contract, cells)
    told = (
        F.struct(*compiled.typed).alias("typed"),
        compiled.is_clean.alias("clean"),
        compiled.violations.alias("why"),
    )
    return compiled.rows.orderBy("_offset").select("_is_plain", "_broken", *told).collect()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(event_lines, min_size=30, max_size=80))
def test_a_look_at_the_line_spares_work_and_changes_no_verdict(spark: SparkSession, lines: list[str]) -> None:
    sound = ",".join(SOUND.values())
    quick = judged_lines(spark, EVENTS, [sound, f"{sound}\r\n", *lines], plain_line(EVENTS))
    assert all(row["_is_plain"] for row in quick[:2])
    careful = judged_lines(spark, EVENTS, [sound, f"{sound}\r\n", *lines], None)
    assert [row[1:] for row in quick] == [row[1:] for row in careful]


@pytest.mark.parametrize(
    ("pattern", "values"),
    [
        ("^a,b$", ["a", "a,b", "b"]),
        ("^[^x]+$", ["a", "x", "a,b"]),
        ("^.*$", ["a", "a,b", '"a"']),
        ("^a|b$", ["a", "ax", "xb", "x"]),
        ("^[ -~]+$", ["a", "a,b", '"']),
        ("a", ["a", "xax", "x"]),
        ("^[A-Z]{2,3}$", ["AB", "ABCD", "A"]),
        (r"^\d+\.x$", ["1.x", "1ax", "x"]),
    ],
)
def test_a_pattern_that_could_reach_beyond_its_value_is_looked_at_by_itself(
    spark: SparkSession, pattern: str, values: list[str]
) -> None:
    columns = tuple(
        replace(column, pattern=pattern, enum=(), is_required=True) if column.name == "order_id" else column
        for column in EVENTS.columns
    )
    contract = replace(EVENTS, columns=columns)
    lines = [",".join((SOUND | {"order_id": value}).values()) for value in values]
    quick, careful = (judged_lines(spark, contract, lines, plain) for plain in (plain_line(contract), None))
    assert [row[1:] for row in quick] == [row[1:] for row in careful]
    assert not all(row["clean"] and row["_broken"] is None for row in careful)
