"""What leaves the process by its logs: facts in every line, and no secret in any."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any, Literal

import pytest
import structlog

from streams import secrets
from streams.secrets import SecretReference
from streams.settings import LoggingSettings
from streams.telemetry.logs import MASK, bound, configure_logging

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

if TYPE_CHECKING:
    Lines = Callable[[], list[dict[str, Any]]]

log = structlog.get_logger("streams.test")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    loggers = [root, *(logging.getLogger(name) for name in ("streams", "py4j", "pyspark", "soda"))]
    handlers, levels = root.handlers, [logger.level for logger in loggers]
    resolved = set(secrets._resolved)
    yield
    root.handlers = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    secrets._resolved.clear()
    secrets._resolved.update(resolved)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging(LoggingSettings(), "run-1")
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def resolved(tmp_path: Path, secret: str) -> None:
    file = tmp_path / "secret"
    file.write_text(secret)
    SecretReference(f"file:{file}").resolve()


def test_json_when_not_a_terminal_and_lines_on_one(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    log.info("began", rows=3)
    [line] = lines()
    assert (line["event"], line["rows"], line["level"], line["run"]) == ("began", 3, "info", "run-1")
    assert line["timestamp"].endswith("Z")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    configure_logging(LoggingSettings(), "run-2")
    log.info("began")
    assert "run-2" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")


def test_errors_on_a_terminal_are_masked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    configure_logging(LoggingSettings(), "run-1")
    try:
        raise ValueError("password=hunter2")
    except ValueError:
        log.exception("failed")
    assert "ValueError" in terminal.getvalue()
    assert "hunter2" not in terminal.getvalue()


@pytest.mark.parametrize(("level", "shown"), [("debug", ["quiet", "loud"]), ("info", ["loud"]), ("error", [])])
def test_level_is_as_configured(
    monkeypatch: pytest.MonkeyPatch, level: Literal["debug", "info", "error"], shown: list[str]
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging(LoggingSettings(level=level), "run-1")
    log.debug("quiet")
    log.info("loud")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == shown


def test_run_flow_and_batch_are_in_every_line_of_each_thread(lines: Lines) -> None:
    together = threading.Barrier(2)

    def tend(flow: str) -> None:
        with bound(flow=flow):
            together.wait(10)
            log.info("began")
            with bound(batch=7):
                together.wait(10)
                logging.getLogger("streams.deep").warning("of the standard library")
            log.info("ended")

    threads = [threading.Thread(target=tend, args=(flow,)) for flow in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    logging.getLogger("library").error("outside")
    found = [(line["run"], line.get("flow"), line.get("batch")) for line in lines()]
    of_flows = [("run-1", flow, batch) for flow in "ab" for batch in (None, 7, None)]
    assert sorted(found, key=str) == sorted([*of_flows, ("run-1", None, None)], key=str)


def test_run_that_is_bound_wins(lines: Lines) -> None:
    with bound(run="other"):
        log.info("x")
    assert lines()[0]["run"] == "other"


@pytest.mark.parametrize(
    "key", ["password", "sasl.password", "AWS_SECRET_ACCESS_KEY", "token", "Authorization", "jaas"]
)
def test_values_under_telling_names_are_masked_however_deep(lines: Lines, key: str) -> None:
    log.info("x", **{key: "hunter2"}, options={"deep": [{key: {"a": "hunter2"}}]}, pair=({key: 2},))
    [line] = lines()
    assert "hunter2" not in json.dumps(line)
    assert line[key] == line["options"]["deep"][0][key] == line["pair"][0][key] == MASK


@pytest.mark.parametrize(
    "text",
    [
        "password=hunter2",
        "sasl.password = hunter2, more",
        "https://host/?token=hunter2&a=b",
        "{'password': 'hunter2'}",
        '{"password": "hunter2"}',
        r"{\"password\": \"hunter2\"}",
        r'password="a\"hunter2" b',
        r"password='a\'hunter2' b",
        'password="hunter2',
        "fs.s3a.secret.key=hunter2",
        "aws_secret_access_key: hunter2",
        "secretKey=hunter2",
        'ScramLoginModule required username="u" password="hunter2";',
    ],
)
def test_pairs_in_texts_are_masked(lines: Lines, text: str) -> None:
    log.info(f"before {text}", deep={"list": [text]}, error=ValueError(text))
    logging.getLogger("library").warning("%s", text)
    for line in lines():
        assert "hunter2" not in json.dumps(line)
        assert MASK in line["event"]
    assert lines()[0]["event"].startswith("before ")


def test_a_reference_is_no_secret(lines: Lines) -> None:
    log.info("The secret at aws-secretsmanager:lakehouse/kafka#password is read from env:KAFKA_PASSWORD")
    assert MASK not in lines()[0]["event"]


@pytest.mark.parametrize("secret", ["plainvalue", 'quo"te\\value', "übervalue", "two\nlinesvalue"])
def test_resolved_secrets_are_masked_wherever_and_however_they_are_spelled(
    lines: Lines, tmp_path: Path, secret: str
) -> None:
    resolved(tmp_path, secret)
    log.info(
        f"login {secret}",
        fact={"a": [secret], secret: 1},
        spelled=[json.dumps(secret), repr(secret), json.dumps(secret, ensure_ascii=False)],
        error=ValueError(secret),
        kinds={frozenset({secret})},
    )
    logging.getLogger("library").warning("login %s", secret)
    for line in lines():
        assert "value" not in json.dumps(line)
        assert line["event"] == f"login {MASK}"


def test_no_part_of_a_secret_is_left_where_one_holds_another(lines: Lines, tmp_path: Path) -> None:
    for secret in ("core", "core-and-rest", "more-core-and-rest"):
        resolved(tmp_path, secret)
    log.info("login more-core-and-rest core-and-rest core")
    assert lines()[0]["event"] == f"login {MASK} {MASK} {MASK}"


@pytest.mark.parametrize("logger", [log, logging.getLogger("library")], ids=["ours", "standard library"])
def test_texts_of_errors_are_masked_and_in_the_line(lines: Lines, tmp_path: Path, logger: Any) -> None:
    secret, pair = "deepsecret", "password=hunter2"  # a traceback quotes the line that raises
    resolved(tmp_path, secret)
    try:
        try:
            raise KeyError(secret)
        except KeyError as cause:
            raise ValueError(pair) from cause
    except ValueError:
        logger.exception("failed")
    [line] = lines()
    assert "ValueError" in line["exception"]
    assert "KeyError" in line["exception"]
    assert "hunter2" not in json.dumps(line)
    assert "deepsecret" not in json.dumps(line)


def test_numbers_and_nothing_stay_what_they_are(lines: Lines) -> None:
    log.info("x", rows=1, seconds=0.5, done=True, none=None, names=("a", "b"))
    [line] = lines()
    assert (line["rows"], line["seconds"], line["done"], line["none"]) == (1, 0.5, True, None)
    assert line["names"] == ["a", "b"]
