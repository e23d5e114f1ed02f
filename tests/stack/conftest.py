"""One real broker for all tests of this folder; tests that stop or kill a broker start their own."""

from __future__ import annotations

import gc
import uuid
import warnings
from typing import TYPE_CHECKING

import pytest

from streams.local.broker import Broker

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture
def topic() -> str:
    """A name that no other test has used."""
    return f"topic-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def lines_closed() -> Iterator[None]:
    """Redshift's client leaves its socket open when a login fails; that must not be blamed on a later test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
