"""What becomes of the SQL states of Redshift's errors, and of S3's.

=======================  ====================================================  ================================
SQL state                meaning                                               error
=======================  ====================================================  ================================
28xxx                    user or password refused                              configuration, LOGIN_REFUSED
3D000                    database absent                                       configuration, DATABASE_UNKNOWN
42501                    a privilege is missing                                configuration, GRANT_MISSING
42P01, 3F000             table or schema absent                                configuration, TABLE_MISSING
42703                    column absent                                         configuration, COLUMN_MISSING
57014                    cancelled, or the statement's time limit              retriable, TIMEOUT
40xxx, 53xxx, 57P0x      conflict, no room, the cluster restarts               retriable, BUSY
08xxx, and no state      the line was cut, or there is none                    retriable, UNREACHABLE
XX000                    an UNLOAD that S3 or the role refused                 configuration, UNLOAD_REFUSED;
                         (retriable, BUSY where S3 said SlowDown or 5xx)
anything else            such as a syntax error                                fatal, FAILED
=======================  ====================================================  ================================

All codes begin with ``REDSHIFT_``; S3's own with ``S3_``.
"""

from __future__ import annotations

import re
import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from redshift_connector.error import Error

from batch_adapters.errors import AdapterError, ConfigurationAdapterError, FatalAdapterError, RetriableAdapterError

if TYPE_CHECKING:
    from collections.abc import Iterator

# By the state's beginning, the longest first: the error, its code, its sentence and the way out.
_STATES: Final[tuple[tuple[str, type[AdapterError], str, str, str | None], ...]] = (
    ("42501", ConfigurationAdapterError, "GRANT_MISSING", "The user may not read", "Grant it USAGE and SELECT."),
    ("42P01", ConfigurationAdapterError, "TABLE_MISSING", "There is no such object:", "Check its name and schema."),
    ("3F000", ConfigurationAdapterError, "TABLE_MISSING", "There is no such schema:", "Check its name and schema."),
    ("42703", ConfigurationAdapterError, "COLUMN_MISSING", "A column is gone from", "Start the stream again."),
    ("3D000", ConfigurationAdapterError, "DATABASE_UNKNOWN", "There is no such database:", None),
    ("57014", RetriableAdapterError, "TIMEOUT", "A statement was cancelled or reached its time limit for", None),
    ("57P", RetriableAdapterError, "BUSY", "The cluster ends or restarts; it does not answer for", None),
    ("28", ConfigurationAdapterError, "LOGIN_REFUSED", "The login was refused for", "Check user and secret."),
    ("40", RetriableAdapterError, "BUSY", "Another transaction was in the way of", None),
    ("53", RetriableAdapterError, "BUSY", "The cluster has no room for", None),
    ("08", RetriableAdapterError, "UNREACHABLE", "The line was cut for", None),
)
_S3_BUSY: Final = re.compile(r"SlowDown|InternalError|ServiceUnavailable|RequestTimeout|\b50[023]\b", re.I)


@contextmanager
def redshift_errors(what: str) -> Iterator[None]:
    """Make the client's errors ours, without their texts: those may quote a statement or a value."""
    try:
        yield
    except AdapterError:
        raise
    except socket.gaierror as error:
        raise _no_host(error, what) from None
    except Error as error:
        raise _adapter_error(error, what) from None
    except (BotoCoreError, ClientError) as error:  # a login by IAM
        raise ConfigurationAdapterError(
            "REDSHIFT_LOGIN_REFUSED", f"IAM gave no login to {what} ({_s3_code(error)}).", "Check the role's policy."
        ) from None
    except OSError as error:
        raise RetriableAdapterError(
            "REDSHIFT_UNREACHABLE", f"The line to Redshift for {what} was cut ({type(error).__name__})."
        ) from None
    except (AttributeError, TypeError, ValueError, IndexError, struct.error) as error:
        # The client reads on in an answer that was cut in the middle.
        raise RetriableAdapterError(
            "REDSHIFT_UNREACHABLE", f"The answer for {what} was cut ({type(error).__name__})."
        ) from None


def _adapter_error(error: Error, what: str) -> AdapterError:
    said: Any = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    state = said.get("C")
    if state is None:
        cause = next((one for one in (*error.args, error.__cause__) if isinstance(one, socket.gaierror)), None)
        if cause is not None:
            return _no_host(cause, what)
        if "refuses SSL" in str(error):
            return ConfigurationAdapterError(
                "REDSHIFT_LOGIN_INVALID", f"There is no safe line to {what}: no TLS there."
            )
        return RetriableAdapterError("REDSHIFT_UNREACHABLE", f"Redshift did not answer for {what}.")
    if state == "XX000":
        return _refused_unload(str(said.get("M", "")), what)
    for begins, kind, code, sentence, way_out in _STATES:
        if state.startswith(begins):
            return kind(f"REDSHIFT_{code}", f"{sentence} {what} (state {state}).", way_out)
    return FatalAdapterError("REDSHIFT_FAILED", f"A statement for {what} failed (state {state}).")


def _refused_unload(message: str, what: str) -> AdapterError:
    if _S3_BUSY.search(message) or "1023" in message:  # 1023: serializable isolation violation
        return RetriableAdapterError("REDSHIFT_BUSY", f"S3 or another transaction was in the way of {what}.")
    return ConfigurationAdapterError(
        "REDSHIFT_UNLOAD_REFUSED",
        f"Redshift could not unload {what}.",
        "Check the IAM role, what it may write under the staging prefix, and the bucket's region.",
    )


def _no_host(error: socket.gaierror, what: str) -> AdapterError:
    if error.errno == socket.EAI_NONAME:  # not EAI_AGAIN, which says that the name server is away
        return ConfigurationAdapterError("REDSHIFT_HOST_UNKNOWN", f"There is no such host for {what}.")
    return RetriableAdapterError("REDSHIFT_UNREACHABLE", f"No name server answers for {what}.")


@contextmanager
def s3_errors(bucket: str) -> Iterator[None]:
    """Make S3's errors ours."""
    try:
        yield
    except NoCredentialsError:
        raise ConfigurationAdapterError("S3_ACCESS_DENIED", f"There is no login for the bucket {bucket!r}.") from None
    except ClientError as error:
        code = _s3_code(error)
        if code in ("NoSuchBucket", "PermanentRedirect"):
            raise ConfigurationAdapterError(
                "S3_BUCKET_UNKNOWN", f"There is no bucket {bucket!r} in this region."
            ) from None
        if code in ("AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"):
            raise ConfigurationAdapterError(
                "S3_ACCESS_DENIED",
                f"The bucket {bucket!r} refuses this login ({code}).",
                "It must be let read, list and delete under the staging prefix.",
            ) from None
        if code in ("NoSuchKey", "404"):
            raise RetriableAdapterError("S3_OBJECT_MISSING", f"A file is gone from the bucket {bucket!r}.") from None
        raise RetriableAdapterError("S3_UNREACHABLE", f"The bucket {bucket!r} did not answer ({code}).") from None
    except (BotoCoreError, Boto3Error, OSError) as error:
        raise RetriableAdapterError(
            "S3_UNREACHABLE", f"The bucket {bucket!r} did not answer ({type(error).__name__})."
        ) from None


def _s3_code(error: Exception) -> str:
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else type(error).__name__
