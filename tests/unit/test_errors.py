"""The errors' contract with programs: a code, an exit code, the way out."""

from __future__ import annotations

import pytest

from streams.errors import ConfigurationError, FatalError, RetriableError, StreamsError


@pytest.mark.parametrize(("kind", "exit_code"), [(ConfigurationError, 2), (FatalError, 1), (RetriableError, 1)])
def test_an_error_says_what_is_wrong_and_the_way_out(kind: type[StreamsError], exit_code: int) -> None:
    error = kind("THING_BROKEN", "The thing is broken.", way_out="Mend it.", thing=7)
    assert str(error) == "[THING_BROKEN] The thing is broken. Mend it."
    assert (error.exit_code, error.parameters) == (exit_code, {"thing": 7})
