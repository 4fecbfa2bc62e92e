"""`ekabridge tenant`: hospitals, or products of an EMR vendor."""

from typing import Any, get_args

import click
import msgspec

from schemas.pages import Page
from schemas.sessions import Mode, Model
from schemas.tenants import KeepAudio, SessionDefaults
from service.cli.retention import tenant_retention
from service.cli.runner import json_option, print_found, with_encrypting_stores, with_stores
from service.cli.vendor_accounts import account_change, account_options, tenant_account
from service.domain.ids import TenantId
from service.domain.tenants.changes import Tenants


@click.group()
def tenant() -> None:
    """Hospitals, or products of an EMR vendor."""


@tenant.command("add")
@click.argument("name")
@click.option("--template", "templates", multiple=True, help="Default template; up to two.")
@click.option("--language", "languages", multiple=True, help="Default spoken language; repeatable.")
@click.option("--transcript-language", default=None)
@click.option("--mode", type=click.Choice(get_args(Mode)), default="dictation", show_default=True)
@click.option("--model", type=click.Choice(get_args(Model)), default="pro", show_default=True)
@account_options
@json_option
def tenant_add(name: str, as_json: bool, **options: Any) -> None:
    """Add a tenant; its sessions start from these defaults, at EkaScribe's default account or its own."""
    defaults = {field: options.pop(field) for field in SessionDefaults.__struct_fields__}
    change = account_change(**options)
    given = {
        key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items() if value
    }
    try:
        made = msgspec.convert(given, SessionDefaults)
    except msgspec.ValidationError as error:
        raise click.UsageError(str(error)) from None

    added = with_encrypting_stores(lambda stores: Tenants(stores.tenants).add(name, made, change))
    print_found(added, as_json=as_json, text=f"{added.id}  {added.name}")


@tenant.command("list")
@json_option
def tenant_list(as_json: bool) -> None:
    """List tenants, oldest first."""
    found = with_stores(lambda stores: stores.tenants.list_tenants())
    print_found(
        Page(items=found), as_json=as_json, text="\n".join(f"{item.id}  {item.name}" for item in found)
    )


@tenant.command("set")
@click.argument("tenant_id", metavar="TENANT")
@click.option(
    "--keep-audio",
    required=True,
    metavar="on_trouble|until_result|DAYS|default",
    help="For how long audio is kept that EkaScribe has confirmed; default: as the setting KEEP_AUDIO.",
)
@json_option
def tenant_set(tenant_id: str, keep_audio: str, as_json: bool) -> None:
    """Change a tenant's options, for sessions that are created from now on."""
    try:
        choice = msgspec.convert(None if keep_audio == "default" else keep_audio, KeepAudio | None)
    except msgspec.ValidationError:
        raise click.UsageError("--keep-audio is on_trouble, until_result, days or default") from None
    changed = with_stores(
        lambda stores: Tenants(stores.tenants).change_keep_audio(TenantId(tenant_id), choice)
    )
    text = f"{changed.id}  {changed.name}  audio: {changed.keep_audio or 'as the setting KEEP_AUDIO'}"
    print_found(changed, as_json=as_json, text=text)


tenant.add_command(tenant_account)
tenant.add_command(tenant_retention)
