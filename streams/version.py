"""Which code this is, for the audit."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def _code_version() -> str:
    try:
        return version("lakehouse-streams")
    except PackageNotFoundError:  # run from a folder that was never installed
        return "unknown"


CODE_VERSION = _code_version()
