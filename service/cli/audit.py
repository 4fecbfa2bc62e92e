"""`ekabridge audit`: who did, read or erased what."""

from datetime import datetime
from typing import TYPE_CHECKING

import click

from schemas.audit import AuditEntry
from schemas.pages import Page
from service.cli.options import check_interval, from_option, to_option
from service.cli.runner import json_option, print_found, with_stores
from service.domain.ids import TenantId

if TYPE_CHECKING:  # it brings the HTTP client
    from service.bootstrap.container import Stores


@click.group()
def audit() -> None:
    """Show the audit trail: every deed, read and erasure with its actor."""


@audit.command("list")
@click.argument("tenant")
@click.option("--action", default=None, help="Only this, such as session.erased.")
@click.option("--object", "object_id", default=None, help="Only what was done to this id.")
@from_option
@to_option
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000))
@json_option
def audit_list(
    *,
    tenant: str,
    action: str | None,
    object_id: str | None,
    since: datetime | None,
    before: datetime | None,
    limit: int,
    as_json: bool,
) -> None:
    """List a tenant's entries, newest first."""
    check_interval(since, before)

    async def work(stores: "Stores") -> Page[AuditEntry]:
        from service.store.audit import AuditFilter  # noqa: PLC0415 - brings the database's driver

        await stores.tenants.get(TenantId(tenant))
        wanted = AuditFilter(action=action, object_id=object_id, since=since, before=before)
        return await stores.audit.page(TenantId(tenant), wanted, None, limit)

    found = with_stores(work)
    lines = [f"{each.at.isoformat()}  {each.actor}  {each.action}  {each.object_id}" for each in found.items]
    print_found(found, as_json=as_json, text="\n".join(lines))
