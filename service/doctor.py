"""Checks everything that a first installation can get wrong, one line each."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from schemas.emr import Destination, Tenant
from service.domain.errors import BridgeError
from service.domain.ids import DEFAULT_ACCOUNT, UNFILTERED, TenantId, new_session_id
from service.eka.client import EkaClient
from service.forwarding.guard import (
    AddressForbiddenError,
    NameUnresolvedError,
    check_destination,
    resolve,
)
from service.jobs.nudges import close_redis, open_redis, ping_redis
from service.settings import SERVICE, Settings, SettingsError, load_settings
from service.store.migrate import newest_revision
from service.store.sealing import SealError
from service.wiring import Rows, open_rows, open_vendor, ping_store

Report = Callable[[str, str | None], None]
_CHECK_SECONDS = 30.0


async def examine(environment: Mapping[str, str], report: Report) -> bool:
    """Run every check and report each as (name, problem or None); return whether all are well."""
    try:
        settings = load_settings(environment, needs=SERVICE)
    except SettingsError as error:
        for problem in error.problems:
            report("settings", problem)
        return False
    report("settings", None)
    results: list[bool] = []

    async def check(name: str, work: Awaitable[str | None]) -> bool:
        problem = await _problem_of(work)
        report(name, problem)
        results.append(problem is None)
        return problem is None

    async with open_rows(settings) as rows, open_vendor(settings, rows) as vendor:
        has_store = await check("database", _database(rows))
        await check("redis", _redis(settings))
        if has_store:
            await check("vendor and its credentials", _vendor(vendor))
            await check("webhook subscription", _subscription(settings, vendor))
            for tenant, destination in await _destinations(rows):
                name = f"destination {destination.id} of {tenant.name}"
                await check(name, _destination(settings, destination))
    return all(results)


async def _problem_of(work: Awaitable[str | None]) -> str | None:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return await work
    except TimeoutError:
        return f"no answer within {_CHECK_SECONDS:g} seconds"
    except BridgeError as error:
        return error.detail
    except SealError as error:
        return str(error)


async def _database(rows: Rows) -> str | None:
    await ping_store(rows)
    found = await rows.database.revision()
    wanted = newest_revision()
    return (
        None if found == wanted else f"its schema is {found}, this version wants {wanted}: ekabridge migrate"
    )


async def _redis(settings: Settings) -> str | None:
    redis = open_redis(settings.redis_url)
    try:
        return None if await ping_redis(redis) else "does not answer; nudges wait for the sweep"
    finally:
        await close_redis(redis)


async def _vendor(vendor: EkaClient) -> str | None:
    # A session that cannot exist: 404 shows that the address is right and that we may ask.
    result = await vendor.get_session(DEFAULT_ACCOUNT, new_session_id(), UNFILTERED)
    return None if result.state == "missing" else "answered for a session that does not exist"


async def _subscription(settings: Settings, vendor: EkaClient) -> str | None:
    if settings.public_url is None:
        return "EKABRIDGE_PUBLIC_URL is not set, so EkaScribe cannot be told where to send its webhooks"
    wanted = f"{settings.public_url}/webhooks/eka"
    endpoints = await vendor.webhook_endpoints(DEFAULT_ACCOUNT)
    if wanted in endpoints:
        return None
    return f"EkaScribe does not send webhooks to {wanted}; results come by the sweep, later"


async def _destinations(rows: Rows) -> list[tuple[Tenant, Destination]]:
    found = []
    for tenant in await rows.access.list_tenants():
        page = await rows.destinations.page(TenantId(tenant.id), None, 1000)
        found += [(tenant, destination) for destination in page.items]
    return found


async def _destination(settings: Settings, destination: Destination) -> str | None:
    if not destination.enabled:
        return f"is off: {destination.paused_reason}"
    await check_destination(destination.url, allow_private=settings.allow_private_destinations)
    host = destination.url.split("://", 1)[1].split("/", 1)[0].rsplit(":", 1)[0].strip("[]")
    try:
        await resolve(host, 443)
    except (NameUnresolvedError, AddressForbiddenError):
        return "its host name does not resolve"
    return None
