"""The settings: environment variables with the prefix EKABRIDGE_, checked together at the start."""

from collections.abc import Mapping
from typing import Any

import msgspec

from service.settings.parsers import PARSERS

PREFIX = "EKABRIDGE_"
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

# 14 attempts in three and a half days: the first ones bridge a restart, the last ones a weekend's outage.
_FORWARD_SCHEDULE_SECONDS = (5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800, 43200, 43200, 86400, 86400)


class SettingsError(Exception):
    """The settings are unusable; `problems` names every problem, and never shows a value."""

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
    forward_schedule_seconds: tuple[float, ...] = _FORWARD_SCHEDULE_SECONDS
    forward_timeout_seconds: float = 20.0
    allow_private_destinations: bool = False
    max_destinations: int = 500
    max_destination_templates: int = 100
    max_destination_headers: int = 20
    fhir_patient_system: str = "urn:ekabridge:patient"
    fhir_encounter_system: str = "urn:ekabridge:encounter"
    chunk_max_bytes: int = 10_485_760
    held_audio_max_bytes: int = 4_294_967_296
    keep_audio: str = "on_trouble"
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

    `needs` names the variables that this process requires: a set of this module, such as SERVICE. An empty
    variable counts as absent. Raises SettingsError with every problem at once.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    for name, parse in PARSERS.items():
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
    """Return the problems of the login of a server on premises, which excludes every other login."""
    user, others = (
        [PREFIX + name for name in names if environment.get(PREFIX + name, "").strip()]
        for names in (_USER_LOGIN, _OTHER_LOGINS)
    )
    pair = " and ".join(PREFIX + name for name in _USER_LOGIN)
    problems = [f"{pair} go together: one is missing"] if len(user) == 1 else []
    if user and others:
        problems.append(f"{pair} go alone, without {', '.join(others)}: leave out what is not meant")
    return problems
