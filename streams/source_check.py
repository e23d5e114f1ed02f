"""Whether a source can be pulled: login, tables, columns, and one row of each, held against the contracts. No Spark."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator
from pyspark.sql.pandas.types import from_arrow_schema

from batch_adapters.adapter import TableOptions, patiently
from batch_adapters.errors import AdapterError
from batch_adapters.window import Mark, Selection, Window
from streams.errors import ConfigurationError
from streams.flows.bronze import PULLED_TABLES, pulled_source
from streams.quality.contract import load_contracts
from streams.quality.contract_expressions import has_same_kind, spark_type
from streams.validation import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch_adapters.adapter import SourceTable
    from streams.flows.bronze import PulledTable
    from streams.quality.contract import Contract
    from streams.settings import Settings

_ATTEMPTS = 2  # a person waits
_FAR = Mark("9999-12-31T00:00:00.000000000Z")


def check_source(settings: Settings, system: str) -> list[Finding]:
    """Look at one source.

    Raises:
        ConfigurationError: ``SOURCE_UNKNOWN``, or ``SOURCE_NOT_CONFIGURED``.
    """
    known = {table.system for table in PULLED_TABLES}
    if system not in known:
        raise ConfigurationError(
            "SOURCE_UNKNOWN", f"There is no source {system!r}.", way_out=f"The sources are: {', '.join(sorted(known))}."
        )
    if settings.sources.named(system) is None:
        raise ConfigurationError(
            "SOURCE_NOT_CONFIGURED",
            f"The configuration of {settings.environment!r} says nothing of {system}.",
            way_out=f"Add sources.{system} to it; checkpoints_config/prod.yaml has an example.",
        )
    contracts = load_contracts(Path(settings.contracts_root) / "bronze")
    tables = [table for table in PULLED_TABLES if table.system == system]
    return [finding for table in tables for finding in _check_table(settings, table, contracts[table.contract])]


def _check_table(settings: Settings, pulled: PulledTable, contract: Contract) -> Iterator[Finding]:
    source = pulled_source(settings, pulled, contract)
    what = f"{pulled.system} {source.table}"
    options = TableOptions.parse(source.options(settings.flow(pulled.flow).max_rows_per_batch))
    try:
        table = patiently(lambda: source.login()(options), _ATTEMPTS)
        try:
            problems = list(_column_problems(table, contract))
            row = None if problems else _first_row(table, options)
        finally:
            table.close()
    except AdapterError as error:
        yield Finding(what, f"{error.message} {error.way_out or ''}".strip(), error.code)
        return
    if problems:
        yield Finding(what, "; ".join(problems), "SOURCE_COLUMNS_DIFFER")
    elif row is None:
        yield Finding(f"{what}: its columns fit {contract.name}; it has no rows yet")
    else:
        broken = sorted(set(_row_problems(row, settings, contract)))
        # One row out of contract is for the error lane, and no reason not to pull the table.
        note = f"; its first row would go to the error lane ({', '.join(broken)})" if broken else ""
        yield Finding(f"{what}: its columns fit {contract.name}, one row was read{note}")


def _column_problems(table: SourceTable, contract: Contract) -> Iterator[str]:
    schema = from_arrow_schema(patiently(table.schema, _ATTEMPTS))
    types = {field.name: field.dataType for field in schema}
    for column in contract.columns:
        if column.name not in types:
            near = next((name for name in types if name.lower() == column.name.lower()), None)
            hint = f" (there is {near!r}: names are compared exactly)" if near else ""
            if column.is_required or near:
                yield f"column {column.name!r} is missing{hint}"
        elif not has_same_kind(types[column.name], column):
            wanted = spark_type(column).simpleString()
            yield f"column {column.name!r} is {types[column.name].simpleString()}, the contract says {wanted}"


def _first_row(table: SourceTable, options: TableOptions) -> dict[str, Any] | None:
    first = patiently(lambda: table.nth(Window(None, _FAR), 1), _ATTEMPTS)
    if first is None:
        return None
    wanted = tuple(name for name in table.schema().names if options.wants(name))
    selection = Selection(wanted, Window(None, first))
    batch = f"check-{options.table.lower()}"
    try:
        for part in table.parts(selection, batch):
            for rows in table.read(part):
                if rows.num_rows:
                    return dict(rows.slice(0, 1).to_pylist()[0])
    finally:
        table.clean(batch)
    return None


def _row_problems(row: dict[str, Any], settings: Settings, contract: Contract) -> Iterator[str]:
    file = Path(settings.contracts_root) / "bronze" / f"{contract.name}.schema.json"
    validator = Draft202012Validator(json.loads(file.read_text()), format_checker=Draft202012Validator.FORMAT_CHECKER)
    # The columns' names and never their values, which may be personal.
    for error in validator.iter_errors({name: _as_json(value) for name, value in row.items()}):
        yield str(error.absolute_path[0] if error.absolute_path else error.validator)


def _as_json(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, dt.date):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value
