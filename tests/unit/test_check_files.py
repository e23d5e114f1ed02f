"""Check files, judged without Soda."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from streams.quality.check_files import validate_checks

CHECK_FILES = sorted((Path(__file__).parents[2] / "contracts" / "soda").rglob("*.yml"))


@pytest.mark.parametrize("file", CHECK_FILES, ids=lambda file: file.name)
def test_our_own_check_files_are_right(file: Path) -> None:
    assert validate_checks(file) == []


@pytest.mark.parametrize("file", CHECK_FILES, ids=lambda file: file.name)
def test_sodas_own_parser_agrees(file: Path) -> None:
    from streams.quality.soda_engine import LiveConnection, build_scan

    variables = {"previous_row_count": "0", "most_rows": "1"}
    scan = build_scan(LiveConnection(None), [file.read_text()], variables)  # type: ignore[arg-type]
    assert scan.errors == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no check"),
        ("checks for t: [", "cannot be read"),
        ("checks for t:\n  - row_count > 0\nchecks for t:\n  - row_count > 1\n", "twice"),
        ("checks for other:\n  - row_count > 0\n", "must be about t"),
        ("check for t:\n  - row_count > 0\n", "not understood"),
        ("checks for t: row_count > 0\n", "no list"),
        ("checks for t:\n  - row_cuont > 0\n", "did you mean 'row_count'"),
        ("checks for t:\n  - row_count is 0\n", "not understood"),
        ("checks for t:\n  - row_count\n", "no threshold"),
        ("checks for t:\n  - missing_count = 0\n", "needs a column"),
        ("checks for t:\n  - invalid_count(a) = 0\n", "what is valid"),
        ("checks for t:\n  - invalid_count(a) = 0:\n      valid mni: 1\n", "did you mean 'valid min'"),
        ("checks for t:\n  - invalid_count(a) = 0:\n      valid regex: '['\n", "no regular expression"),
        ("checks for t:\n  - row_count:\n      warn: if > 0\n", "when > 0"),
        ("checks for t:\n  - failed rows:\n      name: n\n", "fail condition"),
        ("checks for t:\n  - failed rows:\n      fail condition: a > 1\n", "needs a `name`"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "t.gate.yml"
    file.write_text(text)
    assert any(says in problem for problem in validate_checks(file))


def test_a_file_that_is_not_there_is_a_problem_and_no_crash(tmp_path: Path) -> None:
    assert len(validate_checks(tmp_path / "t.yml")) == 1


def test_judging_a_check_file_imports_no_soda() -> None:
    import subprocess

    code = (
        "import sys; from pathlib import Path; from streams.quality.check_files import validate_checks;"
        f"validate_checks(Path({str(CHECK_FILES[0])!r}));"
        "sys.exit('soda' in sys.modules or 'pyspark' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


@pytest.mark.parametrize(
    ("expression", "condition"),
    [
        ("COUNT(CASE WHEN a > 1 THEN 1 END)", "a > 1"),
        ("count_if(a > 1 OR b = ')')", "a > 1 OR b = ')'"),
        ("count_if(CASE WHEN a THEN b ELSE c END)", "CASE WHEN a THEN b ELSE c END"),
        ("count_if(a) + count_if(b)", None),
        ("COUNT(CASE WHEN a THEN 1 END) - COUNT(CASE WHEN b THEN 1 END)", None),
        ("COUNT(CASE WHEN a THEN 2 WHEN b THEN 1 END)", None),
        ("COUNT(*)", None),
        ("SUM(a)", None),
        ("count_if(DISTINCT a)", None),
    ],
)
def test_only_one_whole_count_of_rows_gives_a_condition(expression: str, condition: str | None) -> None:
    from streams.quality.soda_engine import counted_condition

    assert counted_condition(expression) == condition
