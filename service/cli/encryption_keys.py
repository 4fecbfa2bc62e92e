"""`ekabridge encryption`: count the values under each key, re-encrypt with the first key, retire old keys."""

import asyncio
import time
from typing import Any

import click

from schemas.encryption_keys import EncryptionKey, EncryptionStatus, Forgotten, ReencryptionPass
from service.cli.runner import json_option, print_found, with_encrypting_stores, with_unchecked_stores

_PROGRESS_SECONDS = 5.0


@click.group()
def encryption() -> None:
    """Encryption keys, by their ids, and the values that each encrypts."""


@encryption.command("status")
@json_option
def encryption_status(*, as_json: bool) -> None:
    """Count the values under each key, exactly: every one is looked at, which takes minutes with millions."""

    async def work(stores: Any) -> EncryptionStatus:
        return EncryptionStatus(
            keys=await stores.encryption_keys.keys(), passes=await stores.reencryption.passes()
        )

    found = with_unchecked_stores(work)
    lines = [_key_line(key) for key in found.keys] + [_pass_line(table_pass) for table_pass in found.passes]
    print_found(found, as_json=as_json, text="\n".join(lines))


@encryption.command("rotate")
@json_option
def encryption_rotate(*, as_json: bool) -> None:
    """Bring every value under the first of ENCRYPTION_KEYS now; a worker does the same by itself, later.

    It may be stopped and started again. Exit status 1 if values do not open.
    """

    async def work(stores: Any) -> list[ReencryptionPass]:
        await stores.reencryption.restart()
        progress_due = time.monotonic() + _PROGRESS_SECONDS
        began = time.monotonic()
        while await stores.reencryption.step():
            await asyncio.sleep(time.monotonic() - began)
            began = time.monotonic()
            if began >= progress_due and not as_json:
                for table_pass in await stores.reencryption.passes():
                    click.echo(_pass_line(table_pass), err=True)
                progress_due = began + _PROGRESS_SECONDS
        passes: list[ReencryptionPass] = await stores.reencryption.passes()
        return passes

    passes = with_encrypting_stores(work)
    status = EncryptionStatus(keys=[], passes=passes)
    print_found(status, as_json=as_json, text="\n".join(map(_pass_line, passes)))
    if any(table_pass.unreadable or table_pass.left_over for table_pass in passes):
        raise SystemExit(1)


@encryption.command("forget")
@click.argument("key_id")
@click.option(
    "--give-up",
    is_flag=True,
    help="The key is lost: retire it although values are under it, which can never be read again.",
)
@json_option
def encryption_forget(key_id: str, *, give_up: bool, as_json: bool) -> None:
    """Retire a key under which nothing is left, so that it may be dropped from ENCRYPTION_KEYS."""

    async def work(stores: Any) -> Forgotten:
        forgotten: Forgotten = await stores.encryption_keys.forget(key_id, give_up=give_up)
        return forgotten

    found = with_unchecked_stores(work)
    given_up = f", {found.given_up} values given up" if found.given_up else ""
    print_found(found, as_json=as_json, text=f"{found.key_id}  retired{given_up}")


def _key_line(key: EncryptionKey) -> str:
    return f"{key.key_id}  {key.state:<8}{key.values:>12} values"


def _pass_line(table_pass: ReencryptionPass) -> str:
    state = "done" if table_pass.finished_at else "under way"
    return (
        f"{table_pass.table:<18}{state:<10}{table_pass.reencrypted:>12} re-encrypted"
        f"{table_pass.unreadable:>9} unreadable{table_pass.left_over:>9} left over"
    )
