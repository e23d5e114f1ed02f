"""Structured logs: JSON for machines, lines for people; run, flow and batch in each; secrets masked."""

from __future__ import annotations

import json
import logging
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import structlog

from streams.secrets import known_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from structlog.typing import EventDict, Processor, WrappedLogger

    from streams.settings import LoggingSettings

MASK: Final = "***"
_FORMATTERS_OWN: Final = frozenset({"_record", "_from_structlog"})
_SECRET_KEY: Final = re.compile(
    r"password|passwd|secret|token|credential|authorization|private_key|api_key|jaas", re.IGNORECASE
)
# The name may go on (`secret.access.key`) and be quoted; the value may be quoted, hold escapes, and have no end.
_SECRET_PAIR: Final = re.compile(
    r"""((?:password|passwd|secret|token|credentials?|private_key|api_key)(?:[._-][\w.-]*|key)?\\?["']?\s*[=:]\s*)"""
    r"""(\\".*?(?:\\"|$)|"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[^\s,;&"']+)""",
    re.IGNORECASE | re.DOTALL,
)


def configure_logging(settings: LoggingSettings, run_id: str) -> None:
    """Send this process's logs, the standard library's included, to standard error.

    Each flow has threads of its own, and Spark calls us from others: `bound` is called in each of them.
    """
    is_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        lambda _logger, _method, event: {"run": run_id, **event},  # the threads of libraries bind nothing
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        mask_secrets,
    ]
    # Tracebacks are text by then, as only text can be masked.
    lines = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer: Processor = structlog.processors.JSONRenderer() if is_json else lines
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("streams").setLevel(settings.level.upper())
    # Both log whole stack traces of errors that are raised to us anyway.
    for noisy in ("py4j", "pyspark", "soda"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()


@contextmanager
def bound(**facts: object) -> Iterator[None]:
    """Every line logged in this block, by this thread, carries these facts."""
    with structlog.contextvars.bound_contextvars(**facts):
        yield


def mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask values under telling names, pairs such as ``password=…`` in texts, and every secret resolved so far."""
    own = {key: value for key, value in event.items() if key in _FORMATTERS_OWN}
    return {**_masked({key: value for key, value in event.items() if key not in own}), **own}


def _masked(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {
            masked_text(str(key)): MASK if _SECRET_KEY.search(str(key)) else _masked(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(inner) for inner in value]
    # An error, a path, a model: what would be shown of it later is its text.
    return masked_text(str(value))


def masked_text(text: str) -> str:
    """A text without the secrets that this process knows, and without the values of pairs such as ``password=…``."""
    for secret in sorted(_spellings(), key=len, reverse=True):  # one secret may be a part of another
        text = text.replace(secret, MASK)
    return _SECRET_PAIR.sub(rf"\1{MASK}", text)


def _spellings() -> set[str]:
    """The secrets as they are, and as they stand in JSON, in a login module's options and in Python's literals."""
    return {
        spelling
        for secret in known_secrets()
        for spelling in (
            secret,
            json.dumps(secret)[1:-1],
            json.dumps(secret, ensure_ascii=False)[1:-1],
            repr(secret)[1:-1],
        )
    }
