"""What unknown keys cost the database, and that good ones do not pay for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import Any

import pytest

from schemas.tenants import SessionDefaults
from service.domain.api_keys.lookup import ApiKeyLookup
from service.domain.api_keys.models import Principal
from service.domain.api_keys.revocation import RevocationPoller
from service.domain.errors import RateLimited, StoreUnavailable
from service.domain.ids import DEFAULT_ACCOUNT, KeyId, TenantId
from tests.support.makers import TENANT

WHO = Principal(
    key_id=KeyId("key_1"),
    tenant_id=TenantId(TENANT),
    role="emr",
    defaults=SessionDefaults(),
    account=DEFAULT_ACCOUNT,
)


class Keys:
    """Rows of keys in memory; `gate` holds questions up."""

    def __init__(self) -> None:
        self.good = {b"good"}
        self.asked: list[list[bytes]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.is_away = False

    async def hash_of(self, key: str) -> bytes | None:
        return key.encode() if not key.startswith("odd") else None

    async def principals(self, hashes: list[bytes]) -> dict[bytes, Principal]:
        self.asked.append(list(hashes))
        await self.gate.wait()
        if self.is_away:
            raise StoreUnavailable("away")
        return {hashed: WHO for hashed in hashes if hashed in self.good}

    async def active_keys(self, key_ids: list[KeyId]) -> set[KeyId]:
        if self.is_away:
            raise StoreUnavailable("away")
        return set(key_ids) if b"good" in self.good else set()


async def until(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + 10
    while monotonic() < deadline:
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
async def who_is(keys: Keys) -> AsyncIterator[ApiKeyLookup]:
    made = ApiKeyLookup(keys, pause_seconds=0.001, max_waiting=100)
    yield made
    await made.stop()


async def test_a_flood_of_unknown_keys_is_a_few_questions_and_hurts_no_good_one(
    keys: Keys, who_is: ApiKeyLookup
) -> None:
    keys.gate.clear()
    flood = [asyncio.create_task(who_is.principal(f"unknown {number}")) for number in range(90)]
    late = asyncio.create_task(who_is.principal("good"))  # one that this process has not seen
    again = asyncio.create_task(who_is.principal("good"))
    await until(lambda: len(who_is._unknown) >= 90)
    keys.gate.set()
    assert await asyncio.gather(*flood) == [None] * 90
    assert await late == await again == WHO
    assert len(keys.asked) <= 2  # what came while the first question was asked is the second


async def test_a_key_that_was_good_is_asked_for_at_once_and_each_time(
    keys: Keys, who_is: ApiKeyLookup
) -> None:
    assert await who_is.principal("good") == WHO
    keys.asked.clear()
    for _ in range(3):
        assert await who_is.principal("good") == WHO
    assert keys.asked == [[b"good"]] * 3


async def test_good_keys_that_come_together_are_one_question_and_later_ones_another(
    keys: Keys, who_is: ApiKeyLookup
) -> None:
    assert await who_is.principal("good") == WHO
    keys.asked.clear()
    keys.gate.clear()
    early = [asyncio.create_task(who_is.principal("good")) for _ in range(3)]
    await until(lambda: keys.asked == [[b"good"]])
    keys.good.clear()  # revoked while the question is on its way: whoever comes now must hear of it
    late = asyncio.create_task(who_is.principal("good"))
    await until(lambda: not late.done())
    keys.gate.set()
    await asyncio.gather(*early)
    assert await late is None
    assert keys.asked[:2] == [[b"good"]] * 2
    keys.good.clear()
    assert await who_is.principal("good") is None
    assert b"good" not in who_is._known  # a revoked key is a stranger again
    assert await who_is.principal("good") is None


async def test_what_cannot_be_a_key_is_not_asked_for(keys: Keys, who_is: ApiKeyLookup) -> None:
    assert await who_is.principal("odd") is None
    assert keys.asked == []


async def test_the_line_of_unknown_keys_is_bounded(keys: Keys, who_is: ApiKeyLookup) -> None:
    assert await who_is.principal("good") == WHO
    keys.gate.clear()
    first = asyncio.create_task(who_is.principal("unknown"))
    await until(lambda: len(keys.asked) == 2)
    line = [asyncio.create_task(who_is.principal(f"unknown {number}")) for number in range(100)]
    await until(lambda: len(who_is._unknown) == 100)
    with pytest.raises(RateLimited) as refused:
        await who_is.principal("one more")
    assert refused.value.retry_after_seconds == 1
    known = asyncio.create_task(who_is.principal("good"))
    keys.gate.set()
    assert await known == WHO
    assert await asyncio.gather(first, *line) == [None] * 101


async def test_a_caller_that_goes_away_leaves_the_others_their_answer(
    keys: Keys, who_is: ApiKeyLookup
) -> None:
    keys.gate.clear()
    gone, stays = (asyncio.create_task(who_is.principal("good")) for _ in range(2))
    await until(lambda: len(keys.asked) > 0)
    gone.cancel()
    keys.gate.set()
    assert await stays == WHO
    assert gone.cancelled() or gone.cancelling()


async def test_without_the_database_everybody_is_told_and_nobody_waits(
    keys: Keys, who_is: ApiKeyLookup
) -> None:
    keys.is_away = True
    found = await asyncio.gather(*(who_is.principal(f"key {n}") for n in range(5)), return_exceptions=True)
    assert all(isinstance(each, StoreUnavailable) for each in found)
    keys.is_away = False
    assert await who_is.principal("good") == WHO


async def test_whoever_waits_is_let_go_when_the_process_closes(keys: Keys) -> None:
    who_is = ApiKeyLookup(keys)
    keys.gate.clear()
    waiting = [asyncio.create_task(who_is.principal(name)) for name in ("a", "b")]
    await until(lambda: len(keys.asked) > 0)
    await who_is.stop()
    found: list[Any] = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in found] == [StoreUnavailable] * 2


async def test_a_revocation_is_seen_while_a_call_is_answered(keys: Keys) -> None:
    revocations = RevocationPoller(keys.active_keys, interval_seconds=0.001)
    with revocations.watching(WHO.key_id):
        with revocations.watching(WHO.key_id):
            await asyncio.sleep(0.01)
            assert not revocations.is_revoked(WHO.key_id)
            keys.is_away = True  # whoever cannot be asked about stays
            await asyncio.sleep(0.01)
            assert not revocations.is_revoked(WHO.key_id)
            keys.is_away = False
            keys.good.clear()
            await until(lambda: revocations.is_revoked(WHO.key_id))
        assert revocations.is_revoked(WHO.key_id)
    assert not revocations.is_revoked(WHO.key_id)
    await revocations.stop()
