"""Who read what: one entry for a key, an object and an hour, and none that is lost to a failure."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from msgspec.structs import replace

from service.domain.errors import StoreUnavailable
from service.domain.ids import KeyId, TenantId
from service.domain.read_audit import ReadAudit
from tests.support.makers import TurnedClock, make_principal


class Trail:
    """Keeps entries; may be away."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, str]] = []
        self.is_away = False

    async def insert_reads(
        self, tenant_id: TenantId, actor: KeyId, action: str, object_ids: Sequence[str]
    ) -> None:
        if self.is_away:
            raise StoreUnavailable("away")
        self.entries += [(actor, action, each) for each in object_ids]


@pytest.fixture
def store() -> Trail:
    return Trail()


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
def trail(store, clock) -> ReadAudit:
    return ReadAudit(store=store, clock=clock)


async def test_one_entry_an_hour_for_each_key_object_and_action(store, clock, trail):
    me, other = make_principal(), replace(make_principal(), key_id=KeyId("key_2"))
    clock.at = clock.at.replace(minute=0)
    for _ in range(3):
        clock.at += timedelta(minutes=19)
        await trail.record(me, "session.read", ["ses_1", "ses_2"])
        await trail.record(other, "session.read", ["ses_1"])
        await trail.record(me, "document.read", ["ses_1"])
    assert sorted(store.entries) == [
        ("key_1", "document.read", "ses_1"),
        ("key_1", "session.read", "ses_1"),
        ("key_1", "session.read", "ses_2"),
        ("key_2", "session.read", "ses_1"),
    ]
    store.entries.clear()
    clock.at += timedelta(hours=1)
    await trail.record(me, "session.read", ["ses_1"])
    await trail.record(me, "session.read", ["ses_1"])
    assert store.entries == [("key_1", "session.read", "ses_1")]


async def test_what_could_not_be_recorded_is_with_the_next_read(store, trail):
    store.is_away = True
    await trail.record(make_principal(), "session.read", ["ses_1"])
    store.is_away = False
    await trail.record(make_principal(), "session.read", ["ses_1"])
    assert store.entries == [("key_1", "session.read", "ses_1")]


async def test_what_it_remembers_is_bounded_and_forgetting_loses_no_entry(store, clock):
    trail = ReadAudit(store=store, clock=clock, max_remembered=2)
    for name in ("a", "b", "c", "a"):
        await trail.record(make_principal(), "session.read", [name])
    assert [each[2] for each in store.entries] == ["a", "b", "c", "a"]
    assert len(trail._hours) == 2
