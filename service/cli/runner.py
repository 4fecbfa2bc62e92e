"""The frame of every command: read the settings, open the store, report errors, print the result."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click
import msgspec

from service.domain.errors import BridgeError
from service.observability.logging import configure_logs
from service.settings import STORE, Settings, SettingsError, load_settings
from service.store.encryption import DecryptionError

if TYPE_CHECKING:  # it brings the HTTP client, which a command that only prints its help does without
    from service.bootstrap.container import Stores

T = TypeVar("T")

json_option = click.option("--json", "as_json", is_flag=True, help="Print the API's object, on one line.")


def settings_for(needs: frozenset[str]) -> Settings:
    """Read the settings, or say all that is wrong with them and exit with 2."""
    try:
        settings = load_settings(os.environ, needs=needs)
    except SettingsError as error:
        for problem in error.problems:
            click.echo(f"ekabridge: {problem}", err=True)
        raise SystemExit(2) from None
    configure_logs(settings.log_level)
    return settings


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run a command's work; our own errors become one sentence and exit status 1."""
    try:
        return asyncio.run(_awaited(work))
    except DecryptionError as error:
        raise click.ClickException(f"the encryption keys do not fit this database: {error}") from None
    except BridgeError as error:
        raise click.ClickException(f"{error.detail} ({error.code})") from None


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()


def with_stores(work: Callable[["Stores"], Awaitable[T]]) -> T:
    """Run work that encrypts nothing; fails when a key that encrypted stored values is missing."""

    async def checked(stores: "Stores") -> T:
        from service.bootstrap.container import check_keys  # noqa: PLC0415 - brings the HTTP client

        await check_keys(stores, stores.encryption_keys.check)
        return await work(stores)

    return with_unchecked_stores(checked)


def with_encrypting_stores(work: Callable[["Stores"], Awaitable[T]]) -> T:
    """Run work that encrypts: the key is registered first, which running processes can forbid."""

    async def checked(stores: "Stores") -> T:
        from service.bootstrap.container import check_keys  # noqa: PLC0415 - brings the HTTP client

        await check_keys(stores, stores.encryption_keys.begin_command)
        return await work(stores)

    return with_unchecked_stores(checked)


def with_unchecked_stores(work: Callable[["Stores"], Awaitable[T]]) -> T:
    """Run work on the store without checking the encryption keys."""
    settings = settings_for(STORE)
    from service.bootstrap.container import open_stores  # noqa: PLC0415 - brings the HTTP client

    async def opened() -> T:
        async with open_stores(settings) as stores:
            return await work(stores)

    return run(opened)


def print_secret(found: object, *, as_json: bool, text: str, remedy: str) -> None:
    """Print a secret that is shown once; if that fails, say that it exists and how to get another one."""
    try:
        print_found(found, as_json=as_json, text=text)
        sys.stdout.flush()
    except OSError as error:
        # The rest of the text must not fail again when Python closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.ClickException(
            f"the change is made, but its secret could not be written ({error.strerror}); {remedy}"
        ) from None


def print_found(found: object, *, as_json: bool, text: str) -> None:
    """Print an object as JSON on one line, or the text for people."""
    click.echo(msgspec.json.encode(found).decode() if as_json else text)
