"""Checks everything that a first installation can get wrong, one line each."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

from schemas.destinations import Destination, OAuth2
from schemas.tenants import Tenant
from service.bootstrap.container import (
    Stores,
    make_accounts,
    open_discovery,
    open_stores,
    open_vendor,
    ping_store,
)
from service.diagnostics import environment as surroundings
from service.diagnostics.environment import Finding, Note
from service.domain.clock import SystemClock
from service.domain.errors import BridgeError, VendorError
from service.domain.ids import (
    DEFAULT_ACCOUNT,
    UNFILTERED,
    Account,
    DestinationId,
    TenantId,
    new_vendor_session_id,
)
from service.domain.vendor_accounts import Accounts
from service.eka.client import EkaClient
from service.eka.discovery import Discovery
from service.eka.http_exchange import make_http_client
from service.eka.server_kind import ServerKind, describe, identify_server
from service.eka.webhook_subscriptions import Subscriptions, webhook_endpoint
from service.forwarding.name_resolution import NameUnresolvedError
from service.forwarding.oauth_tokens import TokenRefusedError, TokenUnavailableError
from service.forwarding.sender import HttpSender
from service.forwarding.ssrf_guard import (
    AddressForbiddenError,
    GuardedBackend,
    check_destination_url,
    resolve,
)
from service.settings import SERVICE, Settings, SettingsError, load_settings
from service.store.encryption import DecryptionError, MissingKeyError
from service.store.migrate import newest_revision
from service.store.tolerant_decryption import UNREADABLE

Report = Callable[[str, Finding], None]
_CHECK_SECONDS = 30.0


async def examine(environment: Mapping[str, str], report: Report) -> bool:
    """Run every check and report each as (name, problem, note or None); return whether nothing is wrong."""
    try:
        settings = load_settings(environment, needs=SERVICE)
    except SettingsError as error:
        for problem in error.problems:
            report("settings", problem)
        return False
    report("settings", None)
    results: list[bool] = []

    async def check(name: str, work: Awaitable[Finding]) -> bool:
        found = await _found(work)
        report(name, found)
        is_well = not isinstance(found, str)
        results.append(is_well)
        return is_well

    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(open_stores(settings))
        accounts = make_accounts(settings, stores)
        vendor = await stack.enter_async_context(open_vendor(settings, stores, accounts))
        discovery = await stack.enter_async_context(open_discovery(settings))
        subscriptions = Subscriptions(client=vendor, limits=discovery.look)
        has_store = await check("database", _database(stores))
        if has_store:
            await check("database server", surroundings.server(stores.database, settings))
        await check("redis", surroundings.redis(settings))
        await check("temporary files", asyncio.to_thread(surroundings.temporary_files, settings))
        if settings.public_url is not None:
            await check("public URL", surroundings.check_public_url(settings.public_url))
        kind = await _server(settings, discovery, report)
        if has_store:
            for name, account in await _accounts(stores, accounts):
                await check(f"vendor and its credentials{name}", _vendor(vendor, account))
                secrets = await accounts.webhook_secrets(account)
                work = _subscription(settings, subscriptions, account, kind, has_secrets=bool(secrets))
                await check(f"webhook subscription{name}", work)
            for tenant, destination in await _destinations(stores):
                name = f"destination {destination.id} of {tenant.name}"
                await check(name, _destination(settings, destination))
                if destination.auth is not None and destination.auth.type == "oauth2":
                    work = _token(settings, stores, TenantId(tenant.id), DestinationId(destination.id))
                    await check(f"OAuth token of {name}", work)
    return all(results)


async def _found(work: Awaitable[Finding]) -> Finding:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return await work
    except TimeoutError:
        return f"no answer within {_CHECK_SECONDS:g} seconds"
    except BridgeError as error:
        return error.detail
    except DecryptionError as error:
        return str(error)


async def _database(stores: Stores) -> str | None:
    try:
        await ping_store(stores)
    except MissingKeyError as error:
        raise await stores.encryption_keys.explained(error) from None
    found = await stores.database.revision()
    wanted = newest_revision()
    return (
        None if found == wanted else f"its schema is {found}, this version wants {wanted}: ekabridge migrate"
    )


async def _accounts(stores: Stores, accounts: Accounts) -> list[tuple[str, Account]]:
    """Return every account that is in use, with what tells its lines from the others'."""
    tenants = await stores.tenants.list_tenants()
    own = [(f" of {tenant.name}", Account(tenant.id)) for tenant in tenants if tenant.own_account]
    default = (await accounts.credentials(DEFAULT_ACCOUNT)).are_given
    return own if len(own) == len(tenants) > 0 and not default else [("", DEFAULT_ACCOUNT), *own]


async def _server(settings: Settings, discovery: Discovery, report: Report) -> ServerKind:
    """Report which kind of server it is and what it cannot do; nothing of that is wrong."""
    name = "EkaScribe's server"
    try:
        async with asyncio.timeout(_CHECK_SECONDS), make_http_client() as http:
            server = await identify_server(http, settings.eka_base_url, discovery)
    except (TimeoutError, VendorError) as error:
        why = error.detail if isinstance(error, VendorError) else "no answer in time"
        report(name, Note(f"of no known kind: {why}"))
        return "unknown"
    if server.kind == "hosted":
        report(f"{name}: {describe(server.kind)}", None)
    else:
        report(name, Note(describe(server.kind)))
    for each in server.lacks:
        report(name, Note(each))
    return server.kind


async def _vendor(vendor: EkaClient, account: Account) -> str | None:
    # A session that cannot exist: 404 shows that the address is right and that we may ask.
    result = await vendor.get_session(account, new_vendor_session_id(), UNFILTERED)
    return None if result.state == "missing" else "answered for a session that does not exist"


async def _subscription(
    settings: Settings,
    subscriptions: Subscriptions,
    account: Account,
    kind: ServerKind,
    *,
    has_secrets: bool,
) -> Finding:
    wanted = webhook_endpoint(settings.public_url or "", account)
    if kind != "hosted":
        report = await subscriptions.look(account, wanted)
        if all(each.outcome == "unavailable" for each in report.apis):
            return Note("has no webhooks: results come only by asking for them (RECONCILE_AFTER_SECONDS)")
    if not has_secrets and not settings.webhook_allow_unsigned:
        return "it has no webhook secret, so every webhook is refused (ekabridge tenant account)"
    if settings.public_url is None:
        return "EKABRIDGE_PUBLIC_URL is not set, so EkaScribe cannot be told where to send its webhooks"
    report = await subscriptions.look(account, wanted)
    if any(each.ours for each in report.items):
        return None
    path = urlsplit(wanted).path
    elsewhere = [each.endpoint for each in report.items if urlsplit(each.endpoint).path.endswith(path)]
    whys = [f"{each.api}: {each.detail}" for each in report.apis if each.outcome == "failed"]
    if elsewhere:
        whys.append(f"it sends them to {', '.join(elsewhere)}")
    tenant = "" if account == DEFAULT_ACCOUNT else f" --tenant {account}"
    problem = f"EkaScribe does not send webhooks to {wanted}, results come by the sweep, later"
    return "; ".join([problem, *whys, f"to mend it: ekabridge webhook register{tenant}"])


async def _destinations(stores: Stores) -> list[tuple[Tenant, Destination]]:
    found = []
    for tenant in await stores.tenants.list_tenants():
        page = await stores.destinations.page(TenantId(tenant.id), None, 1000)
        found += [(tenant, destination) for destination in page.items]
    return found


async def _destination(settings: Settings, destination: Destination) -> str | None:
    if destination.paused_reason == UNREADABLE:
        return "what is stored of it cannot be decrypted: give URL, headers, auth and secret anew"
    if not destination.enabled:
        return f"is off: {destination.paused_reason}"
    await check_destination_url(destination.url, allow_private=settings.allow_private_destinations)
    host = destination.url.split("://", 1)[1].split("/", 1)[0].rsplit(":", 1)[0].strip("[]")
    try:
        await resolve(host, 443)
    except (NameUnresolvedError, AddressForbiddenError):
        return "its host name does not resolve"
    return None


async def _token(
    settings: Settings, stores: Stores, tenant_id: TenantId, destination_id: DestinationId
) -> str | None:
    auth = await stores.destinations.auth(tenant_id, destination_id)
    if not isinstance(auth, OAuth2):
        return None  # changed this moment
    backend = GuardedBackend(allow_private=settings.allow_private_destinations)
    sender = HttpSender(
        backend=backend, clock=SystemClock(), timeout_seconds=settings.forward_timeout_seconds
    )
    try:
        await sender.tokens.token(destination_id, auth)
    except TokenRefusedError as error:
        return f"its token endpoint refuses our credentials ({error})"
    except TokenUnavailableError as error:
        return f"its token endpoint gives no token ({error})"
    except AddressForbiddenError:
        return "its token endpoint is at a private or reserved address"
    finally:
        await sender.close()
    return None
