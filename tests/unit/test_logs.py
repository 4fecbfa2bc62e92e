from __future__ import annotations

import json
import logging
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.logs import _LibraryFormatter, failure

kinds = st.sampled_from([ValueError, KeyError, RuntimeError, UnicodeError, OSError, msgspec.ValidationError])


def raise_deep(error: BaseException, depth: int) -> None:
    if depth:
        raise_deep(error, depth - 1)
    raise error


@given(kind=kinds, depth=st.integers(0, 6))
def test_a_failure_is_told_by_class_and_place_and_never_by_its_message(kind, depth):
    secret = "Asha Rao has a cough"
    cause = RuntimeError(secret)
    try:
        try:
            raise cause
        except RuntimeError as error:
            raise_deep(kind(secret), depth)
            raise AssertionError("unreachable") from error
    except kind as error:
        told = failure(error)
    assert told["error"] == kind.__name__
    assert 1 <= len(told["where"]) <= 4
    assert told["where"][-1].startswith("unit/test_logs.py:")
    assert "Asha" not in json.dumps(told)


def test_a_failure_that_was_never_raised_has_no_place():
    assert failure(ValueError("Asha Rao")) == {"error": "ValueError", "where": []}


@pytest.mark.parametrize("name", ["asyncio", "asyncpg.pool", "litestar", "httpx2"])
def test_a_library_s_message_is_not_repeated(name):
    try:
        raise ValueError("Asha Rao")
    except ValueError:
        raised = sys.exc_info()
    for info in (None, raised):
        record = logging.LogRecord(name, logging.ERROR, "x.py", 1, "it was %s", ("Asha Rao",), info)
        line = _LibraryFormatter().format(record)
        assert "Asha" not in line
        assert json.loads(line)["logger"] == name
    assert json.loads(line)["error"] == "ValueError"
