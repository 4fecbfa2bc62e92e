"""Parsers of the values of environment variables, one for each setting.

A parser returns the value, or raises ValueError with the end of a sentence that begins with the variable's
name. The sentence must not repeat the value, which may be a secret.
"""

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from service.redis.sentinel_url import SENTINEL_SCHEMES, parse_sentinel

_T = TypeVar("_T")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]{1,500}")
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){1,8}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_KEEP_AUDIO = re.compile(r"on_trouble|until_result|[1-9][0-9]{0,2}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")
_UNSAFE_IN_HEADERS = frozenset("\r\n\0")


def _text(raw: str) -> str:
    if not raw.isascii() or _UNSAFE_IN_HEADERS & set(raw):
        raise ValueError("must be printable ASCII text")
    return raw


def _printable(raw: str) -> str:
    if not raw.isprintable():
        raise ValueError("must be printable text")
    return raw


def _url(*schemes: str) -> Callable[[str], str]:
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


def _email(raw: str) -> str:
    if not _EMAIL.fullmatch(raw):
        raise ValueError("must be an e-mail address, such as it@hospital.example")
    return raw


def _origin(raw: str) -> str:
    if not raw.isascii():
        raise ValueError("must be origins in ASCII, an international name as a browser sends it: xn--…")
    parts = urlsplit(_url("https", "http")(raw))
    if parts.path or parts.query or parts.fragment or "*" in parts.netloc:
        raise ValueError("must be origins, such as https://emr.example: no path, no `*`, no `null`")
    # Browsers leave out the scheme's own port.
    port = None if parts.port == {"http": 80, "https": 443}[parts.scheme] else parts.port
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    return f"{parts.scheme}://{host}" if port is None else f"{parts.scheme}://{host}:{port}"


def _host(raw: str) -> str:
    if not _HOST.fullmatch(raw):
        raise ValueError("must be host names, such as stream.eka.care: no scheme, no port, no path")
    return raw.lower()


def _redis_url(raw: str) -> str:
    scheme = raw.partition("://")[0]
    if scheme in SENTINEL_SCHEMES:
        parse_sentinel(raw)
        return raw
    return _url("redis", "rediss", "unix", *SENTINEL_SCHEMES)(raw)


def _boolean(raw: str) -> bool:
    lowered = raw.lower()
    if lowered in {"true", "1", "yes", "on"}:
        return True
    if lowered in {"false", "0", "no", "off"}:
        return False
    raise ValueError("must be true or false")


def _number(kind: Callable[[str], _T], least: float, most: float) -> Callable[[str], _T]:
    def parse(raw: str) -> _T:
        try:
            value = kind(raw)
        except ValueError:
            raise ValueError("must be a number") from None
        if not least <= value <= most:  # type: ignore[operator]
            raise ValueError(f"must be between {least:g} and {most:g}")
        return value

    return parse


def _listed(parse: Callable[[str], _T]) -> Callable[[str], tuple[_T, ...]]:
    def parse_all(raw: str) -> tuple[_T, ...]:
        parts = [part.strip() for part in raw.split(",") if part.strip()]
        if not parts:
            raise ValueError("is a list of nothing")
        return tuple(parse(part) for part in parts)

    return parse_all


def _encryption_key(raw: str) -> bytes:
    try:
        key = base64.b64decode(raw, validate=True)
    except binascii.Error:
        raise ValueError("has a key that is not base64") from None
    if len(key) != 32:  # noqa: PLR2004 - AES-256
        raise ValueError("has a key that is not 32 bytes long")
    return key


def _log_level(raw: str) -> str:
    if raw.lower() not in {"debug", "info", "warning", "error"}:
        raise ValueError("must be debug, info, warning or error")
    return raw.lower()


def _header_name(raw: str) -> str:
    if not _HEADER_NAME.fullmatch(raw):
        raise ValueError("must be a header's name, such as X-Forwarded-For")
    return raw


def _keep_audio(raw: str) -> str:
    if not _KEEP_AUDIO.fullmatch(raw):
        raise ValueError("must be on_trouble, until_result, or a number of days between 1 and 999")
    return raw


def _system(raw: str) -> str:
    if not _URI.fullmatch(raw):
        raise ValueError("must be a URI, such as https://hospital.example/mrn or urn:oid:1.2.3")
    return raw


PARSERS: dict[str, Callable[[str], Any]] = {
    "database_url": _url("postgresql", "postgres"),
    "redis_url": _redis_url,
    "public_url": _url("http", "https"),
    "support_email": _email,
    "voice_origins": _listed(_origin),
    "eka_base_url": _url("https", "http"),
    "eka_token": _text,
    "eka_client_id": _text,
    "eka_client_secret": _text,
    "eka_sharing_key": _text,
    "eka_username": _printable,
    "eka_password": _printable,
    "eka_max_concurrency": _number(int, 1, 1000),
    "eka_stream_hosts": _listed(_host),
    "vendor_result_max_bytes": _number(int, 65_536, 67_108_864),
    "webhook_secrets": _listed(str),
    "webhook_allow_unsigned": _boolean,
    "webhook_tolerance_seconds": _number(int, 1, 86_400),
    "encryption_keys": _listed(_encryption_key),
    "reconcile_after_seconds": _number(float, 0.05, 86_400),
    "forward_schedule_seconds": _listed(_number(float, 0, 2_592_000)),
    "forward_timeout_seconds": _number(float, 0.1, 120),
    "allow_private_destinations": _boolean,
    "max_destinations": _number(int, 1, 10_000),
    "max_destination_templates": _number(int, 1, 1000),
    "max_destination_headers": _number(int, 0, 20),
    "fhir_patient_system": _system,
    "fhir_encounter_system": _system,
    "chunk_max_bytes": _number(int, 1, 104_857_600),
    "client_address_header": _header_name,
    "max_connections": _number(int, 16, 1_000_000),
    "max_requests": _number(int, 1, 100_000),
    "max_uploads": _number(int, 1, 100_000),
    "max_streams": _number(int, 1, 100_000),
    "held_audio_max_bytes": _number(int, 10_485_760, 1_099_511_627_776),
    "keep_audio": _keep_audio,
    "max_spool_bytes": _number(int, 1_048_576, 1_099_511_627_776),
    "rate_limit_per_second": _number(int, 0, 100_000),
    "rate_limit_burst": _number(int, 1, 1_000_000),
    "database_pool_size": _number(int, 2, 1000),
    "database_statement_cache_size": _number(int, 0, 10_000),
    "sweep_interval_seconds": _number(float, 0.05, 60),
    "shutdown_seconds": _number(int, 2, 28),
    "log_level": _log_level,
}
