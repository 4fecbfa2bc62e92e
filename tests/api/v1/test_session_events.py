"""GET /v1/sessions/{id}/events: every step once, live, from any pod, and nobody left hanging."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any

import httpx2
from litestar import Litestar

from service.api.dependencies import Services
from service.api.event_cursor import EventCursor
from service.api.v1.session_events import _follow
from service.app import create_app
from service.domain.ids import SessionId, TenantId
from service.http_server.graceful_shutdown import DrainingHttpProtocol
from service.sandbox.serving import serve_app
from tests.support.api_calls import key_of, problem, request_head, until, wire
from tests.support.bridge import Bridge, principal_of
from tests.support.event_stream import follow


async def timeline(bridge: Bridge, session_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await bridge.api.get(f"/v1/sessions/{session_id}/timeline")).json()[
        "items"
    ]
    return found


def services_of(app: Any) -> Services:
    while not isinstance(app, Litestar):
        app = app._app
    services: Services = app.state.services
    return services


@asynccontextmanager
async def own_app(bridge: Bridge, **options: Any) -> AsyncIterator[tuple[Services, httpx2.AsyncClient]]:
    """Another process of the service, as it were, whose inside can be looked at."""
    app: Any = create_app(bridge.settings)
    async with (
        serve_app(app, http=DrainingHttpProtocol, **options) as url,
        httpx2.AsyncClient(base_url=url, headers=bridge.api.headers, trust_env=False, timeout=30) as api,
    ):
        yield services_of(app), api


async def test_a_dictation_is_told_step_by_step_to_its_end(bridge: Bridge) -> None:
    await bridge.add_destination()
    await bridge.start_worker()
    session_id = (await bridge.create())["id"]
    async with follow(bridge, session_id) as followed:
        headers = followed.response.headers
        assert headers["content-type"].startswith("text/event-stream")
        assert headers.get_list("cache-control") == ["no-store"]
        assert headers["x-accel-buffering"] == "no"
        await followed.until("session.created")
        for number in (0, 1):
            started = time.monotonic()
            await bridge.put(session_id, number)
            event = await followed.until("chunk.stored", number + 1)
            assert event["data"]["data"]["sequence"] == number
            assert time.monotonic() - started < 1.5
        await bridge.end(session_id, chunks=2)
        await followed.rest()
    assert followed.types[-1] == "end"
    told = [event["data"] for event in followed.events[:-1]]
    entries = await timeline(bridge, session_id)
    assert len(told) == len(entries)
    assert sorted((each["type"], each["at"]) for each in told) == sorted(
        (each["type"], each["at"]) for each in entries
    )
    assert {"session.completed", "document.received", "delivery.attempted", "delivery.delivered"} <= set(
        followed.types
    )
    assert all(event["event"] == event["data"]["type"] for event in followed.events[:-1])


async def test_it_goes_on_where_it_was_without_repeats_or_gaps(bridge: Bridge) -> None:
    await bridge.add_destination()
    session_id = (await bridge.create())["id"]
    await bridge.put(session_id, 0)
    told = []
    last_id = None
    for step in range(4):
        async with follow(bridge, session_id, last_id) as followed:
            if step == 1:
                await bridge.put(session_id, 2)
            if step == 2:
                await bridge.put(session_id, 1)  # sent later than 2, listed before it
            if step == 3:
                await bridge.start_worker()
                await bridge.end(session_id, chunks=3)
                await followed.rest()
            else:
                await followed.until("chunk.stored")
            told += followed.events
            last_id = followed.last_id
    entries = await timeline(bridge, session_id)
    keys = [(each["event"], each["data"].get("at"), str(each["data"].get("data"))) for each in told]
    assert len(keys) == len(set(keys)) == len(entries) + 1
    assert keys[-1][0] == "end"
    assert last_id is not None

    # Nothing is left: a client that comes back again is told to stop.
    headers = {"last-event-id": last_id}
    answer = await bridge.api.get(f"/v1/sessions/{session_id}/events", headers=headers)
    assert (answer.status_code, answer.content) == (204, b"")
    async with follow(bridge, session_id) as followed:  # from its start it can be had again
        await followed.rest()
    assert len(followed.events) == len(entries) + 1
    async with follow(bridge, session_id, "nonsense") as followed:
        await followed.rest()
    assert len(followed.events) == len(entries) + 1


async def test_a_row_that_is_committed_late_with_an_early_time_is_not_lost(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    await house.put(session_id, 0)
    async with follow(house, session_id) as followed:
        await followed.until("chunk.stored")
        last_id = followed.last_id
        await house.database.execute(
            "INSERT INTO webhook_events (account, session_id, kind, phase, shape, body_sha256, body_bytes, "
            "received_at) VALUES ('default', $1, 'started', 'early', 'v2', '', 1, now() - interval '1 hour')",
            session_id,
        )
        await followed.until("webhook.received")
    assert (await timeline(house, session_id))[0]["type"] == "webhook.received"
    async with follow(house, session_id, last_id) as again:
        assert (await again.until("webhook.received"))["event"] == "webhook.received"
        assert len(again.events) == 1


async def test_what_repeats_is_not_told_again(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    await house.database.execute(
        "INSERT INTO webhook_events (account, session_id, kind, phase, shape, body_sha256, body_bytes) "
        "VALUES ('default', $1, 'started', 'early', 'v2', '', 1)",
        session_id,
    )
    async with follow(house, session_id) as followed:
        await followed.until("webhook.received")
        await house.database.execute(
            "UPDATE webhook_events SET repeats = repeats + 1 WHERE session_id = $1", session_id
        )
        await house.put(session_id, 0)
        await followed.until("chunk.stored")
    assert followed.types.count("webhook.received") == 1


async def test_it_stays_open_while_a_delivery_is_pending(bridge: Bridge) -> None:
    await bridge.add_destination()
    await bridge.emr.post("/_control/behaviour", json={"sequence": [{"status": 503, "times": 2}]})
    await bridge.start_worker()
    session_id = await bridge.dictate()
    async with follow(bridge, session_id) as followed:
        await followed.rest()
    assert followed.types.count("delivery.attempted") == 3
    assert followed.types[-2:] == ["delivery.delivered", "end"]


async def test_erased_while_somebody_follows(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    async with follow(house, session_id) as followed:
        await followed.until("session.created")
        await house.api.delete(f"/v1/sessions/{session_id}")
        await followed.rest()
    assert followed.types == ["session.created", "erased"]
    problem(await house.api.get(f"/v1/sessions/{session_id}/events"), 410, "session_erased")


async def test_another_pod_s_change_is_told_too(bridge: Bridge) -> None:
    async with own_app(bridge) as (_, elsewhere):
        session_id = (await bridge.create())["id"]
        async with follow(bridge, session_id, api=elsewhere) as followed:
            await followed.until("session.created")
            await bridge.put(session_id, 0)
            await followed.until("chunk.stored")
            async with follow(bridge, session_id, followed.last_id) as here:
                await bridge.put(session_id, 1)
                await here.until("chunk.stored")
                assert here.types == ["chunk.stored"]


async def test_a_client_that_goes_away_frees_its_place_at_once(bridge: Bridge) -> None:
    session_id = (await bridge.create())["id"]
    head = request_head(bridge, "GET", f"/v1/sessions/{session_id}/events")
    async with own_app(bridge) as (services, api), wire(str(api.base_url)) as client:
        watch = services.sessions.timeline_poller
        await client.send(head)

        async def is_waiting() -> bool:
            return (watch.waiting, watch.in_use) == (1, 1)

        await until(is_waiting)
        client.reset()

        async def is_free() -> bool:
            return (watch.waiting, watch.in_use) == (0, 0)

        await until(is_free, 1.0)


async def test_there_is_a_limit_for_all_and_a_lower_one_for_each_tenant(bridge: Bridge) -> None:
    session_id = (await bridge.create())["id"]
    waits = {"events": f"/v1/sessions/{session_id}/events", "wait": f"/v1/sessions/{session_id}?wait=30"}
    async with own_app(bridge) as (services, api):
        for name, watch in (
            ("events", services.sessions.timeline_poller),
            ("wait", services.sessions.change_poller),
        ):
            with ExitStack() as places:
                for taken in range(999):
                    places.enter_context(watch.permit(TenantId(f"ten_{taken % 9}")))
                with watch.permit(TenantId("ten_10")):
                    answer = await api.get(waits[name])
                    problem(answer, 503, "too_many_watchers")
                    assert int(answer.headers["retry-after"]) > 0
            with ExitStack() as places:
                for _ in range(750):
                    places.enter_context(watch.permit(bridge.tenant_id))
                problem(await api.get(waits[name]), 503, "too_many_watchers")
                watch.check_capacity(TenantId("ten_10"))
        async with follow(bridge, session_id, api=api) as followed:
            await followed.until("session.created")


async def test_a_process_that_stops_lets_everybody_go_at_once(bridge: Bridge) -> None:
    session_id = (await bridge.create())["id"]
    app: Any = create_app(bridge.settings)
    async with AsyncExitStack() as stack:
        server = serve_app(app, http=DrainingHttpProtocol, timeout_graceful_shutdown=20)
        process = await stack.enter_async_context(AsyncExitStack())
        url = await process.enter_async_context(server)
        api = await stack.enter_async_context(
            httpx2.AsyncClient(base_url=url, headers=bridge.api.headers, trust_env=False, timeout=30)
        )
        followed = await stack.enter_async_context(follow(bridge, session_id, api=api))
        await followed.until("session.created")
        waiting = asyncio.create_task(api.get(f"/v1/sessions/{session_id}?wait=30"))
        services = services_of(app)

        async def both_wait() -> bool:
            return services.sessions.change_poller.waiting == services.sessions.timeline_poller.waiting == 1

        await until(both_wait)
        started = time.monotonic()
        stopping = asyncio.create_task(process.aclose())
        await followed.rest()  # ends in order: a connection that is cut would raise
        assert (await waiting).json()["status"] == "created"
        await stopping
        assert time.monotonic() - started < 5
    assert followed.types == ["session.created"]


async def test_silence_is_broken_before_a_proxy_hangs_up(bridge: Bridge) -> None:
    session_id = SessionId((await bridge.create())["id"])
    async with own_app(bridge) as (services, _):
        principal = await principal_of(services.access.api_keys, await key_of(bridge))
        assert principal is not None
        events = _follow(services, principal, session_id, EventCursor(), keep_alive_seconds=0.1)
        first = await anext(events)
        assert b"event: session.created" in first
        assert [await anext(events) for _ in range(2)] == [b": keep-alive\n\n"] * 2
        await events.aclose()
        assert services.sessions.timeline_poller.in_use == 0


async def test_a_session_that_the_vendor_never_had_is_over(house: Bridge) -> None:
    await house.fault("/sessions$", method="POST", status=400)
    assert (await house.api.post("/v1/sessions", json={})).status_code == 502
    (found,) = (await house.api.get("/v1/sessions")).json()["items"]
    async with follow(house, found["id"]) as followed:
        await followed.rest()
    assert followed.types == ["session.created", "end"]


async def test_a_session_of_many_gaps_has_short_ids_and_is_resumed_without_repeats(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    await house.put(session_id, 0)
    await house.database.execute(
        "INSERT INTO chunks (session_id, sequence, tenant_id, status, sha256, bytes, content_type, file_name,"
        " stored_at) SELECT session_id, 2 * n, tenant_id, status, sha256, bytes, content_type,"
        " 'audio_' || 2 * n || '.wav', stored_at + n * interval '1 millisecond'"
        " FROM chunks, generate_series(1, 599) n WHERE session_id = $1",
        session_id,
    )
    async with follow(house, session_id) as followed:
        await followed.until("chunk.stored", 400)
        last_id = followed.last_id
    assert len(last_id) < 1000
    async with follow(house, session_id, last_id) as again:
        await again.until("chunk.stored", 200)
    received = [event["data"]["data"]["sequence"] for event in [*followed.events, *again.events][1:]]
    assert received == [2 * number for number in range(600)]
    assert (await house.api.delete(f"/v1/sessions/{session_id}")).status_code == 202


async def test_a_finished_session_of_many_gaps_is_answered_with_204(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    await house.put(session_id, 0)
    await house.database.execute(
        "INSERT INTO chunks (session_id, sequence, tenant_id, status, sha256, bytes, content_type, file_name,"
        " stored_at) SELECT session_id, 2 * n, tenant_id, status, sha256, bytes, content_type,"
        " 'audio_' || 2 * n || '.wav', stored_at + n * interval '1 microsecond'"
        " FROM chunks, generate_series(1, 99) n WHERE session_id = $1",
        session_id,
    )
    await house.database.execute("UPDATE sessions SET status = 'failed' WHERE id = $1", session_id)
    async with follow(house, session_id) as followed:
        await followed.rest()
    path = f"/v1/sessions/{session_id}/events"
    answer = await house.api.get(path, headers={"last-event-id": followed.last_id})
    assert (answer.status_code, followed.last_id[0]) == (204, "~")
