"""The fields and defaults of the settings: an environment variable for each, with the prefix EKABRIDGE_.

The parser of each value is in parsers.py; loading.py reads the environment and checks the settings together.
"""

import msgspec

from service.domain.vendor_limits import DEFAULT_MAX_RESULT_BYTES

PREFIX = "EKABRIDGE_"
SECRET_FIELDS = frozenset(
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

# The waits between the attempts at a delivery (service/domain/deliveries/attempts.py), unless the setting
# says otherwise. 14 attempts in three and a half days: the first ones bridge a restart, the last ones a
# weekend's outage.
_FORWARD_SCHEDULE_SECONDS = (5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800, 43200, 43200, 86400, 86400)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One process's settings. Times in seconds, sizes in bytes; docs/configuration.md is the manual.

    The variable of a field is its name in capitals after the prefix. A new field needs a row in parsers.py
    and the code that builds the object which uses it.
    """

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
    vendor_result_max_bytes: int = DEFAULT_MAX_RESULT_BYTES
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
            if name in SECRET_FIELDS
            else getattr(self, name)
            for name in self.__struct_fields__
        }
        return f"Settings({shown})"
