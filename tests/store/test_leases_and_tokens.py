"""Rows by which replicas agree."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from service.domain.idempotency import KeyedCall
from service.domain.ids import DEFAULT_ACCOUNT, Account
from service.domain.sessions.models import VendorSession
from tests.support.makers import NOTE, make_lease, make_plan
from tests.support.store_house import House, new_tenant

KEY, BODY = "emr-key-1", b'{"reference":"ENC-1"}'


def call_of(house, key=KEY, body=BODY):
    return KeyedCall(tenant_id=house.tenant_id, route="createSession", key=key, request=body)


async def reserve(house, plan=None, *, key=KEY, body=BODY, lease=None):
    return await house.stores.idempotency.reserve_session(
        call_of(house, key, body),
        plan or house.plan(),
        lease or make_lease(),
        lease_seconds=60,
        life_seconds=3600,
    )


async def test_of_many_calls_with_one_key_exactly_one_makes_a_session(house):
    found = await asyncio.gather(*(reserve(house) for _ in range(12)))
    assert Counter(each.kind for each in found) == {"new": 1, "running": 11}
    assert len({each.object_id for each in found if each.kind == "new"}) == 1
    assert await house.value("SELECT count(*) FROM sessions") == 1
    first = next(each for each in found if each.kind == "new")
    assert await house.value("SELECT id FROM sessions") == first.object_id


async def test_the_same_key_with_another_body_is_reused_at_every_moment(house):
    await reserve(house)
    assert (await reserve(house, body=b"{}")).kind == "reused"
    await house.stores.idempotency.finish(call_of(house), house.plan().id, b"{}")
    assert (await reserve(house, body=b"{}")).kind == "reused"


async def test_a_finished_call_is_replayed_byte_by_byte(house):
    first = await reserve(house)
    await house.stores.idempotency.finish(call_of(house), first.object_id, b'{"id": "x"}')
    again = await reserve(house)
    assert (again.kind, again.answer, again.object_id) == ("replayed", b'{"id": "x"}', first.object_id)
    assert await house.value("SELECT count(*) FROM sessions") == 1


async def test_a_call_that_failed_may_be_made_again_at_once_and_one_that_died_after_its_lease(house):
    lease = make_lease()
    first = await reserve(house, lease=lease)
    await house.stores.idempotency.abandon(call_of(house), make_lease())
    assert (await reserve(house)).kind == "running"
    await house.stores.idempotency.abandon(call_of(house), lease)
    again = await reserve(house)
    assert (again.kind, again.object_id) == ("resumed", first.object_id)
    assert (await reserve(house)).kind == "running"
    await house.let_pass("idempotency_keys", "lease_until")
    assert (await reserve(house)).kind == "resumed"
    assert await house.value("SELECT count(*) FROM sessions") == 1


async def test_a_session_that_the_vendor_has_needs_only_its_answer(house):
    lease = make_lease()
    first = await reserve(house, lease=lease)
    await house.stores.sessions.record_created(
        first.object_id, lease, VendorSession(upload_url=None, expires_at=None)
    )
    await house.stores.idempotency.abandon(call_of(house), lease)
    assert (await reserve(house)).kind == "established"


async def test_a_session_that_the_vendor_refused_is_not_brought_back(house):
    lease = make_lease()
    first = await reserve(house, lease=lease)
    await house.stores.sessions.record_never_created(first.object_id, lease, "vendor_error", "no")
    await house.stores.idempotency.abandon(call_of(house), lease)
    again = await reserve(house)
    assert again.kind == "new"
    assert again.object_id != first.object_id
    assert await house.value("SELECT count(*) FROM sessions") == 2


async def test_a_key_is_one_tenant_s_own(house):
    other = await new_tenant(house.stores, "other")
    await reserve(house)
    there = House(house.stores, house.connection, other)
    assert (await reserve(there)).kind == "new"


async def test_keys_are_forgotten_after_a_week_and_not_before(house):
    await reserve(house, key="old")
    await house.connection.execute("UPDATE idempotency_keys SET created_at = now() - interval '8 days'")
    await reserve(house, key="young")
    await house.stores.idempotency.forget_old()
    assert await house.value("SELECT count(*) FROM idempotency_keys") == 1
    assert (await reserve(house, key="old")).kind == "new"
    assert (await reserve(house, key="young")).kind == "running"


async def test_a_reservation_whose_session_cannot_be_inserted_reserves_nothing(house):
    with pytest.raises(Exception, match="tenant"):
        await reserve(house, make_plan(tenant_id="ten_none", details=house.plan().details))
    assert await house.value("SELECT count(*) FROM idempotency_keys") == 0


# Vendor tokens.


async def test_of_many_replicas_one_may_log_in_and_all_read_its_tokens(house):
    tokens = house.stores.vendor_tokens
    assert (await tokens.read(DEFAULT_ACCOUNT)).tokens is None
    leases = [make_lease() for _ in range(8)]
    taken = await asyncio.gather(
        *(tokens.lease(DEFAULT_ACCOUNT, lease, seconds=30, generation=0) for lease in leases)
    )
    assert taken.count(True) == 1
    assert (await tokens.read(DEFAULT_ACCOUNT)).is_leased
    winner = leases[taken.index(True)]
    loser = leases[taken.index(False)]
    assert not await tokens.store(DEFAULT_ACCOUNT, loser, b"stolen")
    assert await tokens.store(DEFAULT_ACCOUNT, winner, b"fresh")
    state = await tokens.read(DEFAULT_ACCOUNT)
    assert (state.tokens, state.generation, state.is_leased) == (b"fresh", 1, False)
    # Whoever still thinks that generation 0 is to be replaced is too late.
    assert not await tokens.lease(DEFAULT_ACCOUNT, loser, seconds=30, generation=0)
    assert await tokens.lease(DEFAULT_ACCOUNT, loser, seconds=30, generation=1)


async def test_a_login_whose_replica_died_is_taken_over_after_its_lease(house):
    tokens, dead, alive = house.stores.vendor_tokens, make_lease(), make_lease()
    assert await tokens.lease(DEFAULT_ACCOUNT, dead, seconds=30, generation=0)
    await tokens.release(DEFAULT_ACCOUNT, alive)
    assert not await tokens.lease(DEFAULT_ACCOUNT, alive, seconds=30, generation=0)
    await house.let_pass("vendor_tokens", "lease_until")
    assert await tokens.lease(DEFAULT_ACCOUNT, alive, seconds=30, generation=0)
    assert not await tokens.store(DEFAULT_ACCOUNT, dead, b"late")
    await tokens.release(DEFAULT_ACCOUNT, alive)
    assert not (await tokens.read(DEFAULT_ACCOUNT)).is_leased


async def test_each_account_has_its_own_tokens(house):
    lease = make_lease()
    assert await house.stores.vendor_tokens.lease(DEFAULT_ACCOUNT, lease, seconds=30, generation=0)
    assert await house.stores.vendor_tokens.lease(Account("ten_1"), make_lease(), seconds=30, generation=0)
    await house.stores.vendor_tokens.store(DEFAULT_ACCOUNT, lease, b"ours")
    assert (await house.stores.vendor_tokens.read(Account("ten_1"))).tokens is None


# Named leases.


async def test_one_process_has_a_right_renews_it_and_loses_it_in_time(house):
    leases, mine, yours = house.stores.leases, make_lease(), make_lease()
    taken = await asyncio.gather(*(leases.acquire("sweep", make_lease(), 15) for _ in range(6)))
    assert taken.count(True) == 1
    await house.connection.execute("DELETE FROM leases")
    assert await leases.acquire("sweep", mine, 15)
    assert not await leases.acquire("sweep", yours, 15)
    assert await leases.acquire("other work", yours, 15)
    assert await leases.acquire("sweep", mine, 15)
    await house.let_pass("leases", "until")
    assert await leases.acquire("sweep", yours, 15)
    assert not await leases.acquire("sweep", mine, 15)


# Webhooks.


async def test_of_fifty_identical_webhooks_exactly_one_is_the_first(house):
    session_id = await house.end(NOTE, reconcile_seconds=120)
    heard = await asyncio.gather(*(house.hear(session_id) for _ in range(50)))
    assert sum(each.is_first for each in heard) == 1
    assert sum(each.due for each in heard) == 1
    assert {each.phase for each in heard} == {"ended"}
    assert tuple(await house.connection.fetchrow("SELECT repeats, count(*) OVER () FROM webhook_events")) == (
        49,
        1,
    )
    assert len(await house.claim_fetches()) == 1


async def test_a_completion_before_the_end_is_recorded_and_the_one_after_it_still_counts(house):
    session_id = await house.create(templates=[NOTE])
    early = await house.hear(session_id)
    assert (early.phase, early.is_first, early.due) == ("early", True, 0)
    assert await house.value("SELECT status FROM sessions") == "created"
    await house.begin_end(session_id, reconcile_seconds=120)
    late = await house.hear(session_id)
    assert (late.phase, late.is_first, late.due) == ("ended", True, 1)
    assert not (await house.hear(session_id)).is_first


@pytest.mark.parametrize("kind", ["started", "ended", "unrecognised"])
async def test_an_event_that_is_no_ending_makes_nothing_due(house, kind):
    session_id = await house.end(NOTE, reconcile_seconds=120)
    heard = await house.hear(session_id, kind)
    assert (heard.is_first, heard.due) == (True, 0)
    assert await house.claim_fetches() == []


async def test_each_kind_of_ending_is_a_first_of_its_own(house):
    session_id = await house.end(NOTE, reconcile_seconds=120)
    for kind in ("completed", "partial", "failed", "expired"):
        assert (await house.hear(session_id, kind)).is_first


async def test_an_event_of_an_unknown_session_or_another_account_is_recorded_and_moves_nothing(house):
    session_id = await house.end(NOTE, reconcile_seconds=120)
    assert (await house.hear("ses_unknown")).phase == "unknown"
    assert (await house.hear("")).phase == "unknown"
    foreign = await house.hear(session_id, account=Account("ten_other"))
    assert (foreign.phase, foreign.due) == ("unknown", 0)
    assert await house.claim_fetches() == []
    assert await house.value("SELECT count(*) FROM webhook_events") == 3
