"""Every flow, declared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from streams.flows import bronze, gold, silver
from streams.lake import Lake
from streams.quality.contract import load_contracts

if TYPE_CHECKING:
    from streams.flows.flow import Flow
    from streams.settings import Settings


def all_flows(settings: Settings) -> dict[str, Flow]:
    """The flows by name, upstream ones first; those of sources that are not configured are left out.

    Raises:
        ConfigurationError: a contract is wrong or missing.
    """
    lake = Lake(settings.lake.root, settings.checkpoints.root)
    contracts = load_contracts(Path(settings.contracts_root) / "bronze")
    events, rates = contracts["kafka_events"], contracts["fx_rates"]
    declared = (
        bronze.order_events(settings, lake, events),
        bronze.fx_rates(settings, lake, rates),
        *(
            bronze.pulled(settings, lake, contracts[table.contract], table)
            for table in bronze.PULLED_TABLES
            if settings.sources.named(table.system) is not None
        ),
        silver.order_events(settings, lake, events),
        silver.fx_rates(settings, lake, rates),
        gold.fact_orders(settings, lake, contracts),
    )
    return {flow.name: flow for flow in declared}
