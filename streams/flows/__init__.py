"""Every flow, declared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from streams.flows import bronze
from streams.flows.gold import gold_flows
from streams.flows.publish import publish_flows
from streams.flows.silver import SILVER_TABLES, silver_flows
from streams.lake import Lake
from streams.quality.contract import load_contracts

if TYPE_CHECKING:
    from streams.flows.flow import Flow
    from streams.settings import Settings


def all_flows(settings: Settings, lake: Lake | None = None) -> dict[str, Flow]:
    """The flows by name, upstream ones first; those of sources that are not configured are left out.

    Args:
        settings: the configuration.
        lake: where the tables are, if not where the configuration says.

    Raises:
        ConfigurationError: a contract is wrong or missing.
    """
    lake = lake or Lake(settings.lake.root, settings.checkpoints.root)
    contracts = load_contracts(Path(settings.contracts_root) / "bronze")
    declared = [
        bronze.order_events(settings, lake, contracts["kafka_events"]),
        bronze.fx_rates(settings, lake, contracts["fx_rates"]),
        *(
            bronze.pulled(settings, lake, contracts[table.contract], table)
            for table in bronze.PULLED_TABLES
            if settings.sources.named(table.system) is not None
        ),
    ]
    there = {flow.name for flow in declared}
    for table in SILVER_TABLES:
        if table.upstream in there:
            declared.extend(silver_flows(settings, lake, contracts, table))
    there = {flow.name for flow in declared}
    # Facts are made of what there is; a dimension without its source would only be empty.
    gold = [flow for flow in gold_flows(settings, lake, contracts) if flow.reads[0] in there]
    declared += gold
    declared += publish_flows(settings, lake, {flow.name for flow in gold})
    return {flow.name: flow for flow in declared}
