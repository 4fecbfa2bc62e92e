"""Makes the pending calls of a bridge's tenant at once, without a worker."""

from contextlib import AsyncExitStack

from service.bootstrap.container import (
    make_accounts,
    make_pending_calls,
    open_discovery,
    open_stores,
    open_vendor,
)
from service.domain.clock import CheckedClock
from service.domain.results.fetching import ResultFetcher
from tests.support.bridge import Bridge

_DUE = """
UPDATE sessions SET owed_next_at = now() WHERE tenant_id = $1 AND owed IS NOT NULL AND owed_lease IS NULL
"""


async def make_due_calls(bridge: Bridge, rounds: int = 4) -> None:
    """Make what is pending, round after round, as each call may make the next one due."""
    settings = bridge.settings
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(open_stores(settings))
        vendor = await stack.enter_async_context(
            open_vendor(settings, stores, make_accounts(settings, stores))
        )
        discovery = await stack.enter_async_context(open_discovery(settings))
        fetcher = ResultFetcher(store=stores.results, vendor=vendor, clock=CheckedClock())
        calls = make_pending_calls(settings, stores, vendor, discovery, fetcher)
        for _ in range(rounds):
            await bridge.database.execute(_DUE, bridge.tenant_id)
            for call in await stores.sessions.claim_pending_calls(100, 60.0):
                if call.tenant_id == bridge.tenant_id:
                    await calls.process(call)
