"""The lake's disk: full, and read-only. A file system of its own, where this machine lets us mount one."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self

from tests.verify.outside import Scenario, strike
from tests.verify.workload import EVENTS, RATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Disk:
    """A file system of limited size for the lake, where this machine lets us mount one."""

    def __init__(self, folder: Path, size: str = "1500m") -> None:
        self.folder, self.size, self.is_there = folder, size, False

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.is_there = _mount("-t", "tmpfs", "-o", f"size={self.size}", "tmpfs", str(self.folder))
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_there:
            subprocess.run(["umount", "-l", str(self.folder)], check=False, capture_output=True)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Not a byte is left."""
        ballast = self.folder / ".ballast"
        # Not `open`: what a buffer still holds would fail once more when it is closed.
        opened = os.open(ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            with suppress(OSError):
                os.posix_fallocate(opened, 0, shutil.disk_usage(self.folder).free)
            with suppress(OSError):
                while True:
                    os.write(opened, bytes(4096))
        finally:
            os.close(opened)
        try:
            yield
        finally:
            ballast.unlink()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Nothing can be written."""
        for _ in range(50):  # not while a file is open for writing
            if _mount("-o", "remount,ro", str(self.folder)):
                break
            time.sleep(0.1)
        try:
            yield
        finally:
            _mount("-o", f"remount,rw,size={self.size}", str(self.folder))


def _mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def disk_scenarios(disk: Disk) -> list[Scenario]:
    """Of a lake on that disk."""
    flows = (EVENTS, RATES, "silver.order_events", "gold.fact_orders", "bronze.snowflake_products")

    def scenario(flow: str, said: str, fault: Callable[[], object]) -> Scenario:
        return Scenario("disk", flow, said, lambda c, r: strike(c, r, "disk", said, flow, fault))

    full = [scenario(flow, "full", disk.full) for flow in flows]
    return full + [scenario(flow, "read-only", disk.read_only) for flow in flows[:4]]
