"""`ekabridge tenant`: hospitals, or products of an EMR vendor."""

from typing import Any, get_args

import click
import msgspec

from schemas.pages import Page
from schemas.sessions import Mode, Model
from schemas.tenants import SessionDefaults
from service.cli.retention import tenant_retention
from service.cli.runner import json_option, print_found, with_encrypting_stores, with_stores
from service.cli.vendor_accounts import account_change, account_options, tenant_account
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


tenant.add_command(tenant_account)
tenant.add_command(tenant_retention)
