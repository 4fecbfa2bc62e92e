"""Accounts on premises: the server's login, and refusals that ask for it (docs/vendor.md#refusal-words)."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest

from service.domain.errors import VendorFailure, VendorRefused
from service.domain.ids import DEFAULT_ACCOUNT, UNFILTERED, Account
from service.domain.vendor_accounts import Credentials
from service.eka.audio_client import AudioClient
from service.eka.audio_formats import PUBLISHED_FORMATS, normalise_audio_format
from service.eka.call_limiter import CallLimiters
from service.eka.client import EkaClient
from service.eka.http_exchange import make_http_client
from service.eka.token_errors import asks_for_login
from service.eka.tokens import TokenKeeper
from tests.support.fakes import MemoryDownloads, TokensOfMany, allow_repeat
from tests.support.makers import NOTE, SESSION, TurnedClock
from tests.support.onprem_peer import (
    BAD_CREDENTIALS,
    CLIENT_LOGIN,
    INVALID_TOKEN,
    JULYS_TOKEN,
    LOGIN,
    MISSING_TOKEN,
    NO_UUID,
    REFRESH,
    TOKEN_EXPIRED,
    UNAUTHORIZED,
    USERS,
    Answer,
    OnPrem,
    Version,
    failed,
    open_onprem,
)
from tests.support.raw_peer import Sound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LAB = Credentials(username="lab", password=USERS["lab"])
WARD = Credentials(username="ward", password=USERS["ward"])
HOSPITAL = Account("ten_0123456789abcdef01234567")
LOOK = f"/voice/v1/sessions/{SESSION}"
MORE = f"{LOOK}/process/template/{NOTE}"
AUDIO = f"{LOOK}/audio/audio_0.wav"
STORAGE: Answer = (403, {"detail": "invalid or expired storage token"})
NOT_ENABLED = failed(403, "audio_not_enabled", "No")


class House:
    """Replicas that share one store and one clock, at one server."""

    def __init__(self, server: OnPrem, replicas: list[EkaClient], clock: TurnedClock) -> None:
        self.server = server
        self.replicas = replicas
        self._clock = clock

    async def wait(self, seconds: float) -> None:
        """Let the time pass, here and at the server."""
        await self._clock.sleep(seconds)
        self.server.now += seconds

    async def look(self, account: Account = DEFAULT_ACCOUNT, replica: int = 0) -> str:
        result = await self.replicas[replica].get_session(account, SESSION, UNFILTERED)
        return result.state

    async def upload(self) -> None:
        audio_format = normalise_audio_format("audio/wav", PUBLISHED_FORMATS)
        assert audio_format is not None
        await self.replicas[0].upload_audio(
            DEFAULT_ACCOUNT, SESSION, "audio_0.wav", audio_format, Sound(b"x" * 300_000), allow_repeat
        )

    async def refused(self, account: Account = DEFAULT_ACCOUNT) -> VendorRefused:
        with pytest.raises(VendorRefused) as refusal:
            await self.look(account)
        return refusal.value


@asynccontextmanager
async def open_house(
    version: Version = "2026-08",
    credentials: Credentials = LAB,
    *,
    own: Credentials = WARD,
    replicas: int = 1,
    store: TokensOfMany | None = None,
) -> AsyncIterator[House]:
    async def known(account: Account, *, fresh: bool = False) -> Credentials:
        return credentials if account == DEFAULT_ACCOUNT else own

    shared, clock = store or TokensOfMany(), TurnedClock()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(open_onprem(version))
        made = []
        for _ in range(replicas):
            http = await stack.enter_async_context(make_http_client())
            made.append(
                EkaClient(
                    http=http,
                    audio=await stack.enter_async_context(AudioClient(server.url)),
                    tokens=TokenKeeper(
                        http=http,
                        store=shared,
                        clock=clock,
                        base_url=server.url,
                        credentials=known,
                    ),
                    call_limiters=CallLimiters(max_calls=64),
                    downloads=MemoryDownloads(),
                    base_url=server.url,
                )
            )
        yield House(server, made, clock)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (UNAUTHORIZED, True), (TOKEN_EXPIRED, True), (MISSING_TOKEN, True), (INVALID_TOKEN, True),
        ((401, {}), True), ((401, {"detail": "a new word"}), True), ((401, {"detail": {"x": 1}}), True),
        ((401, {"code": 401, "error": "no"}), True), (failed(401, "token_expired", "Old"), True),
        (failed(403, "invalid_token", "Bad"), True),
        (NO_UUID, False), (STORAGE, False), (NOT_ENABLED, False), ((403, {}), False),
        ((403, {"detail": "unauthorized"}), False), ((404, {"detail": "token_expired"}), False),
        ((400, {"detail": "missing_token"}), False), ((200, {"detail": "missing_token"}), False),
    ],
)  # fmt: skip
def test_which_words_ask_for_a_login_stands_in_one_table(answer: Answer, expected: bool) -> None:
    status, body = answer
    assert asks_for_login(status, msgspec.json.encode(body)) is expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff", b"[" * 100_000])
def test_a_body_that_says_nothing_is_judged_by_its_status(body: bytes) -> None:
    assert asks_for_login(401, body)
    assert not asks_for_login(403, body)


async def test_a_user_logs_in_where_the_server_has_its_login() -> None:
    async with open_house() as house:
        assert await house.look() == "missing"
        assert house.server.paths == [LOGIN, LOOK]
        (_, _, headers, body), (_, _, with_token, _) = house.server.calls
    assert body == {"username": "lab", "password": USERS["lab"]}
    assert headers["authorization"] is None
    assert with_token["authorization"] == "Bearer access-1-lab"


async def test_its_token_is_renewed_before_it_ends_with_the_refresh_token_alone() -> None:
    async with open_house() as house:
        await house.look()
        await house.wait(830)
        await house.look()
        await house.wait(20)
        assert await house.look() == "missing"
        assert house.server.paths == [LOGIN, LOOK, LOOK, REFRESH, LOOK]
        _, _, headers, body = house.server.calls[3]
    assert body == {"refresh_token": "refresh-1-lab"}
    assert headers == {"authorization": None, "cookie": None, "client-id": None}


async def test_the_same_refresh_token_given_back_works_until_it_is_refused_and_then_it_logs_in() -> None:
    async with open_house() as house:
        await house.look()
        # Somebody else used it: for 60 s the server takes it again, and gives the same one back.
        house.server.use_refresh_tokens()
        house.server.instead[LOOK] = [TOKEN_EXPIRED]
        await house.look()
        assert house.server.paths == [LOGIN, LOOK, LOOK, REFRESH, LOOK]
        await house.wait(850)
        assert await house.look() == "missing"
        assert house.server.paths[5:] == [REFRESH, LOGIN, LOOK]
        refreshed = [body for _, path, _, body in house.server.calls if path == REFRESH]
    assert refreshed == [{"refresh_token": "refresh-1-lab"}] * 2


async def test_many_calls_on_many_replicas_cause_one_login_and_later_one_refresh() -> None:
    seen = asyncio.Event()
    async with open_house(replicas=3, store=TokensOfMany(when_leased=seen.set)) as house:
        # The login is answered only when another replica has seen that somebody is at it.
        house.server.before_login = seen
        await asyncio.gather(*(house.look(replica=each % 3) for each in range(30)))
        assert (house.server.count(LOGIN), house.server.count(LOOK)) == (1, 30)
        await house.wait(850)
        await asyncio.gather(*(house.look(replica=each % 3) for each in range(30)))
        assert (house.server.count(LOGIN), house.server.count(REFRESH)) == (1, 1)
        assert {headers["authorization"] for _, path, headers, _ in house.server.calls if path == LOOK} == {
            "Bearer access-1-lab",
            "Bearer access-2-lab",
        }


@pytest.mark.parametrize("refusal", [UNAUTHORIZED, TOKEN_EXPIRED, MISSING_TOKEN, INVALID_TOKEN])
async def test_each_word_renews_the_token_and_repeats_the_call_once(refusal: Answer) -> None:
    async with open_house() as house:
        await house.look()
        house.server.instead[LOOK] = [refusal]
        assert await house.look() == "missing"
        assert house.server.paths == [LOGIN, LOOK, LOOK, REFRESH, LOOK]
        house.server.instead[LOOK] = [refusal] * 5
        refused = await house.refused()
        assert house.server.paths[5:] == [LOOK, REFRESH, LOOK]
    assert refused.status == refusal[0]
    assert "it has just given" in refused.detail


@pytest.mark.parametrize("refusal", [TOKEN_EXPIRED, MISSING_TOKEN, INVALID_TOKEN, UNAUTHORIZED])
async def test_an_upload_that_is_refused_for_its_token_is_sent_once_more(refusal: Answer) -> None:
    async with open_house() as house:
        await house.look()
        house.server.instead[AUDIO] = [refusal]
        await house.upload()
        uploads = [headers["authorization"] for _, path, headers, _ in house.server.calls if path == AUDIO]
    assert uploads == ["Bearer access-1-lab", "Bearer access-2-lab"]


@pytest.mark.parametrize("refusal", [STORAGE, NOT_ENABLED, (403, {})])
async def test_any_other_403_is_a_refusal_that_renews_nothing(refusal: Answer) -> None:
    async with open_house() as house:
        house.server.instead[LOOK] = [refusal]
        house.server.instead[AUDIO] = [refusal]
        assert (await house.refused()).status == 403
        with pytest.raises(VendorRefused):
            await house.upload()
        assert house.server.paths == [LOGIN, LOOK, AUDIO]


async def test_a_good_token_without_a_uuid_is_refused_and_never_renewed() -> None:
    async with open_house() as house:
        for _ in range(3):
            with pytest.raises(VendorRefused) as refusal:
                await house.replicas[0].make_document(DEFAULT_ACCOUNT, SESSION, NOTE)
        assert await house.look() == "missing"
        assert house.server.paths == [LOGIN, MORE, MORE, MORE, LOOK]
    assert (refusal.value.status, refusal.value.vendor_code) == (401, None)
    assert "the token is good" in refusal.value.detail
    assert "EKA_TOKEN" not in refusal.value.detail


async def test_a_token_that_july_does_not_know_is_told_with_what_mends_it() -> None:
    wrong = Credentials(token="not-julys")
    async with open_house("2026-07", wrong, own=wrong) as house:
        default, own = await house.refused(), await house.refused(HOSPITAL)
        assert house.server.paths == [LOOK, LOOK]
    assert (default.status, own.status) == (401, 401)
    assert default.detail.startswith("EkaScribe answered 401; it refuses EKABRIDGE_EKA_TOKEN")
    assert "EKABRIDGE_EKA_USERNAME" in default.detail
    assert f"ekabridge tenant account {HOSPITAL}" in own.detail
    assert "not-julys" not in default.detail + own.detail


async def test_a_token_that_august_does_not_know_is_told_too() -> None:
    async with open_house("2026-08", Credentials(token="garbage")) as house:
        refused = await house.refused()
        assert house.server.paths == [LOOK]
    assert (refused.status, refused.vendor_code) == (403, "invalid_token")
    assert "it refuses EKABRIDGE_EKA_TOKEN" in refused.detail


async def test_july_takes_its_one_token() -> None:
    async with open_house("2026-07", Credentials(token=JULYS_TOKEN)) as house:
        assert await house.look() == "missing"
        await house.upload()
        assert house.server.paths == [LOOK, AUDIO]


async def test_a_wrong_password_is_told_without_it_and_the_right_to_log_in_is_given_back() -> None:
    store = TokensOfMany()
    async with open_house(credentials=Credentials(username="lab", password="hush"), store=store) as house:
        refused = await house.refused()
        assert house.server.paths == [LOGIN]
    assert (refused.status, refused.vendor_code) == (BAD_CREDENTIALS[0], "invalid_credentials")
    assert "check username and password" in refused.detail
    assert "hush" not in refused.detail + str(refused)
    assert store.of[DEFAULT_ACCOUNT].holder is None


@pytest.mark.parametrize(
    ("version", "credentials", "path", "words"),
    [
        ("2026-07", LAB, LOGIN, "some have one token instead"),
        ("2026-08", Credentials(client_id="EC_1", client_secret="s"), CLIENT_LOGIN, "users with passwords"),
        ("2026-07", Credentials(client_id="EC_1", client_secret="s"), CLIENT_LOGIN, "or one token"),
    ],
)
async def test_a_login_that_the_server_does_not_have_is_told_with_the_one_that_it_may_have(
    version: Version, credentials: Credentials, path: str, words: str
) -> None:
    async with open_house(version, credentials) as house:
        refused = await house.refused()
        assert house.server.paths == [path]
    assert words in refused.detail


async def test_one_account_s_cookies_never_go_with_another_one_s_calls() -> None:
    async with open_house() as house:
        for account in (DEFAULT_ACCOUNT, HOSPITAL, DEFAULT_ACCOUNT):
            await house.look(account)
        await house.wait(850)
        await house.look(HOSPITAL)
        await house.upload()
        assert [headers["cookie"] for _, _, headers, _ in house.server.calls] == [None] * 9
        tokens = [headers["authorization"] for _, path, headers, _ in house.server.calls if path == LOOK]
    assert [re.sub(r"\d", "", str(each)) for each in tokens] == [
        f"Bearer access--{user}" for user in ("lab", "ward", "lab", "ward")
    ]


async def test_an_answer_to_a_login_that_cannot_be_read_is_a_failure() -> None:
    async with open_house() as house:
        house.server.instead[LOGIN] = [(200, {"status": "success"})]
        with pytest.raises(VendorFailure):
            await house.look()
        assert await house.look() == "missing"
