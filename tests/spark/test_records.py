"""How CSV messages and JSON files are read: what is sound, what is broken, and that nothing is split wrongly."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.sources.csv_records import CsvRecords
from streams.sources.envelope import ENVELOPE
from streams.sources.json_records import JsonRecords

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row, SparkSession


def envelopes(spark: SparkSession, payloads: list[bytes | None]) -> DataFrame:
    rows = [(payload, "key", "topic", 0, place, None, None) for place, payload in enumerate(payloads)]
    return spark.createDataFrame(
        [(bytearray(row[0]) if row[0] is not None else None, *row[1:]) for row in rows], ENVELOPE
    )


def read_csv(spark: SparkSession, payloads: list[bytes | None], least: int = 3) -> list[Row]:
    rows = CsvRecords(("a", "b", "c"), least).decode(envelopes(spark, payloads)).select("_texts", "_broken", "_offset")
    return sorted(rows.collect(), key=lambda row: row["_offset"])


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"1,2,3", ("1", "2", "3")),
        (b'1,"x, ""q"" \n y",3', ("1", 'x, "q" \n y', "3")),
        (b'1,"l1\r\nl2",3', ("1", "l1\r\nl2", "3")),
        (b'"",,', (None, None, None)),
        (b"1,2,3\n", ("1", "2", "3")),
        (b"1,2,3\r\n", ("1", "2", "3")),
        (b"\xef\xbb\xbf1,2,3", ("1", "2", "3")),
        (b" 1 ,2 , 3", (" 1 ", "2 ", " 3")),
        (b"#1,2,3", ("#1", "2", "3")),
        (b"1,\\,3", ("1", "\\", "3")),
        ("1,é,😀".encode(), ("1", "é", "😀")),
    ],
)
def test_sound_csv(spark: SparkSession, payload: bytes, expected: tuple[str | None, ...]) -> None:
    (row,) = read_csv(spark, [payload])
    assert row["_broken"] is None
    assert tuple(row["_texts"]) == expected


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"1,2", "columns"),
        (b"1,2,3,4", "columns"),
        (b"", "empty"),
        (b"   ", "empty"),
        (b"1,2,3\n4,5,6", "records"),
        (b'1,"unclosed,3', "quoting"),
        (b'1,"b"",3', "quoting"),
        (b'1,"b"x,3', "quoting"),
        (b'1,x"b",3', "quoting"),
        ("1,é,3".encode("latin-1"), "encoding"),
        ("1,2,3".encode("utf-16"), "encoding"),
    ],
)
def test_broken_csv(spark: SparkSession, payload: bytes, code: str) -> None:
    (row,) = read_csv(spark, [payload])
    assert row["_broken"]["code"] == code


def test_columns_added_later_may_be_absent_at_the_end(spark: SparkSession) -> None:
    short, full, too_short = read_csv(spark, [b"1,2", b"1,2,3", b"1"], least=2)
    assert (tuple(short["_texts"]), short["_broken"]) == (("1", "2", None), None)
    assert (tuple(full["_texts"]), full["_broken"]) == (("1", "2", "3"), None)
    assert too_short["_broken"]["code"] == "columns"


def test_a_message_without_value_is_not_broken(spark: SparkSession) -> None:
    (row,) = read_csv(spark, [None])
    assert row["_broken"] is None


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
            min_size=3,
            max_size=3,
        ),
        min_size=1,
        max_size=60,
    )
)
def test_what_pythons_csv_writes_is_read_back(spark: SparkSession, records: list[list[str]]) -> None:
    def line(record: list[str]) -> bytes:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\r\n").writerow(record)
        return buffer.getvalue().removesuffix("\r\n").encode()

    for record, row in zip(records, read_csv(spark, [line(record) for record in records]), strict=True):
        if row["_broken"] is None:
            # A byte order mark in front of the first value is a mark, not a value.
            first = record[0].removeprefix("\ufeff")
            assert tuple(row["_texts"]) == tuple(value or None for value in (first, *record[1:]))
        else:
            assert not "".join(record).strip() or row["_broken"]["code"] in ("empty", "records")


def read_json(spark: SparkSession, payloads: list[bytes]) -> list[Row]:
    rows = JsonRecords(("day", "rate")).decode(
        envelopes(spark, payloads).drop("_offset").withColumn("_offset", _null())
    )
    return rows.orderBy("_offset").collect()


def _null() -> object:
    from pyspark.sql import functions as F

    return F.lit(None).cast("bigint")


ONE, TWO = {"day": "2025-01-02", "rate": 1.0321}, {"day": "2025-01-03", "rate": 1.5}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([ONE, TWO]),
        json.dumps([ONE, TWO], indent=2),
        f"{json.dumps(ONE)}\n{json.dumps(TWO)}",
        f"{json.dumps(ONE)}\r\n\r\n{json.dumps(TWO)}\r\n",
        "\ufeff" + json.dumps([ONE, TWO]),
    ],
)
def test_shapes_of_json(spark: SparkSession, text: str) -> None:
    rows = read_json(spark, [text.encode()])
    assert [tuple(row["_texts"]) for row in rows] == [("2025-01-02", "1.0321"), ("2025-01-03", "1.5")]
    assert [tuple(row["_kinds"]) for row in rows] == [("string", "number")] * 2
    assert [row["_offset"] for row in rows] == [0, 1]
    assert all(row["_broken"] is None for row in rows)


def test_one_document(spark: SparkSession) -> None:
    (row,) = read_json(spark, [json.dumps(ONE, indent=2).encode()])
    assert tuple(row["_texts"]) == ("2025-01-02", "1.0321")


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b'{"day": "2025-01-02", "ra', "not_json"),
        (b'[{"day": "2025-01-02"}, {"day"', "not_json"),
        (b'{"day": "a"}\n{"day": "b"}\n{"da', "not_json"),
        (b'{"day": "a"} {"day": "b"}', "not_json"),
        (b'{"day": "a"},{"day": "b"}', "not_json"),
        (b'{"day": "a"}\n{"day": "b"},{"day": "c"}', "not_json"),
        (b"", "empty"),
        (b" \n ", "empty"),
        (b"[]", "empty"),
        (b"\xff\xfe{}", "encoding"),
        (b"3", "not_an_object"),
    ],
)
def test_broken_files_stay_whole(spark: SparkSession, payload: bytes, code: str) -> None:
    (row,) = read_json(spark, [payload])
    assert row["_broken"]["code"] == code
    assert bytes(row["payload"]) == payload


def test_a_record_that_is_no_object_does_not_take_the_others_with_it(spark: SparkSession) -> None:
    sound, broken = read_json(spark, [json.dumps([ONE, "text"]).encode()])
    assert sound["_broken"] is None
    assert broken["_broken"]["code"] == "not_an_object"
