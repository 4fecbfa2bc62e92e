"""`ekabridge delivery` and `ekabridge destination recover|test`: what was sent, and sending it again."""

from datetime import UTC, datetime
from typing import Any, get_args

import click

from schemas.emr import Delivery, DeliveryStatus, Page, Recovered
from service.cli.runner import json_option, print_found, with_encrypting_stores, with_stores
from service.domain.ids import DeliveryId, DestinationId, TenantId

_MAX_LISTED = 1000


class _Moment(click.types.StringParamType):
    """A time as RFC 3339 writes it; one without a zone is UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it."""
        try:
            read = datetime.fromisoformat(str(value))
            return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a time such as 2026-11-20T08:00:00Z", param, ctx)


@click.group()
def delivery() -> None:
    """What was sent to a tenant's destinations."""


@delivery.command("list")
@click.argument("tenant")
@click.option("--status", type=click.Choice(get_args(DeliveryStatus)), default=None)
@click.option("--destination", "destination_id", default=None, help="Only to this one.")
@click.option("--session", "session_id", default=None, help="Only of this one.")
@json_option
def delivery_list(tenant: str, as_json: bool, **wanted: str | None) -> None:
    """List a tenant's deliveries, newest first, up to 1,000."""
    found: Page[Delivery] = with_stores(
        lambda rows: rows.deliveries.page(TenantId(tenant), after=None, limit=_MAX_LISTED, **wanted)
    )
    print_found(found, as_json=as_json, text="\n".join(_line(item) for item in found.items))


@delivery.command("show")
@click.argument("tenant")
@click.argument("delivery")
@json_option
def delivery_show(tenant: str, delivery: str, *, as_json: bool) -> None:
    """Show a delivery with each attempt at it."""
    found: Delivery = with_stores(lambda rows: rows.deliveries.one(TenantId(tenant), DeliveryId(delivery)))
    attempts = found.attempts if isinstance(found.attempts, list) else []
    lines = [
        f"  {each.at.isoformat()}  {each.status_code or '-'}  {each.error_class or 'ok'}  "
        f"{each.duration_ms} ms"
        for each in attempts
    ]
    print_found(found, as_json=as_json, text="\n".join([_line(found), *lines]))


@delivery.command("retry")
@click.argument("tenant")
@click.argument("delivery")
@json_option
def delivery_retry(tenant: str, delivery: str, *, as_json: bool) -> None:
    """Send a dead delivery again, under the same id."""

    async def work(rows: Any) -> Delivery:
        retried: Delivery = await rows.deliveries.retry(TenantId(tenant), DeliveryId(delivery))
        await rows.audit.record(TenantId(tenant), "cli", "delivery.retried", delivery)
        return retried

    retried = with_stores(work)
    print_found(retried, as_json=as_json, text=_line(retried))


@click.command("recover")
@click.argument("tenant")
@click.argument("destination")
@click.option("--since", type=_Moment(), required=True, help="RFC 3339; without a zone it is UTC.")
@json_option
def destination_recover(tenant: str, destination: str, since: datetime, *, as_json: bool) -> None:
    """Send again what died at a destination since then, and what it wants of then and never got."""

    async def work(rows: Any) -> Recovered:
        tenant_id = TenantId(tenant)
        found: Recovered = await rows.recovery.recover(tenant_id, DestinationId(destination), since)
        await rows.audit.record(
            tenant_id,
            "cli",
            "destination.recovered",
            destination,
            since=since.isoformat(),
            recovered=found.recovered,
            replayed=found.replayed,
        )
        return found

    found = with_stores(work)
    text = f"{found.recovered} due again, {found.replayed} that it never got"
    print_found(found, as_json=as_json, text=text)


@click.command("test")
@click.argument("tenant")
@click.argument("destination")
@json_option
def destination_test(tenant: str, destination: str, *, as_json: bool) -> None:
    """Send a ping to a destination; a worker makes the call."""

    async def work(rows: Any) -> Delivery:
        tenant_id = TenantId(tenant)
        ping: Delivery = await rows.recovery.ping(tenant_id, DestinationId(destination), datetime.now(UTC))
        await rows.audit.record(tenant_id, "cli", "destination.tested", destination)
        return ping

    ping = with_encrypting_stores(work)
    print_found(ping, as_json=as_json, text=_line(ping))


def _line(item: Delivery) -> str:
    reason = f"  {item.reason}" if item.reason else ""
    return f"{item.id}  {item.type}  {item.destination_id}  {item.status}{reason}"
