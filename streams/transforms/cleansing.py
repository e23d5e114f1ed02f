"""Values as people and systems write them, made alike. Each takes a column of text; null stays null."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from streams.transforms.countries import CODE_BY_NAME

if TYPE_CHECKING:
    from pyspark.sql import Column

# What is taken for a blank: no-break spaces, tabs and line ends too.
_BLANKS = r"[\s\p{Z}\x1c-\x1f\x85]+"


def text(value: Column) -> Column:
    """Without blanks at its ends, with one blank in place of several; null when nothing is left."""
    return F.nullif(F.trim(F.regexp_replace(value, _BLANKS, " ")), F.lit(""))


def email(value: Column) -> Column:
    """In small letters: mailboxes that differ only in case are one in practice."""
    return F.lower(text(value))


def phone(value: Column) -> Column:
    """Its digits, with ``+`` before a country's code (``+`` or ``00``); a national number keeps its leading 0."""
    digits = F.regexp_replace(value, r"[^0-9]", "")
    is_international = F.regexp_like(value, F.lit(r"^[^0-9]*\+")) | digits.startswith("00")
    number = F.when(is_international, F.concat(F.lit("+"), F.regexp_replace(digits, "^00", ""))).otherwise(digits)
    return F.when(digits != "", number)


def code(value: Column) -> Column:
    """A country's or currency's code, in capitals."""
    return F.upper(text(value))


def country(value: Column) -> Column:
    """A country's name or code as it was typed → its ISO 3166 code; null where it is no known one."""
    known = F.create_map(*(F.lit(part) for pair in CODE_BY_NAME.items() for part in pair))
    return F.try_element_at(known, F.regexp_replace(F.lower(text(value)), r"[.']", ""))
