"""`ekabridge ledger`: the fate of every session that was ended or expired, counted."""

from datetime import datetime
from typing import TYPE_CHECKING, get_args

import click

from schemas.ledger import Ledger, LedgerClass
from schemas.pages import Page
from service.cli.options import check_interval, from_option, to_option
from service.cli.runner import json_option, print_found, with_stores
from service.domain.ids import TenantId

if TYPE_CHECKING:  # it brings the HTTP client
    from service.bootstrap.container import Stores
    from service.store.ledger import Look


@click.command("ledger")
@click.argument("tenant", required=False)
@from_option
@to_option
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
    check_interval(since, before)

    async def work(stores: "Stores") -> "Look":
        tenant_id = None if tenant is None else TenantId((await stores.tenants.get(TenantId(tenant))).id)
        return await stores.ledger.look(tenant_id, since, before, show)

    look = with_stores(work)
    if show is not None:
        print_found(Page(items=look.shown), as_json=as_json, text="\n".join(look.shown))
        return
    found = look.ledger
    lines = [f"{name:<10}{getattr(found, name):>10}" for name in Ledger.__struct_fields__]
    print_found(found, as_json=as_json, text="\n".join(lines))
