"""Parsers of values of environment variables, one for each kind of value; parsers.py gives them to settings.

A parser returns the value, or raises ValueError with the end of a sentence that begins with the variable's
name. The sentence must not repeat the value, which may be a secret.
"""

import base64
import binascii
import re
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from service.redis.sentinel_url import SENTINEL_SCHEMES, parse_sentinel

_T = TypeVar("_T")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]{1,500}")
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){1,8}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_KEEP_AUDIO = re.compile(r"on_trouble|until_result|[1-9][0-9]{0,2}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")
_UNSAFE_IN_HEADERS = frozenset("\r\n\0")


def parse_text(raw: str) -> str:
    """Parse text that may stand in a header, such as a token."""
    if not raw.isascii() or _UNSAFE_IN_HEADERS & set(raw):
        raise ValueError("must be printable ASCII text")
    return raw


def parse_printable(raw: str) -> str:
    """Parse printable text, such as a password."""
    if not raw.isprintable():
        raise ValueError("must be printable text")
    return raw


def url_parser(*schemes: str) -> Callable[[str], str]:
    """Make the parser of a URL with one of these schemes."""

    def parse(raw: str) -> str:
        try:
            parts = urlsplit(raw)
            _ = parts.port
        except ValueError:
            raise ValueError("is not a URL; percent-encode special characters of a password") from None
        if parts.scheme not in schemes:
            raise ValueError(f"must be a URL that starts with {' or '.join(f'{s}://' for s in schemes)}")
        if schemes[0].startswith("http") and not parts.hostname:
            raise ValueError("names no host")
        if schemes[0].startswith("http") and (parts.username or parts.password):
            raise ValueError("must not hold credentials")
        return raw.rstrip("/") if schemes[0].startswith("http") else raw

    return parse


def parse_email(raw: str) -> str:
    """Parse an e-mail address."""
    if not _EMAIL.fullmatch(raw):
        raise ValueError("must be an e-mail address, such as it@hospital.example")
    return raw


def parse_origin(raw: str) -> str:
    """Parse an origin, and spell it as browsers do."""
    if not raw.isascii():
        raise ValueError("must be origins in ASCII, an international name as a browser sends it: xn--…")
    parts = urlsplit(url_parser("https", "http")(raw))
    if parts.path or parts.query or parts.fragment or "*" in parts.netloc:
        raise ValueError("must be origins, such as https://emr.example: no path, no `*`, no `null`")
    # Browsers leave out the scheme's own port.
    port = None if parts.port == {"http": 80, "https": 443}[parts.scheme] else parts.port
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    return f"{parts.scheme}://{host}" if port is None else f"{parts.scheme}://{host}:{port}"


def parse_host(raw: str) -> str:
    """Parse the name of a host."""
    if not _HOST.fullmatch(raw):
        raise ValueError("must be host names, such as stream.eka.care: no scheme, no port, no path")
    return raw.lower()


def parse_redis_url(raw: str) -> str:
    """Parse the URL of a Redis server, or of Sentinels."""
    scheme = raw.partition("://")[0]
    if scheme in SENTINEL_SCHEMES:
        parse_sentinel(raw)
        return raw
    return url_parser("redis", "rediss", "unix", *SENTINEL_SCHEMES)(raw)


def parse_boolean(raw: str) -> bool:
    """Parse true or false."""
    lowered = raw.lower()
    if lowered in {"true", "1", "yes", "on"}:
        return True
    if lowered in {"false", "0", "no", "off"}:
        return False
    raise ValueError("must be true or false")


def number_parser(kind: Callable[[str], _T], least: float, most: float) -> Callable[[str], _T]:
    """Make the parser of a number within these bounds."""

    def parse(raw: str) -> _T:
        try:
            value = kind(raw)
        except ValueError:
            raise ValueError("must be a number") from None
        if not least <= value <= most:  # type: ignore[operator]
            raise ValueError(f"must be between {least:g} and {most:g}")
        return value

    return parse


def list_parser(parse: Callable[[str], _T]) -> Callable[[str], tuple[_T, ...]]:
    """Make the parser of values that are separated by commas."""

    def parse_all(raw: str) -> tuple[_T, ...]:
        parts = [part.strip() for part in raw.split(",") if part.strip()]
        if not parts:
            raise ValueError("is a list of nothing")
        return tuple(parse(part) for part in parts)

    return parse_all


def parse_encryption_key(raw: str) -> bytes:
    """Parse a key of 32 bytes in base64."""
    try:
        key = base64.b64decode(raw, validate=True)
    except binascii.Error:
        raise ValueError("has a key that is not base64") from None
    if len(key) != 32:  # noqa: PLR2004 - AES-256
        raise ValueError("has a key that is not 32 bytes long")
    return key


def parse_log_level(raw: str) -> str:
    """Parse a log level."""
    if raw.lower() not in {"debug", "info", "warning", "error"}:
        raise ValueError("must be debug, info, warning or error")
    return raw.lower()


def parse_header_name(raw: str) -> str:
    """Parse a header's name."""
    if not _HEADER_NAME.fullmatch(raw):
        raise ValueError("must be a header's name, such as X-Forwarded-For")
    return raw


def parse_keep_audio(raw: str) -> str:
    """Parse for how long audio is kept that EkaScribe has confirmed."""
    if not _KEEP_AUDIO.fullmatch(raw):
        raise ValueError("must be on_trouble, until_result, or a number of days between 1 and 999")
    return raw


def parse_uri(raw: str) -> str:
    """Parse a URI, such as a system of FHIR identifiers."""
    if not _URI.fullmatch(raw):
        raise ValueError("must be a URI, such as https://hospital.example/mrn or urn:oid:1.2.3")
    return raw
