"""Reads the vendor's discovery document in the background; a vendor that is down delays no call for it.

The document is kept for three hours, as its own `Cache-Control` says. While it cannot be fetched, the last
good copy stays in use, and before the first one the published values. A field that is missing or invalid
falls back to its default alone, because a faulty document must not stop a dictation.
"""

import asyncio
import contextlib
from typing import Any, TypeGuard
from urllib.parse import urlsplit

import httpx2
import msgspec
import structlog

from service.domain.clock import Clock
from service.domain.errors import VendorError, VendorFailure
from service.domain.vendor_limits import UPLOAD_METHODS, Limits, ModelLimits
from service.eka.audio_formats import PUBLISHED_FORMATS, normalise_audio_format
from service.eka.http_exchange import VendorAnswer, check, exchange

log = structlog.get_logger()

PATH = "/voice/v1/.well-known/medscribealliance"
_ROOT_PATH = "/.well-known/medscribealliance"
_KEPT_SECONDS = 3 * 3600.0
_RETRY_SECONDS = 60.0
_FETCH_SECONDS = 5.0
_FIRST_WAIT_SECONDS = 2.0
_MAX_BYTES = 1024 * 1024
# The vendor's limit is 10 MB (docs/vendor.md#chunk-limits); a document with a tiny number means another unit.
_MIN_CHUNK_BYTES = 64 * 1024
_MAX_ENTRIES = 200
_MAX_CHARACTERS = 200
_MAX_NUMBER = 2**53
_SPEEDS = ("fast", "standard", "thorough")
_AUTO_DETECT = "auto_detect"
_LANGUAGES = ("en", "hi", "gu", "kn", "ml", "ta", "te", "bn", "mr", "pa", "or", "as")

# The published values (docs/vendor.md#chunk-limits), and those of the on-prem server's own document where
# none are published (docs/vendor.md#discovery).
SEED_LIMITS = Limits(
    audio_formats=PUBLISHED_FORMATS,
    max_chunk_duration_seconds=20,
    models=(
        ModelLimits(
            id="lite",
            languages=_LANGUAGES,
            max_session_duration_seconds=600,
            display_name="Lite",
            response_speed="fast",
        ),
        ModelLimits(
            id="pro",
            languages=_LANGUAGES,
            max_session_duration_seconds=3600,
            display_name="Professional",
            response_speed="standard",
        ),
    ),
    languages=_LANGUAGES,
    service_name="EkaScribe",
)


class Discovery:
    """Fetches and caches the vendor's limits."""

    def __init__(self, *, http: httpx2.AsyncClient, base_url: str, clock: Clock) -> None:
        self._http = http
        self._base_url = base_url
        self._clock = clock
        self._limits = SEED_LIMITS
        self._next_fetch = 0.0
        self._first_fetch = asyncio.Event()
        self._refreshing: asyncio.Task[None] | None = None

    async def limits(self) -> Limits:
        """Return the limits that are known now; only the first call of a process may wait, 2 s at most."""
        if self._now() >= self._next_fetch and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.create_task(self._refresh())
        if not self._first_fetch.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FIRST_WAIT_SECONDS):
                    await self._first_fetch.wait()
            # After one wait without success no other call waits.
            self._first_fetch.set()
        return self._limits

    async def look(self) -> Limits:
        """Fetch the document now and return its limits, or the known ones if that takes over 5 s or fails."""
        await self._refresh()
        return self._limits

    async def document(self) -> dict[str, Any] | None:
        """Fetch the whole document; None if there is none that can be read."""
        try:
            return _document(await self._fetch())
        except VendorError:
            return None

    async def stop(self) -> None:
        """Cancel a fetch that is under way."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)

    async def _refresh(self) -> None:
        # Set first, so that a failure of any kind is not followed by another fetch at once.
        self._next_fetch = self._now() + _RETRY_SECONDS
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                self._limits = read_limits(_document(await self._fetch()))
            self._next_fetch = self._now() + _KEPT_SECONDS
            log.info("discovery_read", discovered=sorted(self._limits.discovered))
        except (TimeoutError, VendorError) as error:
            log.warning("discovery_failed", error=type(error).__name__, kept=bool(self._limits.discovered))
        finally:
            self._first_fetch.set()

    async def _fetch(self) -> VendorAnswer:
        answer = await self._get(PATH)
        if answer.status == 404:  # noqa: PLR2004
            answer = await self._get(_ROOT_PATH)
        return check(answer, 200)

    async def _get(self, path: str) -> VendorAnswer:
        # The document is public, so no token is sent (docs/vendor.md#discovery).
        headers = {"accept": "application/json"}
        return await exchange(
            self._http,
            "GET",
            self._base_url + path,
            operation="discovery",
            headers=headers,
            max_bytes=_MAX_BYTES,
        )

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _document(answer: VendorAnswer) -> dict[str, Any]:
    try:
        return msgspec.json.decode(answer.body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise VendorFailure("EkaScribe's discovery document cannot be read", sent=True) from error


def read_limits(document: dict[str, Any]) -> Limits:
    """Read a discovery document; a field that is missing or invalid keeps its default."""
    capabilities, endpoints = _object(document, "capabilities"), _object(document, "endpoints")
    languages = _object(document, "languages")
    duration = _number(capabilities.get("max_chunk_duration_seconds"), minimum=1)
    name = _object(document, "service").get("name")
    formats = _texts(capabilities.get("audio_formats"))
    methods = _texts(capabilities.get("upload_methods"))
    supported = _texts(languages.get("supported"))
    read = {
        "audio_formats": tuple(each for each in formats if normalise_audio_format(each, [each])),
        "max_chunk_duration_seconds": int(duration) if duration else None,
        "max_chunk_bytes": _chunk_bytes(capabilities),
        "models": _models(document.get("models")),
        "languages": supported,
        "upload_methods": tuple(each for each in UPLOAD_METHODS if each in methods),
        # On-prem servers that detect languages list `auto_detect` as a language.
        "auto_detection": languages.get("auto_detection") is True or _AUTO_DETECT in supported,
        "webhooks_url": _url(endpoints.get("webhooks_url")),
        "service_name": name if _is_text(name) else None,
    }
    found = {field: value for field, value in read.items() if value}
    return msgspec.structs.replace(SEED_LIMITS, **found, discovered=frozenset(found))


def _chunk_bytes(capabilities: dict[str, Any]) -> int | None:
    for field, unit in (("max_chunk_size_bytes", 1), ("max_chunk_size_mb", 1024 * 1024)):
        size = _number(capabilities.get(field), minimum=_MIN_CHUNK_BYTES / unit)
        if size is not None:
            return int(size * unit)
    return None


def _models(listed: Any) -> tuple[ModelLimits, ...]:
    known = {each.id: each for each in SEED_LIMITS.models}
    found = []
    for entry in listed[:_MAX_ENTRIES] if isinstance(listed, list) else ():
        if not isinstance(entry, dict) or not _is_text(entry.get("id")):
            continue
        seconds = _number(entry.get("max_session_duration_seconds"), minimum=1)
        seed = known.get(entry["id"], SEED_LIMITS.models[0])
        found.append(
            ModelLimits(
                id=entry["id"],
                languages=_texts(entry.get("languages")),
                max_session_duration_seconds=int(seconds or seed.max_session_duration_seconds),
                display_name=name if _is_text(name := entry.get("display_name")) else None,
                response_speed=next((each for each in _SPEEDS if each == entry.get("response_speed")), None),
            )
        )
    return tuple(found)


def _object(document: dict[str, Any], field: str) -> dict[str, Any]:
    found = document.get(field)
    return found if isinstance(found, dict) else {}


def _texts(listed: Any) -> tuple[str, ...]:
    entries = listed[:_MAX_ENTRIES] if isinstance(listed, list) else []
    return tuple(dict.fromkeys(entry for entry in entries if _is_text(entry)))


def _is_text(value: Any) -> TypeGuard[str]:
    # These texts become headers and messages, so only one line of printable characters is accepted.
    return (
        isinstance(value, str)
        and 0 < len(value) <= _MAX_CHARACTERS
        and value.isprintable()
        and not value.isspace()
    )


def _number(value: Any, *, minimum: float) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and minimum <= value < _MAX_NUMBER else None


def _url(value: Any) -> str | None:
    if not _is_text(value) or not value.isascii():
        return None
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return None
    is_plain = not (parts.username or parts.password or parts.query or parts.fragment)
    return value.rstrip("/") if parts.scheme in {"http", "https"} and parts.hostname and is_plain else None
