"""What becomes of the numbers of Snowflake's errors.

===================  =================================================  ==============================
errno                meaning                                            error
===================  =================================================  ==============================
390100-390999        login, token or role refused                       configuration, LOGIN_REFUSED
390318               the OAuth token has expired                        configuration, TOKEN_EXPIRED
390104, 390111-15    the session has ended                              retriable, SESSION_ENDED
251001-8, 251013-20  something of the login is missing or malformed     configuration, LOGIN_INVALID
HTTP 403, 404        no such account, or a network rule                 configuration, ACCOUNT_UNKNOWN
2003, 2043           table, schema or database absent or not granted    configuration, TABLE_MISSING
904                  column absent                                      configuration, COLUMN_MISSING
3001                 a privilege is missing                             configuration, GRANT_MISSING
606                  the warehouse is suspended, absent or not granted  retriable, WAREHOUSE_AWAY
604                  the statement was cancelled                        retriable, CANCELLED
630                  the statement reached its time limit               retriable, TIMEOUT
HTTP 429             too many requests                                  retriable, BUSY
250xxx-255xxx, HTTP  no connection, or the line was cut                 retriable, UNREACHABLE
anything else        such as a syntax error                             fatal, FAILED
===================  =================================================  ==============================

All codes begin with ``SNOWFLAKE_``.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from snowflake.connector.errors import Error, ForbiddenError, HttpError, NonRetryableTlsError, TooManyRequests
from snowflake.connector.vendored.requests.exceptions import RequestException

from batch_adapters.errors import AdapterError, ConfigurationAdapterError, FatalAdapterError, RetriableAdapterError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SESSION_ENDED: Final = frozenset({390104, 390111, 390112, 390113, 390114, 390115})
_LOGIN_INVALID: Final = frozenset({*range(251001, 251009), *range(251013, 251021)})


@contextmanager
def snowflake_errors(what: str) -> Iterator[None]:
    """Make the connector's errors ours, without their texts: those may quote a statement, a value or an address."""
    try:
        yield
    except AdapterError:
        raise
    except Error as error:
        raise _adapter_error(error, what) from None
    except (RequestException, OSError) as error:
        raise RetriableAdapterError(
            "SNOWFLAKE_UNREACHABLE", f"The line to Snowflake for {what} was cut ({type(error).__name__})."
        ) from None


def _adapter_error(error: Error, what: str) -> AdapterError:
    number = error.errno or 0
    shown = f"(number {number}, query {error.sfqid})" if error.sfqid else f"(number {number})"
    if isinstance(error, TooManyRequests) or number == 290429:
        return RetriableAdapterError("SNOWFLAKE_BUSY", f"Snowflake has too many requests, for {what} {shown}.")
    if isinstance(error, NonRetryableTlsError):
        return ConfigurationAdapterError("SNOWFLAKE_LOGIN_INVALID", f"No safe line for {what}: TLS failed {shown}.")
    return (
        _login_error(error, number, what, shown)
        or _statement_error(number, what, shown)
        or _line_error(error, number, what, shown)
    )


def _login_error(error: Error, number: int, what: str, shown: str) -> AdapterError | None:
    if number in _SESSION_ENDED:
        return RetriableAdapterError("SNOWFLAKE_SESSION_ENDED", f"The session for {what} has ended {shown}.")
    if number == 390318:
        return ConfigurationAdapterError(
            "SNOWFLAKE_TOKEN_EXPIRED", f"The OAuth token for {what} has expired {shown}.", "Get a new one."
        )
    if 390100 <= number <= 390999:
        return ConfigurationAdapterError(
            "SNOWFLAKE_LOGIN_REFUSED",
            f"Snowflake refused the login to {what} {shown}.",
            "Check user, secret, role and the account's network rules.",
        )
    if number in _LOGIN_INVALID:
        return ConfigurationAdapterError("SNOWFLAKE_LOGIN_INVALID", f"The login to {what} is malformed {shown}.")
    if what.startswith("the account") and (isinstance(error, ForbiddenError) or number in (290403, 290404)):
        return ConfigurationAdapterError(
            "SNOWFLAKE_ACCOUNT_UNKNOWN", f"There is no such account, or a rule forbids it: {what} {shown}."
        )
    return None


# By number: the error, its code, its sentence's beginning and the way out.
_STATEMENT_ERRORS: Final[dict[int, tuple[type[AdapterError], str, str, str | None]]] = {
    **dict.fromkeys(
        (2003, 2043),
        (
            ConfigurationAdapterError,
            "TABLE_MISSING",
            "There is no such object, or the role may not see it:",
            "Check its name, the login's database and schema, and the grants of its role.",
        ),
    ),
    904: (ConfigurationAdapterError, "COLUMN_MISSING", "A column is gone from", "Start the stream again."),
    3001: (
        ConfigurationAdapterError,
        "GRANT_MISSING",
        "The role has no privilege to read",
        "Grant it SELECT, and USAGE on schema, database and warehouse.",
    ),
    606: (
        RetriableAdapterError,
        "WAREHOUSE_AWAY",
        "No warehouse answers for",
        "Resume the warehouse or let it resume by itself; check its name and that the role may use it.",
    ),
    604: (RetriableAdapterError, "CANCELLED", "A statement was cancelled for", None),
    630: (RetriableAdapterError, "TIMEOUT", "A statement reached its time limit for", None),
}


def _statement_error(number: int, what: str, shown: str) -> AdapterError | None:
    if number not in _STATEMENT_ERRORS:
        return None
    kind, code, sentence, way_out = _STATEMENT_ERRORS[number]
    return kind(f"SNOWFLAKE_{code}", f"{sentence} {what} {shown}.", way_out)


def _line_error(error: Error, number: int, what: str, shown: str) -> AdapterError:
    if 250000 <= number < 256000 or number >= 290000 or isinstance(error, HttpError) or number <= 0:
        return RetriableAdapterError("SNOWFLAKE_UNREACHABLE", f"Snowflake did not answer for {what} {shown}.")
    return FatalAdapterError("SNOWFLAKE_FAILED", f"A statement for {what} failed {shown}.")
