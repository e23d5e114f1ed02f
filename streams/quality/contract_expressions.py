"""A contract compiled to Spark: the types of its columns, and for every row what is wrong with it. No UDF."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import reduce
from typing import TYPE_CHECKING, Final, NamedTuple

from pyspark.sql import functions as F
from pyspark.sql.types import (
    BooleanType,
    DataType,
    DateType,
    DecimalType,
    DoubleType,
    LongType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

from streams.quality.contract import PATTERN_PIECE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pyspark.sql import Column

    from streams.quality.contract import Contract, ContractColumn

MASK: Final = "***"
_SHOWN_CHARACTERS: Final = 80
# Casts take more than a contract does (blanks, "1e3", "tomorrow", a time without its zone); these forms are what
# JSON Schema's formats and numbers allow. \z and not $, which also matches before a last line end.
_INTEGER = r"^-?(0|[1-9][0-9]{0,18})\z"
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?\z"
_DATE = r"^(?!0000)[0-9]{4}-[0-9]{2}-[0-9]{2}\z"
_DATE_TIME = (
    r"^(?!0000)[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])\z"
)
_EMAIL = r"^[^@\s]+@[^@\s]+\z"


class Cell(NamedTuple):
    """A value as it arrived: its text, and its JSON type where it came as JSON.

    ``json_type`` is one of string, number, boolean, object, array, null; SQL's null where the field is absent.
    """

    text: Column
    json_type: Column | None = None


@dataclass(frozen=True)
class CompiledContract:
    """What a contract says of a row.

    Attributes:
        typed: the columns with their types, in the contract's order; null where a value has not its type.
        is_clean: true or false, never null; cheap enough for every row.
        violations: array<struct<code, column, value>>, empty for a clean row; meant for the others.
    """

    typed: tuple[Column, ...]
    is_clean: Column
    violations: Column


class _Rule(NamedTuple):
    code: str
    column: ContractColumn
    is_broken: Column  # may be null, which is not broken
    shown: Column


def spark_schema(contract: Contract) -> StructType:
    """The contract's columns with Spark's types, all nullable."""
    return StructType([StructField(column.name, spark_type(column)) for column in contract.columns])


def spark_type(column: ContractColumn) -> DataType:
    """integer → BIGINT, number → DECIMAL or DOUBLE, date → DATE, date-time → TIMESTAMP, else STRING or BOOLEAN."""
    if column.decimal is not None:
        return DecimalType(*column.decimal)
    formats: dict[str | None, DataType] = {"date": DateType(), "date-time": TimestampType()}
    kinds: dict[str, DataType] = {"integer": LongType(), "number": DoubleType(), "boolean": BooleanType()}
    return kinds.get(column.json_type) or formats.get(column.format, StringType())


def compile_contract(contract: Contract, cells: Mapping[str, Cell]) -> CompiledContract:
    """Compile a contract over the values of a row.

    Args:
        contract: the contract.
        cells: for each of its columns, the value as it arrived.
    """
    typed = {column.name: _typed(column, cells[column.name].text) for column in contract.columns}
    rules = [
        rule for column in contract.columns for rule in _column_rules(column, cells[column.name], typed[column.name])
    ]
    rules.extend(_condition_rules(contract, cells))
    is_clean = reduce(lambda all_kept, rule: all_kept & ~F.coalesce(rule.is_broken, F.lit(False)), rules, F.lit(True))
    found = [F.when(rule.is_broken, _violation(rule)) for rule in rules]
    return CompiledContract(
        typed=tuple(typed[column.name].alias(column.name) for column in contract.columns),
        is_clean=is_clean,
        violations=F.filter(F.array(*found), lambda violation: violation.isNotNull()),
    )


def _typed(column: ContractColumn, text: Column) -> Column:
    kind = spark_type(column)
    if isinstance(kind, StringType):
        return text
    if isinstance(kind, BooleanType):
        return F.when(text == "true", F.lit(True)).when(text == "false", F.lit(False))
    forms: dict[type[DataType], str] = {LongType: _INTEGER, DateType: _DATE, TimestampType: _DATE_TIME}
    has_form = text.rlike(forms.get(type(kind), _NUMBER))
    if isinstance(kind, DecimalType):
        has_form = _fits_scale(text, kind.scale)
    value = F.when(has_form, text).try_cast(kind)
    if isinstance(kind, DoubleType):
        value = F.when(~value.isin(float("inf"), float("-inf")), value)
    return value


def _fits_scale(text: Column, scale: int) -> Column:
    """Whether a text is a number with no more decimals than that: a cast would round the others, money too.

    Judged by the text, since no type of Spark's holds every number exactly. Numbers with an exponent are rare,
    so their decimals are counted only where there is one.
    """
    mantissa = F.regexp_replace(text, r"[eE].*", "")
    digits = F.regexp_replace(mantissa, r"[-.]", "")
    significant = F.rtrim(digits, F.lit("0"))
    exponent = F.regexp_extract(text, r"[eE]\+?(-?[0-9]+)", 1).try_cast("int")
    written = F.length(F.regexp_extract(mantissa, r"\.([0-9]+)", 1))
    decimals = written - exponent - (F.length(digits) - F.length(significant))
    is_exact = text.rlike(_NUMBER) & ((significant == "") | (decimals <= scale))
    plain = rf"^-?(0|[1-9][0-9]*)(\.(?=[0-9])[0-9]{{0,{scale}}}0*)?\z"
    return F.when(text.rlike(plain), F.lit(True)).when(text.rlike("[eE]"), is_exact)


def _is_null(cell: Cell) -> Column:
    if cell.json_type is None:
        return cell.text.isNull()
    return F.coalesce(cell.json_type == "null", cell.text.isNull())


def _column_rules(column: ContractColumn, cell: Cell, typed: Column) -> Iterator[_Rule]:
    text = cell.text
    is_null = _is_null(cell)

    def rule(code: str, is_broken: Column) -> _Rule:
        return _Rule(code, column, is_broken, text)

    if column.is_required:
        yield rule("required", is_null)
    elif cell.json_type is not None and not column.is_nullable:
        # In JSON an absent field is one thing, and a null where no null is allowed another.
        yield rule("type", cell.json_type == "null")
    has_type = typed.isNotNull()
    if cell.json_type is not None:
        has_type = has_type & cell.json_type.eqNullSafe(_json_type(column))
    yield rule("type", ~is_null & ~has_type)
    for code, is_broken in _value_rules(column, text, typed):
        yield rule(code, has_type & is_broken)


def _json_type(column: ContractColumn) -> str:
    return "number" if column.json_type == "integer" else column.json_type


def _value_rules(column: ContractColumn, text: Column, typed: Column) -> Iterator[tuple[str, Column]]:
    if column.format == "email":
        yield "format", ~text.rlike(_EMAIL)
    if column.enum:
        yield "enum", ~text.isin(*column.enum)
    if column.pattern is not None:
        yield "pattern", ~text.rlike(java_pattern(column.pattern))
    if column.min_length is not None:
        yield "min_length", F.length(text) < column.min_length
    if column.max_length is not None:
        yield "max_length", F.length(text) > column.max_length
    bounds: tuple[tuple[str, float | None, Callable[[Column, Column], Column]], ...] = (
        ("minimum", column.minimum, lambda value, bound: value < bound),
        ("maximum", column.maximum, lambda value, bound: value > bound),
        ("exclusive_minimum", column.exclusive_minimum, lambda value, bound: value <= bound),
    )
    for code, bound, is_beyond in bounds:
        if bound is not None:
            yield code, is_beyond(typed, _bound(column, bound))


def _bound(column: ContractColumn, bound: float) -> Column:
    if column.decimal is not None:
        # By its text, so that 0.1 is a decimal's 0.1; with no more digits than it has, or Spark makes room for
        # them by rounding the column.
        return F.lit(Decimal(format(Decimal(str(bound)), "f")))
    return F.lit(int(bound) if column.json_type == "integer" else float(bound))


def java_pattern(pattern: str) -> str:
    r"""JSON Schema's ``$`` matches at the end only; Java's also before a last line end, where ``\z`` does not."""
    return "".join(r"\z" if piece == "$" else piece for piece in PATTERN_PIECE.findall(pattern))


def _condition_rules(contract: Contract, cells: Mapping[str, Cell]) -> Iterator[_Rule]:
    for condition in contract.conditions:
        applies = cells[condition.column].text.isin(*condition.values)
        for name in condition.required:
            yield _Rule("required", contract.column(name), applies & _is_null(cells[name]), cells[name].text)


def _violation(rule: _Rule) -> Column:
    shown = F.lit(MASK) if rule.column.personal else F.left(rule.shown, F.lit(_SHOWN_CHARACTERS))
    value = F.when(rule.shown.isNotNull(), shown)
    return F.struct(F.lit(rule.code).alias("code"), F.lit(rule.column.name).alias("column"), value.alias("value"))
