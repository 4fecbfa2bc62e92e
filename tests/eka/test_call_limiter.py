"""One limiter for each account: permits, a bounded queue, and the answer to each call that is held back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from service.domain.errors import VendorCallHeldBack, VendorLimited, VendorRefused, VendorTimeout
from service.domain.ids import DEFAULT_ACCOUNT, Account, TenantId
from service.domain.vendor_calls import CALLING_TENANT
from service.eka.audio_formats import PUBLISHED_FORMATS, normalise_audio_format
from service.eka.call_limiter import CallLimiters
from service.eka.circuit_breaker import VendorCircuitBreakerRule
from tests.support.fakes import allow_repeat
from tests.support.makers import SESSION
from tests.support.vendor_calls import open_client

RULE = VendorCircuitBreakerRule(failures=3, sessions=2)
MALLORY, HOSPITAL, THIRD = TenantId("ten_mallory"), TenantId("ten_hospital"), TenantId("ten_third")
OWN = Account("ten_0123456789abcdef01234567")


class Sound:
    """The domain's Audio."""

    size = 5
    sha256 = "0" * 64

    def read(self) -> bytes:
        return b"sound"


class House:
    """Gates whose clock a test turns, and calls that end when they are told to."""

    def __init__(self, max_calls: int = 2, max_queue_seconds: float = 60) -> None:
        self.at = 1000.0
        self.call_limiters = CallLimiters(
            max_calls=max_calls, max_queue_seconds=max_queue_seconds, rule=RULE, now=lambda: self.at
        )
        self.under_way: dict[str, asyncio.Event] = {}
        self.calls: list[asyncio.Task[None]] = []

    async def call(
        self,
        session: str = "s",
        *,
        account: Account = DEFAULT_ACCOUNT,
        tenant: TenantId | None = None,
        kind: Any = "other",
        status: int = 200,
        asked: float | None = None,
        error: Exception | None = None,
    ) -> None:
        with calling(tenant):
            async with self.call_limiters.permit(account, kind, "get", session) as permit:
                if error is not None:
                    raise error
                permit.record_answer(status, asked)

    async def hang(
        self,
        name: str,
        *,
        account: Account = DEFAULT_ACCOUNT,
        kind: Any = "other",
        tenant: TenantId | None = None,
    ) -> None:
        """Start a call, which is under way, or in the line, when this returns."""

        async def run() -> None:
            async with self.call_limiters.permit(account, kind, "get", name) as permit:
                self.under_way[name] = asyncio.Event()
                await self.under_way[name].wait()
                permit.record_answer(200)

        with calling(tenant):
            self.calls.append(asyncio.create_task(run()))
        await settle()

    async def fail(
        self, *sessions: str, account: Account = DEFAULT_ACCOUNT, tenant: TenantId | None = None
    ) -> None:
        for session in sessions:
            with pytest.raises(VendorTimeout):
                await self.call(session, account=account, tenant=tenant, error=VendorTimeout("no", sent=True))

    async def refused(self, **call: Any) -> float:
        with pytest.raises(VendorCallHeldBack) as closed:
            await self.call(**call)
        assert closed.value.sent is False
        assert closed.value.retry_after_seconds is not None
        return closed.value.retry_after_seconds

    async def end(self) -> None:
        for call in self.calls:
            call.cancel()
        await asyncio.gather(*self.calls, return_exceptions=True)


@contextmanager
def calling(tenant: TenantId | None) -> Iterator[None]:
    token = CALLING_TENANT.set(tenant)
    try:
        yield
    finally:
        CALLING_TENANT.reset(token)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def counted(outcome: str, operation: str = "get") -> float:
    labels = {"operation": operation, "outcome": outcome}
    return REGISTRY.get_sample_value("ekabridge_vendor_calls_total", labels) or 0.0


def open_circuits(account: str) -> float | None:
    labels = {"account": account}
    value = REGISTRY.get_sample_value("ekabridge_vendor_circuits_open", labels)
    assert REGISTRY.get_sample_value("ekabridge_vendor_gates_closed", labels) == value
    return value


async def test_so_many_at_once_and_the_line_is_served_in_its_order():
    house = House(max_calls=2)
    for name in "abcd":
        await house.hang(name)
    assert list(house.under_way) == ["a", "b"]
    house.under_way["b"].set()
    await settle()
    assert list(house.under_way) == ["a", "b", "c"]
    house.under_way["a"].set()
    await settle()
    assert list(house.under_way) == ["a", "b", "c", "d"]
    await house.end()


async def test_a_full_line_is_told_at_once():
    house, before = House(max_calls=2), counted("line_full")
    for number in range(2 + 4):
        await house.hang(str(number))
    assert await house.refused() > 0
    assert counted("line_full") == before + 1
    await house.end()
    await house.call()  # the permits are free again


async def test_uploads_and_other_calls_do_not_wait_for_each_other():
    house = House(max_calls=1)
    await house.hang("upload", kind="upload")
    await house.call(kind="other")
    await house.hang("other", kind="other")
    house.under_way["upload"].set()
    await settle()
    await house.call(kind="upload")
    await house.end()


async def test_one_account_s_flood_takes_no_place_of_another_s():
    house = House(max_calls=1)
    for number in range(3):
        await house.hang(str(number))
    await house.refused()
    await house.call(account=OWN)
    await house.end()


async def test_whoever_gives_up_in_the_line_leaves_no_place_behind():
    house = House(max_calls=1)
    for name in "abc":
        await house.hang(name)
    house.calls[1].cancel()
    await settle()
    house.under_way["a"].set()
    await settle()
    assert "b" not in house.under_way
    house.under_way["c"].set()
    await settle()
    await house.call()
    # However many give up, the line does not take them for people who wait.
    await house.hang("long")
    for _ in range(5):
        await house.hang("short")
        house.calls.pop().cancel()
        await settle()
    house.under_way["long"].set()
    await settle()
    # And when the place comes at the very moment at which he leaves.
    await house.hang("d")
    await house.hang("e")
    house.under_way["d"].set()
    for _ in range(10):
        if house.calls[-2].done():
            house.calls[-1].cancel()
            break
        await asyncio.sleep(0)
    await settle()
    await house.call()
    await house.end()


async def test_nobody_waits_in_the_line_for_long():
    house = House(max_calls=1, max_queue_seconds=0.01)
    await house.hang("a")
    assert await house.refused() > 0
    house.under_way["a"].set()
    await settle()
    await house.call()


async def test_a_vendor_that_is_down_is_not_called_and_the_line_is_sent_away_at_once():
    house, before = House(max_calls=1), counted("gate_closed")
    await house.hang("a")
    await house.hang("waiting")
    with capture_logs() as logs:
        # Three that began with it, on uploads' place, fail.
        for session in "abc":
            with pytest.raises(VendorTimeout):
                await house.call(session, kind="upload", error=VendorTimeout("no", sent=True))
        await settle()
        assert isinstance(house.calls[1].exception(), VendorCallHeldBack)
        assert await house.refused() == 1.0
        assert await house.refused(kind="upload") == 1.0
    assert counted("gate_closed") == before + 3
    (closed,) = [entry for entry in logs if entry["event"] == "vendor_gate_closed"]
    assert (closed["account"], closed["cause"], closed["log_level"]) == ("default", "down", "warning")
    await house.end()


async def test_it_opens_with_the_first_answer_and_both_are_logged_once():
    house = House()
    with capture_logs() as logs:
        await house.fail("a", "b", "c")
        house.at += 1
        await house.fail("probe")
        await house.refused()
        house.at += 2
        await house.call(status=404)
        await house.call()
    assert [entry["event"] for entry in logs] == ["vendor_gate_closed", "vendor_gate_opened"]


@pytest.mark.parametrize("status", [500, 502, 503, 599])
async def test_server_errors_are_failures_and_other_answers_are_not(status):
    house = House()
    for session in "abc":
        await house.call(session, status=status)
    await house.refused()
    well = House()
    for session in "abcdef":
        await well.call(session, status=404)
        await well.call(session, status=401)
        with pytest.raises(VendorRefused):
            await well.call(session, error=VendorRefused("no", status=403, vendor_code=None))
    await well.call()


async def test_calls_that_were_given_up_say_nothing():
    house = House(max_calls=8)
    for name in "abcde":
        await house.hang(name)
    await house.end()
    await house.call()


@pytest.mark.parametrize("by_login", [False, True])
async def test_a_limit_holds_back_this_account_alone_for_as_long_as_it_says(by_login):
    house = House()
    for name in "abc":
        if by_login:
            with pytest.raises(VendorLimited):
                await house.call(name, error=VendorLimited("no", sent=False, retry_after_seconds=9.0))
        else:
            await house.call(name, status=429, asked=9.0)
    assert await house.refused() == 9.0
    assert house.call_limiters.held_back_accounts() == [DEFAULT_ACCOUNT]
    await house.call(account=OWN)
    house.at += 9
    assert house.call_limiters.held_back_accounts() == []
    await house.call()


async def test_workers_pass_over_a_tenant_whose_breaker_is_open_and_the_account_until_it_is_probed():
    house = House()
    await house.call("h", tenant=HOSPITAL)
    await house.fail("a", "b", "c", tenant=MALLORY)
    assert house.call_limiters.held_back_accounts() == [Account(f"tenant:{MALLORY}")]
    await house.refused(tenant=MALLORY)
    house.at += 61
    await house.fail("a", tenant=MALLORY)  # its probe
    await house.fail("t", "u", tenant=THIRD)
    assert house.call_limiters.held_back_accounts() == [DEFAULT_ACCOUNT, Account(f"tenant:{MALLORY}")]
    assert await house.refused(tenant=HOSPITAL) <= 1
    house.at += 1.5
    assert house.call_limiters.held_back_accounts() == [Account(f"tenant:{MALLORY}")]
    await house.call("h", tenant=HOSPITAL)
    assert house.call_limiters.held_back_accounts() == []


async def test_of_the_calls_that_wait_only_those_of_the_tenant_whose_breaker_opens_are_rejected():
    house = House(max_calls=1)
    await house.call("h", tenant=HOSPITAL)
    await house.hang("running", tenant=HOSPITAL)
    await house.hang("mallory", tenant=MALLORY)
    await house.hang("hospital", tenant=HOSPITAL)
    for session in "abc":
        with pytest.raises(VendorTimeout):
            await house.call(session, kind="upload", tenant=MALLORY, error=VendorTimeout("no", sent=True))
    await settle()
    assert isinstance(house.calls[1].exception(), VendorCallHeldBack)
    assert not house.calls[2].done()
    house.under_way["running"].set()
    await settle()
    assert "hospital" in house.under_way
    await house.end()


@pytest.mark.parametrize("by_login", [False, True])
async def test_a_limit_of_one_tenant_holds_back_its_own_calls_alone(by_login):
    house = House()
    for name in "abc":
        if by_login:
            limited = VendorLimited("no", sent=False, retry_after_seconds=9.0)
            with pytest.raises(VendorLimited):
                await house.call(name, tenant=MALLORY, error=limited)
        else:
            await house.call(name, tenant=MALLORY, status=429, asked=9.0)
    assert await house.refused(tenant=MALLORY) == 9.0
    assert house.call_limiters.held_back_accounts() == [Account(f"tenant:{MALLORY}")]
    await house.call(tenant=HOSPITAL)


async def test_how_many_circuits_are_open_is_shown_by_kind_of_account_under_both_names():
    house = House()
    assert (open_circuits("default"), open_circuits("own")) == (0, 0)
    await house.fail("a", "b", "c", account=OWN)
    assert (open_circuits("default"), open_circuits("own")) == (0, 1)
    house.at += 5  # a probe may go, but nothing was heard of yet
    assert (open_circuits("default"), open_circuits("own")) == (0, 1)
    await house.call(account=OWN)
    assert (open_circuits("default"), open_circuits("own")) == (0, 0)


async def test_an_upload_that_is_held_back_is_told_at_once_and_not_tried_again():
    house, before = House(), (counted("gate_closed", "upload"), counted("gate_closed"))
    for name in "abc":
        await house.call(name, status=429, asked=1.0)

    async def fail(_: httpx2.Request) -> httpx2.Response:
        raise AssertionError("nothing is sent")

    async with open_client(fail, call_limiters=house.call_limiters) as client:
        audio_format = normalise_audio_format("audio/wav", PUBLISHED_FORMATS)
        with pytest.raises(VendorCallHeldBack) as closed:
            await client.upload_audio(
                DEFAULT_ACCOUNT, SESSION, "audio_0.wav", audio_format, Sound(), allow_repeat
            )
    assert closed.value.sent is False
    assert (counted("gate_closed", "upload") - 1, counted("gate_closed")) == before
