"""`ekabridge ledger`, `ekabridge audit`, `ekabridge tenant retention`: what an operator asks and decides."""

from datetime import UTC, datetime
from typing import Any, get_args

import click
from msgspec import UNSET

from schemas.emr import Page, Tenant
from schemas.ledger import AuditEntry, Ledger, LedgerClass
from service.cli.runner import json_option, print_found, with_stores
from service.domain.ids import TenantId

# Days: more than a life.
_MAX_DAYS = 36_500


def _moment(context: click.Context, option: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("no zone")
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter("needs a time such as 2026-11-21T09:30:00Z", context, option) from None


_from = click.option("--from", "since", callback=_moment, help="From this moment on, RFC 3339.")
_to = click.option("--to", "before", callback=_moment, help="Before this moment, RFC 3339.")


def _check_interval(since: datetime | None, before: datetime | None) -> None:
    if since is not None and before is not None and since > before:
        raise click.UsageError("--from lies after --to")


@click.command("ledger")
@click.argument("tenant", required=False)
@_from
@_to
@click.option(
    "--show", type=click.Choice(get_args(LedgerClass)), help="Print the ids of these sessions, oldest first."
)
@json_option
def ledger(
    *,
    tenant: str | None,
    since: datetime | None,
    before: datetime | None,
    show: LedgerClass | None,
    as_json: bool,
) -> None:
    """Count what became of the sessions that were ended or expired; without TENANT, of all tenants.

    With --show it prints the sessions themselves, at most a thousand.
    """
    _check_interval(since, before)

    async def work(rows: Any) -> Any:
        tenant_id = None if tenant is None else TenantId((await rows.tenants.get(TenantId(tenant))).id)
        return await rows.ledger.look(tenant_id, since, before, show)

    look = with_stores(work)
    if show is not None:
        print_found(Page(items=look.shown), as_json=as_json, text="\n".join(look.shown))
        return
    found: Ledger = look.ledger
    lines = [f"{name:<10}{getattr(found, name):>10}" for name in Ledger.__struct_fields__]
    print_found(found, as_json=as_json, text="\n".join(lines))


@click.group()
def audit() -> None:
    """Who did, read or erased what."""


@audit.command("list")
@click.argument("tenant")
@click.option("--action", default=None, help="Only this, such as session.erased.")
@click.option("--object", "object_id", default=None, help="Only what was done to this id.")
@_from
@_to
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
    _check_interval(since, before)

    async def work(rows: Any) -> Page[AuditEntry]:
        from service.store.audit import AuditFilter  # noqa: PLC0415 - brings the database's driver

        await rows.tenants.get(TenantId(tenant))
        wanted = AuditFilter(action=action, object_id=object_id, since=since, before=before)
        page: Page[AuditEntry] = await rows.audit.page(TenantId(tenant), wanted, None, limit)
        return page

    found = with_stores(work)
    lines = [f"{each.at.isoformat()}  {each.actor}  {each.action}  {each.object_id}" for each in found.items]
    print_found(found, as_json=as_json, text="\n".join(lines))


@click.command("retention")
@click.argument("tenant")
@click.option("--content-days", type=click.IntRange(1, _MAX_DAYS), help="What DELETE would erase.")
@click.option("--metadata-days", type=click.IntRange(1, _MAX_DAYS), help="The rows themselves.")
@click.option("--clear", is_flag=True, help="Keep both for ever.")
@json_option
def tenant_retention(
    *, tenant: str, content_days: int | None, metadata_days: int | None, clear: bool, as_json: bool
) -> None:
    """Keep a tenant's content and rows for so many days after a session's ending, or show for how many.

    What is not given stays as it is. Sessions in flight are kept until they are done.
    """
    is_change = content_days is not None or metadata_days is not None
    if clear and is_change:
        raise click.UsageError("--clear goes without days")

    async def work(rows: Any) -> Tenant:
        from service.store.retention import RetentionChange  # noqa: PLC0415 - brings the database's driver

        change = RetentionChange(
            content_days=None if clear else UNSET if content_days is None else content_days,
            metadata_days=None if clear else UNSET if metadata_days is None else metadata_days,
        )
        if clear or is_change:
            changed: Tenant = await rows.retention.change(TenantId(tenant), change)
            return changed
        known: Tenant = await rows.tenants.get(TenantId(tenant))
        return known

    found = with_stores(work)
    text = f"{found.id}  content {_days(found.keep_content_days)}, rows {_days(found.keep_metadata_days)}"
    print_found(found, as_json=as_json, text=text)


def _days(days: int | None) -> str:
    return "for ever" if days is None else f"for {days} days"
