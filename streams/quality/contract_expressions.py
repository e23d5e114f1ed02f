"""A contract compiled to Spark: the types of its columns, and for every row what is wrong with it. No UDF."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Final, NamedTuple

from pyspark.sql import functions as F
from pyspark.sql.types import (
    BooleanType,
    DataType,
    DateType,
    DecimalType,
    DoubleType,
    IntegralType,
    LongType,
    NumericType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pyspark.sql import Column, DataFrame

    from streams.quality.contract import Contract, ContractColumn

MASK: Final = "***"
_SHOWN_CHARACTERS: Final = 80
# Casts take more than a contract does (blanks, "1e3", "tomorrow", a time without its zone); these forms are what
# JSON Schema's formats and numbers allow. \z and not $, which also matches before a last line end.
_INTEGER = r"^-?(0|[1-9][0-9]{0,18})\z"
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?\z"
_DAY = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_MINUTE = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_MINUTE}:[0-5][0-9](?:\.[0-9]{{1,6}})?"
_DATE = rf"^{_DAY}\z"
_DATE_TIME = rf"^{_DAY}[Tt]{_TIME}(?:[Zz]|[+-]{_MINUTE})\z"
_EMAIL = r"^[^@\s]+@[^@\s]+\z"


class Cell(NamedTuple):
    """A value as it arrived: its text, its JSON type where it came as JSON, itself where it came with a type.

    ``json_type`` is one of string, number, boolean, object, array, null; SQL's null where the field is absent.
    ``is_plain`` tells that the text is known to have its column's form already (see `plain_line`).
    """

    text: Column
    json_type: Column | None = None
    value: Column | None = None
    is_plain: Column | None = None

    def unless_plain(self, condition: Column) -> Column:
        """The condition, which is not looked at where the text is plain."""
        return condition if self.is_plain is None else self.is_plain | condition


def has_same_kind(source_type: DataType, column: ContractColumn) -> bool:
    """Whether values of a table's column can become the contract's without going through their text."""
    return isinstance(source_type, _SAME_KIND.get(type(spark_type(column)), (StringType,)))


def typed_cell(value: Column, source_type: DataType, column: ContractColumn) -> Cell:
    """A value of a table's column; one whose type has nothing to do with the contract's is judged by its text."""
    is_text = isinstance(spark_type(column), StringType)
    typed = None if is_text or not has_same_kind(source_type, column) else value
    return Cell(value.cast("string"), value=typed)


@dataclass(frozen=True)
class CompiledContract:
    """What a contract says of a row.

    Attributes:
        rows: the rows, with what the other columns here are made of.
        typed: the columns with their types, in the contract's order; null where a value has not its type.
        is_clean: true or false, never null; cheap enough for every row.
        violations: array<struct<code, column, value>>, empty for a clean row; meant for the others.
    """

    rows: DataFrame
    typed: tuple[Column, ...]
    is_clean: Column
    violations: Column


class _Rule(NamedTuple):
    code: str
    column: ContractColumn
    is_broken: Column  # may be null, which is not broken
    shown: Column
    is_of_form: bool = False  # a plain line keeps it


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


def compile_contract(rows: DataFrame, contract: Contract, cells: Mapping[str, Cell]) -> CompiledContract:
    """Compile a contract over the values of rows.

    Args:
        rows: what the cells are columns of.
        contract: the contract.
        cells: for each of its columns, the value as it arrived.
    """
    # In a projection of their own: within one, Spark computes a value again for each rule that looks at it.
    values = {f"_typed_{column.name}": _typed(column, cells[column.name]) for column in contract.columns}
    typed = {column.name: F.col(f"_typed_{column.name}") for column in contract.columns}
    rules = [
        rule for column in contract.columns for rule in _column_rules(column, cells[column.name], typed[column.name])
    ]
    rules.extend(_condition_rules(contract, cells))
    is_clean = _all_kept(rule for rule in rules if not rule.is_of_form)
    if of_form := [rule for rule in rules if rule.is_of_form]:
        is_clean = cells[contract.columns[0].name].unless_plain(_all_kept(of_form)) & is_clean
    found = [F.when(rule.is_broken, _violation(rule)) for rule in rules]
    return CompiledContract(
        rows=rows.select("*", *(value.alias(name) for name, value in values.items())),
        typed=tuple(typed[column.name].alias(column.name) for column in contract.columns),
        is_clean=is_clean,
        violations=F.filter(F.array(*found), lambda violation: violation.isNotNull()),
    )


def plain_line(contract: Contract) -> str | None:
    r"""A regular expression of Java's for lines of CSV whose values have their columns' forms without a doubt.

    One look at a line then spares one at each value: nothing is quoted, no column is missing, and what remains to be
    judged is what a form can't tell (bounds, days that no month has, columns that must have a value). A line that it
    does not match may be as sound. None where a contract has no such lines.
    """
    if len(contract.columns) == 1:
        return None
    values = (f"(?:{_plain_form(column)})?" for column in contract.columns)
    return rf"\A{','.join(values)}\r?\n?\z"


# In no plain value: a comma, a quote, a mark of the byte order, a line end or another control character.
_SPECIAL: Final = r",\"\x{FEFF}\p{Cntrl}"
# Patterns that match no comma and no quote, whatever they match.
_PLAIN_PATTERN: Final = re.compile(r"\^((?:[A-Za-z0-9_@ -]|\\[d.-]|\[[A-Za-z0-9_.-]+\]|\{[0-9]+(?:,[0-9]*)?\})+)\$")


def _plain_form(column: ContractColumn) -> str:
    if column.decimal is not None:
        precision, scale = column.decimal
        whole, part = precision - scale, rf"(?:\.[0-9]{{1,{scale}}})?" if scale else ""
        return (rf"-?(?:0|[1-9][0-9]{{0,{whole - 1}}})" if whole else "-?0") + part
    forms: dict[str | None, str] = {
        "integer": "-?(?:0|[1-9][0-9]{0,17})",
        "number": r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?",
        "boolean": "true|false",
        "date": _DAY,
        "date-time": f"{_DAY}T{_TIME}(?:Z|[+-]{_MINUTE})",  # as a cast takes it: no small t and z
    }
    form = forms.get(column.json_type) or forms.get(column.format) or _plain_text(column)
    return form or f"[^{_SPECIAL}]*+"


def _plain_text(column: ContractColumn) -> str | None:
    """The form of a column of text whose rules are all one; None where they are more, or it may not be plain."""
    is_long = column.min_length is not None or column.max_length is not None
    match column.enum, column.pattern, column.format, is_long:
        case (_, *_), None, None, False:
            is_plain = all(re.fullmatch(r"[\w .-]+", value, re.ASCII) for value in column.enum)
            return "|".join(map(re.escape, column.enum)) if is_plain else None
        case (), str(pattern), None, False:
            found = _PLAIN_PATTERN.fullmatch(pattern)
            return found[1] if found else None
        case (), None, "email", False:
            return rf"[^@\s{_SPECIAL}]++@[^@\s{_SPECIAL}]++"
        case (), None, None, True:
            most = "" if column.max_length is None else column.max_length
            return f"[^{_SPECIAL}]{{{column.min_length or 0},{most}}}+"
    return None


def _all_kept(rules: Iterable[_Rule]) -> Column:
    return reduce(lambda all_kept, rule: all_kept & ~F.coalesce(rule.is_broken, F.lit(False)), rules, F.lit(True))


# Types between which a cast that gives the same value back has lost nothing.
_SAME_KIND: Final[dict[type[DataType], tuple[type[DataType], ...]]] = {
    LongType: (IntegralType, DecimalType),
    DecimalType: (IntegralType, DecimalType),
    DoubleType: (NumericType,),
    TimestampType: (TimestampType,),
    DateType: (DateType,),
    BooleanType: (BooleanType,),
}


def _typed(column: ContractColumn, cell: Cell) -> Column:
    kind, text = spark_type(column), cell.text
    if cell.value is not None:
        value = cell.value.try_cast(kind)
        return _of_the_calendar(kind, F.when(value == cell.value, value))
    if isinstance(kind, StringType):
        return text
    if isinstance(kind, BooleanType):
        return F.when(text == "true", F.lit(True)).when(text == "false", F.lit(False))
    forms: dict[type[DataType], str] = {LongType: _INTEGER, DateType: _DATE, TimestampType: _DATE_TIME}
    form = forms.get(type(kind), _NUMBER)
    if isinstance(kind, TimestampType):
        # A cast knows no small t and z.
        text = F.upper(text) if cell.is_plain is None else F.when(cell.is_plain, text).otherwise(F.upper(text))
    value = F.when(cell.unless_plain(text.rlike(form)), text).try_cast(kind)
    if isinstance(kind, DecimalType):
        # A cast rounds what has more digits than the column; a contract's money is never rounded silently.
        has_more = text.rlike(rf"\.[0-9]{{{kind.scale}}}[0-9]*[1-9][0-9]*\z")
        is_exact = value == text.try_cast(DecimalType(38, min(38, kind.scale + 8)))  # of a number with an exponent
        value = F.when(cell.unless_plain(is_exact & ~has_more), value)
    if isinstance(kind, DoubleType):
        value = F.when(~value.isin(float("inf"), float("-inf")), value)
    return _of_the_calendar(kind, value)


def _of_the_calendar(kind: DataType, value: Column) -> Column:
    """Of the years 1 to 9999, which all that reads our tables knows: Spark alone has a year 0, and -1, and 10000."""
    bounds = ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z")
    if isinstance(kind, DateType | TimestampType):
        return F.when(value.between(*(F.lit(bound).cast(kind) for bound in bounds)), value)
    return value


def _column_rules(column: ContractColumn, cell: Cell, typed: Column) -> Iterator[_Rule]:
    text = cell.text
    is_null = text.isNull() if cell.json_type is None else text.isNull() | (cell.json_type == "null")

    def rule(code: str, is_broken: Column, *, is_of_form: bool = False) -> _Rule:
        return _Rule(code, column, is_broken, text, is_of_form)

    if column.is_required:
        yield rule("required", is_null)
    elif cell.json_type is not None and not column.is_nullable:
        # In JSON an absent field is one thing, and a null where no null is allowed another.
        yield rule("type", cell.json_type == "null")
    has_type = typed.isNotNull()
    if cell.json_type is not None:
        has_type = has_type & (cell.json_type == _json_type(column))
    yield rule("type", ~is_null & ~has_type)
    is_of_form = cell.is_plain is not None and _plain_text(column) is not None
    for code, is_broken in _text_rules(column, text):
        yield rule(code, has_type & is_broken, is_of_form=is_of_form)
    for code, is_broken in _bound_rules(column, typed):
        yield rule(code, has_type & is_broken)


def _json_type(column: ContractColumn) -> str:
    return "number" if column.json_type == "integer" else column.json_type


def _text_rules(column: ContractColumn, text: Column) -> Iterator[tuple[str, Column]]:
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


def _bound_rules(column: ContractColumn, typed: Column) -> Iterator[tuple[str, Column]]:
    bounds: tuple[tuple[str, float | None, Callable[[Column, Column], Column]], ...] = (
        ("minimum", column.minimum, lambda value, bound: value < bound),
        ("maximum", column.maximum, lambda value, bound: value > bound),
        ("exclusive_minimum", column.exclusive_minimum, lambda value, bound: value <= bound),
    )
    for code, bound, is_beyond in bounds:
        if bound is not None:
            # Through text, so that a bound such as 0.1 is compared as a decimal and not as a double.
            yield code, is_beyond(typed, F.lit(str(bound)).cast(_bound_type(column)))


def _bound_type(column: ContractColumn) -> DataType:
    kind = spark_type(column)
    return DecimalType(38, 10) if isinstance(kind, LongType | DecimalType) else kind


def java_pattern(pattern: str) -> str:
    r"""A trailing ``$`` in Java also matches before a last line end; JSON Schema's matches at the end only."""
    ends = pattern.endswith("$") and not pattern.endswith(r"\$")
    return f"{pattern[:-1]}\\z" if ends else pattern


def _condition_rules(contract: Contract, cells: Mapping[str, Cell]) -> Iterator[_Rule]:
    for condition in contract.conditions:
        applies = cells[condition.column].text.isin(*condition.values)
        for name in condition.required:
            cell = cells[name]
            is_absent = (
                cell.text.isNull() if cell.json_type is None else cell.text.isNull() | (cell.json_type == "null")
            )
            yield _Rule("required", contract.column(name), applies & is_absent, cell.text)


def _violation(rule: _Rule) -> Column:
    shown = F.lit(MASK) if rule.column.personal else F.left(rule.shown, F.lit(_SHOWN_CHARACTERS))
    value = F.when(rule.shown.isNotNull(), shown)
    return F.struct(F.lit(rule.code).alias("code"), F.lit(rule.column.name).alias("column"), value.alias("value"))
