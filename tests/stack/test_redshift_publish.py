"""Redshift as a target, over redshift-connector, boto3 and the wire, against PostgreSQL and moto."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from pyspark.errors import PythonException
from pyspark.sql.types import BinaryType, LongType, StringType, StructField, StructType

from streams.errors import ConfigurationError, FatalError, RetriableError, StreamsError, UnavailableError
from streams.local.redshift_server import RedshiftServer
from streams.local.s3_server import S3Server
from streams.sinks.redshift import RedshiftWarehouse
from streams.sinks.warehouse import GONE, LEDGER, Loaded, LoadRefusedError, Target, _upload, prepare, refused
from tests.stack.test_redshift_adapter import BUCKET, login_at
from tests.suites.warehouse_suite import AT, TEXTS, Table, WarehouseSuite, plain, row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("lines_closed")
SCHEMA = "gold"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as running:
        running.make_bucket(BUCKET)
        yield running


@pytest.fixture(scope="module")
def server(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedshiftServer]:
    with RedshiftServer(tmp_path_factory.mktemp("redshift"), s3) as running:
        yield running


def warehouse_at(server: RedshiftServer, s3: S3Server, **more: Any) -> RedshiftWarehouse:
    return RedshiftWarehouse(login_at(server, s3, **({"staging": f"s3://{BUCKET}/publish", "schema": SCHEMA} | more)))


def staged(s3: S3Server, table: Table, number: int) -> dict[str, bytes]:
    """The files of a batch by their keys."""
    begin = f"publish/{table.place(table.batch(number))}/"
    keys = [key for key in s3.keys(BUCKET) if key.startswith(begin)]
    return {key: s3.client().get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}


class TestRedshift(WarehouseSuite):
    @pytest.fixture
    def warehouse(self, server: RedshiftServer, s3: S3Server) -> RedshiftWarehouse:
        return warehouse_at(server, s3)

    @pytest.fixture
    def read(self, warehouse: RedshiftWarehouse) -> Callable[[str], list[dict[str, Any]]]:
        def rows(table: str) -> list[dict[str, Any]]:
            with warehouse.login.connect() as connection, connection.cursor() as cursor:
                cursor.execute(f'SELECT * FROM "{SCHEMA}"."{table}"')
                names = [column[0] for column in cursor.description]
                return [dict(zip(names, one, strict=True)) for one in cursor.fetchall()]

        return rows

    @pytest.fixture
    def cut(self, server: RedshiftServer) -> Callable[[], None]:
        def every_line() -> None:
            server.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'loader'")

        return every_line

    def test_a_manifest_lists_the_files_of_the_batch_and_no_others(self, table: Table, s3: S3Server) -> None:
        table.put(0, [row(number, seen_at=AT) for number in range(4)])
        files = staged(s3, table, 0)
        (manifest,) = [key for key in files if key.endswith("/manifest")]
        entries = json.loads(files.pop(manifest))["entries"]
        assert files
        assert sorted(entries, key=lambda entry: entry["url"]) == [
            {"url": f"s3://{BUCKET}/{key}", "mandatory": True, "meta": {"content_length": len(content)}}
            for key, content in sorted(files.items())
        ]
        table.warehouse.sweep(table.flow)
        assert staged(s3, table, 0) == {}

    def test_staged_files_are_as_redshift_reads_them(self, table: Table, s3: S3Server) -> None:
        """The columns in the table's order; times as INT96, for it reads one in INT64 without a zone as a number."""
        batch = table.batch(0)
        table.stage(batch, table.frame([row(1, seen_at=AT)]))
        (content,) = staged(s3, table, 0).values()
        file = pyarrow.parquet.ParquetFile(pa.BufferReader(content))
        assert file.schema_arrow.names == [*table.target.columns.names, GONE]
        kinds = {file.schema.column(number).name: file.schema.column(number) for number in range(len(file.schema))}
        assert kinds["seen_at"].physical_type == "INT96"
        assert kinds["born_on"].logical_type.type == "DATE"
        assert kinds["amount"].logical_type.type == "DECIMAL"

    @pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the client's, where its login is cut
    def test_a_line_cut_after_any_byte_loads_a_batch_once_or_not_at_all(
        self, table: Table, server: RedshiftServer
    ) -> None:
        table.put(0, [row(1, clicks=1), row(2)])
        batch = table.batch(1)
        files = table.stage(batch, table.frame([row(1, clicks=2), row(3)], gone=["k2"]))
        before, after = table.rows, plain([row(1, clicks=2), row(3)])
        ended = []
        for count in range(0, 6000, 60):
            server.cut_next(count)
            try:
                ended.append(table.load(batch, files))
            except StreamsError as error:
                assert isinstance(error, UnavailableError), count  # noqa: PT017
                loaded = len(table.ledger) == 2
                assert table.rows == (after if loaded else before), count
            else:
                break
        # The cut that took only the answer to the commit leaves a batch that is known.
        assert ended in ([Loaded(2, 1)], [Loaded(2, 1, is_repeated=True)])
        assert count > 600
        server.cut_next(0, times=0)
        assert table.rows == after
        assert table.ledger == [("first", 0, 2, 0), ("first", 1, 2, 1)]

    @pytest.mark.parametrize(
        ("kind", "name", "fits", "does_not"),
        [
            ("varchar(5)", "title", "äb", "abcdefg"),
            ("varchar(5) not null", "title", "abcde", None),
            ("integer", "clicks", -(2**31), 2**31),
            ("smallint", "clicks", 2**15 - 1, -(2**15) - 1),
            ("numeric(4,0)", "clicks", 9999, -10000),
        ],
    )
    def test_a_table_made_by_others_is_filled_as_far_as_it_can_hold(
        self, table: Table, server: RedshiftServer, kind: str, name: str, fits: Any, does_not: Any
    ) -> None:
        columns = StructType([StructField("id", StringType()), table.target.columns[name]])
        table.target = Target(f"{table.target.name}_m", columns, ("id",))
        made = f'"{SCHEMA}"."{table.target.name}"'
        server.execute(f"CREATE TABLE {made} (id varchar(40), {name} {kind}); ALTER TABLE {made} OWNER TO loader")
        prepare(table.warehouse, table.target)
        table.put(0, [{"id": "a", name: fits}])
        # A row that is to be deleted need not fit.
        rows = table.frame([{"id": "a", name: fits}, {"id": "one too large", name: does_not}], gone=["b"])
        batch = table.batch(1)
        with pytest.raises(LoadRefusedError) as caught:
            table.load(batch, table.stage(batch, rows))
        assert table.rows == [{"id": "a", name: fits}]
        found = refused(table.warehouse, table.target, rows, caught.value)
        assert found is not None
        assert found.code == "LOAD_REFUSED"
        assert name in found.message
        assert "one too large" in found.message

    def test_text_longer_than_any_column_is_refused(self, table: Table) -> None:
        rows = table.frame([row(1, title=max(TEXTS, key=len)), row(2, title="x" * 65_536)])
        batch = table.batch(0)
        with pytest.raises(LoadRefusedError) as caught:
            table.load(batch, table.stage(batch, rows))
        assert table.rows == []
        found = refused(table.warehouse, table.target, rows, caught.value)
        assert found is not None
        assert "k2" in found.message

    def test_a_type_that_redshift_has_not(self, warehouse: RedshiftWarehouse) -> None:
        columns = StructType([StructField("id", LongType()), StructField("picture", BinaryType())])
        with pytest.raises(ConfigurationError) as caught:
            prepare(warehouse, Target("pictures", columns, ("id",)))
        assert caught.value.code == "TARGET_TYPE_INVALID"

    @pytest.mark.parametrize(
        ("state", "message", "what", "kind", "code"),
        [
            ("57014", "canceled", "MERGE", RetriableError, "REDSHIFT_TIMEOUT"),
            ("57P01", "shutting down", "MERGE", UnavailableError, "REDSHIFT_BUSY"),
            ("40001", "Serializable isolation violation", "COMMIT", UnavailableError, "REDSHIFT_BUSY"),
            ("XX000", "1023 Serializable isolation violation", "MERGE", UnavailableError, "REDSHIFT_BUSY"),
            ("XX000", "S3ServiceException:SlowDown,Status 503", "COPY", UnavailableError, "REDSHIFT_BUSY"),
            ("XX000", "S3ServiceException:Access Denied", "COPY", ConfigurationError, "REDSHIFT_COPY_REFUSED"),
            ("XX000", "Spectrum Scan Error: incompatible Parquet", "COPY", ConfigurationError, "REDSHIFT_COPY_REFUSED"),
            ("XX000", "Spectrum Scan Error: length of the data column", "COPY", LoadRefusedError, "LOAD_REFUSED"),
            ("XX000", "Cannot insert a NULL value into column", "MERGE", LoadRefusedError, "LOAD_REFUSED"),
            ("22001", "value too long for secret", "MERGE", LoadRefusedError, "LOAD_REFUSED"),
            ("XX000", "Found multiple matches to update", "MERGE", FatalError, "REDSHIFT_FAILED"),
            ("42501", "permission denied", "LOCK", ConfigurationError, "REDSHIFT_GRANT_MISSING"),
            ("42601", "syntax error at secret", "MERGE", FatalError, "REDSHIFT_FAILED"),
        ],
    )
    def test_what_a_refused_statement_means(
        self, table: Table, server: RedshiftServer, state: str, message: str, what: str, kind: type, code: str
    ) -> None:
        batch = table.batch(0)
        files = table.stage(batch, table.frame([row(1)]))
        server.refuse_next(state, message, what=f"^{what}")
        with pytest.raises(StreamsError) as caught:
            table.load(batch, files)
        assert (type(caught.value), caught.value.code) == (kind, code)
        assert "secret" not in str(caught.value)
        assert table.load(batch, files) == Loaded(1, 0)

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"password": "wrong"}, "REDSHIFT_LOGIN_REFUSED"),
            ({"database": "nowhere"}, "REDSHIFT_DATABASE_UNKNOWN"),
            ({"schema": "forbidden"}, "REDSHIFT_GRANT_MISSING"),
        ],
    )
    def test_a_login_that_is_wrong(
        self, server: RedshiftServer, s3: S3Server, change: dict[str, Any], code: str
    ) -> None:
        server.execute("CREATE SCHEMA IF NOT EXISTS forbidden; GRANT USAGE ON SCHEMA forbidden TO loader")
        target = Target("t", StructType([StructField("id", StringType())]), ("id",))
        with pytest.raises(ConfigurationError) as caught:
            prepare(warehouse_at(server, s3, **change), target)
        assert caught.value.code == code

    def test_a_bucket_that_is_wrong(self, server: RedshiftServer, s3: S3Server) -> None:
        with pytest.raises(ConfigurationError) as caught:
            warehouse_at(server, s3, staging="s3://no-such-bucket/publish").sweep("a")
        assert caught.value.code == "S3_BUCKET_UNKNOWN"

    def test_an_error_of_an_executor_keeps_its_code(self, table: Table, server: RedshiftServer, s3: S3Server) -> None:
        lost = warehouse_at(server, s3, staging="s3://no-such-bucket/publish").upload()
        rows = table.frame([row(1)]).select("id")

        def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                _upload(pa.Table.from_batches([batch]), "place/part.parquet", lost)
                yield batch

        with pytest.raises(PythonException, match="<configuration:S3_BUCKET_UNKNOWN>"):
            rows.mapInArrow(write, "id string").collect()

    def test_a_bucket_without_a_prefix(self, table: Table, server: RedshiftServer, s3: S3Server) -> None:
        table.warehouse = warehouse_at(server, s3, staging=f"s3://{BUCKET}")
        assert table.put(0, [row(1)]) == Loaded(1, 0)
        assert [key for key in s3.keys(BUCKET) if key.startswith(f"{table.flow}/")]
        table.warehouse.sweep(table.flow)
        assert not [key for key in s3.keys(BUCKET) if table.flow in key]

    def test_the_ledger_tells_when_in_utc(self, table: Table) -> None:
        table.put(0, [row(1)])
        (at,) = [one["loaded_at"] for one in table.read(LEDGER) if one["flow"] == table.flow]
        assert abs(at.replace(tzinfo=dt.UTC) - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=5)
