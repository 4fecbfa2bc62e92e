"""The vendor's limits from its discovery document: audio formats, sizes, models and languages."""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from schemas.medscribe import UploadType
from service.domain.errors import InvalidRequest, UploadNotSupported

UPLOAD_METHODS: tuple[UploadType, ...] = ("chunked", "single", "stream")
# The default of the setting `vendor_result_max_bytes`: an answer with results may have so many bytes.
DEFAULT_MAX_RESULT_BYTES = 8 * 1024 * 1024
# A value for `languages` that asks the vendor to detect the language. Not every server can
# (docs/vendor.md#auto-detect).
AUTO_DETECT = "auto_detect"


class ModelLimits(Struct, frozen=True, kw_only=True):
    """One model: its id, the languages that it understands, and the longest session in seconds.

    `display_name` and `response_speed` are the vendor's texts for people; None if the vendor gives none.
    """

    id: str
    languages: tuple[str, ...]
    max_session_duration_seconds: int
    display_name: str | None = None
    response_speed: str | None = None


class Limits(Struct, frozen=True, kw_only=True):
    """The vendor's limits. `discovered` names the fields that its document sets; the others are defaults.

    `audio_formats` keep the vendor's spelling, because it compares letter by letter
    (docs/vendor.md#mime-letters).
    `max_chunk_bytes` is None when the document names no size, `webhooks_url` when it names no address.
    `auto_detection`: whether the vendor can detect the language.
    """

    audio_formats: tuple[str, ...]
    max_chunk_duration_seconds: int
    models: tuple[ModelLimits, ...]
    languages: tuple[str, ...]
    service_name: str
    upload_methods: tuple[UploadType, ...] = UPLOAD_METHODS
    auto_detection: bool = False
    max_chunk_bytes: int | None = None
    webhooks_url: str | None = None
    discovered: frozenset[str] = frozenset()

    def chunk_bytes(self, most: int) -> int:
        """Return how large a chunk may be if our own limit is `most` bytes."""
        return most if self.max_chunk_bytes is None else min(most, self.max_chunk_bytes)

    @property
    def templates_are_fixed(self) -> bool:
        """Whether the vendor makes documents only of the templates that a session was created with.

        Servers on premises do, even if they accept a change (docs/vendor.md#patch-templates). Their discovery
        document offers no streams, which distinguishes them from the hosted service
        (docs/vendor.md#discovery-no-stream).
        """
        return "stream" not in self.upload_methods


def check_upload(limits: Limits, method: UploadType) -> None:
    """Raise UploadNotSupported for an upload type that the discovery document does not list."""
    if method not in limits.upload_methods:
        raise UploadNotSupported(
            _among(f"this EkaScribe server does not take `{method}`", limits.upload_methods), field="upload"
        )


def check_limits(
    limits: Limits, *, model: str | None, languages: Sequence[str] | None, transcript_language: str | None
) -> None:
    """Raise InvalidRequest for values that the discovery document does not list.

    This ignores values that are None, and lists that the document does not set. It compares languages by
    their primary subtag: if the document lists `en`, `en-IN` counts as listed.
    """
    named = next((each for each in limits.models if each.id == model), None)
    if model is not None and named is None and "models" in limits.discovered:
        raise InvalidRequest(
            _among("EkaScribe has no such model", [each.id for each in limits.models]), field="model"
        )
    spoken, written = limits.languages, limits.languages
    knows_spoken = knows_written = "languages" in limits.discovered
    if named is not None and named.languages and "models" in limits.discovered:
        # A model may understand fewer languages than the service can write.
        spoken, knows_spoken = named.languages, True
    if AUTO_DETECT in (languages or ()) and limits.discovered and not _detects(limits):
        raise InvalidRequest(
            _among(f"this EkaScribe server does not take `{AUTO_DETECT}`", spoken), field="languages"
        )
    named_languages = [language for language in languages or () if language != AUTO_DETECT]
    if knows_spoken and any(not _is_listed(language, spoken) for language in named_languages):
        raise InvalidRequest(
            _among("EkaScribe does not hear all of these languages", spoken), field="languages"
        )
    if knows_written and transcript_language is not None and not _is_listed(transcript_language, written):
        raise InvalidRequest(
            _among("EkaScribe does not write this language", written), field="transcript_language"
        )


def _detects(limits: Limits) -> bool:
    return limits.auto_detection or AUTO_DETECT in limits.languages


def _is_listed(language: str, listed: Iterable[str]) -> bool:
    return _primary(language) in {_primary(each) for each in listed}


def _primary(language: str) -> str:
    return language.replace("_", "-").partition("-")[0].lower()


def _among(problem: str, allowed: Iterable[str]) -> str:
    return f"{problem}; allowed: {', '.join(allowed)}"
