"""One Spark session for all tests that need one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from pyspark.sql import SparkSession

from streams import jars, worker_python
from streams.session import LOCAL, SESSION_DEFAULTS, driver_jars, driver_java

if TYPE_CHECKING:
    from collections.abc import Iterator

# A test ends before the optimizing compiler has paid for itself. Spark's drivers take it from the environment, so
# that of the processes that tests start too.
QUICK_START = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m -XX:+UseSerialGC"
os.environ["SPARK_SUBMIT_OPTS"] = QUICK_START


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """A session with the settings of the service's own."""
    os.environ.setdefault("PYSPARK_PYTHON", worker_python.path())
    builder = SparkSession.builder.master("local[2]").appName("tests")
    options = SESSION_DEFAULTS | LOCAL | driver_java(jars.find_java(), driver_jars())
    options |= {
        "spark.driver.memory": "1g",
        # So few rows are read sooner by walking through an expression than by code that is made for it; the services
        # that tests start as processes make that code.
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
    }
    for key, value in options.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    yield session
    session.stop()
