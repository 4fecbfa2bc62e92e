"""Requests beyond the limits of their class or tenant are refused at once, before any work is done."""

import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import msgspec
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from service.api.middleware.admission_control import AdmissionControl
from service.api.middleware.body_timeout import with_body_timeout
from service.api.middleware.load_monitor import MIN_CAPACITY_FACTOR, LoadMonitor
from service.api.request_classes import class_of, handler_of
from service.app import create_app
from service.domain.errors import BodyTimeout
from service.http_server.rlimits import allow_open_files
from service.http_server.server import CONNECTION_OPTIONS
from service.sandbox.serving import serve_app
from tests.support.api_calls import (
    call_arrived,
    chunk_head,
    clear_faults,
    hook,
    problem,
    request_head,
    until,
    v2_event,
    wire,
)
from tests.support.bridge import Bridge, open_bridge, random_bytes
from tests.support.long_transcripts import lengthen
from tests.support.routes import application

MEBIBYTE = 1024 * 1024


@pytest.fixture
async def narrow(database_url: str, redis_url: str) -> AsyncIterator[Bridge]:
    """A bridge with low limits, of which one tenant may use three quarters."""
    few = {"max_requests": 4, "max_uploads": 2, "max_spool_bytes": 3 * MEBIBYTE}
    async with open_bridge(database_url, redis_url, **few) as bridge:
        yield bridge


@asynccontextmanager
async def hanging(house: Bridge, *calls: Any) -> AsyncIterator[list[asyncio.Task[httpx2.Response]]]:
    """Have calls in work that EkaScribe does not answer; then it does, and they must end."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        yield tasks
    finally:
        await clear_faults(house)
        await asyncio.gather(*tasks)


def in_work(kind: str) -> float:
    return REGISTRY.get_sample_value("ekabridge_requests_in_work", {"kind": kind}) or 0.0


def refusals(kind: str, reason: str) -> float:
    labels = {"kind": kind, "reason": reason}
    return REGISTRY.get_sample_value("ekabridge_requests_refused_total", labels) or 0.0


def overloaded(answer: httpx2.Response) -> None:
    problem(answer, 503, "overloaded")
    assert 1 <= int(answer.headers["retry-after"]) <= 4


async def test_a_hanging_vendor_fills_the_places_of_calls_and_no_others(narrow: Bridge) -> None:
    ended = await narrow.dictate()
    other = await narrow.tenant("other")
    await narrow.fault("/sessions$", method="POST", mode="hang", times=None)
    calls = [narrow.api.post("/v1/sessions", json={}) for _ in range(3)]
    async with hanging(narrow, *calls, other.post("/v1/sessions", json={})) as tasks:
        await call_arrived(narrow, "/sessions$", "POST", count=5)
        before, arrived = refusals("calls", "places"), await narrow.calls("/sessions$", "POST")
        assert in_work("calls") == 4
        started = time.monotonic()
        overloaded(await narrow.api.post("/v1/sessions", json={}))
        assert time.monotonic() - started < 5  # the vendor's hang would take ten times as long
        await narrow.api.post("/v1/sessions", content=b"x" * 60_000)  # the same connection is still good
        assert refusals("calls", "places") == before + 2
        as_medscribe_error = await narrow.api.post("/voice/v1/sessions", json={})
        assert (as_medscribe_error.status_code, as_medscribe_error.json()["error"]["code"]) == (
            503,
            "overloaded",
        )
        assert int(as_medscribe_error.headers["retry-after"]) > 0
        login = await narrow.api.post("/connect-auth/v1/account/login", json={})
        assert (login.status_code, login.json()["code"]) == (503, 503)
        assert (await hook(narrow, v2_event(ended))).status_code == 200
        assert (await narrow.session(ended))["id"] == ended
        assert (await narrow.put((await narrow.session(ended))["id"], 0)).status_code == 409
        for path in ("/health/live", "/health/ready", "/metrics"):
            assert (await narrow.api.get(path)).status_code == 200
        assert await narrow.calls("/sessions$", "POST") == arrived
    assert {(await task).status_code for task in tasks} <= {201, 502, 503, 504}
    assert in_work("calls") == 0
    assert (await narrow.create())["status"] == "created"


async def test_one_tenant_leaves_places_for_others(narrow: Bridge) -> None:
    other = await narrow.tenant("other")
    await narrow.fault("/sessions$", method="POST", mode="hang", times=None)
    async with hanging(narrow, *(narrow.api.post("/v1/sessions", json={}) for _ in range(3))):
        await call_arrived(narrow, "/sessions$", "POST", count=3)
        before = refusals("calls", "share")
        overloaded(await narrow.api.post("/v1/sessions", json={}))
        assert refusals("calls", "share") == before + 1
        assert (await other.post("/v1/sessions", json={"mode": 1})).status_code == 400
    assert (await narrow.create())["status"] == "created"


async def test_one_tenant_s_reads_and_waits_leave_places_for_others(
    database_url: str, redis_url: str
) -> None:
    """Attackers of one tenant hold what is slow: reads whose answers they do not read, and waits."""
    async with open_bridge(database_url, redis_url, max_requests=4) as house, AsyncExitStack() as stack:
        session_id = (await house.create())["id"]
        await lengthen(house, session_id, 6_000_000)
        other = await house.tenant("other")
        theirs = (await other.post("/v1/sessions", json={})).json()["id"]
        head = request_head(house, "GET", f"/v1/sessions/{session_id}")
        for _ in range(3):
            deaf = await stack.enter_async_context(wire(house.url, receive_bytes=4096))
            await deaf.send(head)

        async def are_in() -> bool:
            return in_work("reads") == 3

        await until(are_in)
        before = refusals("reads", "share")
        overloaded(await house.api.get("/v1/sessions"))
        assert refusals("reads", "share") == before + 1
        assert (await other.get(f"/v1/sessions/{theirs}")).status_code == 200
        waiting = [
            asyncio.create_task(house.api.get(f"/v1/sessions/{session_id}", params={"wait": 30}))
            for _ in range(3)
        ]
        theirs_waiting = asyncio.create_task(other.get(f"/v1/sessions/{theirs}", params={"wait": 0.2}))
        assert (await theirs_waiting).status_code == 200
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_uploads_have_places_of_their_own(narrow: Bridge) -> None:
    session = await narrow.create()
    other = await narrow.tenant("other")
    theirs = (await other.post("/v1/sessions", json={})).json()["id"]
    async with wire(narrow.url) as slow, wire(narrow.url) as unknown:
        await slow.send(chunk_head(narrow, session["id"], Content_Length="10"), b"abc")

        async def is_in() -> bool:
            return in_work("uploads") == 1

        await until(is_in)
        overloaded(await narrow.put(session["id"], 1))  # half of the two places is three quarters of them
        stored = await other.put(
            f"/v1/sessions/{theirs}/audio/0", content=b"abc", headers={"content-type": "audio/wav"}
        )
        assert stored.status_code == 200
        await unknown.send(chunk_head(narrow, session["id"], 2, Content_Length="10"), b"abc")
        found = json.loads((await unknown.answer()).body)
        assert found["code"] == "overloaded"
        assert (await narrow.create())["status"] == "created"
        await slow.send(b"defghij")
        assert (await slow.answer()).status == 200
    assert (await narrow.put(session["id"], 1)).status_code == 200


async def test_the_disk_is_bounded_by_what_is_announced_and_by_what_comes(narrow: Bridge) -> None:
    session = await narrow.create()
    path = f"/v1/sessions/{session['id']}/audio/0"
    before = refusals("uploads", "spool")
    overloaded(await narrow.put(session["id"], 0, random_bytes(4 * MEBIBYTE)))
    assert await narrow.calls("/audio/") == 0

    async def unannounced() -> AsyncIterator[bytes]:
        for _ in range(5 * 16):
            yield random_bytes(MEBIBYTE // 16)

    answer = await narrow.api.put(path, content=unannounced(), headers={"content-type": "audio/wav"})
    overloaded(answer)
    assert refusals("uploads", "spool") == before + 2
    # Never possible is told as such, not as "later".
    problem(await narrow.put(session["id"], 0, random_bytes(11 * MEBIBYTE)), 413, "chunk_too_large")
    for sequence in range(3):
        assert (await narrow.put(session["id"], sequence, random_bytes(2 * MEBIBYTE))).status_code == 200


async def test_the_answer_reaches_who_still_sends_ten_megabytes(narrow: Bridge) -> None:
    session = await narrow.create()
    async with wire(narrow.url) as slow:
        await slow.send(chunk_head(narrow, session["id"], Content_Length="10"), b"abc")

        async def is_in() -> bool:
            return in_work("uploads") == 1

        await until(is_in)
        content = random_bytes(10_000_000)
        for _ in range(2):
            overloaded(await narrow.put(session["id"], 1, content))
        for _ in range(2):
            async with httpx2.AsyncClient(
                base_url=narrow.url, headers=narrow.api.headers | {"connection": "close"}, trust_env=False
            ) as api:
                path = f"/v1/sessions/{session['id']}/audio/1"
                overloaded(await api.put(path, content=content, headers={"content-type": "audio/wav"}))
        assert await narrow.calls("/audio/") == 0


@pytest.mark.parametrize(
    ("method", "path", "query", "kind"),
    [
        ("GET", "/health/live", b"", None),
        ("GET", "/metrics", b"", None),
        ("POST", "/webhooks/eka", b"", "webhooks"),
        ("POST", "/webhooks/eka/ten_1", b"", "webhooks"),
        ("PUT", "/v1/sessions/ses_1/audio/0", b"", "uploads"),
        ("POST", "/voice/v1/sessions/ses_1/audio/a_0.wav", b"", "uploads"),
        ("POST", "/voice/v1/sessions/ses_1/audio", b"", "uploads"),
        ("POST", "/voice/v1/uploads/ses_1", b"", "uploads"),
        ("GET", "/v1/sessions/ses_1", b"", "reads"),
        ("GET", "/v1/sessions/ses_1", b"await=1", "reads"),
        ("GET", "/v1/sessions/ses_1", b"a=1&wait=30", "waits"),
        ("GET", "/v1/sessions/ses_1/events", b"", "waits"),
        ("GET", "/v1/sessions", b"wait=1", "reads"),
        ("POST", "/v1/sessions/ses_1/events", b"wait=1", "calls"),
        ("POST", "/v1/sessions", b"", "calls"),
        ("DELETE", "/v1/sessions/audio", b"", "calls"),
        ("POST", "/connect-auth/v1/account/login", b"", "calls"),
        ("GET", "/docs", b"", "reads"),
    ],
)
def test_every_request_has_one_class(method: str, path: str, query: bytes, kind: str | None) -> None:
    scope = {"type": "http", "method": method, "path": path, "query_string": query, "state": {}}
    assert class_of(handler_of(application(), scope), scope) == kind


class Body:
    """What a client sends, and when."""

    def __init__(self, *pieces: bytes, pause_seconds: float = 0.0) -> None:
        self._pieces = list(pieces)
        self._pause_seconds = pause_seconds

    async def receive(self) -> Any:
        await asyncio.sleep(self._pause_seconds)
        if not self._pieces:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": self._pieces.pop(0), "more_body": True}


async def all_of(receive: Any) -> None:
    while True:
        await receive()


async def test_a_body_that_pauses_or_drips_is_refused() -> None:
    paused = with_body_timeout(Body(b"a").receive, idle_seconds=0.02, total_seconds=60)
    assert (await paused())["body"] == b"a"
    with pytest.raises(BodyTimeout):
        await paused()
    dripping = with_body_timeout(
        Body(*[b"a"] * 1000, pause_seconds=0.001).receive, idle_seconds=20, total_seconds=0.1
    )
    with pytest.raises(BodyTimeout):
        await all_of(dripping)


async def test_after_the_body_one_may_wait_for_long() -> None:
    messages: list[Any] = [{"type": "http.request", "body": b""}, {"type": "http.disconnect"}]
    gone = asyncio.Event()

    async def receive() -> Any:
        if len(messages) == 1:
            await gone.wait()
        return messages.pop(0)

    body = with_body_timeout(receive, idle_seconds=0.01, total_seconds=0.01)
    await body()
    waiting = asyncio.create_task(body())
    paused = with_body_timeout(Body().receive, idle_seconds=0.05, total_seconds=60)
    with pytest.raises(BodyTimeout):  # by then its own time would be over, too
        await paused()
    gone.set()
    assert (await waiting)["type"] == "http.disconnect"


def admission_of(app: Any) -> AdmissionControl:
    while not isinstance(app, AdmissionControl):
        app = app._app
    return app


async def test_a_json_body_that_never_ends_is_408_and_the_connection_closes(bridge: Bridge) -> None:
    app = create_app(bridge.settings)
    admission_of(app).body_idle_seconds = 0.2
    async with serve_app(app, **CONNECTION_OPTIONS) as url:
        for path, headers in (("/v1/sessions", {}), ("/webhooks/eka", {"Eka_Webhook_Signature": "x"})):
            async with wire(url) as client:
                await client.send(request_head(bridge, "POST", path, Content_Length="10", **headers), b"{")
                answer = await client.answer()
                assert (answer.status, answer.json()["code"]) == (408, "body_timeout")
                assert answer.headers["connection"] == "close"
                assert await client.closed() == b""
        async with wire(url) as client:
            head = request_head(bridge, "POST", "/voice/v1/sessions", Content_Length="10")
            await client.send(head, b"{")
            answer = await client.answer()
            assert (answer.status, answer.json()["error"]["code"]) == (408, "body_timeout")


@pytest.mark.parametrize("path", ["/v1/sessions", "/webhooks/eka"])
async def test_a_client_that_leaves_in_the_middle_of_a_body_is_no_fault_of_ours(
    bridge: Bridge, path: str
) -> None:
    """It was told as a 500: anyone could have rung the operators' bell."""
    labels = {"method": "POST", "route": path, "status": "499"}
    before = REGISTRY.get_sample_value("ekabridge_http_requests_total", labels) or 0
    async with serve_app(create_app(bridge.settings), **CONNECTION_OPTIONS) as url, wire(url) as client:
        await client.send(request_head(bridge, "POST", path, Content_Length="500"), b'{"refe')

        async def is_in() -> bool:
            return in_work("calls") + in_work("strangers") == 1

        await until(is_in)
        await client.close()

        async def is_told() -> bool:
            return REGISTRY.get_sample_value("ekabridge_http_requests_total", labels) == before + 1

        await until(is_told)


async def test_the_server_s_connections_are_those_of_the_settings(bridge: Bridge) -> None:
    app = create_app(msgspec.structs.replace(bridge.settings, max_connections=1))
    async with serve_app(app, **CONNECTION_OPTIONS) as url, wire(url) as first:
        await first.send(request_head(bridge, "GET", "/v1/sessions"))
        assert (await first.answer()).status == 200
        async with wire(url) as second:
            await second.send(request_head(bridge, "GET", "/health/live"))
            assert (await second.answer()).status == 200
            await second.send(request_head(bridge, "GET", "/v1/sessions"))
            answer = await second.answer()
            assert (answer.status, answer.json()["code"]) == (503, "overloaded")


def test_open_files_are_allowed_as_far_as_may_be() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[0] - 100, before[1]))
        allow_open_files(before[0] - 50)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[0] - 50, before[1])
        allow_open_files(before[0] - 90)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[0] - 50, before[1])
        if before[1] != resource.RLIM_INFINITY:
            with capture_logs() as logs:
                allow_open_files(before[1] + 1)
            assert logs[0]["event"] == "open_files_limited"
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_process_that_falls_behind_lowers_its_capacity_and_soon_raises_it_again() -> None:
    load_monitor = LoadMonitor()
    load_monitor.record_delay(3600)
    assert load_monitor.capacity_factor == 0.75  # one pause, however long, is no load
    for _ in range(10):
        load_monitor.record_delay(1)
    assert load_monitor.capacity_factor == MIN_CAPACITY_FACTOR
    for _ in range(15):
        load_monitor.record_delay(0)
    assert load_monitor.capacity_factor == 1


async def test_a_late_loop_is_noticed() -> None:
    load_monitor = LoadMonitor()
    async with load_monitor.running():

        async def is_noticed() -> bool:
            time.sleep(1.0)  # noqa: ASYNC251 - what keeps the loop from its work
            return load_monitor.capacity_factor < 1

        await until(is_noticed)


async def test_a_database_that_is_waited_for_is_noticed() -> None:
    load_monitor, waits = LoadMonitor(), [1.0]
    load_monitor.interval_seconds = 0.01
    load_monitor.add_source(lambda: waits.pop() if waits else 0.0)
    async with load_monitor.running():

        async def was_asked() -> bool:
            return not waits

        await until(was_asked)
        assert load_monitor.capacity_factor < 1


async def test_under_load_fewer_requests_are_admitted(bridge: Bridge) -> None:
    app = create_app(msgspec.structs.replace(bridge.settings, max_requests=20))
    load_monitor = admission_of(app).load_monitor
    load_monitor.interval_seconds = 3600
    head = request_head(bridge, "POST", "/v1/sessions", Content_Length="2")
    # One tenant may have no more than 15 of 20.
    key = bridge.api.headers["authorization"].encode()
    theirs = head.replace(key, (await bridge.tenant()).headers["authorization"].encode())
    webhook = b"POST /webhooks/eka HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n"
    async with serve_app(app, **CONNECTION_OPTIONS) as url, AsyncExitStack() as stack:
        load_monitor.capacity_factor = MIN_CAPACITY_FACTOR
        clients = [await stack.enter_async_context(wire(url)) for _ in range(17)]
        for number, client in enumerate(clients[:16]):
            await client.send(theirs if number % 2 else head)

        async def are_in() -> bool:
            return in_work("calls") == 16

        await until(are_in)
        await clients[16].send(head, b"[]")
        assert (await clients[16].answer()).status == 503
        load_monitor.capacity_factor = 1.0
        await clients[16].send(head, b"[]")
        assert (await clients[16].answer()).status == 400
        # EkaScribe's webhooks are little work and end much: they keep all their places.
        load_monitor.capacity_factor = MIN_CAPACITY_FACTOR
        others = [await stack.enter_async_context(wire(url)) for _ in range(20)]
        for client in others:
            await client.send(webhook)
        for client in others:
            await client.send(b"{}")
            assert (await client.answer()).json()["code"] == "signature_invalid"
