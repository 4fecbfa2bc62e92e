"""`ekabridge key`: the API keys of a tenant."""

from typing import get_args

import click

from schemas.api_keys import Role
from schemas.pages import Page
from service.cli.runner import json_option, print_found, print_secret, with_encrypting_stores, with_stores
from service.domain.api_keys.changes import ApiKeys
from service.domain.ids import KeyId, TenantId


@click.group()
def key() -> None:
    """API keys."""


@key.command("add")
@click.argument("tenant")
@click.option("--role", type=click.Choice(get_args(Role)), default="emr", show_default=True)
@json_option
def key_add(tenant: str, role: Role, as_json: bool) -> None:
    """Add a key; it is shown this once."""
    added = with_encrypting_stores(lambda stores: ApiKeys(stores.api_keys).add(TenantId(tenant), role))
    print_secret(
        added,
        as_json=as_json,
        text=f"{added.id}  {added.role}\n{added.key}\nKeep it: it is not shown again.",
        remedy=f"revoke it and add another: ekabridge key revoke {tenant} {added.id}",
    )


@key.command("list")
@click.argument("tenant")
@json_option
def key_list(tenant: str, as_json: bool) -> None:
    """List a tenant's keys, oldest first."""
    found = with_stores(lambda stores: stores.api_keys.list_keys(TenantId(tenant)))
    lines = [f"{item.id}  {item.role}{'  revoked' if item.revoked_at else ''}" for item in found]
    print_found(Page(items=found), as_json=as_json, text="\n".join(lines))


@key.command("revoke")
@click.argument("tenant")
@click.argument("key")
@json_option
def key_revoke(tenant: str, key: str, as_json: bool) -> None:
    """Revoke a key by its id; it stops working at once, everywhere."""
    revoked = with_stores(lambda stores: ApiKeys(stores.api_keys).revoke(TenantId(tenant), KeyId(key)))
    print_found(revoked, as_json=as_json, text=f"{revoked.id}  revoked")
