"""A revoked key opens nothing any more, on any pod, in any form, and what it had open ends."""

from __future__ import annotations

import asyncio
from typing import Any

from service.bootstrap.container import open_stores
from service.domain.api_keys.changes import ApiKeys
from service.domain.ids import KeyId
from tests.support.api_calls import problem
from tests.support.bridge import Bridge
from tests.support.event_stream import follow
from tests.support.limited_app import app_of, client
from tests.support.medscribe_clients import envelope, login


async def make_key(house: Bridge) -> tuple[KeyId, str]:
    async with open_stores(house.settings) as stores:
        key = await ApiKeys(stores.api_keys).add(house.tenant_id, "emr")
        return KeyId(key.id), str(key.key)


async def revoke(house: Bridge, key_id: KeyId) -> None:
    async with open_stores(house.settings) as stores:
        await ApiKeys(stores.api_keys).revoke(house.tenant_id, key_id)


async def test_the_next_call_on_every_pod_is_refused(house: Bridge) -> None:
    key_id, key = await make_key(house)
    async with app_of(house) as (_, first), app_of(house) as (_, second):
        there: Any = Bridge(**(vars(house) | {"url": first}))
        token = (await login(there, key)).json()["access_token"]
        for url in (first, second):
            async with client(url, key) as by_key, client(url, token) as by_token:
                assert (await by_key.get("/v1/sessions")).status_code == 200
                envelope(await by_key.get("/voice/v1/sessions/ses_x"), 404, "session_not_found")
                envelope(await by_token.get("/voice/v1/sessions/ses_x"), 404, "session_not_found")
        await revoke(house, key_id)
        for url in (second, first):
            async with client(url, key) as by_key, client(url, token) as by_token:
                problem(await by_key.get("/v1/sessions"), 401, "unauthenticated")
                envelope(await by_key.get("/voice/v1/sessions/ses_x"), 401, "token_expired")
                envelope(await by_token.get("/voice/v1/sessions/ses_x"), 401, "token_expired")
        assert (await login(there, key)).status_code == 401


async def test_streams_of_events_end_on_every_pod_and_others_go_on(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    key_id, key = await make_key(house)
    async with (
        app_of(house) as (_, first),
        app_of(house) as (_, second),
        client(first, key) as one,
        client(second, key) as two,
        follow(house, session_id, api=one) as on_first,
        follow(house, session_id, api=two) as on_second,
        follow(house, session_id) as by_another_key,
    ):
        for followed in (on_first, on_second, by_another_key):
            await followed.until("session.created")
        await revoke(house, key_id)
        await asyncio.gather(on_first.rest(), on_second.rest())
        assert on_first.types == on_second.types == ["session.created"]
        await house.put(session_id, 0)
        await by_another_key.until("chunk.stored")


async def test_a_call_that_waits_tells_a_revoked_key_nothing(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    key_id, key = await make_key(house)
    async with app_of(house) as (services, url), client(url, key) as api:
        waiting = asyncio.create_task(api.get(f"/v1/sessions/{session_id}", params={"wait": 20}))
        async with asyncio.timeout(20):
            while services.sessions.change_poller.waiting == 0:  # noqa: ASYNC110 - another task's state
                await asyncio.sleep(0.01)
        await revoke(house, key_id)
        await house.put(session_id, 0)
        problem(await waiting, 401, "unauthenticated")
