"""Structured logs: JSON for machines, lines for people; run, flow and batch in each; secrets masked."""

from __future__ import annotations

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
_SECRET_KEY: Final = re.compile(r"password|passwd|secret|token|credential|private_key|api_key|jaas", re.IGNORECASE)
_SECRET_PAIR: Final = re.compile(
    r"((?:password|passwd|secret|token|api_key)[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;&\"']+)", re.IGNORECASE
)


def configure_logging(settings: LoggingSettings, run_id: str) -> None:
    """Send this process's logs, the standard library's included, to standard error.

    Each flow has threads of its own, and Spark calls us from others: `bound` is called in each of them.
    """
    is_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        mask_secrets,
    ]
    renderer: Processor = structlog.processors.JSONRenderer(default=str) if is_json else structlog.dev.ConsoleRenderer()
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
    structlog.contextvars.bind_contextvars(run=run_id)


@contextmanager
def bound(**facts: object) -> Iterator[None]:
    """Every line logged in this block, by this thread, carries these facts."""
    with structlog.contextvars.bound_contextvars(**facts):
        yield


def mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask values under telling names, pairs such as ``password=…`` in texts, and every secret resolved so far."""
    return {key: MASK if _SECRET_KEY.search(key) else _masked(value) for key, value in event.items()}


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: MASK if _SECRET_KEY.search(str(key)) else _masked(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(inner) for inner in value]
    if not isinstance(value, str):
        return value
    for secret in known_secrets():
        value = value.replace(secret, MASK)
    return _SECRET_PAIR.sub(rf"\1{MASK}", value)
