"""Reads answers that are not quite JSON: one odd byte of EkaScribe's must not lose a finished dictation.

The strict decoder reads every well-formed answer. Where it refuses, a byte order mark, Latin-1, `NaN`,
numbers beyond a double, lone surrogates and endless nesting are read as far as they can be, and every value
that results can be encoded as JSON again.
"""

import codecs
import json
import math
import re
from typing import Any

import msgspec

MAX_LEVELS = 128
# A decoded value takes up to 150 bytes, however short its text is: these are 75 MB. The words of eight hours,
# each with its times, are fewer.
MAX_VALUES = 500_000
# The next bracket outside strings, or the end: a search that finds nothing would begin again at each byte.
# Possessive: to find a string's end by backtracking takes a hundred times the string's memory.
_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+"?)*+([\[\]{}]|\Z)', re.DOTALL)
_OBJECT = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\n\r]*\{")
_HALVES = re.compile("[\ud800-\udfff]")


def decode_object(body: bytes) -> tuple[dict[str, Any], bool]:
    """Decode a JSON object, and say whether the bytes were well-formed. Raises ValueError if it is none."""
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
    """Read the bytes that are no UTF-8 as Latin-1, and the rest as what it is.

    Python's own handler of errors marks such bytes; one of ours would be called for each of millions.
    """
    text = body.decode(errors="surrogateescape")
    for byte in range(0x80, 0x100):
        text = text.replace(chr(0xDC00 + byte), chr(byte))
    return text


def _encodable(value: Any) -> Any:
    """Replace each half of a surrogate pair by U+FFFD: no encoder takes it."""
    if isinstance(value, str):
        return _HALVES.sub("\ufffd", value)
    if isinstance(value, list):
        return [_encodable(each) for each in value]
    if isinstance(value, dict):
        return {_encodable(name): _encodable(each) for name, each in value.items()}
    return value


def _number(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _integer(text: str) -> int | str:
    # JSON's other readers stop at 64 bits.
    number = int(text) if len(text) <= 20 else None  # noqa: PLR2004
    return number if number is not None and -(2**63) <= number < 2**64 else text


def _flattened(body: bytes) -> bytes:
    """Replace what is nested deeper than MAX_LEVELS by its own text, as a JSON string."""
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
