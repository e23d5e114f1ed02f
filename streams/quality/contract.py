"""Contracts: the JSON Schema of what arrives, one file an entity. No Spark here; see `contract_expressions`."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from jsonschema import Draft202012Validator

from streams.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

META_SCHEMA: Final = "contract.meta.schema.json"


@dataclass(frozen=True)
class ContractColumn:
    """One property of a contract. Bounds are inclusive but for `exclusive_minimum`; lengths count characters."""

    name: str
    json_type: str  # string, integer, number, boolean
    is_required: bool
    is_nullable: bool
    format: str | None = None  # date, date-time, email
    decimal: tuple[int, int] | None = None  # precision and scale
    enum: tuple[str, ...] = ()
    pattern: str | None = None
    min_length: int | None = None
    max_length: int | None = None
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: float | None = None
    personal: str | None = None  # keep, hash, drop
    added: str | None = None


@dataclass(frozen=True)
class Condition:
    """When `column` has one of `values`, the columns in `required` must have a value."""

    column: str
    values: tuple[str, ...]
    required: tuple[str, ...]


@dataclass(frozen=True)
class Contract:
    """What one entity is like when it arrives.

    Args:
        name: its file's name without ``.schema.json``.
        columns: in the order of the file, which is the order of a CSV line.
        primary_key: what identifies a row.
        sequence: what orders the versions of one row, first column first.
        conditions: columns that are required only sometimes.
        deletion: the column and value by which the source marks a deleted row.
        evolution: what a change of the schema does: ``allow`` or ``stop`` for add, widen, narrow, drop.
        fingerprint: changes when anything in the file does.
    """

    name: str
    columns: tuple[ContractColumn, ...]
    primary_key: tuple[str, ...]
    sequence: tuple[str, ...]
    conditions: tuple[Condition, ...]
    deletion: tuple[str, bool] | None
    evolution: dict[str, str]
    fingerprint: str

    def column(self, name: str) -> ContractColumn:
        """The column of that name."""
        return next(column for column in self.columns if column.name == name)


def load_contracts(folder: Path) -> dict[str, Contract]:
    """All contracts of a folder, by name.

    Raises:
        ConfigurationError: ``CONTRACTS_MISSING``, or ``CONTRACT_INVALID`` for the first file that is wrong.
    """
    files = sorted(folder.glob("*.schema.json"))
    if not files:
        raise ConfigurationError(
            "CONTRACTS_MISSING",
            f"There are no contracts in {folder}.",
            way_out="Set contracts_root in the configuration.",
        )
    return {contract.name: contract for contract in map(load_contract, files)}


def load_contract(file: Path) -> Contract:
    """Read one contract and make sure that every word of it means something.

    Raises:
        ConfigurationError: ``CONTRACT_INVALID``, with every problem of the file.
    """
    text = file.read_text(encoding="utf-8")
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise _invalid(file, [f"not JSON: {error}"]) from error
    problems = list(_problems(schema, file.parents[1] / META_SCHEMA))
    if problems:
        raise _invalid(file, problems)
    return Contract(
        name=file.name.removesuffix(".schema.json"),
        columns=tuple(_column(name, said, name in schema["required"]) for name, said in schema["properties"].items()),
        primary_key=tuple(schema["x-primary-key"]),
        sequence=tuple(schema["x-sequence"]),
        conditions=tuple(_condition(said) for said in schema.get("allOf", ())),
        deletion=(schema["x-delete"]["column"], schema["x-delete"]["value"]) if "x-delete" in schema else None,
        evolution=schema["x-evolution"],
        fingerprint=hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()[:16],
    )


def _invalid(file: Path, problems: list[str]) -> ConfigurationError:
    return ConfigurationError(
        "CONTRACT_INVALID",
        f"{file} is not a contract: {'; '.join(problems)}.",
        way_out=f"What one may say: {META_SCHEMA}.",
        file=str(file),
        problems=problems,
    )


@cache
def _meta_validator(file: Path) -> Draft202012Validator:
    if not file.is_file():
        raise ConfigurationError("CONTRACTS_MISSING", f"There is no {file}, which says what a contract may say.")
    return Draft202012Validator(
        json.loads(file.read_text(encoding="utf-8")), format_checker=Draft202012Validator.FORMAT_CHECKER
    )


def _problems(schema: Any, meta: Path) -> Iterator[str]:
    errors = sorted(_meta_validator(meta).iter_errors(schema), key=lambda error: error.json_path)
    yield from (f"{error.json_path}: {error.message}" for error in errors)
    if errors:
        return
    columns = schema["properties"]
    named = {
        "required": schema["required"],
        "x-primary-key": schema["x-primary-key"],
        "x-sequence": schema["x-sequence"],
        "x-delete": [schema["x-delete"]["column"]] if "x-delete" in schema else [],
        "allOf": [
            name for said in schema.get("allOf", ()) for name in (*said["if"]["properties"], *said["then"]["required"])
        ],
    }
    for where, names in named.items():
        yield from (f"$.{where}: there is no column {name!r}" for name in names if name not in columns)
    for name in (*schema["x-primary-key"], *schema["x-sequence"]):
        if name not in schema["required"]:
            yield f"$.required: {name!r} identifies or orders the rows, so it must be required"
    for name, said in columns.items():
        yield from (f"$.properties.{name}: {problem}" for problem in _column_problems(said, name in schema["required"]))


_ONLY_FOR: Final = {
    "format": ("string",),
    "enum": ("string",),
    "pattern": ("string",),
    "minLength": ("string",),
    "maxLength": ("string",),
    "minimum": ("integer", "number"),
    "maximum": ("integer", "number"),
    "exclusiveMinimum": ("integer", "number"),
    "x-decimal": ("number",),
}


def _column_problems(said: dict[str, Any], is_required: bool) -> Iterator[str]:
    kind = said["type"] if isinstance(said["type"], str) else said["type"][0]
    for keyword, kinds in _ONLY_FOR.items():
        if keyword in said and kind not in kinds:
            yield f"{keyword!r} checks nothing in a column of type {kind}"
    if is_required and ("x-added" in said or kind != said["type"]):
        yield "a required column is neither nullable nor added later"
    if "pattern" in said:
        try:
            re.compile(said["pattern"])
        except re.error as error:
            yield f"the pattern does not compile: {error}"


def _column(name: str, said: dict[str, Any], is_required: bool) -> ContractColumn:
    kind = said["type"]
    return ContractColumn(
        name=name,
        json_type=kind if isinstance(kind, str) else kind[0],
        is_required=is_required,
        is_nullable=not isinstance(kind, str),
        format=said.get("format"),
        decimal=tuple(said["x-decimal"]) if "x-decimal" in said else None,
        enum=tuple(said.get("enum", ())),
        pattern=said.get("pattern"),
        min_length=said.get("minLength"),
        max_length=said.get("maxLength"),
        minimum=said.get("minimum"),
        maximum=said.get("maximum"),
        exclusive_minimum=said.get("exclusiveMinimum"),
        personal=said.get("x-personal"),
        added=said.get("x-added"),
    )


def _condition(said: dict[str, Any]) -> Condition:
    ((column, values),) = said["if"]["properties"].items()
    return Condition(column, tuple(values["enum"]), tuple(said["then"]["required"]))
