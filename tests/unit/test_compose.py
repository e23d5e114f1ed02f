"""docker-compose.yml and what its images are made of, held against each other and against the project, without an engine."""

from __future__ import annotations

import re
import stat
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from streams.session import build_session
from streams.settings import PROJECT, load_settings
from tests.stack.compose_stack import OURS, Stack, environment, mounts, ports, read

if TYPE_CHECKING:
    from pathlib import Path

COMPOSE = read()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONCE = {
    target
    for service in SERVICES.values()
    for target, how in service.get("depends_on", {}).items()
    if how["condition"] == "service_completed_successfully"
}
DOCKERFILES = sorted((PROJECT / ".docker").rglob("Dockerfile"))
each = pytest.mark.parametrize("name", SERVICES)


def texts(service: dict[str, Any]) -> str:
    """All that a service is told: its command, environment, health check, and the files that are mounted."""
    told = yaml.safe_dump([service.get(key) for key in ("command", "entrypoint", "environment", "healthcheck")])
    folders = [PROJECT / source for source in mounts(service).values() if source.startswith("./")]
    return told + "".join(file.read_text() for folder in folders for file in sorted(folder.rglob("*.yml")))


@each
def test_image_is_pinned(name: str) -> None:
    image = SERVICES[name]["image"]
    assert image in OURS or re.fullmatch(r"[a-z]+(/[a-z-]+)?:v?\d+\.\d+(\.\d+)?", image), image
    # An image of ours is never looked for elsewhere.
    assert (image in OURS) == ("build" in SERVICES[name]) == (SERVICES[name].get("pull_policy") == "build")


@each
def test_container_is_guarded(name: str) -> None:
    service = SERVICES[name]
    user = service["user"].split(":")[0]
    assert user.isdecimal()
    assert int(user) > 0
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.keys() & {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices", "extra_hosts"}
    assert service.get("read_only") or name == "kafka"
    assert service["mem_limit"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["restart"] in ("unless-stopped", "on-failure:5")


@each
def test_port_is_published_on_the_loopback_only(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port


def test_published_ports_differ() -> None:
    published = [port.split(":")[1] for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(published) == len(set(published))


@each
def test_health_is_checked(name: str) -> None:
    if name in ONCE:  # it ends, and who waits for it waits for that
        assert SERVICES[name]["restart"] == "on-failure:5"
        return
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert {"interval", "timeout", "retries", "start_period"} <= check.keys()


@each
def test_what_it_waits_for_is_there(name: str) -> None:
    for target, how in SERVICES[name].get("depends_on", {}).items():
        assert set(SERVICES[target].get("profiles", ())) <= set(SERVICES[name].get("profiles", ())), target
        wanted = "service_completed_successfully" if target in ONCE else "service_healthy"
        assert how["condition"] == wanted


@each
def test_whom_it_reaches_exposes_that_port(name: str) -> None:
    said = texts(SERVICES[name])
    if "--env, compose" in said or "STREAMS_ENV: compose" in said or "- compose" in said:
        said += (PROJECT / "checkpoints_config" / "compose.yaml").read_text()
    found = re.findall(rf"(?<![\w.-])({'|'.join(SERVICES)}):(\d+)\b", said)
    found += re.findall(rf"\b(?:host|MARQUEZ_HOST): ({'|'.join(SERVICES)})\s+(?:port|MARQUEZ_PORT): '?(\d+)", said)
    assert found or name not in ("streams", "airflow", "seed", "shop", "grafana", "prometheus", "marquez-web")
    for target, port in found:
        assert int(port) in ports(SERVICES[target]), f"{target}:{port}"
        assert target == name or target in waited_for(name), f"{name} does not wait for {target}"


@each
def test_it_listens_where_it_is_reached(name: str) -> None:
    service = SERVICES[name]
    listens = {int(port) for port in re.findall(r"--port(?:=|\n- ')(\d+)", yaml.safe_dump(service.get("command")))}
    told = environment(service)
    listens |= {int(told[key]) for key in ("STREAMS__PAGE__PORT", "AIRFLOW__API__PORT", "WEB_PORT") if key in told}
    if service["image"] in OURS or name == "marquez-web":
        assert listens == ports(service)


def waited_for(name: str) -> set[str]:
    """All that is there before a service starts."""
    direct = set(SERVICES[name].get("depends_on", ()))
    return direct.union(*(waited_for(target) for target in direct))


@each
def test_what_is_mounted_is_there(name: str) -> None:
    service = SERVICES[name]
    for target, source in mounts(service).items():
        if source.startswith("./"):
            assert (PROJECT / source).is_dir()
            assert f"{source}:{target}:ro" in service["volumes"]
        else:
            assert source in COMPOSE["volumes"]
    assert set(service.get("secrets", ())) <= COMPOSE["secrets"].keys()
    for used in re.findall(r"/run/secrets/(\w+)", texts(service)):
        assert used in service["secrets"], used


def test_volumes_and_secrets_are_used() -> None:
    assert {source for one in SERVICES.values() for source in mounts(one).values() if source[0] != "."} == set(
        COMPOSE["volumes"]
    )
    assert {secret for one in SERVICES.values() for secret in one.get("secrets", ())} == set(COMPOSE["secrets"])


def test_shared_volume_is_at_the_same_path_everywhere() -> None:
    # Snowflake's clients and PostgreSQL are told paths that lie in them.
    for volume in ("snowflake-stages", "redshift-files", "landing"):
        at = {target for one in SERVICES.values() for target, source in mounts(one).items() if source == volume}
        assert len(at) == 1


def test_volume_of_ours_belongs_to_its_user() -> None:
    made = "\n".join(file.read_text() for file in DOCKERFILES)
    for service in SERVICES.values():
        if service["image"] in OURS:
            assert service["user"] == "10001:10001"
            for target in mounts(service):
                assert re.search(rf"install --directory --owner streams [^&]*{target}\b", made), target


def test_secrets_are_made_once_and_never_committed(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    script = ["sh", str(PROJECT / ".docker" / "secrets.sh"), str(folder)]
    for secret in COMPOSE["secrets"].values():
        assert secret["file"].startswith(".secrets/")
    subprocess.run(script, check=True)
    first = {file.name: file.read_text() for file in folder.iterdir()}
    assert set(first) == set(COMPOSE["secrets"])
    assert len(set(first.values())) == len(first)
    assert all(re.fullmatch("[0-9a-f]{48}", secret) for secret in first.values())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o444}
    subprocess.run(script, check=True)
    assert {file.name: file.read_text() for file in folder.iterdir()} == first
    ignored = (PROJECT / ".gitignore").read_text().splitlines()
    assert {".secrets/", ".env"} <= set(ignored)
    assert ".secrets" not in (PROJECT / ".dockerignore").read_text()
    assert subprocess.run(
        ["git", "check-ignore", "-q", ".secrets/page_token", ".env"], cwd=PROJECT, check=False
    ).returncode in (0, 128)  # 128: not a clone


def test_no_password_stands_in_the_files() -> None:
    for service in SERVICES.values():
        for variable, value in environment(service).items():
            if re.search("PASSWORD|SECRET|TOKEN", variable) and variable != "AWS_SECRET_ACCESS_KEY":
                assert "/run/secrets/" in value or value.startswith("/var/lib/"), variable


@pytest.mark.parametrize("name", ["streams", "airflow"])
def test_every_variable_is_one_that_the_service_takes(name: str) -> None:
    told = environment(SERVICES[name]) | {"STREAMS__LINEAGE__URL": "http://marquez:5000"}
    mine = {variable: value for variable, value in told.items() if variable.startswith("STREAMS__")}
    settings = load_settings("compose", None, mine, check_secrets=False)
    for variable, value in mine.items():
        place: Any = settings
        for part in variable.removeprefix("STREAMS__").lower().split("__"):
            place = getattr(place, part)
        assert str(place) == value


def test_configuration_names_what_the_stack_makes() -> None:
    settings = load_settings("compose", None, {}, check_secrets=False)
    seed = SERVICES["seed"]["command"]
    assert f"--topic={settings.kafka.topics.order_events}" in seed
    assert f"--topic={settings.kafka.topics.order_events}" in SERVICES["shop"]["command"]
    assert f"--landing={settings.files.fx_rates}" in SERVICES["shop"]["command"]
    redshift, target = settings.sources.redshift, settings.targets.redshift
    assert redshift is not None
    assert target is not None
    places = (settings.lake.root, settings.checkpoints.root, settings.dq_results_root, redshift.staging, target.staging)
    assert {f"--bucket={re.sub('^s3a?://', '', str(place)).split('/')[0]}" for place in places} == {
        one for one in seed if one.startswith("--bucket")
    }
    for name in ("streams", "airflow"):
        told = environment(SERVICES[name])
        references = (settings.personal.hash_key, *settings.sources.secrets(), *settings.targets.secrets())
        for reference in references:
            assert reference is not None
            scheme, _, place = str(reference).partition(":")
            assert scheme in ("file", "env")
            if scheme == "file":
                assert place.removeprefix("/run/secrets/") in SERVICES[name]["secrets"]
            else:
                assert place in told
        assert told["AWS_ENDPOINT_URL"] == settings.spark.conf["spark.hadoop.fs.s3a.endpoint"] == redshift.s3_endpoint
        assert settings.files.fx_rates in mounts(SERVICES[name])


def test_dag_finds_the_service() -> None:
    told = environment(SERVICES["airflow"])
    assert told["AIRFLOW_VAR_STREAMS_ENV"] == "compose"
    for variable in told:
        if variable.startswith("AIRFLOW_VAR_"):
            assert (
                f"{variable.removeprefix('AIRFLOW_VAR_').lower()}'"
                in (PROJECT / "streams" / "airflow" / "daily_pipeline.py").read_text()
            )
    home = told["AIRFLOW_VAR_STREAMS_HOME"]
    assert f"WORKDIR {home}\n" in (PROJECT / ".docker" / "Dockerfile").read_text()


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_dockerfile(file: Path) -> None:
    lines = re.sub(r"\\\n\s*", "", file.read_text()).splitlines()
    said = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    stages: set[str] = {"streams"}  # handed in as a context of that name
    for word, rest in said:
        if word == "FROM":
            image, *alias = rest.split(" AS ")
            assert image in stages or re.search(r":\d+\.\d+\.\d+[\w.-]*$", image), image
            stages.update(alias)
        if word == "COPY" and "--from" not in rest:
            *sources, _ = rest.split()
            for source in sources:
                assert (PROJECT / source).exists(), source
                assert is_sent_to_the_builder(source), source
        if word == "RUN" and "pip install" in rest:
            for call in re.findall(r"pip install [^&]*", rest):
                assert "--require-hashes" in call or ("--no-deps" in call and "--no-build-isolation" in call), call
    assert [rest for word, rest in said if word == "USER"][-1] == "10001:10001"
    assert [word for word, _ in said].count("HEALTHCHECK") == 1
    assert "latest" not in file.read_text()
    assert file.relative_to(PROJECT).as_posix() in {
        service["build"]["dockerfile"] for service in SERVICES.values() if "build" in service
    }


def is_sent_to_the_builder(path: str) -> bool:
    """Whether .dockerignore, which begins with leaving everything out, lets a path through."""
    first, *others = (PROJECT / ".dockerignore").read_text().splitlines()[1:]
    assert first == "*"
    kept = {line.removeprefix("!") for line in others if line.startswith("!")}
    return path.split("/", maxsplit=1)[0] in kept


def test_image_has_what_the_service_starts_with() -> None:
    dockerfile = re.sub(r"\\\n\s*", "", (PROJECT / ".docker" / "Dockerfile").read_text())
    (call,) = re.findall(r'python -c "(import os;[^"]*)"', dockerfile)
    assert build_session.__name__ in call
    # The same call, but that it starts no Spark.
    names: dict[str, Any] = {}
    exec(call.replace("build_session(", "print('started', ").replace(", print).stop()", ")"), names)
    java = re.search(r"eclipse-temurin:(\d+)\.", dockerfile)
    assert java is not None
    assert int(java[1]) in (17, 21)
    assert "python:3.11." in dockerfile


def test_prometheus_reads_files_and_targets_that_are_there() -> None:
    said = yaml.safe_load((PROJECT / ".docker" / "prometheus" / "prometheus.yml").read_text())
    folder = mounts(SERVICES["prometheus"])["/etc/prometheus"]
    assert (PROJECT / folder / "prometheus.yml").is_file()
    tokens = [job["authorization"]["credentials_file"] for job in said["scrape_configs"] if "authorization" in job]
    assert tokens == [environment(SERVICES["streams"])["STREAMS__PAGE__TOKEN"].removeprefix("file:")]
    assert all((PROJECT / folder / rule.rpartition("/")[2]).is_file() for rule in said["rule_files"])


def test_grafana_shows_dashboards_that_are_there() -> None:
    provisioning = PROJECT / mounts(SERVICES["grafana"])["/etc/grafana/provisioning"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "files.yml").read_text())["providers"]
    folder = PROJECT / mounts(SERVICES["grafana"])[provider["options"]["path"]]
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert list(folder.glob("*.json"))


def test_stack_is_told_of_no_port_that_there_is_not() -> None:
    with Stack() as stack:
        for name, service in SERVICES.items():
            if service["image"] == OURS[0]:
                assert stack.command(name)[0].startswith("/")
        with pytest.raises(KeyError):
            stack.here("streams", "http://s3:5001")


def test_profiles() -> None:
    by_profile: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        by_profile.setdefault(",".join(service.get("profiles", ["core"])), set()).add(name)
    assert by_profile["airflow"] == {"airflow"}
    assert by_profile["observability"] == {"prometheus", "grafana"}
    assert by_profile["lineage"] == {"marquez-db", "marquez", "marquez-web"}
    assert {"kafka", "s3", "redshift-db", "redshift", "snowflake", "salesforce", "streams"} <= by_profile["core"]
