"""What discovery lists is let through, what it does not is refused, what it does not say is not judged."""

from __future__ import annotations

import msgspec
import pytest

from service.domain.errors import InvalidRequest, UploadNotSupported
from service.domain.vendor_limits import Limits, ModelLimits, check_limits, check_upload
from service.eka.discovery import SEED_LIMITS

KNOWN = Limits(
    audio_formats=("audio/wav",),
    max_chunk_duration_seconds=20,
    models=(
        ModelLimits(id="lite", languages=("en", "hi"), max_session_duration_seconds=600),
        ModelLimits(id="pro", languages=(), max_session_duration_seconds=3600),
    ),
    languages=("EN", "hi-IN", "ta"),
    service_name="x",
    discovered=frozenset({"models", "languages"}),
)


def refused(limits: Limits = KNOWN, **asked: object) -> InvalidRequest | None:
    wanted = {"model": None, "languages": None, "transcript_language": None} | asked
    try:
        check_limits(limits, **wanted)  # type: ignore[arg-type]
    except InvalidRequest as error:
        return error
    return None


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"model": "lite"},
        {"model": "pro", "languages": ["en", "ta"], "transcript_language": "hi"},
        {"languages": ["en-IN", "En-us", "hi", "HI-in"]},
        {"languages": ["en-hi", "hi-en"]},
        {"languages": []},
        {"model": "lite", "languages": ["en"], "transcript_language": "ta"},
    ],
)
def test_what_is_listed_passes_in_any_spelling(asked: dict):
    assert refused(**asked) is None


@pytest.mark.parametrize(
    ("asked", "field", "allowed"),
    [
        ({"model": "max"}, "model", "lite, pro"),
        ({"languages": ["en", "fr"]}, "languages", "EN, hi-IN, ta"),
        ({"languages": ["fr-en"]}, "languages", "EN, hi-IN, ta"),
        ({"languages": ["e"]}, "languages", "EN, hi-IN, ta"),
        ({"transcript_language": "fr"}, "transcript_language", "EN, hi-IN, ta"),
        ({"model": "lite", "languages": ["ta"]}, "languages", "en, hi"),
    ],
)
def test_what_is_not_listed_is_refused_with_its_field_and_what_is_allowed(asked, field, allowed):
    error = refused(**asked)
    assert error is not None
    assert error.extra["field"] == field
    assert error.detail.endswith(f"allowed: {allowed}")


def test_before_discovery_nothing_is_judged():
    assert refused(SEED_LIMITS, model="max", languages=["fr"], transcript_language="fr") is None


def test_a_document_that_is_silent_about_a_field_does_not_judge_it():
    models = msgspec.structs.replace(KNOWN, discovered=frozenset({"models"}))
    assert refused(models, model="pro", languages=["fr"], transcript_language="fr") is None
    assert refused(models, model="lite", languages=["ta"]) is not None
    languages = msgspec.structs.replace(KNOWN, discovered=frozenset({"languages"}))
    assert refused(languages, model="max", languages=["ta"]) is None
    assert refused(languages, model="lite", languages=["fr"]) is not None


@pytest.mark.parametrize(("theirs", "ours", "least"), [(None, 100, 100), (50, 100, 50), (200, 100, 100)])
def test_a_chunk_may_have_what_both_of_us_allow(theirs, ours, least):
    assert msgspec.structs.replace(KNOWN, max_chunk_bytes=theirs).chunk_bytes(ours) == least


@pytest.mark.parametrize("more", [{"auto_detection": True}, {"languages": ("en", "auto_detect")}])
@pytest.mark.parametrize("languages", [["auto_detect"], ["auto_detect", "en"]])
def test_detection_is_asked_for_where_discovery_offers_it_of_any_model(more, languages):
    limits = msgspec.structs.replace(KNOWN, **more)
    assert refused(limits, model="lite", languages=languages) is None
    assert refused(limits, model="lite", languages=[*languages, "fr"]) is not None


@pytest.mark.parametrize("languages", [["auto_detect"], ["auto_detect", "en"]])
def test_detection_is_refused_where_discovery_does_not_offer_it(languages):
    for limits in (KNOWN, msgspec.structs.replace(KNOWN, discovered=frozenset({"service_name"}))):
        error = refused(limits, languages=languages)
        assert error is not None
        assert (error.extra["field"], error.detail.endswith("allowed: EN, hi-IN, ta")) == ("languages", True)
    assert refused(SEED_LIMITS, languages=languages) is None, "nothing is known yet"


def test_a_way_of_sending_audio_is_refused_where_discovery_does_not_offer_it():
    limits = msgspec.structs.replace(KNOWN, upload_methods=("chunked", "single"))
    for method in ("chunked", "single"):
        check_upload(limits, method)
    with pytest.raises(UploadNotSupported, match="chunked, single"):
        check_upload(limits, "stream")
    for method in ("chunked", "single", "stream"):
        check_upload(SEED_LIMITS, method)
    assert limits.templates_are_fixed
    assert not SEED_LIMITS.templates_are_fixed
