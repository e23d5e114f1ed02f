"""Bad input at scale: real inputs, changed by a seed, for every contract and every source.

Each input must be in bronze as an independent reading of it says, or in the error lane with a reason that the
`jsonschema` library agrees with; and no personal value may be in what the service logs or reports.
"""

from __future__ import annotations

import datetime as dt
import json
import random
import re
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from streams.local.replay import Message, RateFile, plan_replay
from streams.local.shop import make_shop
from tests.verify.judge import Verdict, csv_fields
from tests.verify.workload import CONTRACTS, EVENTS, PULLED, RATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.verify.judge import Row, Rules

_SHARES: Final = {EVENTS: 0.45, RATES: 0.2}  # of all inputs; the others are pulled
_RECORDS_A_FILE: Final = 40
# Personal values can be known again wherever they turn up: words of this form, and numbers that begin so.
PERSONAL: Final = re.compile(r"Qzx[0-9a-f]{6}|\b731[0-9]{7}\b")

_TEXTS: Final = (
    *("", " ", "\t", "null", "NULL", "NaN", "Infinity", "-Infinity", "None", "true", "TRUE", "false", "0", "-0", "00"),
    *(
        "+1",
        "1.",
        ".5",
        "1e3",
        "1E400",
        "1e-400",
        "0x10",
        "1_000",
        "1,000",
        "٣",
        "１２",
        "9" * 30,
        "-1",
        "1.005",
        "0.1",
    ),
    *("2147483647", "2147483648", "9223372036854775807", "9223372036854775808", "1.0", "100.00", "100.000", "1e2"),
    *("12345678901234567.89", "1234567890123456.78", "0.000001", "0.0000001", "1.0000000"),
    *("2025-02-30", "2025-13-01", "2025-1-1", "20250101", "2025-W01-1", "0000-01-01", "0001-01-01", "9999-12-31"),
    *("2025-01-01", "2025-01-01T00:00:00", "2025-01-01T24:00:00Z", "2025-01-01T23:59:60Z", "2025-01-01T00:00:00z"),
    *("2025-01-01t00:00:00Z", "2025-01-01 00:00:00Z", "2025-01-01T00:00:00.1Z", "2025-01-01T00:00:00.1234567Z"),
    *("2025-01-01T00:00:00+14:00", "2025-01-01T00:00:00+25:00", "2025-01-01T00:00:00-00:00", "2025-01-01T00:00Z"),
    *("today", "now", "epoch", "eur", "EURO", "EUR\n", " EUR", "ÉUR", "🎉", "a@b", "a@b@c", "@", "a b@c", "a@b\n"),
    *("x" * 2000, "x" * 2001, "é" * 300, "日本語", "\u202e", "\x00", "\x7f", "'; DROP TABLE orders; --", '{"a": 1}'),
    *("created", "Created", "created ", "teleported", "NEW", "-5", "10000", "10001", "100001", "Customer", "P-1", "1"),
)
_VALUES: Final[tuple[tuple[Callable[[pa.DataType], bool], tuple[Any, ...]], ...]] = (
    (pa.types.is_boolean, (True, False)),
    (pa.types.is_integer, (-1, 0, 1, 10_000, 10_001, 100_001, 10**7, 10**7 + 1, 2**31, 2**40, -(2**40))),
    (
        pa.types.is_decimal,
        (
            *map(Decimal, ("-0.01", "0", "0.01", "0.001", "1.005000", "100", "100.01", "140", "999999999999.99")),
            *map(Decimal, ("12345678901234567.89", "0.100000")),
        ),
    ),
    (pa.types.is_date, (dt.date(1, 1, 1), dt.date(1583, 10, 10), dt.date(1970, 1, 1), dt.date(9999, 12, 31))),
    (
        pa.types.is_timestamp,
        (
            dt.datetime(1583, 1, 1, tzinfo=dt.UTC),
            dt.datetime(1970, 1, 1, tzinfo=dt.UTC),
            dt.datetime(2262, 1, 1, 0, 0, 0, 1, tzinfo=dt.UTC),
        ),
    ),
)
_JSON: Final = (None, True, False, 0, -1, 1, 10**30, [], {}, [1], {"a": 1}, "1.5", "", "EUR", "USD")


class Mutations:
    """Inputs, by a seed.

    Args:
        seed: the same seed gives the same.
        rules: the contracts, by bronze flow.
        count: how many inputs in all.
    """

    def __init__(self, seed: int, rules: dict[str, Rules], count: int) -> None:
        self.chance, self.rules = random.Random(f"mutations {seed}"), rules
        self.shares = {flow: int(count * share) for flow, share in _SHARES.items()}
        left = (count - sum(self.shares.values())) // len(PULLED)
        self.shares |= dict.fromkeys(PULLED, left)
        self._plan, self._shop = plan_replay(seed, 300), make_shop(seed, 300)

    def personal_value(self, numeric: bool) -> str:
        """One that can be known again."""
        return f"731{self.chance.randrange(10**7):07}" if numeric else f"Qzx{self.chance.randrange(16**6):06x}"

    # --- Kafka ---

    def messages(self) -> Iterator[Message]:
        """Lines with a changed field, without one, cut, with a byte changed, with a key that is none."""
        models = [message for message in self._plan.messages if message.value and not message.kind.startswith("broken")]
        for number in range(self.shares[EVENTS]):
            model = self.chance.choice(models)
            fields = csv_fields((model.value or b"").decode())
            assert isinstance(fields, list)
            fields[0] = f"{number:08x}-0000-4000-8000-{self.chance.randrange(16**12):012x}"
            self._make_known(fields)
            value: bytes | None = self._line_mutated(fields)
            key = model.key
            if self.chance.random() < 0.03:
                value, key = None, self.chance.choice([b"CD-1", b"", b"x", b"CD-\xff", None, b"CD-1\n", b"cd-1"])
            yield Message(model.at, key, value, "mutated")

    def _make_known(self, fields: list[str]) -> None:
        names = list(self.rules[EVENTS].columns)
        for name in self.rules[EVENTS].personal:
            place = names.index(name)
            if fields[place]:
                fields[place] = self.personal_value(name == "customer_id") + (
                    "" if name == "customer_id" else " said, so"
                )

    def _line_mutated(self, fields: list[str]) -> bytes:
        chance = self.chance
        way = chance.randrange(10)
        if way < 5:  # a field is another
            place = chance.randrange(len(fields))
            kept = fields[place] if chance.random() < 0.2 else ""
            fields[place] = kept + chance.choice(_TEXTS)
        elif way == 5:  # two change places, one is gone, one is there twice
            place = chance.randrange(len(fields) - 1)
            fields[place : place + 2] = chance.choice(
                [fields[place + 1 : place - 1 : -1], [fields[place]], [*fields[place : place + 2], "more"]]
            )
        line = _csv_line(fields, chance)
        if way == 6:  # cut
            return line[: chance.randrange(len(line) + 1)]
        if way == 7:  # a byte is another
            place = chance.randrange(len(line))
            return line[:place] + bytes([chance.randrange(256)]) + line[place + 1 :]
        if way == 8:  # something before, or behind, or a second time
            return chance.choice(
                [b"\xef\xbb\xbf" + line, line + b"\r\n", line + b"\n\n", line + b"\n" + line, b" " + line, line + b","]
            )
        return line

    # --- files ---

    def files(self) -> Iterator[RateFile]:
        """Files of records some of which are changed; some files are cut, or are no JSON."""
        models = [json.loads(f.content) for f in self._plan.files if f.content[:1] == b"[" and "half" not in f.kind]
        at, left, number = dt.datetime(2026, 1, 1, tzinfo=dt.UTC), self.shares[RATES], 0
        while left > 0:
            records = [dict(self.chance.choice(self.chance.choice(models))) for _ in range(min(left, _RECORDS_A_FILE))]
            content = self._file_mutated([self._record_mutated(record) for record in records])
            yield RateFile(at, f"mutated-{number:06}.json", content, "mutated")
            left, number = left - len(records), number + 1

    def _record_mutated(self, record: dict[str, Any]) -> str:
        chance = self.chance
        name, way = chance.choice(list(record)), chance.randrange(8)
        if way < 2:
            record[name] = chance.choice(_TEXTS)
        elif way == 2:
            record[name] = chance.choice(_JSON)
        elif way == 3:
            del record[name]
        elif way == 4:
            record[chance.choice(["more", "Rate", "rate ", "a.b", "a'b"])] = chance.choice([*_JSON, *_TEXTS])
        text = json.dumps(record, ensure_ascii=chance.random() < 0.5)
        if way == 5:  # a number as no program of ours would write it
            number = chance.choice(
                [
                    "1e2",
                    "1E+2",
                    "1.50",
                    "0.10000000",
                    "1e-7",
                    "123456789.1",
                    "-0",
                    "0",
                    "0.0",
                    "1e400",
                    "12345678.123456",
                ]
            )
            text = re.sub(r'("rate": )[0-9.e-]+', rf"\g<1>{number}", text)
        return text

    def _file_mutated(self, records: list[str]) -> bytes:
        chance = self.chance
        way = chance.random()
        content = "".join(f"{record}\n" for record in records) if way < 0.5 else f"[{', '.join(records)}]"
        if way < 0.03:
            content = content[: chance.randrange(len(content))]
        elif way > 0.98:
            content = chance.choice(
                [
                    "",
                    " \n",
                    "[]",
                    "null",
                    "1",
                    '"text"',
                    "[1, 2]",
                    "[[{}]]",
                    "{",
                    "[{}]]",
                    content + content,
                    content + "x",
                    "[NaN]",
                ]
            )
        encoded = content.encode("utf-8", "surrogatepass")
        if 0.5 < way < 0.51:
            encoded = encoded.decode().encode("utf-16")
        elif 0.51 < way < 0.53:
            place = chance.randrange(len(encoded))
            encoded = encoded[:place] + bytes([chance.randrange(256)]) + encoded[place + 1 :]
        return encoded

    # --- tables ---

    def schema(self, flow: str) -> pa.Schema:
        """A table's columns at a source that takes more than the contract does."""
        return pa.schema([(name, self._wide(flow, name)) for name in self.rules[flow].columns])

    def _wide(self, flow: str, name: str) -> pa.DataType:
        said = self.rules[flow].columns[name]
        if "x-decimal" in said:
            return pa.decimal128(30, 6)
        formats = {"date": pa.date32(), "date-time": pa.timestamp("us", "UTC")}
        kinds = {"integer": pa.int64(), "boolean": pa.bool_()}
        return kinds.get(self.rules[flow].kind(name)) or formats.get(said.get("format", ""), pa.string())

    def rows(self, flow: str, at: dt.datetime) -> list[Row]:
        """Rows with a changed value, some without; each key once."""
        rules, name = self.rules[flow], CONTRACTS[flow]
        models = [row for row in self._shop.tables[name].to_pylist() if rules.of_values(row).row is not None]
        rows = []
        for number in range(self.shares[flow]):
            row = self.chance.choice(models) | {rules.key[0]: _key(flow, number), rules.cursor: at}
            for column in rules.personal:
                if column not in rules.key and row[column] is not None:
                    row[column] = self._personal(rules, column)
            column = self.chance.choice([one for one in rules.columns if one not in (*rules.key, rules.cursor)])
            if self.chance.random() < 0.7:
                row[column] = self._value(flow, column)
            rows.append(row)
        return rows

    def _personal(self, rules: Rules, column: str) -> str:
        said = rules.columns[column]
        if "pattern" in said or said.get("maxLength", 100) < 30:
            return self.personal_value(numeric=True)
        word = self.personal_value(numeric=False)
        return f"{word}@example.org" if said.get("format") == "email" else f" {word}  of\there"

    def _value(self, flow: str, column: str) -> Any:
        kind, chance = self._wide(flow, column), self.chance
        if chance.random() < 0.15:
            return None
        for is_it, values in _VALUES:
            if is_it(kind):
                value = chance.choice(values)
                # Salesforce tells milliseconds.
                if PULLED[flow].system == "salesforce" and isinstance(value, dt.datetime):
                    value = value.replace(microsecond=0)
                return value
        text = chance.choice([one for one in _TEXTS if "\x00" not in one])
        if column in self.rules[flow].personal:
            text = chance.choice([text, f"{self._personal(self.rules[flow], column)}{text}"])
        # Salesforce keeps no empty text and trims what it keeps.
        return (text.strip() or None) if PULLED[flow].system == "salesforce" else text


def _key(flow: str, number: int) -> str:
    makers: dict[str, Callable[[], str]] = {
        "bronze.snowflake_customers": lambda: f"731{number:07}",
        "bronze.snowflake_orders": lambda: f"CD-{number}",
        "bronze.snowflake_products": lambda: f"P-{number}",
        "bronze.crm_accounts": lambda: f"0018c{number:010}",
        "bronze.crm_contacts": lambda: f"0038c{number:010}",
        "bronze.crm_opportunities": lambda: f"0068c{number:010}",
        "bronze.redshift_behavior": lambda: f"{number:08x}-0000-4000-8000-000000000000",
    }
    return makers[flow]()


def _csv_line(fields: list[str], chance: random.Random) -> bytes:
    def quoted(field: str) -> str:
        needs = any(sign in field for sign in ',"\r\n')
        inner = field.replace('"', '""')
        return f'"{inner}"' if needs or chance.random() < 0.1 else field

    return ",".join(map(quoted, fields)).encode("utf-8", "surrogatepass")


def personal_values_in(places: list[Path]) -> Counter[str]:
    """Personal values found in files, by file: none is to be."""
    found: Counter[str] = Counter()
    for place in places:
        for file in [place] if place.is_file() else sorted(one for one in place.rglob("*") if one.is_file()):
            hits = PERSONAL.findall(file.read_text(errors="replace"))
            if hits:
                found[file.name] += len(hits)
    return found


def verdict_shown(verdict: Verdict) -> str:
    """For an example of what went wrong."""
    return "sound" if verdict.row is not None else f"broken ({', '.join(sorted(verdict.why))})"
