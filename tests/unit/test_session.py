"""What the driver's JVM is started with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.session import _configuration
from tests.spark.flow_bench import settings_for

if TYPE_CHECKING:
    from pathlib import Path

OURS = {
    "spark.driver.extraClassPath": "/jars/delta.jar",
    "spark.driver.extraJavaOptions": "-Dours=1",
    "spark.jars": "",
}


def configured(folder: Path, **conf: str) -> dict[str, str]:
    settings = settings_for(folder, spark={"conf": {key.replace("__", "."): value for key, value in conf.items()}})
    return _configuration(settings, {}, OURS)


def test_ours_stand_where_nothing_is_configured(tmp_path: Path) -> None:
    assert OURS.items() <= configured(tmp_path).items()


def test_configured_jars_come_after_ours(tmp_path: Path) -> None:
    said = configured(tmp_path, spark__driver__extraClassPath="/their/driver.jar", spark__jars="/a.jar,/b.jar")
    # Spark would put a configured class path in place of another, and no table could be read.
    assert said["spark.driver.extraClassPath"] == "/jars/delta.jar:/their/driver.jar"
    assert said["spark.jars"] == "/a.jar,/b.jar"


def test_configured_options_replace_ours(tmp_path: Path) -> None:
    said = configured(tmp_path, spark__driver__extraJavaOptions="-Dtheirs=1", spark__sql__extensions="none.of.Delta")
    assert said["spark.driver.extraJavaOptions"] == "-Dtheirs=1"
    assert said["spark.sql.extensions"].startswith("io.delta")
