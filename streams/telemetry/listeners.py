"""Those who are told of what the service does, as the configuration wants them."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from streams.telemetry.alerts import Alerts
from streams.telemetry.cloudwatch import CloudWatch
from streams.telemetry.metrics import Metrics
from streams.version import CODE_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streams.settings import Settings
    from streams.telemetry.events import Listener

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Listeners:
    """All of them; `metrics`, one of them, also makes the page that Prometheus reads."""

    all: tuple[Listener, ...]
    metrics: Metrics


@contextmanager
def configured_listeners(settings: Settings, jvm_pid: Callable[[], int | None] | None = None) -> Iterator[Listeners]:
    """The listeners; at the block's end each sends what it still has, and the textfile is written.

    Args:
        settings: the configuration.
        jvm_pid: see `Metrics`.
    """
    metrics = Metrics(CODE_VERSION, settings.environment, jvm_pid)
    listeners: list[Listener] = [metrics]
    with ExitStack() as ending:
        if settings.metrics.textfile is not None:
            ending.callback(_write_textfile, metrics, settings.metrics.textfile)
        if settings.metrics.cloudwatch is not None:
            cloudwatch = CloudWatch(settings.metrics.cloudwatch, settings.environment, metrics.count_delivery)
            ending.callback(cloudwatch.close)
            listeners.append(cloudwatch)
        if settings.alerts.webhook is not None:
            alerts = Alerts(settings.alerts, settings.environment, metrics.count_delivery)
            ending.callback(alerts.close)
            listeners.append(alerts)
        yield Listeners(tuple(listeners), metrics)


def _write_textfile(metrics: Metrics, path: str) -> None:
    try:
        metrics.write_textfile(path)
    except OSError as error:
        log.warning("metrics could not be written", file=path, error=str(error))
