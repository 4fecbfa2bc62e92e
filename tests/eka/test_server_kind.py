"""Which kind of server the doctor finds: by its own words, without a token, and without making anything."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from service.domain.errors import VendorUnavailable
from service.eka.discovery import Discovery
from service.eka.http_exchange import make_http_client
from service.eka.server_kind import Evidence, Server, classify, describe, identify_server
from tests.support.makers import TurnedClock
from tests.support.onprem_peer import (
    CLIENT_LOGIN,
    DISCOVERY,
    INVALID_TOKEN,
    LOGIN,
    MISSING_TOKEN,
    NOT_FOUND,
    UNAUTHORIZED,
    Answer,
    OnPrem,
    bad_request,
    open_onprem,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

NO_STREAMS = "takes no live streams (upload `stream`)"
NO_SINGLE = "takes no recording in one piece (upload `single`)"
NO_DETECTION = "does not detect languages (`auto_detect`): a session has to name them"
READ_BY_HOSTED: Answer = (401, {"code": 401, "error": "invalid client credentials"})
WITH_STREAMS = {"capabilities": {"upload_methods": ["chunked", "single", "stream"]}}


@asynccontextmanager
async def looking(base_url: str) -> AsyncIterator[Callable[[], Awaitable[Server]]]:
    async with make_http_client() as http:
        discovery = Discovery(http=http, base_url=base_url, clock=TurnedClock())
        yield lambda: identify_server(http, base_url, discovery)


async def seen(server: OnPrem) -> Server:
    async with looking(server.url) as look:
        return await look()


async def test_july_is_told_by_its_one_word() -> None:
    async with open_onprem("2026-07") as server:
        found = await seen(server)
    assert (found.kind, found.lacks) == ("onprem-2026-07", (NO_STREAMS,))
    assert "EKA_TOKEN" in describe(found.kind)


async def test_august_is_told_by_its_login_and_what_it_cannot_do_is_said() -> None:
    async with open_onprem("2026-08") as server:
        found = await seen(server)
    assert found.kind == "onprem-2026-08"
    assert found.lacks[:2] == (NO_STREAMS, NO_DETECTION)
    assert [each.split(":")[0] for each in found.lacks[2:]] == [
        "makes no further documents",
        "makes no documents by itself",
    ]
    assert "EKA_USERNAME" in describe(found.kind)


@pytest.mark.parametrize("version", ["2026-07", "2026-08"])
async def test_the_look_names_nobody_and_makes_nothing(version: Any) -> None:
    async with open_onprem(version) as server:
        await seen(server)
        made = [(method, path, body) for method, path, _, body in server.calls if method != "GET"]
        assert made == [("POST", CLIENT_LOGIN, {}), ("POST", LOGIN, {})]
        assert all(headers["authorization"] is None for _, _, headers, _ in server.calls)
        assert len(server.calls) == 4


async def test_the_hosted_one_is_told_by_its_clients_login() -> None:
    async with open_onprem("2026-08") as server:
        server.instead[CLIENT_LOGIN] = [READ_BY_HOSTED]
        server.instead[LOGIN] = [NOT_FOUND]
        server.instead[DISCOVERY] = [
            (200, WITH_STREAMS | {"languages": {"supported": ["en", "auto_detect"]}})
        ]
        found = await seen(server)
    assert (found.kind, found.lacks) == ("hosted", ())


async def test_a_server_without_a_discovery_document_is_told_all_the_same() -> None:
    async with open_onprem("2026-08") as server:
        server.instead[DISCOVERY] = [(500, {})]
        found = await seen(server)
    assert found.kind == "onprem-2026-08"
    assert found.lacks[0].startswith("has no discovery document")


async def test_uploads_that_are_not_listed_are_told_and_what_is_not_told_is_no_lack() -> None:
    async with open_onprem("2026-07") as server:
        server.instead[DISCOVERY] = [
            (200, {"capabilities": {"upload_methods": ["chunked"]}, "languages": {"supported": ["en"]}}),
            (200, {"capabilities": [], "languages": {"supported": "en"}}),
        ]
        assert (await seen(server)).lacks == (NO_STREAMS, NO_SINGLE, NO_DETECTION)
        assert (await seen(server)).lacks == ()


@pytest.mark.parametrize("answer", [NOT_FOUND, (405, {}), (429, {}), (500, {}), UNAUTHORIZED, INVALID_TOKEN])
async def test_a_login_that_is_not_there_is_not_taken_for_one(answer: Answer) -> None:
    async with open_onprem("2026-08") as server:
        server.instead[CLIENT_LOGIN] = [answer]
        server.instead[LOGIN] = [answer]
        assert (await seen(server)).kind == "unknown"


@pytest.mark.parametrize("answer", [READ_BY_HOSTED, bad_request("Field required"), (422, {}), (403, {})])
async def test_any_answer_that_is_about_the_body_is_a_login(answer: Answer) -> None:
    async with open_onprem("2026-07") as server:
        server.instead[CLIENT_LOGIN] = [answer]
        assert (await seen(server)).kind == "hosted"


async def test_a_server_that_is_away_is_an_error() -> None:
    async with open_onprem("2026-08") as gone:
        pass
    async with looking(gone.url) as look:
        with pytest.raises(VendorUnavailable):
            await look()


@pytest.mark.parametrize(
    ("document", "client", "user", "unauthorized", "kind"),
    [
        (None, True, True, True, "hosted"),
        (WITH_STREAMS, True, False, False, "hosted"),
        (WITH_STREAMS, False, True, True, "unknown"),
        ({}, False, True, True, "onprem-2026-08"),
        ({}, False, False, True, "onprem-2026-07"),
        (None, False, False, False, "unknown"),
    ],
)
def test_the_judgement(document: Any, client: bool, user: bool, unauthorized: bool, kind: str) -> None:
    evidence = Evidence(
        document=document, has_client_login=client, has_user_login=user, says_unauthorized=unauthorized
    )
    assert classify(evidence) == kind
    assert describe(classify(evidence))


async def test_august_s_word_for_no_token_is_not_july_s() -> None:
    async with open_onprem("2026-08") as server:
        server.instead[LOGIN] = [MISSING_TOKEN]
        assert (await seen(server)).kind == "unknown"
