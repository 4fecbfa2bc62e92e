"""The tables of the documentation are true."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from schemas.problems import STATUS_OF_CODE
from schemas.sessions import SessionStatus
from service.domain import errors
from service.domain.errors import BridgeError
from service.domain.results import events
from service.eka.audio_formats import _TYPES, PUBLISHED_FORMATS, normalise_audio_format
from service.settings import Settings
from service.settings.parsers import PARSERS
from tests.support.pages import PAGES, ROOT, anchors, rows

DOCS = ROOT / "docs"


def every_error(root: type[BridgeError] = BridgeError) -> Iterator[type[BridgeError]]:
    yield root
    for kind in root.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield from every_error(kind)


def test_every_code_and_its_status_stands_in_the_table() -> None:
    listed = {row[0]: int(row[1]) for row in rows(DOCS / "errors.md", "code") if row[1].isdigit()}
    assert listed == STATUS_OF_CODE
    assert set(listed) >= {kind.code for kind in every_error()}
    assert list(listed) == sorted(listed)
    assert set(listed) <= anchors(DOCS / "errors.md")


def test_the_table_says_which_calls_may_be_repeated() -> None:
    repeatable = {row[0]: row[4] for row in rows(DOCS / "errors.md", "code") if row[1].isdigit()}
    for kind in every_error():
        if kind.retryable and kind.code != "vendor_error":
            assert repeatable[kind.code] == "yes", kind.code
        elif not kind.retryable and kind.code not in {"internal_error", "vendor_error"}:
            assert repeatable[kind.code] != "yes", kind.code


def test_every_bad_ending_is_explained() -> None:
    listed = {row[0] for row in rows(DOCS / "errors.md", "code") if not row[1].isdigit()}
    assert listed == set(events.MESSAGES)


def test_every_setting_and_its_default_stands_in_the_table() -> None:
    listed = {row[0]: row[1] for row in rows(DOCS / "configuration.md", "variable (after `EKABRIDGE_`)")}
    assert list(listed) == [name.upper() for name in Settings.__struct_fields__]
    assert set(listed) == {name.upper() for name in PARSERS}
    for name, default in listed.items():
        value = getattr(Settings(), name.lower())
        if value in (None, "", ()):
            assert default.startswith(("none", "required", "what ")), name
        else:
            assert default == _written(value), name


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(_written(part) for part in value)
    if isinstance(value, float):
        return f"{value:g}"
    return msgspec.json.encode(value).decode().strip('"')


def test_the_allowed_values_are_those_that_are_accepted() -> None:
    for name, _, allowed, _ in rows(DOCS / "configuration.md", "variable (after `EKABRIDGE_`)"):
        bounds = re.search(r"([0-9.]+) to ([0-9]+)$", allowed)
        if bounds is None:
            continue
        least, most = bounds.groups()
        parse = PARSERS[name.lower()]
        parse(least)
        parse(most)
        for beyond in (str(int(least) - 1) if least.isdigit() else "0.01", str(int(most) + 1)):
            with pytest.raises(ValueError, match="must be between"):
                parse(beyond)


def test_every_dependency_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["embedded"],
        *project["dependency-groups"]["dev"],
    ]
    names = [re.match(r"[A-Za-z0-9-]+", requirement)[0] for requirement in declared]  # type: ignore[index]
    assert [row[0] for row in rows(DOCS / "dependencies.md", "package")] == names


def test_every_spelling_of_a_format_is_listed_with_what_it_becomes() -> None:
    listed = {
        spelling: cells[1]
        for cells in rows(DOCS / "integrators.md", "you may write")
        for spelling in re.findall(r"audio/[\w.;=+-]+|application/ogg", cells[0])
    }
    assert set(listed) == {*_TYPES, "audio/webm;codecs=opus", "audio/ogg;codecs=opus"}
    for spelling, becomes in listed.items():
        found = normalise_audio_format(spelling, PUBLISHED_FORMATS)
        assert found is not None
        assert found.media_type == becomes
    assert set(listed.values()) == set(PUBLISHED_FORMATS)


def test_every_status_of_a_session_is_explained() -> None:
    listed = [row[0] for row in rows(DOCS / "integrators.md", "`status`")]
    assert listed == list(SessionStatus.__args__)  # type: ignore[attr-defined]


def test_every_close_code_of_ours_is_explained() -> None:
    listed = {row[0] for row in rows(DOCS / "streaming.md", "close code")}
    source = (ROOT / "service/domain/streams/relay.py").read_text() + (
        ROOT / "service/api/v1/session_stream.py"
    ).read_text()
    never_told = {"1001", "1004", "1005", "1006", "1015"}
    told = set(re.findall(r"\b(1\d{3}|4\d{3})\b", source)) - never_told
    assert told | {"1009"} <= listed


def test_no_page_names_a_machine_or_a_registry() -> None:
    private = re.compile(r"/home/|/tmp/|/opt/|index-url|find-links", re.IGNORECASE)
    for page in PAGES:
        assert not private.search(page.read_text()), page.name
