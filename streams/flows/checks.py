"""Which checks a flow asks of its batches, and what a breach does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from streams.micro_batch import Checks

if TYPE_CHECKING:
    from streams.settings import Settings


def check_file(name: str, settings: Settings) -> Path:
    """``silver.order_events`` → ``contracts/soda/silver/order_events.yml``."""
    layer, _, table = name.partition(".")
    return Path(settings.contracts_root) / "soda" / layer / f"{table}.yml"


def checks_of(name: str, settings: Settings, on_breach: str = "stop") -> Checks | None:
    """The flow's check file; None where there is none. Configuration may say otherwise what a breach does."""
    file = check_file(name, settings)
    if not file.is_file():
        return None
    return Checks(name.partition(".")[2], file.read_text(encoding="utf-8"), settings.flow(name).on_breach or on_breach)
