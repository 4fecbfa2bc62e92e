"""One login or refresh at a time, however many ask (docs/vendor.md#refresh-once)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from service.domain.errors import VendorFailure, VendorRefused, VendorTimeout, VendorUnavailable
from service.domain.ids import DEFAULT_ACCOUNT, Account
from service.domain.vendor_accounts import Credentials
from service.eka.tokens import TokenKeeper
from tests.support.fakes import MemoryTokens, TokensOfMany
from tests.support.makers import TurnedClock

BASE = "https://eka.example"
LOGIN, REFRESH = "/connect-auth/v1/account/login", "/connect-auth/v1/account/refresh-token"
OURS = Credentials(client_id="id", client_secret="secret", sharing_key="sharing")
HOSPITAL = Account("ten_0123456789abcdef01234567")
THEIRS = Credentials(client_id="theirs", client_secret="other")

Handler = Callable[[httpx2.Request], Awaitable[httpx2.Response]]


class Accounts:
    """The vendor's account service: numbers its tokens, and lets each refresh token work once."""

    def __init__(self, **answer: Any) -> None:
        self.answer = {"expires_in": 1800, "refresh_expires_in": 86_400} | answer
        self.calls: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.status: dict[str, int] = {}
        self.before: Callable[[], Awaitable[Any]] | None = None

    async def take(self, request: httpx2.Request) -> httpx2.Response:
        number = len(self.calls) + 1
        self.calls.append((request.url.path, json.loads(request.content), dict(request.headers)))
        if self.before is not None:
            await self.before()
        status = self.status.get(request.url.path, 200)
        if status != 200:
            return httpx2.Response(status, json={"code": status, "error": "no"})
        tokens = {"access_token": f"access-{number}", "refresh_token": f"refresh-{number}"}
        return httpx2.Response(200, json=tokens | self.answer)

    @property
    def paths(self) -> list[str]:
        return [path for path, _, _ in self.calls]


class Book:
    """Whose credentials are which; a process may know those of an earlier day, unless it asks afresh."""

    def __init__(self, credentials: Credentials) -> None:
        self.now = {DEFAULT_ACCOUNT: credentials}
        self.known: dict[Account, Credentials] = {}

    async def __call__(self, account: Account, *, fresh: bool = False) -> Credentials:
        if fresh:
            self.known.pop(account, None)
        return self.known.get(account, self.now[account])


@asynccontextmanager
async def keepers(
    handler: Handler, store: Any, count: int = 1, credentials: Credentials | Book = OURS
) -> AsyncIterator[tuple[list[TokenKeeper], TurnedClock]]:
    clock = TurnedClock()
    book = credentials if isinstance(credentials, Book) else Book(credentials)
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(handler)) as http:
        made = [
            TokenKeeper(http=http, store=store, clock=clock, base_url=BASE, credentials=book)
            for _ in range(count)
        ]
        yield made, clock


async def test_many_callers_on_many_replicas_cause_one_login():
    accounts, seen = Accounts(), asyncio.Event()
    # The login is answered only when another replica has seen that somebody is at it.
    accounts.before = seen.wait
    store = MemoryTokens(when_leased=seen.set)
    async with keepers(accounts.take, store, 3) as (replicas, _):
        found = await asyncio.gather(*(each.token(DEFAULT_ACCOUNT) for each in replicas * 20))
    assert accounts.paths == [LOGIN]
    assert {(token.access_token, token.generation) for token in found} == {("access-1", 1)}


async def test_the_login_says_who_we_are_and_nothing_else():
    accounts = Accounts()
    async with keepers(accounts.take, MemoryTokens()) as ((keeper,), _):
        await keeper.token(DEFAULT_ACCOUNT)
    ((_, body, headers),) = accounts.calls
    assert body == {"client_id": "id", "client_secret": "secret", "sharing_key": "sharing"}
    assert "authorization" not in headers


async def test_many_callers_that_were_refused_cause_one_refresh_with_the_token_used_once():
    accounts, seen = Accounts(), asyncio.Event()
    store = MemoryTokens(when_leased=seen.set)
    async with keepers(accounts.take, store, 2) as (replicas, _):
        old = [await each.token(DEFAULT_ACCOUNT) for each in replicas]
        accounts.before = seen.wait
        seen.clear()
        renewed = await asyncio.gather(
            *(each.renew(DEFAULT_ACCOUNT, token) for each, token in zip(replicas * 10, old * 10, strict=True))
        )
    assert accounts.paths == [LOGIN, REFRESH]
    assert {token.access_token for token in renewed} == {"access-2"}
    _, body, headers = accounts.calls[1]
    assert body == {"refresh_token": "refresh-1", "access_token": "access-1"}
    assert headers["authorization"] == "Bearer access-1"
    assert headers["client-id"] == "id"


async def test_a_refresh_that_is_refused_becomes_a_login():
    accounts = Accounts()
    accounts.status[REFRESH] = 403
    async with keepers(accounts.take, MemoryTokens()) as ((keeper,), _):
        old = await keeper.token(DEFAULT_ACCOUNT)
        renewed = await keeper.renew(DEFAULT_ACCOUNT, old)
    assert accounts.paths == [LOGIN, REFRESH, LOGIN]
    assert (renewed.access_token, renewed.generation) == ("access-3", 2)


async def test_a_refresh_that_got_no_answer_gives_way_to_a_login():
    accounts = Accounts()
    accounts.status[REFRESH] = 503
    store = MemoryTokens()
    async with keepers(accounts.take, store) as ((keeper,), _):
        old = await keeper.token(DEFAULT_ACCOUNT)
        assert (await keeper.renew(DEFAULT_ACCOUNT, old)).access_token != old.access_token
    assert accounts.paths == [LOGIN, REFRESH, LOGIN]


async def test_a_login_that_got_no_answer_is_an_error_and_gives_the_right_back():
    accounts = Accounts()
    accounts.status[LOGIN] = 503
    store = MemoryTokens()
    async with keepers(accounts.take, store) as ((keeper,), _):
        with pytest.raises(VendorUnavailable) as failure:
            await keeper.token(DEFAULT_ACCOUNT)
        assert failure.value.sent is False  # the call that needed the token was not sent
        assert (store.holder, store.released) == (None, 1)


@pytest.mark.parametrize("token", ["", "tök", "a b", "a\r\nx: y"])
async def test_a_token_that_no_header_can_carry_is_a_failed_login(token):
    accounts = Accounts(access_token=token)
    store = MemoryTokens()
    async with keepers(accounts.take, store) as ((keeper,), _):
        with pytest.raises(VendorFailure) as failure:
            await keeper.token(DEFAULT_ACCOUNT)
        assert failure.value.sent is False
        assert (store.holder, store.released) == (None, 1)


def test_credentials_are_never_printed():
    shown = repr(Credentials(client_id="me", client_secret="hush"))
    assert "hush" not in shown


async def test_a_token_is_used_until_shortly_before_its_end_and_then_refreshed():
    accounts = Accounts(expires_in=1800)
    async with keepers(accounts.take, MemoryTokens()) as ((keeper,), clock):
        await keeper.token(DEFAULT_ACCOUNT)
        await clock.sleep(1700)
        assert (await keeper.token(DEFAULT_ACCOUNT)).access_token == "access-1"
        await clock.sleep(60)
        assert (await keeper.token(DEFAULT_ACCOUNT)).access_token == "access-2"
    assert accounts.paths == [LOGIN, REFRESH]


async def test_an_old_refresh_token_is_not_tried():
    accounts = Accounts(refresh_expires_in=3000)
    async with keepers(accounts.take, MemoryTokens()) as ((keeper,), clock):
        await keeper.token(DEFAULT_ACCOUNT)
        await clock.sleep(4000)
        await keeper.token(DEFAULT_ACCOUNT)
    assert accounts.paths == [LOGIN, LOGIN]


async def test_a_token_that_lives_a_minute_is_still_used_for_a_while():
    accounts = Accounts(expires_in=40)
    async with keepers(accounts.take, MemoryTokens()) as ((keeper,), clock):
        await keeper.token(DEFAULT_ACCOUNT)
        await clock.sleep(15)
        assert (await keeper.token(DEFAULT_ACCOUNT)).access_token == "access-1"


async def test_another_replica_s_newer_token_is_taken_over_without_a_call():
    accounts = Accounts()
    async with keepers(accounts.take, MemoryTokens(), 2) as ((one, other), _):
        old = await one.token(DEFAULT_ACCOUNT)
        assert await other.token(DEFAULT_ACCOUNT) == old
        newer = await one.renew(DEFAULT_ACCOUNT, old)
        assert await other.renew(DEFAULT_ACCOUNT, old) == newer
    assert accounts.paths == [LOGIN, REFRESH]


async def test_a_long_lived_token_is_used_as_it_is_and_never_renewed():
    accounts = Accounts()
    credentials = Credentials(token="static", client_id="id", client_secret="secret")
    async with keepers(accounts.take, MemoryTokens(), credentials=credentials) as ((keeper,), _):
        held = await keeper.token(DEFAULT_ACCOUNT)
        assert held.access_token == "static"
        assert await keeper.renew(DEFAULT_ACCOUNT, held) is None
    assert accounts.calls == []


async def test_without_an_account_the_error_says_what_to_set():
    accounts = Accounts()
    async with keepers(accounts.take, MemoryTokens(), credentials=Credentials()) as ((keeper,), _):
        with pytest.raises(VendorRefused, match="EKABRIDGE_EKA_TOKEN"):
            await keeper.token(DEFAULT_ACCOUNT)
    assert accounts.calls == []


async def test_a_refused_login_is_told_and_the_next_one_may_try():
    accounts = Accounts()
    accounts.status[LOGIN] = 401
    store = MemoryTokens()
    async with keepers(accounts.take, store) as ((keeper,), _):
        with pytest.raises(VendorRefused) as refusal:
            await keeper.token(DEFAULT_ACCOUNT)
        assert "secret" not in str(refusal.value)
        assert store.holder is None
        accounts.status.clear()
        assert (await keeper.token(DEFAULT_ACCOUNT)).access_token == "access-2"


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"access_token": 7}', b"\xff"])
async def test_a_login_answer_that_cannot_be_read_is_a_vendor_s_failure(body):
    async def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=body)

    store = MemoryTokens()
    async with keepers(answer, store) as ((keeper,), _):
        with pytest.raises(VendorFailure) as failure:
            await keeper.token(DEFAULT_ACCOUNT)
    assert failure.value.sent is False
    assert store.holder is None


async def test_a_login_that_times_out_is_told_as_not_sent():
    async def hang_up(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadTimeout("no answer", request=request)

    store = MemoryTokens()
    async with keepers(hang_up, store) as ((keeper,), _):
        with pytest.raises(VendorTimeout) as failure:
            await keeper.token(DEFAULT_ACCOUNT)
    assert failure.value.sent is False
    assert store.holder is None


async def test_a_caller_that_goes_away_gives_the_right_back():
    taken = asyncio.Event()

    async def hang(_: httpx2.Request) -> httpx2.Response:
        taken.set()
        await asyncio.Event().wait()
        raise AssertionError("never")

    store = MemoryTokens()
    async with keepers(hang, store) as ((keeper,), _):
        task = asyncio.create_task(keeper.token(DEFAULT_ACCOUNT))
        await taken.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (store.holder, store.released) == (None, 1)


async def test_each_account_logs_in_as_itself_and_has_its_own_tokens():
    accounts, book, store = Accounts(), Book(OURS), TokensOfMany()
    book.now[HOSPITAL] = THEIRS
    async with keepers(accounts.take, store, credentials=book) as ((keeper,), _):
        ours, theirs = await keeper.token(DEFAULT_ACCOUNT), await keeper.token(HOSPITAL)
        assert await keeper.token(DEFAULT_ACCOUNT) == ours
        assert await keeper.token(HOSPITAL) == theirs
    assert [body["client_id"] for _, body, _ in accounts.calls] == ["id", "theirs"]
    assert (ours.access_token, theirs.access_token) == ("access-1", "access-2")
    assert set(store.of) == {DEFAULT_ACCOUNT, HOSPITAL}


async def test_a_login_that_hangs_holds_up_no_other_account():
    accounts, book = Accounts(), Book(OURS)
    book.now[HOSPITAL] = THEIRS
    hanging, let_go = asyncio.Event(), asyncio.Event()

    async def take(request: httpx2.Request) -> httpx2.Response:
        if json.loads(request.content)["client_id"] == "theirs":
            hanging.set()
            await let_go.wait()
        return await accounts.take(request)

    async with keepers(take, TokensOfMany(), credentials=book) as ((keeper,), _):
        stuck = asyncio.create_task(keeper.token(HOSPITAL))
        await hanging.wait()
        async with asyncio.timeout(5):
            assert (await keeper.token(DEFAULT_ACCOUNT)).access_token == "access-1"
        let_go.set()
        assert (await stuck).access_token == "access-2"


async def test_tokens_of_changed_credentials_are_neither_used_nor_refreshed():
    accounts, book, store = Accounts(), Book(OURS), TokensOfMany()
    book.now[HOSPITAL] = THEIRS
    async with keepers(accounts.take, store, 2, credentials=book) as ((one, other), clock):
        old = await one.token(HOSPITAL)
        book.now[HOSPITAL] = Credentials(client_id="theirs", client_secret="changed")
        new = await one.token(HOSPITAL)
        assert new.access_token != old.access_token
        assert await other.token(HOSPITAL) == new  # what is kept is the new one's
        await clock.sleep(1750)
        assert (await one.token(HOSPITAL)).access_token == "access-3"
    assert accounts.paths == [LOGIN, LOGIN, REFRESH]
    assert [body.get("client_secret") for _, body, _ in accounts.calls] == ["other", "changed", None]
    assert accounts.calls[2][1]["refresh_token"] == "refresh-2"


async def test_a_refused_token_of_changed_credentials_is_replaced_at_once():
    accounts, book, store = Accounts(), Book(OURS), TokensOfMany()
    book.now[HOSPITAL] = THEIRS
    async with keepers(accounts.take, store, credentials=book) as ((keeper,), _):
        old = await keeper.token(HOSPITAL)
        # This process has not heard of the change yet; the vendor has.
        book.known[HOSPITAL], book.now[HOSPITAL] = THEIRS, Credentials(token="static")
        assert await keeper.token(HOSPITAL) == old
        renewed = await keeper.renew(HOSPITAL, old)
        assert renewed is not None
        assert renewed.access_token == "static"
        assert await keeper.renew(HOSPITAL, renewed) is None
        book.now[HOSPITAL] = OURS
        again = await keeper.renew(HOSPITAL, renewed)
        assert again is not None
        assert again.access_token == "access-2"
    assert [body["client_id"] for _, body, _ in accounts.calls] == ["theirs", "id"]


async def test_another_server_s_tokens_are_not_ours():
    accounts, store = Accounts(), MemoryTokens()
    async with keepers(accounts.take, store) as ((keeper,), clock):
        await keeper.token(DEFAULT_ACCOUNT)
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(accounts.take)) as http:
            moved = TokenKeeper(
                http=http, store=store, clock=clock, base_url="https://other.example", credentials=Book(OURS)
            )
            assert (await moved.token(DEFAULT_ACCOUNT)).access_token == "access-2"
    assert accounts.paths == [LOGIN, LOGIN]


async def test_tokens_that_name_no_owner_give_way_to_a_login():
    accounts = Accounts()
    store = MemoryTokens(b'{"access_token": "older version", "usable_until": 99999999999}')
    async with keepers(accounts.take, store) as ((keeper,), _):
        assert (await keeper.token(DEFAULT_ACCOUNT)).access_token == "access-1"
