"""What can go wrong at a source, by what the caller does about it.

AdapterError
├── ConfigurationAdapterError  the login, the grant, the table, an option: mend it and start again
├── FatalAdapterError          going on would lose or reinterpret data; a person must look
└── RetriableAdapterError      the source was away, busy or cut the line; the same call may succeed later
"""

from __future__ import annotations

from typing import ClassVar


class AdapterError(Exception):
    """An error with a stable code; its text survives the way from a Python worker through the JVM.

    Args:
        code: a stable name in capitals, such as ``SNOWFLAKE_LOGIN_REFUSED``.
        message: one sentence that names the thing that is wrong; never a secret or a row's value.
        way_out: what to do about it.
        retry_after: how many seconds the source asked to be left alone for, if it did.
    """

    kind: ClassVar[str] = "error"

    def __init__(self, code: str, message: str, way_out: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(code, message, way_out, retry_after)  # what pickle makes it of again
        self.code, self.message, self.way_out, self.retry_after = code, message, way_out, retry_after

    def __str__(self) -> str:
        text = f"<{self.kind}:{self.code}> {self.message}"
        return f"{text} {self.way_out}" if self.way_out else text


class ConfigurationAdapterError(AdapterError):
    """The login, a grant, the table's name or an option is wrong."""

    kind = "configuration"


class FatalAdapterError(AdapterError):
    """Going on would lose or reinterpret data."""

    kind = "fatal"


class RetriableAdapterError(AdapterError):
    """The same call may succeed later."""

    kind = "retriable"
