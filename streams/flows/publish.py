"""The flows out of gold, into the warehouses that are configured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from streams.errors import ConfigurationError
from streams.flows.flow import Flow, Input, Table
from streams.flows.gold import GOLD_TABLES
from streams.micro_batch import Publish
from streams.sinks.warehouse import Target
from streams.sources.delta import DeltaChanges

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from streams.flows.gold import GoldTable
    from streams.lake import Lake
    from streams.settings import Settings
    from streams.sinks.warehouse import Warehouse

WAREHOUSES: Final = ("redshift", "snowflake")


def publish_flows(settings: Settings, lake: Lake, there: Collection[str]) -> list[Flow]:
    """A flow for each warehouse that is configured and each table of gold that is there."""
    return [
        _publish(f"{system}.{table.flow.partition('.')[2]}", table, lake, warehouse_of(settings, system))
        for system in WAREHOUSES
        if getattr(settings.targets, system) is not None
        for table in GOLD_TABLES
        if table.flow in there
    ]


def warehouse_of(settings: Settings, system: str) -> Callable[[], Warehouse]:
    """What logs in at a warehouse; resolves the secrets when it is called.

    Raises:
        ConfigurationError: ``TARGET_NOT_CONFIGURED``.
    """
    targets = settings.targets

    def redshift() -> Warehouse:
        from streams.sinks.redshift import RedshiftWarehouse

        assert targets.redshift is not None
        return RedshiftWarehouse(targets.redshift.login())

    def snowflake() -> Warehouse:
        from streams.sinks.snowflake import SnowflakeWarehouse

        assert targets.snowflake is not None
        return SnowflakeWarehouse(targets.snowflake.login(), targets.snowflake.stage)

    if getattr(targets, system, None) is None:
        raise ConfigurationError(
            "TARGET_NOT_CONFIGURED",
            f"The configuration of {settings.environment!r} says nothing of a target {system}.",
            way_out=f"Add targets.{system} to it; checkpoints_config/prod.yaml has an example.",
        )
    return {"redshift": redshift, "snowflake": snowflake}[system]


def _publish(name: str, table: GoldTable, lake: Lake, warehouse: Callable[[], Warehouse]) -> Flow:
    path = lake.table(table.flow)
    target = Target(name.partition(".")[2], table.schema, (table.key,))
    return Flow(
        name=name,
        reads=(table.flow,),
        inputs=(Input(DeltaChanges(path, at_once=True), lambda rows: rows),),
        processor=Publish(target, warehouse),
        tables=(Table(path, table.kept),),
        waits_for=name.partition(".")[0],
    )
