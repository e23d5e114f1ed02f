"""Configuration: what is wrong in it is named before anything starts, and no secret is."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer

from streams.errors import ConfigurationError
from streams.secrets import SecretReference
from streams.settings import PROJECT, Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PASSWORD = 'hünter"2\\x'
SASL = {
    "bootstrap_servers": "broker:9093",
    "security_protocol": "SASL_SSL",
    "sasl_username": "reader",
    "sasl_password": "env:BROKER_PASSWORD",
}


def least(**changes: Any) -> dict[str, Any]:
    return {
        "environment": "test",
        "lake": {"root": "some/lake"},
        "checkpoints": {"root": "/some/checkpoints"},
        "dq_results_root": "s3a://bucket/results",
        "kafka": {"bootstrap_servers": "broker:9092"},
        "files": {"fx_rates": "hdfs:/landing"},
    } | changes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def load(file: Path, said: dict[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    file.write_text(yaml.safe_dump(said))
    return load_settings(None, str(file), environ or {}, check_secrets=False)


def refused(file: Path, said: dict[str, Any], environ: Mapping[str, str] | None = None) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load(file, said, environ)
    assert caught.value.code == "SETTINGS_INVALID"
    assert str(file) in caught.value.message
    return caught.value


def test_pauses_grow_up_to_a_bound_however_often_it_fails(file: Path) -> None:
    restart = load(file, least(restart={"max_pause_seconds": 50, "multiplier": 100, "jitter": 0})).restart
    assert [restart.pause_before(number) for number in (1, 2, 3000)] == [1, 50, 50]


def test_deletes_in_salesforce_are_not_looked_for_unless_that_is_said(file: Path) -> None:
    login = {"instance_url": "https://a.example", "consumer_key": "k", "consumer_secret": "env:NAME"}
    source = load(file, least(sources={"salesforce": login | {"pull": {"every_seconds": 9}}})).sources.salesforce
    assert source is not None
    assert (source.pull.every_seconds, source.pull.reconcile_seconds) == (9, 0)


@pytest.mark.parametrize("env", ["dev", "staging", "prod"])
def test_our_own_configurations_load(env: str) -> None:
    assert load_settings(env, None, {}, check_secrets=False).environment == env


@pytest.mark.parametrize(
    ("changes", "key", "near"),
    [
        ({"reporting_curency": "EUR"}, "reporting_curency", "reporting_currency"),
        ({"kafka": {"bootstrap_servers": "b", "bootstrap_server": "b"}}, "kafka.bootstrap_server", "bootstrap_servers"),
        (
            {"kafka": {"bootstrap_servers": "b", "topics": {"order_event": "o"}}},
            "kafka.topics.order_event",
            "order_events",
        ),
        ({"flows": {"bronze.x": {"pol_seconds": 1}}}, "flows.bronze.x.pol_seconds", "poll_seconds"),
        ({"restart": {"max_restart": 1}}, "restart.max_restart", "max_restarts"),
    ],
)
def test_unknown_key_is_refused_and_the_nearest_named(file: Path, changes: dict[str, Any], key: str, near: str) -> None:
    error = refused(file, least(**changes))
    assert error.parameters["keys"] == [key]
    assert f"{key}: " in error.message
    assert f"did you mean {near!r}" in error.message


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"drain_seconds": "soon"}, "drain_seconds"),
        ({"drain_seconds": float("inf")}, "drain_seconds"),
        ({"drain_seconds": 0}, "drain_seconds"),
        ({"lake": "some/lake"}, "lake"),
        ({"lake": {"root": ""}}, "lake.root"),
        ({"spark": {"conf": {"spark.x": 1}}}, "spark.conf.spark.x"),
        ({"flows": {"bronze.x": {"on_breach": "shrug"}}}, "flows.bronze.x.on_breach"),
        ({"kafka": {"bootstrap_servers": "b", "security_protocol": "SASL_SSL"}}, "kafka"),
        ({"lineage": {}}, "lineage"),
        ({"lineage": {"file": "lineage.jsonl", "url": "http://marquez:5000"}}, "lineage"),
        ({"lineage": {"file": "lineage.jsonl", "token": "env:TOKEN"}}, "lineage"),
        ({"lineage": {"file": "s3://bucket/lineage"}}, "lineage.file"),
        ({"lineage": {"url": "marquez:5000"}}, "lineage.url"),
    ],
)
def test_wrong_value_is_refused_by_its_path(file: Path, changes: dict[str, Any], key: str) -> None:
    assert refused(file, least(**changes)).parameters["keys"] == [key]


def test_all_problems_are_told_at_once(file: Path) -> None:
    said = least(drain_seconds="soon", laek={})
    del said["files"]
    error = refused(file, said, {"STREAMS__ENVIRONMENT__NAME": "x"})
    assert set(error.parameters["keys"]) == {"drain_seconds", "laek", "files", "environment.name"}


def test_lineage_is_told_nowhere_unless_configured(file: Path) -> None:
    assert load(file, least()).lineage is None
    found = load(file, least(lineage={"file": "some/lineage.jsonl"})).lineage
    assert found is not None
    assert found.file == str(PROJECT / "some/lineage.jsonl")
    assert load(file, least(), {"STREAMS__LINEAGE__URL": "http://marquez:5000"}).lineage is not None


def test_environment_overrides_are_typed(file: Path) -> None:
    environ = {
        "STREAMS__KAFKA__BOOTSTRAP_SERVERS": "other:1",
        "STREAMS__DRAIN_SECONDS": "2.5",
        "STREAMS__RESTART__MAX_RESTARTS": "3",
        "STREAMS_CACHE": "not ours",
    }
    settings = load(file, least(restart=None), environ)
    assert settings.kafka.bootstrap_servers == "other:1"
    assert settings.drain_seconds == 2.5
    assert settings.restart.max_restarts == 3


@pytest.mark.parametrize(
    ("variable", "value", "key"),
    [
        ("STREAMS__KAFKA__BOOTSTRAP_SERVER", "b", "kafka.bootstrap_server"),
        ("STREAMS__DRAIN_SECONDS", "soon", "drain_seconds"),
        ("STREAMS__LAKE__ROOT", "", "lake.root"),
        ("STREAMS__ENVIRONMENT__NAME", "x", "environment.name"),
        ("STREAMS__ENVIRONMENT__NAME__FIRST", "x", "environment.name.first"),
        ("STREAMS__FLOWS__BRONZE__POLL_SECONDS", "1", "flows.bronze.poll_seconds"),
        ("STREAMS__SPARK__CONF__SPARK_X", "1", "spark.conf.spark_x"),
        ("STREAMS__", "x", ""),
    ],
)
def test_wrong_override_is_refused_and_the_variable_named(file: Path, variable: str, value: str, key: str) -> None:
    error = refused(file, least(), {variable: value})
    assert error.parameters["keys"] == [key]
    assert variable in error.message


@pytest.mark.parametrize(
    "content",
    [
        b"environment: [",
        b"- a\n- b\n",
        b"",
        b"environment: \xff",
        b"environment: 2025-02-31",
        b"environment: dev\nenvironment: prod\n",
        b"kafka:\n  sasl_password: *hunter2\n",
        b"kafka:\n  sasl_password: !hunter2 x\n",
        b"kafka:\n  sasl_password: hunter2: x\n",
    ],
)
def test_what_is_not_yaml_is_refused_without_a_word_of_it(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, str(file), {})
    assert caught.value.code == "SETTINGS_NOT_YAML"
    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(("env", "config"), [("live", None), (None, "/no/such/file.yaml"), (None, "/")])
def test_missing_file_names_the_environments_there_are(env: str | None, config: str | None) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(env, config, {})
    assert caught.value.code == "SETTINGS_FILE_MISSING"
    assert "dev, prod, staging" in str(caught.value)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield
    server.stop()


@pytest.mark.parametrize("scheme", ["s3", "s3a"])
def test_configuration_may_be_an_object_in_s3(aws: None, scheme: str) -> None:
    client = boto3.client("s3")
    client.create_bucket(Bucket="settings")
    client.put_object(Bucket="settings", Key="a/b.yaml", Body=yaml.safe_dump(least()).encode())
    assert load_settings(None, f"{scheme}://settings/a/b.yaml", {}).environment == "test"
    for missing in ("settings/none.yaml", "nobody/a.yaml", "settings"):
        with pytest.raises(ConfigurationError) as caught:
            load_settings(None, f"{scheme}://{missing}", {})
        assert caught.value.code == "SETTINGS_FILE_MISSING"
    client.close()


def test_relative_paths_are_under_the_project_and_others_stay(file: Path) -> None:
    settings = load(file, least(kafka={"bootstrap_servers": "b", "ssl_ca_location": "certificates/ca.pem"}))
    assert settings.lake.root == str(PROJECT / "some" / "lake")
    assert settings.contracts_root == str(PROJECT / "contracts")
    assert settings.kafka.ssl_ca_location == str(PROJECT / "certificates" / "ca.pem")
    assert settings.checkpoints.root == "/some/checkpoints"
    assert settings.dq_results_root == "s3a://bucket/results"
    assert settings.files.fx_rates == "hdfs:/landing"


def test_a_flow_has_its_own_settings_over_the_defaults(file: Path) -> None:
    said = least(
        flow_defaults={"poll_seconds": 7, "on_breach": "hold"},
        flows={"a": {"max_rows_per_batch": 5}, "b": {"on_breach": None}},
    )
    settings = load(file, said)
    a, b = settings.flow("a"), settings.flow("b")
    assert (a.poll_seconds, a.on_breach, a.max_rows_per_batch) == (7, "hold", 5)
    assert (b.poll_seconds, b.on_breach) == (7, None)
    assert settings.flow("c") == settings.flow_defaults


def test_login_reaches_the_clients_and_no_picture_of_the_settings(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_PASSWORD", PASSWORD)
    settings = load(file, least(kafka=SASL))
    client = settings.kafka.client_options()
    assert (client["sasl.username"], client["sasl.password"]) == ("reader", PASSWORD)
    jaas = settings.kafka.spark_options()["kafka.sasl.jaas.config"]
    assert 'ScramLoginModule required username="reader" password="hünter\\"2\\\\x";' in jaas
    for shown in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert "env:BROKER_PASSWORD" in shown
        assert "nter" not in shown


def test_without_sasl_no_login_is_given(file: Path) -> None:
    kafka = load(file, least()).kafka
    assert kafka.client_options() == {"bootstrap.servers": "broker:9092", "security.protocol": "PLAINTEXT"}
    assert not any("sasl" in key for key in kafka.spark_options())


def test_secret_that_is_not_there_fails_the_loading(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BROKER_PASSWORD", raising=False)
    file.write_text(yaml.safe_dump(least(kafka=SASL)))
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, str(file), {})
    assert caught.value.code == "SECRET_MISSING"


def test_a_webhook_is_an_address_or_a_reference_to_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(file, least(alerts={"webhook": "https://hooks.example/a"})).alerts.webhook == "https://hooks.example/a"
    kept = load(file, least(alerts={"webhook": "env:OUR_WEBHOOK"}))
    assert isinstance(kept.alerts.webhook, SecretReference)
    assert kept.model_dump(mode="json")["alerts"]["webhook"] == "env:OUR_WEBHOOK"
    monkeypatch.delenv("OUR_WEBHOOK", raising=False)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, str(file), {})
    assert caught.value.code == "SECRET_MISSING"
    assert "alerts.webhook" in str(refused(file, least(alerts={"webhook": "hooks.example/a"})))


def test_a_consumer_groups_name_has_known_places(file: Path) -> None:
    def kafka(**more: Any) -> dict[str, Any]:
        return least(kafka={"bootstrap_servers": "broker:9092"} | more)

    assert load(file, kafka()).kafka.group_of("prod", "bronze.x") == "lakehouse-streams.prod.bronze.x"
    assert load(file, kafka(group="ours-{flow}")).kafka.group_of("prod", "bronze.x") == "ours-bronze.x"
    assert load(file, kafka(group=None)).kafka.group_of("prod", "bronze.x") is None
    assert "kafka.group" in str(refused(file, kafka(group="{topic}")))


def test_a_secret_of_sparks_is_a_reference_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_SECRET", PASSWORD)
    key = "spark.hadoop.fs.s3a.secret.key"
    settings = load(file, least(spark={"secrets": {key: "env:STORE_SECRET"}}))
    assert settings.spark.secrets[key].resolve() == PASSWORD
    assert "nter" not in settings.model_dump_json()
    monkeypatch.delenv("STORE_SECRET")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, str(file), {})
    assert caught.value.code == "SECRET_MISSING"


@pytest.mark.parametrize(
    "key",
    [
        *("spark.hadoop.fs.s3a.secret.key", "spark.hadoop.fs.s3a.bucket.a.access.key"),
        *("spark.ssl.keyPassword", "spark.authenticate.secret"),
    ],
)
def test_a_secret_of_sparks_in_clear_is_refused_without_a_word_of_it(file: Path, key: str) -> None:
    file.write_text(yaml.safe_dump(least(spark={"conf": {key: PASSWORD}})))
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, str(file), {})
    assert caught.value.code == "SETTINGS_INVALID"
    assert key in caught.value.message
    assert "spark.secrets" in caught.value.message
    assert "nter" not in str(caught.value)
