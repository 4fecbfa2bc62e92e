"""Reads answers that are almost JSON, because one odd byte of EkaScribe must not lose a finished dictation.

The strict decoder reads every well-formed answer. If it fails, this module accepts a byte order mark,
Latin-1, `NaN`, numbers beyond a double, lone surrogates and excessive nesting. Every value that it returns
can be encoded as JSON again.
"""

import codecs
import json
import math
import re
from typing import Any

import msgspec

MAX_LEVELS = 128
# A decoded value takes up to 150 bytes of memory, however short its text is, so this bound means 75 MB. The
# words of eight hours of speech, each with its times, are fewer values.
MAX_VALUES = 500_000
# The next bracket outside strings, or the end: without the end, a search that fails would restart at each
# byte. Possessive quantifiers, because backtracking over a string takes a hundred times the string's memory.
_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+"?)*+([\[\]{}]|\Z)', re.DOTALL)
_OBJECT = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\n\r]*\{")
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


def decode_object(body: bytes) -> tuple[dict[str, Any], bool]:
    """Decode a JSON object, and return whether it was well-formed. Raises ValueError for anything else."""
    decoded, is_well_formed = _decode(body)
    if not isinstance(decoded, dict):
        raise ValueError("the answer is no JSON object")  # noqa: TRY004 - callers catch one kind
    return decoded, is_well_formed


def _decode(body: bytes) -> tuple[Any, bool]:
    if sum(body.count(mark) for mark in (b"[", b"{", b",", b":")) > MAX_VALUES:
        raise ValueError("the answer holds too many values")
    try:
        return msgspec.json.decode(body), True
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if not _OBJECT.match(body):
            raise ValueError("the answer is no JSON object") from None
        text = _text(_flattened(body).removeprefix(codecs.BOM_UTF8))
        decoded = json.loads(text, parse_constant=str, parse_float=_number, parse_int=_integer, strict=False)
        return _encodable(decoded), False


def _text(body: bytes) -> str:
    """Decode UTF-8, and bytes that are not UTF-8 as Latin-1.

    Python's `surrogateescape` marks such bytes; an error handler in Python would run for each of millions.
    """
    text = body.decode(errors="surrogateescape")
    for byte in range(0x80, 0x100):
        text = text.replace(chr(0xDC00 + byte), chr(byte))
    return text


def _encodable(value: Any) -> Any:
    """Replace each lone surrogate by U+FFFD, because no encoder accepts it."""
    if isinstance(value, str):
        return _LONE_SURROGATES.sub("\ufffd", value)
    if isinstance(value, list):
        return [_encodable(each) for each in value]
    if isinstance(value, dict):
        return {_encodable(name): _encodable(each) for name, each in value.items()}
    return value


def _number(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _integer(text: str) -> int | str:
    # Other JSON readers stop at 64 bits.
    number = int(text) if len(text) <= 20 else None  # noqa: PLR2004
    return number if number is not None and -(2**63) <= number < 2**64 else text


def _flattened(body: bytes) -> bytes:
    """Replace values nested deeper than MAX_LEVELS by their own text, as a JSON string."""
    if body.count(b"[") + body.count(b"{") <= MAX_LEVELS:
        return body
    pieces: list[bytes] = []
    level, kept, deep_from = 0, 0, -1
    for found in _BRACKET.finditer(body):
        position = found.end()
        if found[1] in {b"[", b"{"}:
            level += 1
            if level == MAX_LEVELS + 1:
                deep_from = found.start(1)
        elif not found[1] or not level:
            break  # nothing that follows is JSON
        else:
            if level == MAX_LEVELS + 1 and deep_from >= 0:
                pieces += [body[kept:deep_from], _as_string(body[deep_from:position])]
                kept, deep_from = position, -1
            level -= 1
    return b"".join([*pieces, body[kept:]])


def _as_string(body: bytes) -> bytes:
    return json.dumps(body.decode(errors="replace")).encode()
