"""The settings: environment variables with the prefix EKABRIDGE_, checked together at the start."""

from service.settings.loading import (
    DATABASE,
    SERVICE,
    STORE,
    SUBSCRIBER,
    WORKER,
    SettingsError,
    load_settings,
)
from service.settings.settings import PREFIX, Settings

__all__ = [
    "DATABASE",
    "PREFIX",
    "SERVICE",
    "STORE",
    "SUBSCRIBER",
    "WORKER",
    "Settings",
    "SettingsError",
    "load_settings",
]
