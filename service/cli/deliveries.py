"""`ekabridge delivery`: what was sent to a tenant's destinations, and sending it again."""

from typing import get_args

import click

from schemas.deliveries import Delivery, DeliveryStatus
from service.cli.runner import json_option, print_found, with_stores
from service.domain.audit import Actor
from service.domain.deliveries.recovery import Deliveries
from service.domain.ids import DeliveryId, TenantId

_MAX_LISTED = 1000


@click.group()
def delivery() -> None:
    """Show and retry the deliveries to a tenant's destinations."""


@delivery.command("list")
@click.argument("tenant")
@click.option("--status", type=click.Choice(get_args(DeliveryStatus)), default=None)
@click.option("--destination", "destination_id", default=None, help="Only to this one.")
@click.option("--session", "session_id", default=None, help="Only of this one.")
@json_option
def delivery_list(
    *,
    tenant: str,
    status: DeliveryStatus | None,
    destination_id: str | None,
    session_id: str | None,
    as_json: bool,
) -> None:
    """List a tenant's deliveries, newest first, up to 1,000."""
    found = with_stores(
        lambda stores: stores.deliveries.page(
            TenantId(tenant),
            status=status,
            destination_id=destination_id,
            session_id=session_id,
            after=None,
            limit=_MAX_LISTED,
        )
    )
    print_found(found, as_json=as_json, text="\n".join(delivery_line(item) for item in found.items))


@delivery.command("show")
@click.argument("tenant")
@click.argument("delivery")
@json_option
def delivery_show(tenant: str, delivery: str, *, as_json: bool) -> None:
    """Show a delivery with each attempt at it."""
    found = with_stores(lambda stores: stores.deliveries.one(TenantId(tenant), DeliveryId(delivery)))
    attempts = found.attempts if isinstance(found.attempts, list) else []
    lines = [
        f"  {each.at.isoformat()}  {each.status_code or '-'}  {each.error_class or 'ok'}  "
        f"{each.duration_ms} ms"
        for each in attempts
    ]
    print_found(found, as_json=as_json, text="\n".join([delivery_line(found), *lines]))


@delivery.command("retry")
@click.argument("tenant")
@click.argument("delivery")
@json_option
def delivery_retry(tenant: str, delivery: str, *, as_json: bool) -> None:
    """Send a dead delivery again, under the same id."""
    retried = with_stores(
        lambda stores: Deliveries(stores.deliveries).retry(
            Actor.operator(TenantId(tenant)), DeliveryId(delivery)
        )
    )
    print_found(retried, as_json=as_json, text=delivery_line(retried))


def delivery_line(item: Delivery) -> str:
    """Return the line that shows a delivery."""
    reason = f"  {item.reason}" if item.reason else ""
    return f"{item.id}  {item.type}  {item.destination_id}  {item.status}{reason}"
