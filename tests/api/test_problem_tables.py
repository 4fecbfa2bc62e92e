from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from schemas.problems import STATUS_OF_CODE, TITLES
from service.domain import errors
from service.domain.errors import (
    BridgeError,
    CallerMistake,
    Overloaded,
    VendorCallHeldBack,
    VendorRefused,
    VendorUnreachable,
)

ROOT = Path(__file__).parents[2]
CLASSES = sorted(
    (each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, BridgeError)),
    key=lambda each: each.__name__,
)
CONTRACT = {
    "idempotency_key_reused": 422,
    "audio_empty": 400,
    "chunk_too_large": 413,
    "chunk_conflict": 409,
    "invalid_audio_format": 415,
    "session_ended": 409,
    "audio_incomplete": 409,
    "audio_missing": 409,
    "vendor_error": 502,
    "vendor_unavailable": 503,
    "vendor_timeout": 504,
    "destination_forbidden": 400,
    "invalid_request": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
}


def make(kind: type[BridgeError]) -> BridgeError:
    if issubclass(kind, VendorRefused):
        return kind("a sentence", status=400, vendor_code=None)
    if issubclass(kind, VendorCallHeldBack | Overloaded):
        return kind("a sentence", retry_after_seconds=1.0)
    if issubclass(kind, VendorUnreachable):
        return kind("a sentence", sent=True)
    return kind("a sentence")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_has_a_code_a_status_and_a_line_that_says_what_it_means(kind):
    error = make(kind)
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", error.code)
    assert error.code in STATUS_OF_CODE
    assert STATUS_OF_CODE[error.code] in TITLES
    assert kind.__doc__
    assert isinstance(error.retryable, bool)
    assert (error.detail, str(error)) == ("a sentence", "a sentence")


@pytest.mark.parametrize(("code", "status"), CONTRACT.items())
def test_the_codes_of_the_contract_have_its_statuses(code, status):
    assert STATUS_OF_CODE[code] == status


def test_each_status_has_a_title_and_no_title_stands_idle():
    assert set(STATUS_OF_CODE.values()) == set(TITLES)


def test_a_caller_s_mistake_is_never_a_5xx_and_the_others_never_a_4xx():
    for kind in CLASSES:
        assert (STATUS_OF_CODE[make(kind).code] < 500) is issubclass(kind, CallerMistake)


def test_no_code_stands_idle():
    text = "".join(
        path.read_text() for path in (ROOT / "service").rglob("*.py") if path.name != "problem_responses.py"
    )
    by_the_framework = {"method_not_allowed", "internal_error"}
    assert {code for code in STATUS_OF_CODE if f'"{code}"' not in text} <= by_the_framework


def test_the_page_that_a_problem_points_to_explains_every_code():
    page = ROOT / "docs" / "errors.md"
    assert page.is_file(), "every problem's `type` points to docs/errors.md"
    text = page.read_text(encoding="utf-8")
    assert [code for code in sorted(STATUS_OF_CODE) if code not in text] == []
