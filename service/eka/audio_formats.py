"""The audio formats EkaScribe takes, and the spellings of them that the world uses.

The vendor compares the MIME type letter by letter (docs/vendor.md#mime-letters), so what clients send is
normalised to the spelling of its list: that of its discovery document, or the published one
(docs/vendor.md#audio-formats).
"""

import re
from collections.abc import Iterable

from service.domain.models import AudioFormat

SUPPORTED = (
    "audio/webm;codecs=opus",
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


def normalise_audio_format(content_type: str, listed: Iterable[str] = SUPPORTED) -> AudioFormat | None:
    """Return the vendor's spelling of a Content-Type, or None when it is none of the formats it lists.

    Case, spaces, quotes and parameters that say nothing about the codec do not matter. WebM always holds
    Opus here; another codec in it, or in Ogg, is refused rather than mislabelled.
    """
    found = _canonical(content_type)
    if found is None:
        return None
    # A list may name one format twice, with its codec and without: the fuller name says more.
    spellings = sorted(listed, key=len, reverse=True)
    for wanted in dict.fromkeys([found.media_type, found.media_type.replace("ogg;codecs=opus", "ogg")]):
        for spelling in spellings:
            known = _canonical(spelling)
            if known is not None and known.media_type == wanted:
                return AudioFormat(spelling, found.extension)
    return None


def _canonical(content_type: str) -> AudioFormat | None:
    """Return the one name, and the extension, that all spellings of a format share here."""
    media_type, *parameters = (part.strip().lower() for part in content_type.split(";"))
    base, extension = _TYPES.get(media_type) or _unknown(media_type)
    if not extension:
        return None
    codecs = _codecs(parameters)
    if base == "audio/webm":
        return AudioFormat(SUPPORTED[0], extension) if codecs in {None, "opus"} else None
    if base == "audio/ogg":
        if codecs not in {None, "opus"}:
            return None
        is_opus = codecs == "opus" or media_type == "audio/opus"
        return AudioFormat("audio/ogg;codecs=opus" if is_opus else "audio/ogg", extension)
    return AudioFormat(base, extension)


def _unknown(media_type: str) -> tuple[str, str]:
    """Take a format that we never met at its word: it counts only where the vendor lists it, too."""
    kind, _, extension = media_type.partition("/")
    extension = extension.removeprefix("x-")
    return (media_type, extension) if kind == "audio" and _EXTENSION.fullmatch(extension) else ("", "")


def _codecs(parameters: list[str]) -> str | None:
    for parameter in parameters:
        name, separator, value = parameter.partition("=")
        if separator and name.strip() == "codecs":
            return value.strip().strip("\"'").strip()
    return None
