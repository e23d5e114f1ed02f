"""What every warehouse must do as a target, asked of it over its real client. A warehouse gets all of it by one class:

class TestMyWarehouse(WarehouseSuite):
    @pytest.fixture
    def warehouse(self): ...   # a `Warehouse`
    @pytest.fixture
    def read(self): ...        # a table's rows, by the warehouse's own client
    @pytest.fixture
    def cut(self): ...         # cuts the lines that are open now
"""

from __future__ import annotations

import datetime as dt
import pickle
import random
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from pyspark.sql.types import (
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    IntegerType,
    LongType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

from streams.checkpoint import BatchIdentity
from streams.errors import ConfigurationError, FatalError, RetriableError, StreamsError
from streams.sinks.warehouse import GONE, LEDGER, Loaded, LoadRefusedError, Target, load, prepare, refused, stage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from pyspark.sql import DataFrame, SparkSession

    from streams.sinks.warehouse import Warehouse


AT = dt.datetime(2026, 3, 29, 1, 30, 0, 1, tzinfo=dt.UTC)
COLUMNS = StructType(
    [
        StructField("id", StringType()),
        StructField("title", StringType()),
        StructField("pieces", IntegerType()),
        StructField("clicks", LongType()),
        StructField("amount", DecimalType(18, 2)),
        StructField("rate", DecimalType(38, 18)),
        StructField("weight", DoubleType()),
        StructField("is_new", BooleanType()),
        StructField("born_on", DateType()),
        StructField("seen_at", TimestampType()),
    ]
)
TEXTS = (
    "",
    " ",
    "NULL",
    "null",
    "\\N",
    "\\.",
    "it's",
    'a "quoted" word',
    "back\\slash \\n \\' \\\\",
    "two\nlines",
    "carriage\r\nreturn",
    "tab\tcomma,semi;pipe|",
    "日本語 ünï 🎉 e\u0301",
    "{x} %s ? $1 :name",
    "-- not a comment; DROP TABLE t",
    " leading and trailing ",
    "x" * 60_000,
    "ä" * 30_000,
)
NUMBERS = (
    {"pieces": -(2**31), "clicks": -(2**63), "amount": Decimal("-9999999999999999.99"), "weight": 5e-324},
    {
        "pieces": 2**31 - 1,
        "clicks": 2**63 - 1,
        "amount": Decimal("9999999999999999.99"),
        "weight": 1.7976931348623157e308,
    },
    {"pieces": 0, "clicks": 0, "amount": Decimal("0.01"), "weight": 0.1},
    {"rate": Decimal("12345678901234567890.123456789012345678"), "is_new": False, "born_on": dt.date(1, 1, 1)},
    {"rate": Decimal("-0.000000000000000001"), "is_new": True, "born_on": dt.date(9999, 12, 31)},
    {"seen_at": dt.datetime(1970, 1, 1, tzinfo=dt.UTC), "born_on": dt.date(1969, 12, 31)},
    {"seen_at": dt.datetime(1999, 12, 31, 23, 59, 59, 999999, tzinfo=dt.UTC), "born_on": dt.date(2024, 2, 29)},
    {"seen_at": AT},
)


def row(number: int, **more: Any) -> dict[str, Any]:
    """A row whose other columns are null."""
    return dict.fromkeys(COLUMNS.names) | {"id": f"k{number}"} | more


def plain(rows: Collection[dict[str, Any]], key: str = "id") -> list[dict[str, Any]]:
    """Rows as a warehouse gives them back: in the key's order, times as UTC's without a zone."""
    naive = [
        {
            name: one.astimezone(dt.UTC).replace(tzinfo=None) if getattr(one, "tzinfo", None) else one
            for name, one in found.items()
        }
        for found in rows
    ]
    return sorted(naive, key=lambda found: found[key])


@dataclass
class Table:
    """A table under test, and what a flow does to it."""

    spark: SparkSession
    warehouse: Warehouse
    read: Callable[[str], list[dict[str, Any]]]
    target: Target
    flow: str = field(default_factory=lambda: f"test.{uuid.uuid4().hex[:12]}")

    def frame(self, rows: Sequence[dict[str, Any]], gone: Collection[str] = ()) -> DataFrame:
        """Rows, and keys to delete, as a flow hands them over."""
        columns = StructType([*self.target.columns.fields, StructField(GONE, BooleanType())])
        (key, *_) = self.target.key
        deletes = [dict.fromkeys(self.target.columns.names) | {key: value, GONE: True} for value in gone]
        made = [{GONE: False} | one for one in rows] + deletes
        return self.spark.createDataFrame([tuple(one[name] for name in columns.names) for one in made], columns)

    def batch(self, number: int, checkpoint: str = "first") -> BatchIdentity:
        return BatchIdentity(self.flow, checkpoint, number)

    def place(self, batch: BatchIdentity) -> str:
        return f"{self.flow}/{batch.checkpoint_id}/{batch.batch_id}"

    def stage(self, batch: BatchIdentity, rows: DataFrame) -> list[str]:
        files, count = stage(self.warehouse, rows, self.place(batch))
        assert count == rows.count()
        return files

    def load(self, batch: BatchIdentity, files: Sequence[str], **more: Any) -> Loaded:
        return load(self.warehouse, self.target, batch, self.place(batch), files, **({"is_whole": False} | more))

    def put(
        self,
        number: int,
        rows: Sequence[dict[str, Any]] = (),
        gone: Collection[str] = (),
        checkpoint: str = "first",
        **more: Any,
    ) -> Loaded:
        """Stage and load a batch."""
        batch = self.batch(number, checkpoint)
        return self.load(batch, self.stage(batch, self.frame(rows, gone)), **more)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return plain(self.read(self.target.name), self.target.key[0])

    @property
    def ledger(self) -> list[tuple[str, int, int, int]]:
        """Checkpoint, batch, rows merged and deleted."""
        names = ("checkpoint_id", "batch_id", "rows_merged", "rows_deleted")
        return sorted(tuple(one[name] for name in names) for one in self.read(LEDGER) if one["flow"] == self.flow)


class EndedError(Exception):
    """The process ends here."""


class WarehouseSuite:
    """See the module."""

    @pytest.fixture
    def warehouse(self) -> Warehouse:
        """The warehouse under test."""
        raise NotImplementedError

    @pytest.fixture
    def read(self) -> Callable[[str], list[dict[str, Any]]]:
        """Reads a table by the warehouse's own client, the columns' names in small letters; [] without the table."""
        raise NotImplementedError

    @pytest.fixture
    def cut(self) -> Callable[[], None]:
        """Cuts the lines that are open to the warehouse now."""
        raise NotImplementedError

    @pytest.fixture
    def table(self, spark: SparkSession, warehouse: Warehouse, read: Callable[[str], list[dict[str, Any]]]) -> Table:
        target = Target(f"t_{uuid.uuid4().hex[:12]}", COLUMNS, ("id",))
        prepare(warehouse, target)
        return Table(spark, warehouse, read, target)

    def test_values_come_back_as_they_were(self, table: Table) -> None:
        texts = [row(number, title=text) for number, text in enumerate(TEXTS)]
        numbers = [row(100 + number, **values) for number, values in enumerate(NUMBERS)]
        keys = [row(0) | {"id": text} for text in TEXTS if len(text) < 100]
        assert table.put(0, [*texts, *numbers, *keys, row(999)]).rows_merged == len(table.rows)
        assert table.rows == plain([*texts, *numbers, *keys, row(999)])

    def test_a_batch_inserts_updates_and_deletes(self, table: Table) -> None:
        assert table.put(0, [row(1, clicks=1), row(2, clicks=2), row(3, clicks=3)]) == Loaded(3, 0)
        changed = [row(2, clicks=None, title="b"), row(4, clicks=4)]
        assert table.put(1, changed, gone=["k3", "never there"]) == Loaded(2, 1)
        assert table.rows == plain([row(1, clicks=1), *changed])
        assert table.ledger == [("first", 0, 3, 0), ("first", 1, 2, 1)]

    def test_batches_end_as_a_dict_would(self, table: Table) -> None:
        chance = random.Random(7)
        expected: dict[str, dict[str, Any]] = {}
        for number in range(5):
            touched = chance.sample(range(12), 6)
            put = [row(one, clicks=number, title=str(chance.random())) for one in touched[:4]]
            gone = [f"k{one}" for one in touched[4:]]
            there = sum(key in expected for key in gone)
            assert table.put(number, put, gone) == Loaded(len(put), there)
            expected = {key: one for key, one in expected.items() if key not in gone} | {one["id"]: one for one in put}
            assert table.rows == plain(expected.values())

    def test_a_batch_that_comes_again_changes_nothing(self, table: Table) -> None:
        first = table.put(0, [row(1, clicks=1), row(2)], gone=["k9"])
        table.put(1, [row(1, clicks=2)], gone=["k2"])
        before = table.rows
        assert table.put(0, [row(1, clicks=1), row(2)], gone=["k9"]) == replace(first, is_repeated=True)
        # Also where it was cut into other files, or is said to be whole.
        assert table.put(0, [row(7)], is_whole=True) == replace(first, is_repeated=True)
        assert table.rows == before
        assert len(table.ledger) == 2

    def test_the_same_number_of_another_checkpoint_or_flow_is_another_batch(self, table: Table) -> None:
        table.put(0, [row(1, clicks=1)])
        assert table.put(0, [row(1, clicks=2)], checkpoint="second") == Loaded(1, 0)
        other = replace(table, flow=f"{table.flow}.other")
        assert other.put(0, [row(2)]) == Loaded(1, 0)
        assert table.rows == plain([row(1, clicks=2), row(2)])

    def test_a_whole_batch_leaves_nothing_else(self, table: Table) -> None:
        table.put(0, [row(1, clicks=1), row(2), row(3)])
        loaded = table.put(0, [row(2, clicks=2), row(4)], gone=["k1"], checkpoint="second", is_whole=True)
        assert loaded == Loaded(2, 2)
        assert table.rows == plain([row(2, clicks=2), row(4)])

    def test_a_batch_of_no_rows(self, table: Table) -> None:
        table.put(0, [row(1)])
        batch = table.batch(1)
        assert table.stage(batch, table.frame([])) == []
        assert table.load(batch, []) == Loaded(0, 0)
        assert table.rows == plain([row(1)])
        assert table.put(0, checkpoint="second", is_whole=True) == Loaded(0, 1)
        assert table.rows == []
        assert table.put(1) == Loaded(0, 0, is_repeated=True)

    def test_many_rows_in_many_files(self, table: Table) -> None:
        made = table.spark.range(3000).selectExpr("concat('k', id) AS id", "id AS clicks").repartition(4)
        nulls = [f"CAST(NULL AS {one.dataType.simpleString()}) AS {one.name}" for one in COLUMNS]
        listed = [name if name in made.columns else null for name, null in zip(COLUMNS.names, nulls, strict=True)]
        batch = table.batch(0)
        files = table.stage(batch, made.selectExpr(*listed, f"false AS {GONE}"))
        assert len(files) == len(set(files)) == 4
        assert table.load(batch, files) == Loaded(3000, 0)
        assert {one["id"]: one["clicks"] for one in table.rows} == {f"k{number}": number for number in range(3000)}

    def test_a_new_column_is_added(self, table: Table) -> None:
        table.put(0, [row(1, title="a")])
        wider = StructType(
            [*COLUMNS.fields, StructField("region", StringType()), StructField("tax", DecimalType(9, 4))]
        )
        table.target = Target(table.target.name, wider, ("id",))
        prepare(table.warehouse, table.target)
        new = {"region": "EU", "tax": Decimal("0.1900")}
        table.put(1, [row(2) | new])
        assert table.rows == plain([row(1, title="a", region=None, tax=None), row(2) | new])

    def test_a_table_that_was_prepared_before_keeps_its_rows(self, table: Table) -> None:
        table.put(0, [row(1)])
        prepare(table.warehouse, table.target)
        assert table.rows == plain([row(1)])
        assert table.put(0, [row(2)]).is_repeated

    def test_a_value_that_does_not_fit_is_refused_with_its_column_and_row(self, table: Table) -> None:
        narrow = StructType([StructField("id", StringType()), StructField("amount", DecimalType(6, 2))])
        wide = StructType([StructField("id", StringType()), StructField("amount", DecimalType(18, 2))])
        table.target = Target(f"{table.target.name}_n", narrow, ("id",))
        prepare(table.warehouse, table.target)
        table.put(0, [{"id": "a", "amount": Decimal("9999.99")}, {"id": "b", "amount": None}])
        before = table.rows
        table.target = replace(table.target, columns=wide)
        prepare(table.warehouse, table.target)
        rows = table.frame(
            [{"id": "a", "amount": Decimal("1.00")}, {"id": "large one", "amount": Decimal("10000.00")}], gone=["b"]
        )
        batch = table.batch(1)
        with pytest.raises(LoadRefusedError) as caught:
            table.load(batch, table.stage(batch, rows))
        assert table.rows == before
        assert table.ledger == [("first", 0, 2, 0)]
        found = refused(table.warehouse, table.target, rows, caught.value)
        assert isinstance(found, FatalError)
        assert found.code == "LOAD_REFUSED"
        assert "amount" in found.message
        assert "large one" in found.message
        assert "10000" not in str(found)
        fits = table.frame([{"id": "a", "amount": Decimal("-9999.99")}])
        assert refused(table.warehouse, table.target, fits, caught.value) is None
        # The batch, mended, is loaded under its own number.
        assert table.load(batch, table.stage(batch, fits)) == Loaded(1, 0)

    def test_digits_behind_the_point_are_not_rounded_away(self, table: Table) -> None:
        name = f"{table.target.name}_s"
        for digits, ends_well in ((2, True), (1, True), (4, False)):
            columns = StructType([StructField("id", StringType()), StructField("amount", DecimalType(18, digits))])
            if ends_well:
                prepare(table.warehouse, Target(name, columns, ("id",)))
                continue
            with pytest.raises(FatalError) as caught:
                prepare(table.warehouse, Target(name, columns, ("id",)))
            assert caught.value.code == "TARGET_NARROWER"

    def test_what_a_killed_run_staged_is_not_loaded(self, table: Table) -> None:
        batch, near = table.batch(1), table.batch(10)
        kept = table.stage(near, table.frame([row(5)]))
        left = table.stage(batch, table.frame([row(number) for number in range(4)]).repartition(4))
        files = table.stage(batch, table.frame([row(1)]).coalesce(1))
        assert len(files) < len(left)
        assert table.load(batch, files) == Loaded(1, 0)
        table.warehouse.sweep(table.place(batch))
        # The sweep reaches no place whose name only begins so.
        assert table.load(near, kept) == Loaded(1, 0)
        assert table.rows == plain([row(1), row(5)])

    def test_a_staged_file_that_is_gone_stops_the_load(self, table: Table) -> None:
        batch = table.batch(0)
        files = table.stage(batch, table.frame([row(1), row(2)]))
        table.warehouse.sweep(table.place(batch))
        with pytest.raises(StreamsError):
            table.load(batch, files)
        assert table.rows == []
        assert table.ledger == []

    def test_an_upload_travels_to_executors(self, table: Table, tmp_path: Path) -> None:
        upload = pickle.loads(pickle.dumps(table.warehouse.upload()))
        columns = StructType([StructField("id", StringType()), StructField("clicks", LongType())])
        table.target = Target(f"{table.target.name}_u", columns, ("id",))
        prepare(table.warehouse, table.target)
        batch = table.batch(0)
        file = tmp_path / "it's a file.parquet"
        pyarrow.parquet.write_table(pa.table({"id": ["a"], "clicks": [1], GONE: [False]}), file)
        name = f"{table.place(batch)}/part-00000-00000.parquet"
        upload(file.rename(tmp_path / "part-00000-00000.parquet"), name)
        assert table.load(batch, [name]) == Loaded(1, 0)
        assert table.rows == [{"id": "a", "clicks": 1}]

    def test_a_run_that_ends_before_its_commit_leaves_nothing(self, table: Table) -> None:
        table.put(0, [row(1, clicks=1), row(2)])
        before = table.rows

        def end(point: str) -> None:
            if point == "load_begun":
                raise EndedError
            assert point in ("load_opened", "load_copied", "load_merged")

        with pytest.raises(EndedError):
            table.put(1, [row(1, clicks=2), row(3)], gone=["k2"], passes=end)
        assert table.rows == before
        assert len(table.ledger) == 1
        assert table.put(1, [row(1, clicks=2), row(3)], gone=["k2"]) == Loaded(2, 1)
        assert table.rows == plain([row(1, clicks=2), row(3)])

    def test_a_line_that_is_cut_before_the_commit_leaves_nothing(self, table: Table, cut: Callable[[], None]) -> None:
        table.put(0, [row(1, clicks=1), row(2)])
        before = table.rows
        with pytest.raises(RetriableError):
            table.put(1, [row(1, clicks=2), row(3)], gone=["k2"], passes=lambda _: cut())
        assert table.rows == before
        assert len(table.ledger) == 1
        assert table.put(1, [row(1, clicks=2), row(3)], gone=["k2"]) == Loaded(2, 1)

    def test_of_two_loads_of_a_batch_one_wins(self, table: Table) -> None:
        table.put(0, [row(1), row(2)])
        batch = table.batch(1)
        files = table.stage(batch, table.frame([row(1, clicks=1), row(3)], gone=["k2"]))
        both = threading.Barrier(2)

        def wait(_: str) -> None:
            # Where the second is not held off, it gets here too, and both commit at once.
            with suppress(threading.BrokenBarrierError):
                both.wait(0.5)

        def one() -> Loaded | None:
            try:
                return table.load(batch, files, passes=wait)
            except RetriableError:
                return None

        with ThreadPoolExecutor(2) as pool:
            ended = [future.result() for future in [pool.submit(one), pool.submit(one)]]
        assert ended.count(Loaded(2, 1)) == 1
        assert set(ended) <= {Loaded(2, 1), Loaded(2, 1, is_repeated=True), None}
        assert table.rows == plain([row(1, clicks=1), row(3)])
        assert table.ledger == [("first", 0, 2, 0), ("first", 1, 2, 1)]

    def test_a_key_of_several_columns(self, table: Table) -> None:
        columns = StructType([StructField(name, StringType()) for name in ("shop", "number", "state")])
        table.target = Target(f"{table.target.name}_k", columns, ("shop", "number"))
        prepare(table.warehouse, table.target)
        table.put(0, [{"shop": "a", "number": "1", "state": "new"}, {"shop": "a", "number": "2", "state": "new"}])
        table.put(1, [{"shop": "a", "number": "2", "state": "sent"}, {"shop": "b", "number": "1", "state": "new"}])
        assert {(one["shop"], one["number"], one["state"]) for one in table.rows} == {
            ("a", "1", "new"),
            ("a", "2", "sent"),
            ("b", "1", "new"),
        }

    def test_a_table_of_nothing_but_its_key(self, table: Table) -> None:
        table.target = Target(f"{table.target.name}_o", StructType([StructField("id", StringType())]), ("id",))
        prepare(table.warehouse, table.target)
        table.put(0, [{"id": "a"}, {"id": "b"}])
        assert table.put(1, [{"id": "a"}, {"id": "c"}], gone=["b"]) == Loaded(2, 1)
        assert table.rows == [{"id": "a"}, {"id": "c"}]

    @pytest.mark.parametrize("name", ["order", "select", "user", "group", "table"])
    def test_names_that_are_words_of_sql(self, table: Table, name: str) -> None:
        words = StructType([StructField(word, StringType()) for word in ("select", "order", "from", "default", "when")])
        table.target = Target(name, words, ("select",))
        prepare(table.warehouse, table.target)
        made = {"select": "a", "order": "1", "from": "b", "default": None, "when": "now"}
        table.put(0, [made, made | {"select": "b"}], is_whole=True)
        table.put(1, [made | {"order": "2"}], gone=["b"])
        assert table.rows == [made | {"order": "2"}]

    @pytest.mark.parametrize("name", ['a"b', "a b", "a;b", "", "1a", "Order", "größe", "a\n", LEDGER, GONE])
    def test_a_name_that_is_no_plain_word_is_refused(self, warehouse: Warehouse, name: str) -> None:
        columns = StructType([StructField("id", StringType()), StructField(name, StringType())])
        for target in (Target(name, COLUMNS, ("id",)), Target("t", columns, ("id",))):
            with pytest.raises(ConfigurationError) as caught:
                prepare(warehouse, target)
            assert caught.value.code == "TARGET_NAME_INVALID"
