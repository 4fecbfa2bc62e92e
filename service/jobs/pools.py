"""The three job pools of a worker: fetches of results, deliveries, and pending calls to the vendor.

Each pool limits how many of its jobs one holder may run at once, so that an account whose calls hang, a
tenant with a flood of work, or destinations that never answer leave room for everybody else.
"""

from collections.abc import Callable, Collection
from typing import Any

import structlog

from service.domain.deliveries.attempts import DeliveryForwarder
from service.domain.deliveries.models import DeliveryJob
from service.domain.errors import StoreUnavailable
from service.domain.ids import UNFILTERED, Account, SessionId
from service.domain.results.fetching import ResultFetcher
from service.domain.results.models import FetchJob
from service.domain.sessions.lifecycle import PENDING_CALL_LEASE_SECONDS
from service.domain.sessions.models import PendingCall
from service.domain.sessions.pending_calls import PendingCalls
from service.eka.client import EkaClient
from service.forwarding.timeout_policy import silent_holders, silent_holders_of_tenant
from service.jobs.instrumentation import traced_call, traced_delivery, traced_fetch
from service.jobs.job_pool import HolderQuota, JobPool
from service.observability.logging import describe_failure
from service.store.sessions import SessionRows

log = structlog.get_logger()

MAX_DELIVERIES = 256
# With the rows of one claim, all destinations whose last call hung use half of the pool at most.
_MAX_DELIVERIES_OF_TENANT = 128
_MAX_SILENT_DELIVERIES = 96
_MAX_SILENT_OF_TENANT = 32
_DELIVERIES_AT_A_TIME = 32
_MAX_PENDING_CALLS = 24
_MAX_PENDING_CALLS_OF_ACCOUNT = 8


def make_delivery_pool(forwarder: DeliveryForwarder) -> JobPool[DeliveryJob]:
    """Return the pool of delivery attempts."""
    limits: list[tuple[Callable[[DeliveryJob], str | None], int]] = [
        (lambda job: job.tenant_id, _MAX_DELIVERIES_OF_TENANT),
        (silent_holders, _MAX_SILENT_DELIVERIES),
        (silent_holders_of_tenant, _MAX_SILENT_OF_TENANT),
    ]
    return JobPool(
        "deliveries",
        size=MAX_DELIVERIES,
        claim=forwarder.claim,
        run=traced_delivery(forwarder.forward),
        next_slot_seconds=forwarder.next_slot_seconds,
        quotas=[
            HolderQuota(holder_of=holder_of, max_jobs=max_jobs, at_a_time=_DELIVERIES_AT_A_TIME)
            for holder_of, max_jobs in limits
        ],
    )


def make_fetch_pool(
    fetcher: ResultFetcher, vendor: EkaClient, deliveries: JobPool[DeliveryJob], *, max_concurrency: int
) -> JobPool[FetchJob]:
    """Return the pool of Get Session calls; `max_concurrency` is the vendor's limit for one account."""

    async def claim(session_id: SessionId | None, limit: int, at_quota: Collection[str]) -> list[FetchJob]:
        return await fetcher.claim(session_id, limit, _passed_over(vendor, at_quota))

    async def run(job: FetchJob) -> None:
        try:
            has_events = await fetcher.fetch(job)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - a process boundary: an unforeseen error must not repeat for ever
            log.error("fetch_crashed", session_id=job.session_id, **describe_failure(error))
            has_events = await fetcher.crashed(job)
        # The deliveries, and the unfiltered call that a result may need, start without a wake-up through
        # Redis.
        if has_events:
            await deliveries.wake(job.session_id)
        if job.template_id != UNFILTERED:
            await pool.wake(job.session_id)

    pool = JobPool[FetchJob](
        "fetches",
        size=2 * max_concurrency,
        claim=claim,
        run=traced_fetch(run),
        quotas=account_quotas(max_concurrency),
    )
    return pool


def make_pending_call_pool(
    pending_calls: PendingCalls, vendor: EkaClient, sessions: SessionRows
) -> JobPool[PendingCall]:
    """Return the pool of calls whose outcome at the vendor is unknown, or that were never made."""

    async def run(job: PendingCall) -> None:
        await pending_calls.process(job)
        if job.held_seconds is not None:
            # The next call of this session may be due: the handover after the create, the end after it.
            await pool.wake(None)

    async def claim(_: SessionId | None, limit: int, at_quota: Collection[str]) -> list[PendingCall]:
        passed_over = _passed_over(vendor, at_quota)
        return await sessions.claim_pending_calls(limit, PENDING_CALL_LEASE_SECONDS, passed_over)

    pool = JobPool[PendingCall](
        "owed",
        size=_MAX_PENDING_CALLS,
        claim=claim,
        run=traced_call(run),
        quotas=account_quotas(_MAX_PENDING_CALLS_OF_ACCOUNT),
    )
    return pool


def account_quotas(max_jobs: int) -> list[HolderQuota[Any]]:
    """Return the quotas of a vendor account, and of each tenant on an account that several tenants share."""

    def tenant_of(job: FetchJob | PendingCall) -> str | None:
        return None if job.account == Account(job.tenant_id) else f"tenant:{job.tenant_id}"

    at_a_time = max(1, max_jobs // 2)
    return [
        HolderQuota(holder_of=lambda job: job.account, max_jobs=max_jobs, at_a_time=at_a_time),
        # One claim may exceed the quota: a tenant runs less than 7/8 of the account's jobs.
        HolderQuota(holder_of=tenant_of, max_jobs=max(1, max_jobs * 3 // 8), at_a_time=at_a_time),
    ]


def _passed_over(vendor: EkaClient, at_quota: Collection[str]) -> set[Account]:
    """Return the accounts and tenants whose rows a claim leaves to a later one."""
    return {*vendor.call_limiters.held_back_accounts(), *map(Account, at_quota)}
