"""The three servers that the stand-in vendor can be, and how the gateway logs in to each of them."""

from typing import get_args

from service.sandbox.vendor.characters import CharacterName

CHARACTERS: tuple[CharacterName, ...] = get_args(CharacterName)
# As recorded: hosted has clients with a secret, July one fixed token, August users with a password.
_LOGINS: dict[CharacterName, dict[str, str]] = {
    "hosted": {"EKA_CLIENT_ID": "sandbox", "EKA_CLIENT_SECRET": "sandbox-secret"},
    "onprem-2026-07": {"EKA_TOKEN": "sandbox-token"},
    "onprem-2026-08": {"EKA_USERNAME": "sandbox", "EKA_PASSWORD": "sandbox-password"},
}


def login_environment(character: CharacterName) -> dict[str, str]:
    """Return the credentials for this server as environment variables without their prefix."""
    return dict(_LOGINS[character])


def login_settings(character: CharacterName) -> dict[str, str | None]:
    """Return the credentials for this server as fields of `Settings`; other servers' are None."""
    none = dict.fromkeys(name.lower() for login in _LOGINS.values() for name in login)
    return none | {name.lower(): value for name, value in _LOGINS[character].items()}


def login_secrets(character: CharacterName) -> list[str]:
    """Return those of the credentials that no log may show."""
    names = {"EKA_CLIENT_ID", "EKA_USERNAME"}
    return [value for name, value in _LOGINS[character].items() if name not in names]
