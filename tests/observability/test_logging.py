from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from service.observability.logging import _LibraryFormatter, configure_logs, describe_failure

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
        told = describe_failure(error)
    assert told["error"] == kind.__name__
    assert 1 <= len(told["where"]) <= 4
    assert told["where"][-1].startswith("observability/test_logging.py:")
    assert "Asha" not in json.dumps(told)


def test_a_failure_that_was_never_raised_has_no_place():
    assert describe_failure(ValueError("Asha Rao")) == {"error": "ValueError", "where": []}


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


class Unspeakable:
    """Cannot even be shown."""

    def __repr__(self) -> str:
        raise ValueError("Asha Rao")


@contextmanager
def written(monkeypatch: pytest.MonkeyPatch, level: str = "info") -> Iterator[list[Any]]:
    """What is written to standard error, line by line, with our logs configured for it; then as it was."""
    before, handlers = structlog.get_config(), logging.getLogger().handlers[:]
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    lines: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        configure_logs(level)
        try:
            yield lines
        finally:
            assert isinstance(stream.buffer, io.BytesIO)
            content = stream.buffer.getvalue()
            assert content.endswith(b"\n") or not content
            lines += [strict_json(line) for line in content.split(b"\n")[:-1]]
            structlog.configure(**before)
            logging.basicConfig(force=True, handlers=handlers, level=logging.WARNING)


def strict_json(line: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(line, parse_constant=refuse)


ODD = [
    (b"\xff\x00", None),
    ({"a"}, ["a"]),
    (("a", None, True), ["a", None, True]),
    (ValueError("Asha Rao"), "ValueError"),
    ([KeyError("Asha Rao")], ["KeyError"]),
    ({"at": Unspeakable()}, {"at": "Unspeakable"}),
    (Unspeakable(), "Unspeakable"),
    (ValueError, "type"),
    ("\ud800 half", "\\ud800 half"),
    (["\udcff"], "list"),
    ({"\udcff": 1}, "dict"),
    (float("nan"), None),
    (float("-inf"), None),
    (10**400, None),
    ({1: "a"}, {"1": "a"}),
    ("two\nlines\r\n\u2028\x00", "two\nlines\r\n\u2028\x00"),
]


@pytest.mark.parametrize(("value", "told"), ODD, ids=[str(number) for number in range(len(ODD))])
def test_each_event_is_one_line_of_json_whatever_its_values(monkeypatch, value, told):
    with written(monkeypatch) as lines:
        structlog.get_logger().info("seen", value=value, count=3)
        structlog.get_logger().warning("next")
    assert [line["event"] for line in lines] == ["seen", "next"]
    assert (lines[0]["count"], lines[0]["level"]) == (3, "info")
    assert {"value", "timestamp"} <= set(lines[0])
    assert "Asha" not in str(lines)
    if told is not None:
        assert lines[0]["value"] == told


def test_what_has_no_end_is_told_all_the_same(monkeypatch):
    endless: list[Any] = []
    endless.append(endless)
    with written(monkeypatch) as lines:
        structlog.get_logger().info("seen", value=endless)
        structlog.get_logger().info("\ud800", **{"\udcff": "\udcff", "event_": None})
    assert (lines[0]["event"], lines[0]["value"]) == ("seen", "list")
    assert (lines[1]["event"], lines[1]["\\udcff"]) == ("\\ud800", "\\udcff")


def test_logs_that_are_configured_again_follow(monkeypatch):
    """A logger that had written once kept its file and level for ever, and no test captured it any more."""
    log = structlog.get_logger()
    with written(monkeypatch, "error") as first:
        log.error("seen")
        log.info("unseen")
    with written(monkeypatch, "info") as second:
        log.info("seen")
        configure_logs("warning")
        log.info("unseen")
        with capture_logs() as captured:
            log.warning("captured")
        log.warning("seen again")
    assert [line["event"] for line in first] == ["seen"]
    assert [line["event"] for line in second] == ["seen", "seen again"]
    assert [each["event"] for each in captured] == ["captured"]
