"""`ekabridge webhook`: our subscriptions at EkaScribe."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import click

from schemas.webhook_subscriptions import ApiReport, Subscription, SubscriptionReport
from service.cli.runner import json_option, print_found, run, settings_for
from service.domain.errors import InvalidRequest, NotFound
from service.domain.ids import DEFAULT_ACCOUNT, Account, TenantId
from service.domain.webhook_subscriptions import SubscriptionAction, change_subscription
from service.settings import SUBSCRIBER, Settings

if TYPE_CHECKING:  # it brings the HTTP client, which the other commands do without
    from service.eka.webhook_subscriptions import Subscriptions

Work = Callable[["Subscriptions", Account, str, tuple[str, ...]], Awaitable[SubscriptionReport]]

_WORDS = {
    "listed": "asked",
    "registered": "registered",
    "already": "was registered already",
    "removed": "removed",
    "absent": "was not registered",
    "unavailable": "not available",
    "failed": "failed",
}
tenant_option = click.option(
    "--tenant", default=None, metavar="TENANT", help="That of a tenant's own account, by the tenant's id."
)


@click.group()
def webhook() -> None:
    """Our subscription to EkaScribe's webhooks."""


@webhook.command("register")
@tenant_option
@json_option
def webhook_register(tenant: str | None, as_json: bool) -> None:
    """Have EkaScribe send its webhooks to us; doing it twice changes nothing.

    The first webhook secret signs them. To change a secret or the events, remove and register.
    """
    settings = settings_for(SUBSCRIBER)

    async def work(
        subscriptions: "Subscriptions", account: Account, endpoint: str, secrets: tuple[str, ...]
    ) -> SubscriptionReport:
        if not secrets and not settings.webhook_allow_unsigned:
            raise InvalidRequest(
                "there is no webhook secret to sign them with: set EKABRIDGE_WEBHOOK_SECRETS, or the "
                "tenant's with ekabridge tenant account"
            )
        return await subscriptions.register(account, endpoint, secrets[0] if secrets else None)

    _report(settings, tenant, work, "webhook.registered", as_json=as_json)


@webhook.command("list")
@tenant_option
@json_option
def webhook_list(tenant: str | None, as_json: bool) -> None:
    """List the account's subscriptions; ours have a star."""

    async def work(
        subscriptions: "Subscriptions", account: Account, endpoint: str, _: tuple[str, ...]
    ) -> SubscriptionReport:
        return await subscriptions.look(account, endpoint)

    _report(settings_for(SUBSCRIBER), tenant, work, None, as_json=as_json)


@webhook.command("remove")
@tenant_option
@json_option
def webhook_remove(tenant: str | None, as_json: bool) -> None:
    """Remove our subscription, and no other; removing what is not there is no mistake."""

    async def work(
        subscriptions: "Subscriptions", account: Account, endpoint: str, _: tuple[str, ...]
    ) -> SubscriptionReport:
        return await subscriptions.remove(account, endpoint)

    _report(settings_for(SUBSCRIBER), tenant, work, "webhook.removed", as_json=as_json)


def _report(
    settings: Settings, tenant: str | None, work: Work, action: SubscriptionAction | None, *, as_json: bool
) -> None:
    report = run(lambda: _asked(settings, tenant, work, action))
    lines = [*(_api_line(each) for each in report.apis), *(_line(each) for each in report.items)]
    print_found(report, as_json=as_json, text="\n".join([report.endpoint, *lines]))
    if not report.is_well:
        raise SystemExit(1)


async def _asked(
    settings: Settings, tenant: str | None, work: Work, action: SubscriptionAction | None
) -> SubscriptionReport:
    from service.bootstrap.container import (  # noqa: PLC0415 - brings the HTTP client
        check_keys,
        make_accounts,
        open_discovery,
        open_stores,
        open_vendor,
    )
    from service.eka.webhook_subscriptions import Subscriptions, webhook_endpoint  # noqa: PLC0415

    account = DEFAULT_ACCOUNT if tenant is None else Account(tenant)
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(open_stores(settings))
        await check_keys(stores, stores.encryption_keys.begin_command)  # a login's tokens are encrypted
        accounts = make_accounts(settings, stores)
        secrets = await accounts.webhook_secrets(account) if tenant != DEFAULT_ACCOUNT else None
        if secrets is None:
            raise NotFound(
                "no such tenant with an EkaScribe account of its own; others share the default one"
            )
        vendor = await stack.enter_async_context(open_vendor(settings, stores, accounts))
        discovery = await stack.enter_async_context(open_discovery(settings))
        subscriptions = Subscriptions(client=vendor, limits=discovery.look)
        endpoint = webhook_endpoint(settings.public_url or "", account)
        call = partial(work, subscriptions, account, endpoint, secrets)
        if tenant is None or action is None:
            return await call()
        return await change_subscription(stores.audit, TenantId(tenant), action, call)


def _api_line(report: ApiReport) -> str:
    return f"{report.api}: {_WORDS[report.outcome]}{'' if report.detail is None else f': {report.detail}'}"


def _line(item: Subscription) -> str:
    said = "  ".join([item.api, item.id, item.endpoint, item.status or "-", ",".join(item.events)])
    return f"{'*' if item.ours else ' '} {said}"
