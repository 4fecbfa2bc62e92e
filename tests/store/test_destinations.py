"""Destinations as rows: what a job gets of them, which secrets sign when, and that all is sealed."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from schemas.destinations import DestinationChange, MutualTls, OAuth2
from service.domain.audit import Actor
from service.domain.errors import NotFound
from tests.support.makers import NOTE, make_document, make_result
from tests.support.store_house import new_tenant

AUTH = OAuth2(token_url="https://login.example/token", client_id="bridge", client_secret="hunter2")


async def job_of(house):
    """Claim the one delivery there is, as if nobody had it."""
    await house.connection.execute("UPDATE deliveries SET lease = NULL, next_at = now()")
    (job,) = await house.claim_deliveries()
    return job


async def test_a_job_carries_how_its_destination_wants_it(house):
    destination = await house.add_destination(
        payload="reference",
        format="fhir-r4",
        headers={"x-key": "hunter2"},
        timeout_seconds=90.0,
        rate_per_second=1000.0,
        auth=AUTH,
    )
    await house.finish(NOTE)
    job = await job_of(house)
    assert (job.payload, job.format, job.headers) == ("reference", "fhir-r4", {"x-key": "hunter2"})
    assert (job.timeout_seconds, job.auth) == (90.0, AUTH)
    assert "hunter2" not in repr(job.auth)
    change = DestinationChange(
        url="https://new.example/",
        payload="full",
        headers=None,
        auth=MutualTls(certificate="c", private_key="k"),
    )
    await house.destinations.change(house.actor, destination.id, change)
    job = await job_of(house)
    assert (job.url, job.payload, job.headers) == ("https://new.example/", "full", {})
    assert isinstance(job.auth, MutualTls)


async def test_nothing_secret_of_a_destination_lies_in_clear_or_opens_elsewhere(house):
    await house.add_destination(headers={"x-key": "hunter2"}, auth=AUTH)
    other = await house.add_destination()
    text = await house.value("SELECT string_agg(t::text, ' ') FROM destinations t")
    for secret in ("hunter2", "login.example", "emr.example"):
        assert secret.encode().hex() not in text
        assert secret not in text
    await house.connection.execute(
        "UPDATE destinations SET auth_sealed = (SELECT max(auth_sealed) FROM destinations) WHERE id = $1",
        other.id,
    )
    await house.finish(NOTE)
    jobs = await house.claim_deliveries()
    assert [job.destination_id == other.id for job in jobs] == [False]  # what was moved does not open


async def test_both_secrets_sign_while_one_is_rotated_and_then_only_the_new_one(house):
    first = await house.add_destination()
    await house.finish(NOTE)
    rotate = house.destinations.rotate_secret
    second = await rotate(house.actor, first.id, 3600)
    assert (await job_of(house)).secrets == [second.secret, first.secret]
    third = await rotate(house.actor, first.id, 3600)
    assert (await job_of(house)).secrets == [third.secret, second.secret]  # the oldest is dropped
    await house.let_pass("destinations", "previous_until")
    assert (await job_of(house)).secrets == [third.secret]
    fourth = await rotate(house.actor, first.id, 0)
    assert (await job_of(house)).secrets == [fourth.secret]
    row = await house.connection.fetchrow("SELECT previous_until FROM destinations")
    assert row["previous_until"] is None


async def test_two_rotations_at_once_come_one_after_the_other(house):
    made = await house.add_destination()
    await house.finish(NOTE)
    rotate = house.destinations.rotate_secret
    waiting = """SELECT count(*) FROM pg_stat_activity
                 WHERE wait_event_type = 'Lock' AND datname = current_database()"""
    async with house.connection.transaction():
        # Both have begun before either of them may write.
        await house.connection.execute("SELECT FROM destinations FOR UPDATE")
        tasks = [asyncio.create_task(rotate(house.actor, made.id, 60)) for _ in range(2)]
        async with asyncio.timeout(10):
            while await house.value(waiting) < 2:
                await house.connection.execute("SELECT pg_stat_clear_snapshot()")
    rotated = await asyncio.gather(*tasks)
    assert set((await job_of(house)).secrets) == {each.secret for each in rotated}


async def test_what_is_not_there_or_another_tenants_is_not_rotated(house):
    made = await house.add_destination()
    stranger = await new_tenant(house.stores, "other")
    with pytest.raises(NotFound):
        await house.destinations.rotate_secret(Actor.operator(stranger), made.id, 60)
    with pytest.raises(NotFound):
        await house.stores.destinations.auth(stranger, made.id)
    await house.destinations.remove(house.actor, made.id)
    with pytest.raises(NotFound):
        await house.destinations.rotate_secret(house.actor, made.id, 60)


async def test_a_destination_may_begin_turned_off(house):
    made = await house.add_destination(enabled=False)
    assert (made.enabled, made.paused_reason) == (False, "disabled")
    await house.finish(NOTE)
    assert await house.value("SELECT status FROM deliveries") == "paused"


async def test_the_event_of_a_new_version_names_the_one_before_it(house):
    await house.add_destination()
    session_id = await house.end(NOTE)
    (job,) = await house.claim_fetches(session_id)
    await house.fetch(job, make_result("completed", make_document(NOTE), transcript="words"))
    await house.connection.execute(
        "UPDATE fetches SET status = 'pending', next_at = now(), outcome = NULL, settled_at = NULL"
    )
    (job,) = await house.claim_fetches(session_id)
    changed = make_document(NOTE, data={"note": "another"})
    await house.fetch(job, make_result("completed", changed, transcript="words"))
    ids = [row["id"] for row in await house.connection.fetch("SELECT id FROM documents ORDER BY version")]
    assert len(ids) == 2
    rows = await house.connection.fetch("SELECT body_sealed, session_id FROM events ORDER BY id")
    place = f"event.body:{session_id}"
    told = [
        msgspec.json.decode(house.stores.keyring.decrypt(row["body_sealed"], place))["data"]["document"]
        for row in rows
    ]
    assert [each.get("replaces") for each in told] == [None, ids[0]]
