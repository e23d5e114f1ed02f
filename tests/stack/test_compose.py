"""Each service of docker-compose.yml as its embedded twin: its own command and health check, and a real client's call.

The last test starts the file itself, where there is a container engine.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import requests
import yaml

from streams.local.replay import plan_replay
from streams.local.s3_server import client
from streams.settings import PROJECT, load_settings
from tests.stack.airflow_stack import installed
from tests.stack.compose_stack import FILE, ORDERS, Stack, environment
from tests.stack.reading import read_topic
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """All of the core but the service itself, healthy."""
    with Stack() as running:
        running.start_kafka()
        running.start_postgres()
        running.up("s3")
        seeded = running.run("seed")
        assert seeded.returncode == 0, seeded.stderr
        running.up("redshift", "snowflake", "salesforce", "shop")
        yield running


def settings_of(stack: Stack) -> Any:
    """The service's own, as it has them in this stack."""
    configuration = str(stack.configuration("streams"))
    given = pytest.MonkeyPatch()
    with given.context() as patch:
        for name, value in environment(stack.services["streams"]).items():
            patch.setenv(name, value)
        return load_settings(None, configuration, {})


def test_seed_made_the_topic_and_the_buckets(stack: Stack) -> None:
    again = stack.run("seed")
    assert again.returncode == 0, again.stderr
    assert "topic order_events is there" in again.stderr
    s3 = client(stack.here("streams", "http://s3:5000"), "any", "any")
    assert {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]} == {"lakehouse", "lakehouse-staging"}


def test_broker_is_what_its_container_is_told(stack: Stack) -> None:
    properties = (stack.folder / "kafka" / "server.properties").read_text()
    assert "auto.create.topics.enable=false\n" in properties
    assert f"HOST://localhost:{stack.port['kafka', 9094]}\n" in properties
    # The address for clients on the host leads to the same messages.
    held = read_topic(f"localhost:{stack.port['kafka', 9094]}", "order_events")
    assert held
    assert held[0].partition in range(4)


def test_shop_has_sent_all(stack: Stack) -> None:
    plan = plan_replay(7, ORDERS)
    log = stack.folder / "shop.log"
    wait_until(lambda: "files sent" in log.read_text())
    held = read_topic(f"127.0.0.1:{stack.port['kafka', 9092]}", "order_events")
    assert len(held) == len(plan.messages)
    landing = stack.folder / "volumes" / "landing"
    assert {file.name for file in landing.iterdir() if file.name[0] not in "._"} == {file.name for file in plan.files}


@pytest.mark.parametrize("source", ["snowflake", "redshift", "salesforce"])
def test_service_reaches_its_source(stack: Stack, source: str) -> None:
    # By the real clients, with the configuration and the secrets of the stack.
    checked = stack.run("streams", ["streams", "sources", "check", source, "--env", "compose"])
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_redshift_unloads_to_s3_and_copies_from_there(stack: Stack) -> None:
    import redshift_connector

    login, password = stack.port["redshift", 5439], stack.secret("redshift_password")
    with (
        redshift_connector.connect(
            host="127.0.0.1", port=login, database="shop", user="loader", password=password, ssl=False
        ) as connection,
        connection.cursor() as cursor,
    ):
        ((rows,),) = cursor.execute("SELECT COUNT(*) FROM customer_behavior").fetchall()
        place = "s3://lakehouse-staging/compose/"
        options = "IAM_ROLE default FORMAT AS PARQUET MANIFEST"
        cursor.execute(f"UNLOAD ('SELECT session_id FROM customer_behavior') TO '{place}' {options}")
        cursor.execute("CREATE TEMP TABLE copied (session_id varchar(65535))")
        cursor.execute(f"COPY copied FROM '{place}manifest' {options}")
        ((copied,),) = cursor.execute("SELECT COUNT(*) FROM copied").fetchall()
        assert copied == rows > 0


def test_what_another_password_gets(stack: Stack) -> None:
    login = {"grant_type": "client_credentials", "client_id": "shop-app"}
    url = stack.here("streams", "http://salesforce:8085") + "/services/oauth2/token"
    assert requests.post(url, {**login, "client_secret": "guessed"}, timeout=10).status_code == 400
    assert requests.post(url, {**login, "client_secret": stack.secret("salesforce_secret")}, timeout=10).ok


def test_s3_keeps_what_it_holds_over_a_restart(stack: Stack) -> None:
    with Stack() as other:
        s3 = other.start("s3")
        other.wait("s3", s3)
        store = client(other.here("streams", "http://s3:5000"), "any", "any")
        store.create_bucket(Bucket="lakehouse")
        store.put_object(Bucket="lakehouse", Key="lake/gold/_delta_log/0 1=ü.json", Body=b"kept")
        written = store.head_object(Bucket="lakehouse", Key="lake/gold/_delta_log/0 1=ü.json")["LastModified"]
        s3.terminate()
        assert s3.wait(60) == 0
        other.up("s3")
        found = store.get_object(Bucket="lakehouse", Key="lake/gold/_delta_log/0 1=ü.json")
        assert (found["Body"].read(), found["LastModified"]) == (b"kept", written)


def test_sick_service_is_said_to_be(stack: Stack, tmp_path: Path) -> None:
    check = stack.services["s3"]["healthcheck"]["test"][1:]
    absent = stack.run("s3", [*check[:-1], str(tmp_path)])
    assert absent.returncode == 1
    assert "NOT_READY" in absent.stderr
    (tmp_path / "_ready.json").write_text(json.dumps({"ready": "s3", "port": stack.port["airflow", 8080]}))
    silent = stack.run("s3", [*check[:-1], str(tmp_path)])
    assert silent.returncode == 1
    assert "does not answer" in silent.stderr


def test_configuration_holds(stack: Stack) -> None:
    validated = stack.run("streams", ["streams", "validate", "--env", "compose"])
    assert validated.returncode == 0, validated.stdout
    assert settings_of(stack).environment == "compose"


@pytest.mark.slow
def test_service_brings_the_shop_into_the_warehouses(stack: Stack) -> None:
    def published() -> bool:
        import redshift_connector

        with (
            redshift_connector.connect(
                host="127.0.0.1",
                port=stack.port["redshift", 5439],
                database="shop",
                user="loader",
                password=stack.secret("redshift_password"),
                ssl=False,
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SELECT to_regclass('fact_orders') IS NOT NULL")
            if not cursor.fetchall()[0][0]:
                return False
            ((rows,),) = cursor.execute("SELECT COUNT(*) FROM fact_orders WHERE is_complete").fetchall()
            return bool(rows >= ORDERS)

    service = stack.start("streams")
    stack.wait("streams", service)
    wait_until(published, service, seconds=900)
    status = stack.run("streams", ["streams", "status", "--env", "compose"])
    assert status.returncode == 0, status.stdout


@pytest.mark.slow
def test_airflow_is_healthy_with_the_dag(tmp_path: Path) -> None:
    # The container's own command, with its users' passwords from the secret.
    with Stack() as stack:
        told = {name: stack.here("airflow", value) for name, value in environment(stack.services["airflow"]).items()}
        home = stack.folder / "volumes" / "airflow-data"
        home.mkdir(parents=True)
        dags = tmp_path / "dags"
        dags.mkdir()
        shutil.copy(PROJECT / "streams" / "airflow" / "daily_pipeline.py", dags)
        variables = stack.environment("airflow") | told
        variables |= {"AIRFLOW_HOME": str(home), "HOME": str(home), "AIRFLOW__CORE__DAGS_FOLDER": str(dags)}
        variables |= {"AIRFLOW__CORE__LOAD_EXAMPLES": "False", "PATH": f"{installed()}:{variables['PATH']}"}
        variables.pop("PYTHONPATH")
        _, _, script = stack.services["airflow"]["command"]
        port = stack.port["airflow", 8080]
        url = f"http://127.0.0.1:{port}"
        with (stack.folder / "airflow.log").open("wb") as log:
            process = subprocess.Popen(
                ["sh", "-c", stack.here("airflow", script)], cwd=home, env=variables, stdout=log, stderr=log
            )
        try:
            *_, check = stack.services["airflow"]["healthcheck"]["test"]
            call = ["python", "-c", check.replace(":8080/", f":{port}/")]
            wait_until(lambda: subprocess.run(call, env=variables, check=False).returncode == 0, process)
            login = {"username": "admin", "password": stack.secret("airflow_password")}
            token = requests.post(f"{url}/auth/token", json=login, timeout=30).json()["access_token"]
            wrong = requests.post(f"{url}/auth/token", json=login | {"password": "guessed"}, timeout=30)
            assert wrong.status_code == 401
            headers = {"Authorization": f"Bearer {token}"}
            found = requests.get(f"{url}/api/v2/dags", headers=headers, timeout=30).json()["dags"]
            assert [dag["dag_id"] for dag in found] == ["lakehouse_daily"]
        finally:
            process.send_signal(signal.Signals[stack.services["airflow"]["stop_signal"]])
            process.wait(60)


def test_compose_takes_the_file() -> None:
    engine = shutil.which("docker")
    if engine is None or subprocess.run([engine, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("there is no `docker compose`")
    call = [engine, "compose", "--file", str(FILE), "--profile", "*", "config", "--quiet"]
    read = subprocess.run(call, check=False, capture_output=True, text=True)
    assert read.returncode == 0, read.stderr


@pytest.mark.slow
def test_stack_comes_up_in_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = shutil.which("docker")
    if engine is None or subprocess.run([engine, "info"], capture_output=True, check=False).returncode:
        pytest.skip("no container engine answers `docker info`")
    from testcontainers.compose import DockerCompose

    # Another name than the user's own stack, whose volumes must stay.
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", "lakehouse-streams-test")
    subprocess.run(["sh", ".docker/secrets.sh"], cwd=PROJECT, check=True)
    profiles = ["observability", "lineage", "airflow"]
    with DockerCompose(PROJECT, build=True, wait=True, profiles=profiles) as running:
        said = {one.Service: one.Health for one in running.get_containers(include_all=True)}
        named = yaml.safe_load(FILE.read_text())["services"]
        assert {name for name, health in said.items() if health == "healthy"} == set(named) - {"seed"}
