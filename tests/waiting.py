"""Waiting for what must come, in all tests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

T = TypeVar("T")
# Ends a test that hangs, on a slow and busy machine too; it says nothing of how fast anything is.
PATIENCE: Final = 400.0  # seconds


def wait_until(found: Callable[[], T], process: subprocess.Popen[bytes] | None = None, seconds: float = PATIENCE) -> T:
    """Ask again and again until the answer is yes, or something; gives the answer.

    Raises:
        AssertionError: it took too long, or `process` ended.
    """
    began = time.monotonic()
    while not (answer := found()):
        assert process is None or process.poll() is None, "it ended"
        waited = time.monotonic() - began
        assert waited < seconds, "it did not happen in time"
        time.sleep(min(1.0, max(0.05, waited / 50)))  # to ask costs too, and what is waited for has the same cores
    return answer
