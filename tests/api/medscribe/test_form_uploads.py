"""Forms with signed fields, as browsers post them to object storage."""

from __future__ import annotations

import hashlib

import pytest

from service.bootstrap.container import open_stores
from service.domain.api_keys.changes import ApiKeys
from service.domain.ids import KeyId
from tests.support.api_calls import chunks_of
from tests.support.bridge import Bridge
from tests.support.medscribe_clients import BrowserClient, browser_client, envelope, form

MP3 = b"ID3" + bytes(1000)


@pytest.fixture
async def browser(house: Bridge) -> BrowserClient:
    return await browser_client(house)


async def test_a_form_s_file_goes_the_same_way_as_any_other(house: Bridge, browser: BrowserClient) -> None:
    session = await browser.create()
    answer = await browser.post_form(session["upload_url"], "1.mp3", MP3)
    assert answer.content == b""
    assert answer.headers["etag"] == f'"{hashlib.sha256(MP3).hexdigest()}"'
    assert "etag" in answer.headers["access-control-expose-headers"]
    (stored,) = (await house.seen(session["session_id"]))["files"]
    assert (stored["original_name"], stored["content_type"]) == ("audio_1.mp3", "audio/mp3")
    assert stored["sha256"] == hashlib.sha256(MP3).hexdigest()
    again = await browser.post_form(session["upload_url"], "1.mp3", MP3)
    assert again.status_code == 204
    await browser.post_form(session["upload_url"], "1.mp3", MP3 + b"!", 409)


async def test_a_key_left_as_it_is_means_the_file_s_own_name(house: Bridge, browser: BrowserClient) -> None:
    session = await browser.create()
    key = session["upload_url"]["uploadData"]["fields"]["key"]
    await browser.post_form(session["upload_url"], "2.mp3", MP3, key=key)
    (row,) = await chunks_of(house, session["session_id"])
    assert row["sequence"] == 2


@pytest.mark.parametrize("token", ["", "ekt_x", "old", "access"])
async def test_a_wrong_or_old_signature_is_403_and_nothing_is_kept(
    house: Bridge, browser: BrowserClient, token: str
) -> None:
    session = await browser.create()
    fields = session["upload_url"]["uploadData"]["fields"]
    if token == "old":
        name, _, signature = fields["x-scribe-token"].split(".")
        token = f"{name}.1000000000.{signature}"
    if token == "access":
        token = browser.token  # it opens the other doors, and may be longer-lived than the session
    answer = await browser.post_form(session["upload_url"], "1.mp3", MP3, 403, **{"x-scribe-token": token})
    envelope(answer, 403, "access_denied")
    assert await chunks_of(house, session["session_id"]) == []


async def test_a_signature_opens_its_own_session_only(house: Bridge, browser: BrowserClient) -> None:
    one, two = await browser.create(), await browser.create()
    token = one["upload_url"]["uploadData"]["fields"]["x-scribe-token"]
    await browser.post_form(two["upload_url"], "1.mp3", MP3, 403, **{"x-scribe-token": token})
    assert await chunks_of(house, two["session_id"]) == []


async def test_it_is_too_old_when_the_session_is(house: Bridge, browser: BrowserClient) -> None:
    session = await browser.create()
    await house.database.execute(
        "UPDATE sessions SET expires_at = now() - interval '1 s' WHERE id = $1", session["session_id"]
    )
    _, found = await browser.get(session["session_id"], version="v2")
    answer = await browser.post_form(found["upload_url"], "1.mp3", MP3, 403)
    envelope(answer, 403, "access_denied")


async def test_it_is_void_with_its_key(house: Bridge, browser: BrowserClient) -> None:
    session = await browser.create()
    async with open_stores(house.settings) as stores:
        for key in await stores.api_keys.list_keys(house.tenant_id):
            await ApiKeys(stores.api_keys).revoke(house.tenant_id, KeyId(key.id))
    await browser.post_form(session["upload_url"], "1.mp3", MP3, 403)


async def test_the_signature_comes_before_the_file(house: Bridge, browser: BrowserClient) -> None:
    session = await browser.create()
    upload = session["upload_url"]["uploadData"]
    first, kind = form({}, "1.mp3", MP3)
    boundary = kind.partition("boundary=")[2].encode()
    token = upload["fields"]["x-scribe-token"].encode()
    field = b'\r\nContent-Disposition: form-data; name="x-scribe-token"\r\n\r\n' + token + b"\r\n--"
    late = first[: -len(b"--\r\n")] + field + boundary + b"--\r\n"
    answer = await browser.http.post(
        upload["url"].removeprefix(house.url), content=late, headers={"content-type": kind}
    )
    envelope(answer, 403, "access_denied")


async def test_what_is_no_form_is_refused(house: Bridge, browser: BrowserClient) -> None:
    session = await browser.create()
    path = session["upload_url"]["uploadData"]["url"].removeprefix(house.url)
    envelope(await browser.http.post(path, content=MP3), 403, "access_denied")


async def test_a_refresh_by_get_gives_a_form_that_works(house: Bridge, browser: BrowserClient) -> None:
    session = await browser.create()
    status, found = await browser.get(session["session_id"], version="v2")
    assert status == 202
    await browser.post_form(found["upload_url"], "1.mp3", MP3)
    assert len(await chunks_of(house, session["session_id"])) == 1
