"""The configuration says who is told; at the end all that was told has gone where it belongs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import yaml

from streams.errors import FatalError
from streams.settings import load_settings
from streams.telemetry.events import RunEnded, tell
from streams.telemetry.listeners import configured_listeners
from tests.unit.test_alerts import AT, FLOW, Receiver
from tests.unit.test_settings import least

if TYPE_CHECKING:
    from pathlib import Path


def test_each_gets_what_happened_before_the_end(tmp_path: Path) -> None:
    receiver, file = Receiver(), tmp_path / "settings.yaml"
    textfile = tmp_path / "streams.prom"
    more = {"metrics": {"textfile": str(textfile)}, "alerts": {"webhook": receiver.url}}
    file.write_text(yaml.safe_dump(least(**more)))
    try:
        with configured_listeners(load_settings(None, str(file), {})) as listeners:
            tell(listeners.all, RunEnded(FLOW, "1", AT, error=FatalError("LOST", "It is lost.")))
            assert not textfile.exists()
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()
    assert [message["code"] for message in receiver.got] == ["LOST"]
    assert f'streams_failures_total{{flow="{FLOW}",kind="fatal"}} 1.0' in textfile.read_text()
    page, _ = listeners.metrics.render()
    assert 'streams_deliveries_total{outcome="sent",to="webhook"} 1.0' in page.decode()
    assert not {thread.name for thread in threading.enumerate()} & {"alerts", "cloudwatch"}


def test_a_textfile_that_can_not_be_written_fails_nothing(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(least(metrics={"textfile": str(file / "in a file")})))
    with configured_listeners(load_settings(None, str(file), {})) as listeners:
        assert len(listeners.all) == 1
