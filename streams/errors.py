"""Every error that this project raises on purpose.

    StreamsError
    ├── ConfigurationError   the call, a file of ours or the environment is wrong   exit 2, never retried
    ├── FatalError           the work cannot go on until a person has looked        exit 1, never retried
    └── RetriableError       the same work may succeed later                        exit 1, retried with pauses
        └── UnavailableError something outside is away                              …, for as long as it takes

An error is a code and its parameters; the sentence is made for people, the code for programs and tests.
"""

from __future__ import annotations

from typing import ClassVar


class StreamsError(Exception):
    """An error with a stable code, what it is about, and the way out of it.

    Args:
        code: a stable name in capitals, such as ``KAFKA_TOPIC_RECREATED``.
        message: one sentence that names the thing that is wrong.
        way_out: what to do about it, often a command.
        parameters: the values behind the sentence, for programs; never a secret or a personal value.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, message: str, *, way_out: str | None = None, **parameters: object) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.way_out = way_out
        self.parameters = parameters

    def __str__(self) -> str:
        text = f"[{self.code}] {self.message}"
        return f"{text} {self.way_out}" if self.way_out else text


class ConfigurationError(StreamsError):
    """The call, a configuration file, a contract or the environment is wrong: mend it and call again."""

    exit_code = 2


class FatalError(StreamsError):
    """Going on would lose or reinterpret data, so a person must decide first."""


class RetriableError(StreamsError):
    """Something outside did not answer as it should; the same call may succeed later."""


class UnavailableError(RetriableError):
    """Something outside is away. However often it was tried, that says nothing against the one who tries."""
