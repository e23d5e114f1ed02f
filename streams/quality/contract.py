"""Contracts: the JSON Schema of what arrives, one file an entity. No Spark here; see `contract_expressions`."""

from __future__ import annotations

import hashlib
import json
import math
import re
import warnings
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from jsonschema import Draft202012Validator

from streams.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

META_SCHEMA: Final = "contract.meta.schema.json"
# The pieces of a regular expression: an escape, a class of characters, or one character.
PATTERN_PIECE: Final = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|.", re.DOTALL)


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
    try:
        schema = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_each_key_once)
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


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON readers keep the last of two equal keys, and what the first one asked would be forgotten."""
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"the key {key!r} stands there twice")
    return dict(pairs)


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
    lower = [name.lower() for name in columns]
    yield from (f"$.properties.{n}: Spark does not tell its case apart" for n in columns if lower.count(n.lower()) > 1)
    for name, said in columns.items():
        yield from (f"$.properties.{name}: {problem}" for problem in _column_problems(said, name in schema["required"]))
    deletion = schema.get("x-delete", {}).get("column")
    if deletion in columns and columns[deletion]["type"] != "boolean":
        yield f"$.x-delete: {deletion!r} is not a boolean"
    for place, said in enumerate(schema.get("allOf", ())):
        yield from (f"$.allOf[{place}]: {problem}" for problem in _condition_problems(said, schema))


def _condition_problems(said: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    ((column, values),) = said["if"]["properties"].items()
    if said["if"]["required"] != [column]:
        yield f"the condition must require {column!r} and nothing else, or it means more than it says"
    known = schema["properties"].get(column, {})
    if known.get("type", "string") not in ("string", ["string", "null"]):
        yield f"{column!r} is not a string"
    never = [value for value in values["enum"] if "enum" in known and value not in known["enum"]]
    if never:
        yield f"{column!r} is never {' or '.join(never)}"
    for name in said["then"]["required"]:
        if name in schema["required"]:
            yield f"{name!r} is required anyway"
        elif isinstance(schema["properties"].get(name, {}).get("type"), list):
            yield f"{name!r} is nullable, so requiring it asks nothing"


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
    is_nullable = kind != said["type"]
    if is_required and ("x-added" in said or is_nullable):
        yield "a required column is neither nullable nor added later"
    if "enum" in said and (None in said["enum"]) != is_nullable:
        yield "null belongs in the enum of a nullable column, and in no other"
    if said.get("minLength", 0) > said.get("maxLength", math.inf):
        yield "'minLength' is above 'maxLength'"
    yield from _number_problems(said, kind)
    if "pattern" in said:
        yield from _pattern_problems(said["pattern"])


def _number_problems(said: dict[str, Any], kind: str) -> Iterator[str]:
    least, most = max(said.get("minimum", -math.inf), said.get("exclusiveMinimum", -math.inf)), said.get("maximum")
    if most is not None and (least > most or said.get("exclusiveMinimum") == most):
        yield "no number lies between its bounds"
    precision, scale = said.get("x-decimal", (19, 0))
    if scale > precision:
        yield "'x-decimal' has more decimals than digits"
    if kind == "number" and "x-decimal" not in said:
        return
    for keyword in ("minimum", "maximum", "exclusiveMinimum"):
        bound = Decimal(str(said.get(keyword, 0)))
        if abs(bound) >= 10 ** (precision - scale) or bound != round(bound, scale):
            yield f"{keyword!r} is no value that the column can have"


def _pattern_problems(pattern: str) -> Iterator[str]:
    """What Java, Python and JSON Schema would each read in their own way, or not at all."""
    try:
        with warnings.catch_warnings(action="error"):  # it warns where it may one day read something else
            re.compile(pattern)
    except (re.error, FutureWarning) as error:
        yield f"the pattern does not compile: {error}"
        return
    pieces = PATTERN_PIECE.findall(pattern)
    for place, piece in enumerate(pieces):
        rest = "".join(pieces[place:])
        is_class = len(piece) > 1 and piece[0] == "["
        escapes = re.findall(r"\\(.)", piece, re.DOTALL)
        is_odd = (
            any(escape.isalnum() and escape not in "dDwWsSbBnrtfxu123456789" for escape in escapes)
            or (is_class and (re.match(r"\[\^?\]", piece) or re.search(r"\[|&&", piece[1:].replace("\\[", ""))))
            or (piece == "(" and re.match(r"\(\?(?![:=!])", rest))
            or (piece == "{" and not re.match(r"\{[0-9]+(,[0-9]*)?\}", rest))
            or (piece == "+" and place and pieces[place - 1] in ("+", "*", "?", "}"))
        )
        if is_odd:
            yield f"the pattern means different things to different readers at {rest!r}"


def _column(name: str, said: dict[str, Any], is_required: bool) -> ContractColumn:
    kind = said["type"]
    return ContractColumn(
        name=name,
        json_type=kind if isinstance(kind, str) else kind[0],
        is_required=is_required,
        is_nullable=not isinstance(kind, str),
        format=said.get("format"),
        decimal=tuple(said["x-decimal"]) if "x-decimal" in said else None,
        enum=tuple(value for value in said.get("enum", ()) if value is not None),
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
