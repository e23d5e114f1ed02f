"""The contracts: all nine say something, and a file that says nothing, or too much, is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streams.errors import ConfigurationError
from streams.quality.contract import load_contract, load_contracts

CONTRACTS = Path(__file__).parents[2] / "contracts"
NAMES = {
    "snowflake_customers", "snowflake_orders", "snowflake_products", "crm_accounts", "crm_contacts", "crm_opportunities",
    "redshift_behavior", "fx_rates", "kafka_events",
}  # fmt: skip


def test_all_nine_are_there_and_whole() -> None:
    contracts = load_contracts(CONTRACTS / "bronze")
    assert contracts.keys() == NAMES
    for contract in contracts.values():
        assert contract.primary_key
        assert contract.sequence
        assert contract.evolution["narrow"] == "stop"
        assert any(column.pattern or column.enum for column in contract.columns)
    assert len({contract.fingerprint for contract in contracts.values()}) == len(NAMES)


def test_what_the_order_events_say() -> None:
    events = load_contracts(CONTRACTS / "bronze")["kafka_events"]
    assert [column.name for column in events.columns][:4] == ["event_id", "order_id", "sequence", "event_type"]
    assert events.column("amount").decimal == (18, 2)
    assert events.column("note").personal is not None
    (condition,) = events.conditions
    assert (condition.values, condition.required) == (("created",), ("customer_id", "quantity", "amount", "currency"))


def broken(tmp_path: Path, change: Any) -> Path:
    """A copy of the exchange rates' contract, changed."""
    (tmp_path / "bronze").mkdir()
    shutil.copy(CONTRACTS / "contract.meta.schema.json", tmp_path)
    schema = json.loads((CONTRACTS / "bronze" / "fx_rates.schema.json").read_text())
    change(schema)
    file = tmp_path / "bronze" / "fx_rates.schema.json"
    file.write_text(json.dumps(schema))
    return file


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda s: s["properties"]["rate"].update({"multipleOf": 0.01}), "$.properties.rate"),
        (lambda s: s["properties"]["rate"].update({"pattern": "^1"}), "$.properties.rate"),
        (lambda s: s["properties"]["rate_date"].update({"minimum": 1}), "$.properties.rate_date"),
        (lambda s: s["properties"]["quote_currency"].update({"pattern": "(["}), "$.properties.quote_currency"),
        (lambda s: s["properties"]["rate"].pop("description"), "$.properties.rate"),
        (lambda s: s["properties"]["rate"].update({"x-added": "2026-01-01"}), "$.properties.rate"),
        (lambda s: s["required"].remove("published_at"), "$.required"),
        (lambda s: s.update({"x-sequence": ["nowhere"]}), "$.x-sequence"),
        (lambda s: s.update({"x-evolution": {"add": "allow"}}), "x-evolution"),
        (lambda s: s.update({"dependentRequired": {}}), "dependentRequired"),
        (lambda s: s.pop("x-primary-key"), "x-primary-key"),
    ],
)
def test_what_nothing_would_check_is_refused(tmp_path: Path, change: Any, where: str) -> None:
    file = broken(tmp_path, change)
    with pytest.raises(ConfigurationError) as caught:
        load_contract(file)
    assert caught.value.code == "CONTRACT_INVALID"
    assert caught.value.parameters["file"] == str(file)
    assert any(where in problem for problem in caught.value.parameters["problems"])


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    file = broken(tmp_path, lambda _: None)
    file.write_text("{")
    with pytest.raises(ConfigurationError) as caught:
        load_contract(file)
    assert caught.value.code == "CONTRACT_INVALID"


def test_a_folder_without_contracts_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_contracts(tmp_path)
    assert caught.value.code == "CONTRACTS_MISSING"


def test_nothing_is_compiled_to_read_them() -> None:
    # jsonschema takes that package for some of its formats where it is installed, and waits for its grammar.
    told = "import sys, streams.jobs; print([name for name in sys.modules if name in ('lark', 'rfc3987_syntax')])"
    assert subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout == "[]\n"
