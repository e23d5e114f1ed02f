"""Secrets as references: what is configured says where a secret is, never what it is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import PydanticCustomError, core_schema

from streams.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler

SCHEMES: Final = ("env", "aws-secretsmanager", "file")
_resolved: set[str] = set()
_Found = tuple[str | None, str | None]  # the value, or why there is none


def known_secrets() -> frozenset[str]:
    """The values that were resolved in this process, so that logs can mask them."""
    return frozenset(_resolved)


class SecretReference:
    """Where a secret is: ``env:NAME``, ``file:/path`` or ``aws-secretsmanager:id`` (``#key`` of a JSON secret).

    Shown, logged or dumped, it is the reference.
    """

    def __init__(self, reference: str) -> None:
        self.scheme, _, self.name = reference.partition(":")
        if self.scheme not in SCHEMES or not self.name:
            # Not a word of what was given: it may be the secret itself.
            raise PydanticCustomError(
                "secret_not_a_reference",
                "a secret is given by reference: env:NAME, aws-secretsmanager:id or file:/path",
            )

    def __repr__(self) -> str:
        return f"{self.scheme}:{self.name}"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretReference) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def resolve(self) -> str:
        """The secret itself.

        Raises:
            ConfigurationError: ``SECRET_MISSING``.
        """
        look_up = {"env": self._from_environment, "file": self._from_file, "aws-secretsmanager": self._from_aws}
        value, obstacle = look_up[self.scheme]()
        if not value:
            # Raised here and not where it was caught: an error on decoding holds the text that it failed on.
            raise ConfigurationError(
                "SECRET_MISSING",
                f"There is no secret at {self}{f' ({obstacle})' if obstacle else ''}.",
                way_out="Put it there, or change the reference.",
                reference=str(self),
            )
        _resolved.add(value)
        return value

    def _from_environment(self) -> _Found:
        return os.environ.get(self.name), None

    def _from_file(self) -> _Found:
        try:
            return Path(self.name).read_text(encoding="utf-8").rstrip("\r\n"), None
        except UnicodeDecodeError:
            return None, "not UTF-8"
        except OSError as error:
            return None, error.strerror

    def _from_aws(self) -> _Found:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError

        identifier, _, key = self.name.partition("#")
        try:
            value = boto3.client("secretsmanager").get_secret_value(SecretId=identifier).get("SecretString")
        except ClientError as error:
            return None, str(error.response["Error"]["Code"])
        except BotoCoreError as error:
            return None, type(error).__name__
        if value is None:
            return None, "binary, not text"
        return _of_json(value, key) if key else (str(value), None)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def read(value: object) -> SecretReference:
            return value if isinstance(value, cls) else cls(str(value))

        return core_schema.no_info_plain_validator_function(read, serialization=core_schema.to_string_ser_schema())


def _of_json(text: str, key: str) -> _Found:
    try:
        secret = json.loads(text)
    except ValueError:
        return None, "not JSON"
    if not isinstance(secret, dict) or key not in secret:
        return None, f"no key {key}"
    value = secret[key]
    return (value, None) if isinstance(value, str) else (None, f"{key} is not a string")
