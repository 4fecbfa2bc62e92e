"""How we identify ourselves at a destination, against real endpoints: OAuth 2.0 and client certificates."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from schemas.destinations import MutualTls
from service.domain.clock import SystemClock
from service.domain.deliveries.attempts import judge
from service.domain.deliveries.models import Answer, CallFailure
from service.domain.ids import DestinationId
from service.forwarding.sender import HttpSender
from service.forwarding.ssrf_guard import GuardedBackend
from service.sandbox.serving import serve_app
from tests.support.certificates import Authority, make_authority
from tests.support.makers import TurnedClock, make_delivery_job, wanted
from tests.support.oauth_server import Login


@pytest.fixture
async def login() -> AsyncIterator[Login]:
    made = Login()
    made.gate.set()
    async with serve_app(made.app()) as made.url:
        yield made
        made.gate.set()


@asynccontextmanager
async def sending(clock: Any = None, *, allow_private: bool = True) -> AsyncIterator[HttpSender]:
    backend = GuardedBackend(allow_private=allow_private)
    sender = HttpSender(backend=backend, clock=clock or SystemClock(), timeout_seconds=5)
    try:
        yield sender
    finally:
        await sender.close()


async def test_a_token_is_asked_for_as_the_standard_says_and_kept(login: Login) -> None:
    async with sending() as sender:
        outcomes = [await sender.send(login.job(), wanted) for _ in range(3)]
    assert [outcome.status_code for outcome in outcomes if isinstance(outcome, Answer)] == [204] * 3
    assert login.seen == ["Bearer token-1"] * 3
    ((headers, form),) = login.asked
    assert form == {"grant_type": ["client_credentials"], "scope": ["notes.write"]}
    kind, _, pair = headers["authorization"].partition(" ")
    assert (kind, base64.b64decode(pair)) == ("Basic", b"bridge%3A1:s3+cret")
    assert "webhook-id" not in headers


async def test_a_token_stands_in_the_place_of_a_static_header(login: Login) -> None:
    async with sending() as sender:
        await sender.send(login.job(headers={"Authorization": "Bearer static", "x-key": "1"}), wanted)
    assert login.seen == ["Bearer token-1"]


async def test_however_many_wait_one_token_is_fetched(login: Login) -> None:
    login.gate.clear()
    async with sending() as sender:
        sends = [asyncio.create_task(sender.send(login.job(), wanted)) for _ in range(10)]
        await login.arrived.wait()
        login.gate.set()
        await asyncio.gather(*sends)
    assert len(login.asked) == 1
    assert login.seen == ["Bearer token-1"] * 10


async def test_a_token_is_renewed_before_it_ends_and_when_the_credentials_change(login: Login) -> None:
    clock = TurnedClock()
    login.life = "600"
    async with sending(clock) as sender:
        for wait in (0, 500, 50):
            await clock.sleep(wait)
            await sender.send(login.job(), wanted)
        assert login.seen == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]
        await sender.send(login.job(auth=login.auth(client_secret="new")), wanted)
        await sender.send(login.job(destination_id=DestinationId("dst_2")), wanted)
    assert len(login.asked) == 4


async def test_what_was_refused_did_leave_even_if_it_is_not_sent_again(login: Login) -> None:
    """The session was erased while a new token was fetched: the first request is not to be told as none."""
    consents = iter([True, False])

    async def may_leave() -> bool:
        return next(consents)

    login.refuses = {"Bearer token-1"}
    async with sending() as sender:
        outcome = await sender.send(login.job(), may_leave)
    assert isinstance(outcome, Answer)
    assert outcome.status_code == 401
    assert login.seen == ["Bearer token-1"]


async def test_a_token_that_is_refused_is_renewed_once(login: Login) -> None:
    async with sending() as sender:
        await sender.send(login.job(), wanted)
        login.refuses = {"Bearer token-1"}
        outcome = await sender.send(login.job(), wanted)
        assert isinstance(outcome, Answer)
        assert outcome.status_code == 204
        login.refuses = {"Bearer token-2", "Bearer token-3", "Bearer token-4"}
        job = login.job()
        outcome = await sender.send(job, wanted)
    assert isinstance(outcome, Answer)
    assert judge(outcome, job.id).kind == "pause"
    assert login.seen[1:] == [f"Bearer token-{number}" for number in (1, 2, 2, 3)]


@pytest.mark.parametrize(
    ("status", "body", "error_class", "kind"),
    [
        (400, {"error": "invalid_client"}, "oauth_refused", "pause"),
        (401, {}, "oauth_refused", "pause"),
        (404, {}, "oauth_refused", "pause"),
        (429, {}, "oauth_token", "retry"),
        (503, {}, "oauth_token", "retry"),
        (302, {}, "oauth_token", "retry"),
        (200, {"nothing": 1}, "oauth_token", "retry"),
        (200, {"access_token": ""}, "oauth_token", "retry"),
        (200, {"access_token": "a\r\nb: c"}, "oauth_token", "retry"),
        (200, {"access_token": "a", "token_type": "mac"}, "oauth_token", "retry"),
        (200, {"access_token": "a" * 70_000}, "oauth_token", "retry"),
    ],
)
async def test_a_token_that_cannot_be_had_is_told_by_its_stage(
    login: Login, status: int, body: dict[str, Any], error_class: str, kind: str
) -> None:
    login.status, login.body = status, body or {"error": "other"}
    job = login.job()
    async with sending() as sender:
        outcome = await sender.send(job, wanted)
    assert isinstance(outcome, CallFailure)
    verdict = judge(outcome, job.id)
    assert (verdict.error_class, verdict.kind) == (error_class, kind)
    assert login.seen == []


async def test_a_token_endpoint_that_hangs_is_not_taken_for_a_destination_that_does(login: Login) -> None:
    login.gate.clear()
    async with sending() as sender:
        outcome = await sender.send(login.job(timeout_seconds=0.3), wanted)
        login.gate.set()
    assert isinstance(outcome, CallFailure)
    assert outcome.error_class == "oauth_token"
    assert outcome.duration_ms < 2000


async def test_a_token_endpoint_that_nobody_answers_at_is_retried(login: Login) -> None:
    async with sending() as sender:
        outcome = await sender.send(login.job(auth=login.auth(token_url="http://127.0.0.1:1/token")), wanted)
    assert isinstance(outcome, CallFailure)
    assert (outcome.error_class, outcome.is_refused) == ("oauth_token", False)


async def test_the_way_to_the_token_endpoint_is_guarded_too(login: Login) -> None:
    async with sending(allow_private=False) as sender:
        outcome = await sender.send(login.job(url="https://8.8.8.8/"), wanted)
    assert isinstance(outcome, CallFailure)
    assert (outcome.error_class, outcome.is_forbidden) == ("forbidden_address", True)
    assert login.asked == []


@asynccontextmanager
async def tls_endpoint(authority: Authority, folder: Any, *, wants_certificate: bool) -> AsyncIterator[Any]:
    """A TLS server that answers 200 with the name in the certificate that its client showed."""
    own = authority.issue("server")
    (folder / "server.pem").write_text(own.key + own.certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=authority.certificate)
    context.load_cert_chain(folder / "server.pem")
    context.verify_mode = ssl.CERT_REQUIRED if wants_certificate else ssl.CERT_NONE

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        shown = writer.get_extra_info("peercert") or {}
        body = json.dumps({"shown": shown.get("subject")}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/hooks"
    finally:
        server.close()


@pytest.fixture
def authority(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """An authority that this process trusts."""
    made = make_authority()
    (tmp_path / "authority.pem").write_text(made.certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    return made


async def test_each_destination_is_shown_its_own_certificate_and_no_other_any(
    authority: Authority, tmp_path: Any
) -> None:
    async with tls_endpoint(authority, tmp_path, wants_certificate=True) as url, sending() as sender:
        for name in ("first", "second", "first"):
            issued = authority.issue(name)
            auth = MutualTls(certificate=issued.certificate, private_key=issued.key)
            outcome = await sender.send(make_delivery_job(url=url, auth=auth), wanted)
            assert isinstance(outcome, Answer)
            assert name.encode() in outcome.excerpt
        outcome = await sender.send(make_delivery_job(url=url), wanted)
        # In TLS 1.3 the server's refusal comes after the handshake, as a broken connection.
        assert isinstance(outcome, CallFailure)
        assert outcome.error_class in {"tls", "connection_broken", "protocol"}


async def test_a_certificate_of_ours_does_not_make_us_trust_the_server(
    authority: Authority, tmp_path: Any
) -> None:
    stranger = make_authority()
    issued = authority.issue("bridge")
    auth = MutualTls(certificate=issued.certificate, private_key=issued.key)
    async with tls_endpoint(stranger, tmp_path, wants_certificate=False) as url, sending() as sender:
        outcome = await sender.send(make_delivery_job(url=url, auth=auth), wanted)
    assert isinstance(outcome, CallFailure)
    assert outcome.error_class == "tls"


async def test_a_destinations_own_time_stands_in_the_place_of_everybodys(login: Login) -> None:
    hangs = asyncio.Event()

    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hangs.wait()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    backend = GuardedBackend(allow_private=True)
    sender = HttpSender(backend=backend, clock=SystemClock(), timeout_seconds=0.2)
    try:
        own = await sender.send(make_delivery_job(url=url, timeout_seconds=0.6), wanted)
        common = await sender.send(make_delivery_job(url=url), wanted)
    finally:
        hangs.set()
        server.close()
        await sender.close()
    assert isinstance(own, CallFailure)
    assert isinstance(common, CallFailure)
    assert own.error_class == common.error_class == "timeout"
    assert common.duration_ms < 500 < own.duration_ms
