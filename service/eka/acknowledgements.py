"""Reads confirmations in EkaScribe's answers: that audio is stored, and which files the vendor holds.

A success whose body cannot be read does not count: only the body of a 200 says that a chunk is stored
(docs/vendor.md#upload-confirmed).
"""

import re
from typing import Any, TypeVar

import msgspec

from schemas.eka import AudioStored
from service.domain.errors import VendorFailure
from service.domain.ids import VendorSessionId
from service.domain.sessions.models import VendorEnd
from service.eka.http_exchange import VendorAnswer

T = TypeVar("T")

# `7.wav`, `s3://bucket/…/7.wav` (docs/vendor.md#audio-listing), and `audio_7.wav` from a server that keeps
# our file name.
_NUMBERED = re.compile(r"(?:.*[/_])?([0-9]{1,9})\.[A-Za-z0-9]{1,8}")
_MAX_COUNT = 2**31 - 1


def decode(answer: VendorAnswer, kind: type[T]) -> T:
    """Decode an answer's body. Raises VendorFailure: the call may have taken effect."""
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise VendorFailure("EkaScribe's answer cannot be read", sent=True) from error


def check_stored(answer: VendorAnswer, session_id: VendorSessionId) -> None:
    """Raise VendorFailure unless an upload's answer says that the audio of this session is stored."""
    stored = decode(answer, AudioStored)
    if stored.success is not True or stored.session_id != session_id:
        raise VendorFailure("EkaScribe's answer does not say that the audio is stored", sent=True)


def read_files(received: Any, listed: Any) -> VendorEnd:
    """Read how many audio files the vendor holds, and their numbers if each name in its list has one."""
    count = received if isinstance(received, int) and not isinstance(received, bool) else None
    if count is not None and not 0 <= count <= _MAX_COUNT:
        count = None
    if not isinstance(listed, list) or (not listed and count):
        return VendorEnd(files_received=count)
    numbers = [_NUMBERED.fullmatch(name) if isinstance(name, str) else None for name in listed]
    sequences = sorted({int(number[1]) for number in numbers if number is not None})
    return VendorEnd(
        files_received=len(listed) if count is None else count,
        sequences=None if None in numbers else sequences,
    )
