"""The discovery document: bounded, kept, never waited for, read field by field."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.vendor_limits import ModelLimits
from service.eka.discovery import PATH, SEED_LIMITS, Discovery, read_limits
from tests.support.makers import TurnedClock

RECORDINGS = Path(__file__).parents[1] / "recordings" / "eka.jsonl"
BASE = "https://eka.example"


def recorded() -> dict[str, Any]:
    """The document of the vendor's on-prem server."""
    found = (json.loads(line) for line in RECORDINGS.read_text().splitlines())
    return next(each["response"]["body"]["json"] for each in found if each["label"] == "discovery")


class Vendor:
    """Answers discovery as a test wants it, and counts."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.before: Callable[[], Awaitable[Any]] | None = None

    async def take(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request.url.path)
        assert "authorization" not in request.headers
        if self.before is not None:
            await self.before()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            return httpx2.Response(answer, json={"detail": "no"})
        return httpx2.Response(
            200, content=answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        )


@asynccontextmanager
async def discovery(vendor: Vendor) -> AsyncIterator[tuple[Discovery, TurnedClock]]:
    clock = TurnedClock()
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(vendor.take)) as http:
        made = Discovery(http=http, base_url=BASE, clock=clock)
        yield made, clock
        await made.stop()


async def looked(found: Discovery) -> None:
    """Wait until the look that is under way is over."""
    assert found._refreshing is not None
    await asyncio.wait([found._refreshing], timeout=5)


async def test_the_recorded_document_is_read_as_a_whole():
    limits = read_limits(recorded())
    assert limits.audio_formats == SEED_LIMITS.audio_formats
    assert limits.models == SEED_LIMITS.models
    assert limits.languages == SEED_LIMITS.languages
    assert limits.webhooks_url == "http://upstream.test/voice/v1/webhooks"
    assert limits.service_name == "Scribe Service"
    assert limits.max_chunk_bytes is None
    assert limits.upload_methods == ("chunked", "single")
    assert not limits.auto_detection
    assert limits.discovered == {
        "audio_formats",
        "upload_methods",
        "max_chunk_duration_seconds",
        "models",
        "languages",
        "webhooks_url",
        "service_name",
    }


@pytest.mark.parametrize(
    ("listed", "read"),
    [
        (["chunked", "single", "stream"], ("chunked", "single", "stream")),
        (["stream", "carrier", "chunked", 7], ("chunked", "stream")),
        (["carrier"], SEED_LIMITS.upload_methods),
        ([], SEED_LIMITS.upload_methods),
        ("chunked", SEED_LIMITS.upload_methods),
    ],
)
def test_upload_methods_are_those_that_we_know(listed, read):
    assert read_limits({"capabilities": {"upload_methods": listed}}).upload_methods == read


@pytest.mark.parametrize(("told", "read"), [(True, True), (False, False), ("true", False), (1, False)])
def test_detection_of_languages_is_offered_only_by_a_plain_true(told, read):
    assert read_limits({"languages": {"auto_detection": told}}).auto_detection is read


async def test_it_is_asked_once_and_kept_for_three_hours():
    vendor = Vendor({"languages": {"supported": ["fr"]}}, {"languages": {"supported": ["de"]}})
    async with discovery(vendor) as (found, clock):
        for _ in range(3):
            assert (await found.limits()).languages == ("fr",)
        assert vendor.asked == [PATH]
        await clock.sleep(3 * 3600 - 1)
        await found.limits()
        assert len(vendor.asked) == 1
        await clock.sleep(1)
        assert (await found.limits()).languages == ("fr",)  # nobody waits for the second look
        await looked(found)
        assert len(vendor.asked) == 2
        assert (await found.limits()).languages == ("de",)


async def test_many_callers_cause_one_look():
    vendor = Vendor({"languages": {"supported": ["fr"]}})
    async with discovery(vendor) as (found, _):
        answers = await asyncio.gather(*(found.limits() for _ in range(50)))
    assert {limits.languages for limits in answers} == {("fr",)}
    assert vendor.asked == [PATH]


async def test_only_the_first_look_is_waited_for_and_two_seconds_at_most():
    vendor = Vendor({"languages": {"supported": ["fr"]}})
    let_go = asyncio.Event()
    vendor.before = let_go.wait
    async with discovery(vendor) as (found, _):
        started = monotonic()
        answers = await asyncio.gather(*(found.limits() for _ in range(10)))
        assert 1.8 < monotonic() - started < 2.8
        assert answers == [SEED_LIMITS] * 10
        started = monotonic()
        assert await found.limits() == SEED_LIMITS
        assert monotonic() - started < 0.5
        let_go.set()
        await looked(found)
        assert len(vendor.asked) == 1
        assert (await found.limits()).languages == ("fr",)
    assert vendor.asked == [PATH]


async def test_the_root_is_asked_where_the_vendor_has_nothing_below_voice():
    vendor = Vendor(404, {"languages": {"supported": ["fr"]}})
    async with discovery(vendor) as (found, _):
        assert (await found.limits()).languages == ("fr",)
    assert vendor.asked == [PATH, "/.well-known/medscribealliance"]


@pytest.mark.parametrize(
    "broken",
    [
        500,
        403,
        302,
        b"",
        b"<html>",
        b"[]",
        b"\xff",
        b'"text"',
        b"[" * 100_000,
        b'{"x": "' + b"y" * 2_000_000 + b'"}',
        httpx2.ConnectError("no"),
        httpx2.ReadTimeout("no"),
    ],
)
async def test_a_look_that_fails_leaves_the_last_good_copy_and_is_repeated_after_a_minute(broken: Any):
    good = {"languages": {"supported": ["fr"]}}
    vendor = Vendor(good, broken, good | {"service": {"name": "back"}})
    async with discovery(vendor) as (found, clock):
        await found.limits()
        await clock.sleep(3 * 3600)
        await found.limits()
        await looked(found)
        assert len(vendor.asked) == 2
        assert (await found.limits()).languages == ("fr",)
        await clock.sleep(59)
        await found.limits()
        assert len(vendor.asked) == 2
        await clock.sleep(1)
        await found.limits()
        await looked(found)
        assert len(vendor.asked) == 3
        assert (await found.limits()).service_name == "back"


async def test_without_any_good_copy_the_published_values_serve():
    vendor = Vendor(503)
    async with discovery(vendor) as (found, _):
        assert await found.limits() == SEED_LIMITS
        assert await found.look() == SEED_LIMITS


async def test_a_look_on_purpose_is_fresh():
    vendor = Vendor({"languages": {"supported": ["fr"]}}, {"languages": {"supported": ["de"]}})
    async with discovery(vendor) as (found, _):
        await found.limits()
        assert (await found.look()).languages == ("de",)


async def test_stopping_lets_go_of_a_look_that_hangs():
    vendor = Vendor({})
    begun = asyncio.Event()

    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    vendor.before = hang
    async with discovery(vendor) as (found, _):
        asking = asyncio.create_task(found.limits())
        await begun.wait()
        async with asyncio.timeout(1):
            await found.stop()
            assert await asking == SEED_LIMITS


def capability(**fields: Any) -> dict[str, Any]:
    return {"capabilities": fields}


@pytest.mark.parametrize(
    ("document", "field", "value"),
    [
        (capability(audio_formats=["audio/webm; codecs=opus", "audio/flac"]), "audio_formats",
         ("audio/webm; codecs=opus", "audio/flac")),
        (capability(audio_formats=["text/html", 5, "audio/wav", "audio/x\r\ny: z", "audio/wav"]),
         "audio_formats", ("audio/wav",)),
        (capability(max_chunk_duration_seconds=30.0), "max_chunk_duration_seconds", 30),
        (capability(max_chunk_size_bytes=5_000_000), "max_chunk_bytes", 5_000_000),
        (capability(max_chunk_size_mb=10), "max_chunk_bytes", 10_485_760),
        (capability(max_chunk_size_mb=2.5), "max_chunk_bytes", 2_621_440),
        (capability(max_chunk_size_bytes="many", max_chunk_size_mb=1), "max_chunk_bytes", 1_048_576),
        ({"models": [{"id": "max", "languages": ["fr"], "max_session_duration_seconds": 7200}]}, "models",
         (ModelLimits(id="max", languages=("fr",), max_session_duration_seconds=7200),)),
        ({"models": ["pro", {"id": "lite", "languages": 5, "max_session_duration_seconds": None}]}, "models",
         (ModelLimits(id="lite", languages=(), max_session_duration_seconds=600),)),
        ({"languages": {"supported": ["fr", None, "fr", "de"]}}, "languages", ("fr", "de")),
        ({"endpoints": {"webhooks_url": "https://eka.example/voice/v1/webhooks/"}}, "webhooks_url",
         "https://eka.example/voice/v1/webhooks"),
        ({"service": {"name": "Ärzte"}}, "service_name", "Ärzte"),
    ],
)  # fmt: skip
def test_each_field_is_read(document: dict[str, Any], field: str, value: Any):
    limits = read_limits(document)
    assert getattr(limits, field) == value
    assert limits.discovered == {field}


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"capabilities": [], "models": {}, "languages": "en", "endpoints": None, "service": 7},
        capability(audio_formats=[], max_chunk_duration_seconds=0, max_chunk_size_bytes=10),
        capability(max_chunk_size_mb=0),
        capability(audio_formats="audio/wav", max_chunk_duration_seconds=True, max_chunk_size_mb=10**30),
        capability(max_chunk_duration_seconds="20", max_chunk_size_bytes=-1),
        {"models": [{"id": ""}, {"id": 5}, {}, None, "pro"]},
        {"languages": {"supported": [1, None, "", " ", "x" * 500]}},
        {"service": {"name": ["x"]}},
        *(
            {"endpoints": {"webhooks_url": url}}
            for url in (5, "", "/voice/v1/webhooks", "ftp://eka.example/", "https://", "https://[", "https://a:b/",
                        "https://u:p@eka.example/", "https://eka.example/?token=x", "https://eka.example/#x")
        ),
    ],
)  # fmt: skip
def test_a_field_that_makes_no_sense_falls_back_by_itself(document: dict[str, Any]):
    assert read_limits(document) == SEED_LIMITS
    with_one_good = read_limits(document | {"service": {"name": "good"}})
    assert with_one_good.service_name == "good"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
names = st.sampled_from(
    ["audio_formats", "max_chunk_duration_seconds", "max_chunk_size_bytes", "max_chunk_size_mb", "supported",
     "webhooks_url", "name", "id", "languages"]
)  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from(["capabilities", "models", "languages", "endpoints", "service"]),
        json_values | st.dictionaries(names, json_values) | st.lists(st.dictionaries(names, json_values)),
    )
)
def test_no_document_breaks_it_and_something_is_always_left(document: dict[str, Any]):
    limits = read_limits(document)
    assert limits.audio_formats
    assert limits.models
    assert limits.languages
    assert limits.max_chunk_duration_seconds >= 1
    assert limits.service_name
