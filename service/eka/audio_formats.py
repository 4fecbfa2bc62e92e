"""Normalises the Content-Type of audio to the vendor's spelling.

The vendor compares the MIME type letter by letter (docs/vendor.md#mime-letters), so a client's spelling is
replaced by the one in the vendor's list: that of its discovery document, or the published one
(docs/vendor.md#audio-formats).
"""

import re
from collections.abc import Iterable

from service.domain.audio.models import AudioFormat

_WEBM_OPUS = "audio/webm;codecs=opus"

# The formats that the vendor publishes. The list of its discovery document replaces them once that was read
# (service/eka/discovery.py).
PUBLISHED_FORMATS = (
    _WEBM_OPUS,
    "audio/wav",
    "audio/ogg",
    "audio/ogg;codecs=opus",
    "audio/mp4",
    "audio/m4a",
    "audio/mp3",
)

# Spelling of the type alone → (type of the list, file extension).
_TYPES = {
    "audio/webm": ("audio/webm", "webm"),
    "audio/wav": ("audio/wav", "wav"),
    "audio/wave": ("audio/wav", "wav"),
    "audio/x-wav": ("audio/wav", "wav"),
    "audio/vnd.wave": ("audio/wav", "wav"),
    "audio/ogg": ("audio/ogg", "ogg"),
    "application/ogg": ("audio/ogg", "ogg"),
    "audio/opus": ("audio/ogg", "ogg"),
    "audio/mp4": ("audio/mp4", "mp4"),
    "audio/m4a": ("audio/m4a", "m4a"),
    "audio/x-m4a": ("audio/m4a", "m4a"),
    "audio/mp3": ("audio/mp3", "mp3"),
    "audio/x-mp3": ("audio/mp3", "mp3"),
    "audio/mpeg": ("audio/mp3", "mp3"),
    "audio/x-mpeg": ("audio/mp3", "mp3"),
    "audio/mpeg3": ("audio/mp3", "mp3"),
}

EXTENSIONS = frozenset(extension for _, extension in _TYPES.values())

_EXTENSION = re.compile(r"[a-z0-9]{1,8}")


def normalise_audio_format(content_type: str, listed: Iterable[str]) -> AudioFormat | None:
    """Return the vendor's spelling of a Content-Type, or None if the vendor does not list the format.

    `listed` is the vendor's list as it is now: `audio_formats` of the limits, or PUBLISHED_FORMATS.

    Case, spaces, quotes and parameters other than the codec do not matter. WebM without a codec is read as
    Opus; another codec in WebM or Ogg is refused, because the label would be wrong.
    """
    found = _canonical(content_type)
    if found is None:
        return None
    # A list may name one format twice, with its codec and without; the longer name is more exact.
    spellings = sorted(listed, key=len, reverse=True)
    for wanted in dict.fromkeys([found.media_type, found.media_type.replace("ogg;codecs=opus", "ogg")]):
        for spelling in spellings:
            known = _canonical(spelling)
            if known is not None and known.media_type == wanted:
                return AudioFormat(spelling, found.extension)
    return None


def _canonical(content_type: str) -> AudioFormat | None:
    """Return the name and the extension that all spellings of a format share."""
    media_type, *parameters = (part.strip().lower() for part in content_type.split(";"))
    base, extension = _TYPES.get(media_type) or _unlisted_type(media_type)
    if not extension:
        return None
    codecs = _codecs(parameters)
    if base == "audio/webm":
        return AudioFormat(_WEBM_OPUS, extension) if codecs in {None, "opus"} else None
    if base == "audio/ogg":
        if codecs not in {None, "opus"}:
            return None
        is_opus = codecs == "opus" or media_type == "audio/opus"
        return AudioFormat("audio/ogg;codecs=opus" if is_opus else "audio/ogg", extension)
    return AudioFormat(base, extension)


def _unlisted_type(media_type: str) -> tuple[str, str]:
    """Accept a type that `_TYPES` does not list as it is; it counts only if the vendor lists it as well."""
    kind, _, extension = media_type.partition("/")
    extension = extension.removeprefix("x-")
    return (media_type, extension) if kind == "audio" and _EXTENSION.fullmatch(extension) else ("", "")


def _codecs(parameters: list[str]) -> str | None:
    for parameter in parameters:
        name, separator, value = parameter.partition("=")
        if separator and name.strip() == "codecs":
            return value.strip().strip("\"'").strip()
    return None
