"""`ekabridge tenant retention`: for how many days a tenant's content and rows are kept."""

from typing import TYPE_CHECKING

import click
from msgspec import UNSET

from schemas.tenants import Tenant
from service.cli.runner import json_option, print_found, with_stores
from service.domain.ids import TenantId
from service.domain.tenants.changes import RetentionChange, Tenants

if TYPE_CHECKING:  # it brings the HTTP client
    from service.bootstrap.container import Stores

# Days: more than a life.
_MAX_DAYS = 36_500


@click.command("retention")
@click.argument("tenant")
@click.option("--content-days", type=click.IntRange(1, _MAX_DAYS), help="What DELETE would erase.")
@click.option("--metadata-days", "rows_days", type=click.IntRange(1, _MAX_DAYS), help="The rows themselves.")
@click.option("--clear", is_flag=True, help="Keep both for ever.")
@json_option
def tenant_retention(
    *, tenant: str, content_days: int | None, rows_days: int | None, clear: bool, as_json: bool
) -> None:
    """Set or show for how many days after its end a session's content and rows are kept.

    An option that is left out changes nothing. Sessions in flight are kept until they are done.
    """
    is_change = content_days is not None or rows_days is not None
    if clear and is_change:
        raise click.UsageError("--clear goes without days")

    async def work(stores: "Stores") -> Tenant:
        if not (clear or is_change):
            return await stores.tenants.get(TenantId(tenant))
        change = RetentionChange(
            content_days=None if clear else UNSET if content_days is None else content_days,
            rows_days=None if clear else UNSET if rows_days is None else rows_days,
        )
        return await Tenants(stores.tenants).change_retention(TenantId(tenant), change)

    found = with_stores(work)
    text = f"{found.id}  content {_days(found.keep_content_days)}, rows {_days(found.keep_metadata_days)}"
    print_found(found, as_json=as_json, text=text)


def _days(days: int | None) -> str:
    return "for ever" if days is None else f"for {days} days"
