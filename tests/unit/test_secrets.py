"""Secrets come from where their references say, and errors about them hold none of them."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer
from pydantic_core import PydanticCustomError

from streams.errors import ConfigurationError
from streams.secrets import SecretReference, known_secrets
from streams.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def aws() -> Iterator[None]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        client = boto3.client("secretsmanager")
        client.create_secret(Name="plain", SecretString="from-aws")
        client.create_secret(Name="team/json", SecretString='{"password": "from-json", "port": 1, "none": null}')
        client.create_secret(Name="list", SecretString='["topsecret"]')
        client.create_secret(Name="broken", SecretString="topsecret{")
        client.create_secret(Name="binary", SecretBinary=b"topsecret")
        client.close()
        yield
    server.stop()


def missing(reference: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        SecretReference(reference).resolve()
    assert caught.value.code == "SECRET_MISSING"
    assert caught.value.parameters["reference"] == reference
    return caught.value


def whole_chain(error: BaseException | None) -> str:
    """All that the error and those behind it say, even where they are not shown."""
    text = ""
    while error is not None:
        text += "".join(traceback.format_exception(error, chain=False)) + repr(vars(error)) + repr(error.args)
        text += str(getattr(error, "doc", "")) + str(getattr(error, "object", ""))
        error = error.__cause__ or error.__context__
    return text


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "from-environment")
    assert SecretReference("env:A_SECRET").resolve() == "from-environment"
    assert "from-environment" in known_secrets()


def test_from_a_file_without_its_last_line_end(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(" from a file \n")
    assert SecretReference(f"file:{file}").resolve() == " from a file "


def test_from_secrets_manager_whole_or_by_key(aws: None) -> None:
    assert SecretReference("aws-secretsmanager:plain").resolve() == "from-aws"
    assert SecretReference("aws-secretsmanager:team/json#password").resolve() == "from-json"


def test_missing_in_the_environment_or_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SECRET", raising=False)
    missing("env:NO_SECRET")
    monkeypatch.setenv("NO_SECRET", "")
    missing("env:NO_SECRET")


def test_file_that_is_missing_a_folder_empty_or_no_text(tmp_path: Path) -> None:
    missing(f"file:{tmp_path / 'none'}")
    missing(f"file:{tmp_path}")
    file = tmp_path / "secret"
    file.write_text("\n")
    missing(f"file:{file}")
    file.write_bytes(b"topsecret\xff")
    assert "topsecret" not in whole_chain(missing(f"file:{file}"))


@pytest.mark.parametrize(
    "name",
    ["none", "team/json#other", "team/json#port", "team/json#none", "list#0", "broken#key", "binary", "binary#a"],
)
def test_missing_in_secrets_manager(aws: None, name: str) -> None:
    assert "topsecret" not in whole_chain(missing(f"aws-secretsmanager:{name}"))


def test_secrets_manager_that_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/none")
    missing("aws-secretsmanager:plain")


@pytest.mark.parametrize("literal", ["topsecret", "topsecret:more", "env:", "", "ENV:topsecret", " env:topsecret"])
def test_what_is_no_reference_is_refused(literal: str) -> None:
    with pytest.raises(PydanticCustomError) as caught:
        SecretReference(literal)
    assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize("literal", ["topsecret", ["topsecret"], {"topsecret": 1}])
@pytest.mark.parametrize("is_overridden", [False, True])
def test_literal_in_the_configuration_is_nowhere_in_the_error(
    tmp_path: Path, literal: object, is_overridden: bool
) -> None:
    kafka = {"bootstrap_servers": "b", "sasl_password": "env:X" if is_overridden else literal}
    said = {
        "environment": "test",
        "lake": {"root": "lake"},
        "checkpoints": {"root": "checkpoints"},
        "dq_results_root": "results",
        "kafka": kafka,
        "files": {"fx_rates": "rates"},
    }
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(said))
    environ = {"STREAMS__KAFKA__SASL_PASSWORD": str(literal)} if is_overridden else {}
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, str(file), environ)
    assert caught.value.code == "SETTINGS_INVALID"
    assert caught.value.parameters["keys"] == ["kafka.sasl_password"]
    assert "topsecret" not in whole_chain(caught.value)
    assert caught.value.__context__ is None
