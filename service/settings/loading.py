"""Reads the settings from the environment of a process and checks them together.

Fields and defaults are in settings.py, the parser of each value is in parsers.py.
"""

from collections.abc import Mapping
from typing import Any

from service.settings.parsers import PARSERS
from service.settings.settings import PREFIX, Settings

# The variables that a process requires.
DATABASE = frozenset({"DATABASE_URL"})
STORE = DATABASE | {"ENCRYPTION_KEYS"}
SUBSCRIBER = STORE | {"PUBLIC_URL"}
WORKER = STORE | {"REDIS_URL"}
SERVICE = WORKER | {"WEBHOOK_SECRETS"}

_USER_LOGIN = ("EKA_USERNAME", "EKA_PASSWORD")
_OTHER_LOGINS = ("EKA_TOKEN", "EKA_CLIENT_ID", "EKA_CLIENT_SECRET", "EKA_SHARING_KEY")


class SettingsError(Exception):
    """The settings are unusable; `problems` names every problem, and never shows a value."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


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
