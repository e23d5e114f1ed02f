"""Objects of Salesforce, read by its REST and Bulk 2.0 APIs.

A window of few rows is one query by REST, read page after page; a larger one is a Bulk 2.0 query job, whose result
pages executors fetch by their locators. Both read the recycle bin too (queryAll), so that deleted and merged rows
come with ``IsDeleted``; the bin is emptied after 15 days.

What the adapter needs is a connected app with the client credentials flow (or a user's name and password with it),
*API Enabled*, and *View All* on the objects. The user should be the adapter's own: a new run aborts the unfinished
query jobs of this user on its object, which a killed run has left.

Ids are compared by Salesforce alone, in SOQL, whose order of them is not that of texts.
"""

from __future__ import annotations

import datetime as dt
import io
import time
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from simple_salesforce.format import quote_soql_value

from batch_adapters.adapter import SourceTable, TableOptions, data_source, patiently
from batch_adapters.errors import AdapterError, ConfigurationAdapterError, FatalAdapterError, RetriableAdapterError
from batch_adapters.salesforce_http import SalesforceSession
from batch_adapters.window import Mark, Selection, Window, condition

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyspark.sql.datasource import DataSource

_TIME: Final = pa.timestamp("us", "UTC")
_TYPES: Final = {
    "boolean": pa.bool_(),
    "int": pa.int64(),
    "long": pa.int64(),
    "date": pa.date32(),
    "datetime": _TIME,
}
_NUMBERS: Final = frozenset({"double", "currency", "percent"})
_UNREADABLE: Final = frozenset({"address", "location", "base64", "complexvalue", "anyType", "json"})
_MOST_SKIPPED: Final = 2000  # Salesforce's limit of OFFSET
_ROWS_BY_REST: Final = 10_000  # `auto` reads more than so many in bulk
_SLICE_ROWS: Final = 10_000
_LONGEST_POLL: Final = 10.0  # seconds
_UNFINISHED: Final = frozenset({"UploadComplete", "InProgress"})


@dataclass(frozen=True)
class SalesforceLogin:
    """Opens objects; pickled to where they are read.

    Args:
        instance_url: the org's own address, such as ``https://example.my.salesforce.com``.
        consumer_key, consumer_secret: the connected app's.
        username, password, security_token: of a user, where the app has no client credentials flow.
        api_version: 58.0 or newer, which tells the pages of a job's result.
        mode: ``rest``, ``bulk``, or ``auto`` by the number of rows.
        max_api_share: what share of the org's daily calls may be used, by whomever, before the adapter waits.
        timeout_seconds: how long an answer may take.
        job_timeout_seconds: how long a query job may take.
    """

    instance_url: str
    consumer_key: str
    consumer_secret: str = field(repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    security_token: str | None = field(default=None, repr=False)
    api_version: str = "62.0"
    mode: str = "auto"
    max_api_share: float = 0.9
    timeout_seconds: float = 60.0
    job_timeout_seconds: float = 3600.0

    def __call__(self, options: TableOptions) -> SalesforceTable:
        """Open an object; the login itself waits until it is needed.

        Raises:
            ConfigurationAdapterError: ``OPTION_INVALID`` or ``SALESFORCE_LOGIN_INVALID``.
        """
        if self.mode not in ("auto", "bulk", "rest") or float(self.api_version) < 58:
            raise ConfigurationAdapterError(
                "SALESFORCE_LOGIN_INVALID", "The mode is 'auto', 'bulk' or 'rest', the API's version 58.0 or newer."
            )
        return SalesforceTable(self, options)


@dataclass(frozen=True)
class RestPart:
    """A query that one reader pages through; its columns' types in order."""

    query: str
    fields: tuple[tuple[str, pa.DataType], ...]


@dataclass(frozen=True)
class ResultPage:
    """A page of a query job's result."""

    url: str
    fields: tuple[tuple[str, pa.DataType], ...]


class SalesforceTable(SourceTable):
    """One object.

    Args:
        login: the login.
        options: the stream's; ``table`` is the object's API name.
    """

    def __init__(self, login: SalesforceLogin, options: TableOptions) -> None:
        if not options.table.isidentifier():
            raise ConfigurationAdapterError("OPTION_INVALID", f"{options.table!r} is not an object's name.")
        self._login, self._options = login, options
        self._session = SalesforceSession(login, options.table)
        self._fields: dict[str, pa.DataType] | None = None
        self._jobs: dict[str, str] = {}  # by batch, of this process

    def clock(self) -> dt.datetime:
        """The server's time, to the second below it: its answers' own date. SystemModstamp has milliseconds."""
        answer = self._session.call("GET", "limits")
        return parsedate_to_datetime(answer.headers["Date"]).astimezone(dt.UTC)

    def schema(self) -> pa.Schema:
        """The object's fields that are wanted and that the user may see; compound and binary ones are left out.

        Raises:
            ConfigurationAdapterError: ``SALESFORCE_OBJECT_MISSING``, ``_FIELD_MISSING`` (of the options) or
                ``_FIELD_TYPE`` (a cursor that is no date and time).
        """
        described = self._session.json(f"sobjects/{self._options.table}/describe")["fields"]
        readable = (one for one in described if one["type"] not in _UNREADABLE)
        self._fields = {one["name"]: _type(one) for one in readable if self._options.wants(one["name"])}
        cursor = self._options.cursor
        for name in (*self._options.key, *([cursor] if cursor else [])):
            self._type_of(name)
        if cursor and self._fields[cursor] != _TIME:
            raise ConfigurationAdapterError("SALESFORCE_FIELD_TYPE", f"The cursor {cursor!r} is no date and time.")
        return pa.schema(list(self._fields.items()))

    def nth(self, window: Window, number: int) -> Mark | None:
        """See `SourceTable`. Beyond 2,001 rows it pages through cursor and key, 2,000 rows a call."""
        listed = ", ".join(self._ordered())
        query = f"SELECT {listed} FROM {self._options.table} WHERE {self._condition(window)} ORDER BY {listed}"  # noqa: S608
        if number <= _MOST_SKIPPED + 1:
            rows = list(self._records(f"{query} LIMIT 1 OFFSET {number - 1}"))
            return self._mark(rows[0]) if rows else None
        found = next(islice(self._records(f"{query} LIMIT {number}"), number - 1, None), None)
        return self._mark(found) if found is not None else None

    def parts(self, selection: Selection, batch: str) -> Sequence[RestPart | ResultPage]:
        """A query by REST, or the pages of a finished query job."""
        if selection.without_cursor:
            return []  # SystemModstamp and its like always have a value
        where = f" WHERE {self._condition(selection.window)}" if selection.window is not None else ""
        fields = tuple((name, self._type_of(name)) for name in selection.columns)
        query = f"SELECT {', '.join(selection.columns)} FROM {self._options.table}{where}"  # noqa: S608 - checked names
        if not self._is_bulk(where):
            return [RestPart(query, fields)]
        job = self._session.json("jobs/query", "POST", json={"operation": "queryAll", "query": query})["id"]
        self._jobs[batch] = job
        self._await(job)
        return [ResultPage(url, fields) for url in self._result_pages(job)]

    def read(self, part: RestPart | ResultPage) -> Iterator[pa.RecordBatch]:
        """A part's rows, at most 10,000 at a time; one page in memory."""
        if isinstance(part, RestPart):
            for page in self._pages(part.query):
                if page:
                    yield _of_json(page, part.fields)
            return
        table = patiently(lambda: self._result(part))
        yield from table.to_batches(max_chunksize=_SLICE_ROWS)

    def clean(self, batch: str | None) -> None:
        """Delete a batch's job. When None: abort the unfinished ones of this user on this object."""
        if batch is not None:
            for name in [name for name in self._jobs if name.startswith(batch)]:
                with suppress(AdapterError):  # Salesforce deletes it after seven days in any case
                    self._session.call("DELETE", f"jobs/query/{self._jobs.pop(name)}")
            return
        if self._login.mode == "rest":
            return
        us = self._session.user_id()
        for job in self._listed("jobs/query?jobType=V2Query"):
            if (job["object"], job["createdById"]) == (self._options.table, us) and job["state"] in _UNFINISHED:
                with suppress(AdapterError):  # it may just have ended
                    self._session.call("PATCH", f"jobs/query/{job['id']}", json={"state": "Aborted"})

    def close(self) -> None:
        """Let the lines go."""
        self._session.close()

    def _type_of(self, name: str) -> pa.DataType:
        if self._fields is None:
            self.schema()
        assert self._fields is not None
        if name not in self._fields:
            raise ConfigurationAdapterError(
                "SALESFORCE_FIELD_MISSING",
                f"The object {self._options.table!r} has no field {name!r}, or the user may not see it.",
                f"There are: {', '.join(self._fields)}.",
            )
        return self._fields[name]

    def _ordered(self) -> list[str]:
        assert self._options.cursor is not None
        names = [self._options.cursor, *self._options.key]
        for name in names:
            self._type_of(name)
        return names

    def _mark(self, row: dict[str, Any]) -> Mark:
        cursor, *key = self._ordered()
        at = dt.datetime.strptime(row[cursor], "%Y-%m-%dT%H:%M:%S.%f%z").astimezone(dt.UTC)
        if any(row[name] is None for name in key):
            raise FatalAdapterError(
                "SALESFORCE_KEY_NULL", f"A key field of {self._options.table!r} has no value in some row."
            )
        return Mark(f"{at:%Y-%m-%dT%H:%M:%S.%f}000Z", tuple(row[name] for name in key))

    def _condition(self, window: Window) -> str:
        cursor, *keys = self._ordered()
        return condition(window, cursor, keys, _instant, quote_soql_value)

    def _is_bulk(self, where: str) -> bool:
        if self._login.mode != "auto":
            return self._login.mode == "bulk"
        counted = f"SELECT COUNT() FROM {self._options.table}{where}"  # noqa: S608 - checked names
        said = self._session.json("queryAll", params={"q": counted})
        return bool(said["totalSize"] > _ROWS_BY_REST)

    def _records(self, query: str) -> Iterator[dict[str, Any]]:
        for page in self._pages(query):
            yield from page

    def _pages(self, query: str) -> Iterator[list[dict[str, Any]]]:
        said = self._session.json("queryAll", params={"q": query})
        yield said["records"]
        while not said["done"]:
            following = said["nextRecordsUrl"]
            said = patiently(lambda following=following: self._session.json(following))  # type: ignore[misc]
            yield said["records"]

    def _await(self, job: str) -> None:
        deadline, pause = time.monotonic() + self._login.job_timeout_seconds, 0.1
        while True:
            state = self._session.json(f"jobs/query/{job}")["state"]
            if state == "JobComplete":
                return
            if state not in _UNFINISHED:
                raise RetriableAdapterError(
                    f"SALESFORCE_JOB_{state.upper()}", f"The query job {job} on {self._options.table} ended as {state}."
                )
            if time.monotonic() > deadline:
                raise RetriableAdapterError("SALESFORCE_TIMEOUT", f"The query job {job} has not ended in time.")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL)

    def _result_pages(self, job: str) -> Iterator[str]:
        for page in self._listed(f"jobs/query/{job}/resultPages", "resultPages"):
            yield page["resultUrl"]

    def _listed(self, path: str, name: str = "records") -> Iterator[dict[str, Any]]:
        said = self._session.json(path)
        yield from said[name]
        while not said["done"]:
            # Of result pages the documentation spells it without the s.
            said = self._session.json(said.get("nextRecordsUrl") or said["nextRecordUrl"])
            yield from said[name]

    def _result(self, page: ResultPage) -> pa.Table:
        answer = self._session.call("GET", page.url)
        # Numbers are read as texts: see `_numbers`.
        types = {name: pa.string() if pa.types.is_decimal(kind) else kind for name, kind in page.fields}
        try:
            table = pyarrow.csv.read_csv(
                io.BytesIO(answer.content),
                # One block: a row of long texts may be longer than the usual block, and would not be read.
                read_options=pyarrow.csv.ReadOptions(block_size=len(answer.content) + 1),
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=types, include_columns=list(types), null_values=[""], strings_can_be_null=True
                ),
            )
        except (pa.ArrowException, KeyError):  # not its text, which may quote a value
            raise RetriableAdapterError("SALESFORCE_PAGE_BROKEN", "A page of a result can't be read.") from None
        if str(len(table)) != answer.headers.get("Sforce-NumberOfRecords"):
            raise RetriableAdapterError("SALESFORCE_PAGE_INCOMPLETE", "A page of a result has not all of its rows.")
        columns = [
            _numbers(table[name].to_pylist(), name, kind) if pa.types.is_decimal(kind) else table[name]
            for name, kind in page.fields
        ]
        return pa.table(columns, names=list(types))


def _instant(mark: Mark) -> str:
    """A mark's time for SOQL, which counts milliseconds: the one at it or just after."""
    seconds, fraction = mark.at.removesuffix("Z").split(".")
    at = dt.datetime.fromisoformat(f"{seconds}+00:00") + dt.timedelta(milliseconds=-(-int(fraction) // 1_000_000))
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def _type(described: dict[str, Any]) -> pa.DataType:
    if described["type"] in _NUMBERS:
        return pa.decimal128(max(described["precision"] or 18, 1), described["scale"] or 0)
    return _TYPES.get(described["type"], pa.string())


def _numbers(values: Sequence[Any], name: str, kind: pa.Decimal128Type) -> pa.Array:
    """Numbers, rounded to the field's scale, as Salesforce shows them: it keeps, and tells, more digits.

    Large ones come as ``1.2345678E7``.
    """
    unit = Decimal(1).scaleb(-kind.scale)
    try:
        rounded = [None if one is None else Decimal(one).quantize(unit, ROUND_HALF_UP) for one in values]
        return pa.array(rounded, kind)
    except (pa.ArrowException, InvalidOperation):
        raise _unfit(name, kind) from None


def _unfit(name: str, kind: pa.DataType) -> FatalAdapterError:
    return FatalAdapterError("SALESFORCE_VALUE_UNFIT", f"The field {name!r} has a value that {kind} can't hold.")


def _of_json(rows: list[dict[str, Any]], fields: Sequence[tuple[str, pa.DataType]]) -> pa.RecordBatch:
    columns = []
    for name, kind in fields:
        values = [row[name] for row in rows]
        try:
            if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
                columns.append(pc.cast(pa.array(values, pa.string()), kind))
            elif pa.types.is_decimal(kind):
                columns.append(_numbers(values, name, kind))
            else:
                columns.append(pa.array(values, kind))
        except pa.ArrowException:
            raise _unfit(name, kind) from None
    return pa.RecordBatch.from_arrays(columns, names=[name for name, _ in fields])


def salesforce(login: SalesforceLogin) -> type[DataSource]:
    """Spark's data source ``salesforce`` for one login."""
    return data_source("salesforce", login)
