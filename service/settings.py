"""Everything an operator can set: environment variables with the prefix EKABRIDGE_, checked as a whole."""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from service.redis.sentinel_url import SENTINEL_SCHEMES, parse_sentinel

PREFIX = "EKABRIDGE_"
_T = TypeVar("_T")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]{1,500}")
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){1,8}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")
_UNSAFE_IN_HEADERS = frozenset("\r\n\0")
_SECRET_FIELDS = frozenset(
    {
        "database_url",
        "redis_url",
        "eka_token",
        "eka_client_secret",
        "eka_sharing_key",
        "eka_username",
        "eka_password",
        "webhook_secrets",
        "encryption_keys",
    }
)
_USER_LOGIN = ("EKA_USERNAME", "EKA_PASSWORD")
_OTHER_LOGINS = ("EKA_TOKEN", "EKA_CLIENT_ID", "EKA_CLIENT_SECRET", "EKA_SHARING_KEY")

DATABASE = frozenset({"DATABASE_URL"})
STORE = DATABASE | {"ENCRYPTION_KEYS"}
SUBSCRIBER = STORE | {"PUBLIC_URL"}
WORKER = STORE | {"REDIS_URL"}
SERVICE = WORKER | {"WEBHOOK_SECRETS"}


class SettingsError(Exception):
    """The settings cannot be used; `problems` names every one of them, never a value."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One process's settings. Times in seconds, sizes in bytes; docs/configuration.md is the manual."""

    database_url: str = ""
    redis_url: str = ""
    public_url: str | None = None
    support_email: str | None = None
    voice_origins: tuple[str, ...] = ()
    eka_base_url: str = "https://api.eka.care"
    eka_token: str | None = None
    eka_client_id: str | None = None
    eka_client_secret: str | None = None
    eka_sharing_key: str | None = None
    eka_username: str | None = None
    eka_password: str | None = None
    eka_max_concurrency: int = 64
    eka_stream_hosts: tuple[str, ...] = ()
    vendor_result_max_bytes: int = 8_388_608
    webhook_secrets: tuple[str, ...] = ()
    webhook_allow_unsigned: bool = False
    webhook_tolerance_seconds: int = 300
    encryption_keys: tuple[bytes, ...] = ()
    reconcile_after_seconds: float = 30.0
    # 14 attempts over three and a half days: quick at first, for a restart; enough for a weekend's outage.
    forward_schedule_seconds: tuple[float, ...] = (
        5,
        30,
        120,
        600,
        1800,
        3600,
        7200,
        14400,
        28800,
        43200,
        43200,
        86400,
        86400,
    )
    forward_timeout_seconds: float = 20.0
    allow_private_destinations: bool = False
    max_destinations: int = 500
    max_destination_templates: int = 100
    max_destination_headers: int = 20
    fhir_patient_system: str = "urn:ekabridge:patient"
    fhir_encounter_system: str = "urn:ekabridge:encounter"
    chunk_max_bytes: int = 10_485_760
    client_address_header: str | None = None
    max_connections: int = 4096
    max_requests: int = 256
    max_uploads: int = 128
    max_streams: int = 1000
    max_spool_bytes: int = 2_147_483_648
    rate_limit_per_second: int = 500
    rate_limit_burst: int = 1000
    database_pool_size: int = 10
    database_statement_cache_size: int = 100
    sweep_interval_seconds: float = 1.0
    shutdown_seconds: int = 28
    log_level: str = "info"

    def __repr__(self) -> str:
        shown = {
            name: ("set" if getattr(self, name) else "not set")
            if name in _SECRET_FIELDS
            else getattr(self, name)
            for name in self.__struct_fields__
        }
        return f"Settings({shown})"


def load_settings(environment: Mapping[str, str], *, needs: frozenset[str]) -> Settings:
    """Read the settings and check them together.

    `needs` is what this process cannot do without: one of the sets of this module, such as SERVICE.
    An empty variable counts as absent. Raises SettingsError with every problem at once.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    for name, parse in _PARSERS.items():
        raw = environment.get(PREFIX + name.upper(), "").strip()
        if not raw:
            continue
        try:
            values[name] = parse(raw)
        except ValueError as error:
            problems.append(f"{PREFIX}{name.upper()} {error}")
    problems += [
        f"{PREFIX}{name} is missing"
        for name in sorted(needs - {"WEBHOOK_SECRETS"})
        if not environment.get(PREFIX + name, "").strip()
    ]
    settings = Settings(**values)
    problems += _combined_problems(environment, settings, needs)
    if problems:
        raise SettingsError(problems)
    return settings


def _combined_problems(
    environment: Mapping[str, str], settings: Settings, needs: frozenset[str]
) -> list[str]:
    problems = []
    if (
        "WEBHOOK_SECRETS" in needs
        and not environment.get(f"{PREFIX}WEBHOOK_SECRETS", "").strip()
        and not settings.webhook_allow_unsigned
    ):
        problems.append(
            f"{PREFIX}WEBHOOK_SECRETS is missing"
            f" (or set {PREFIX}WEBHOOK_ALLOW_UNSIGNED=true, never in production)"
        )
    if (settings.eka_client_id is None) != (settings.eka_client_secret is None):
        problems.append(f"{PREFIX}EKA_CLIENT_ID and {PREFIX}EKA_CLIENT_SECRET go together: one is missing")
    problems += _user_problems(environment)
    if settings.max_spool_bytes < settings.chunk_max_bytes:
        problems.append(f"{PREFIX}MAX_SPOOL_BYTES must not be less than {PREFIX}CHUNK_MAX_BYTES")
    return problems


def _user_problems(environment: Mapping[str, str]) -> list[str]:
    """Say what is wrong with the login of a server on premises, which goes with no other."""
    user, others = (
        [PREFIX + name for name in names if environment.get(PREFIX + name, "").strip()]
        for names in (_USER_LOGIN, _OTHER_LOGINS)
    )
    pair = " and ".join(PREFIX + name for name in _USER_LOGIN)
    problems = [f"{pair} go together: one is missing"] if len(user) == 1 else []
    if user and others:
        problems.append(f"{pair} go alone, without {', '.join(others)}: leave out what is not meant")
    return problems


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


def _system(raw: str) -> str:
    if not _URI.fullmatch(raw):
        raise ValueError("must be a URI, such as https://hospital.example/mrn or urn:oid:1.2.3")
    return raw


_PARSERS: dict[str, Callable[[str], Any]] = {
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
    "max_spool_bytes": _number(int, 1_048_576, 1_099_511_627_776),
    "rate_limit_per_second": _number(int, 0, 100_000),
    "rate_limit_burst": _number(int, 1, 1_000_000),
    "database_pool_size": _number(int, 2, 1000),
    "database_statement_cache_size": _number(int, 0, 10_000),
    "sweep_interval_seconds": _number(float, 0.05, 60),
    "shutdown_seconds": _number(int, 2, 28),
    "log_level": _log_level,
}
