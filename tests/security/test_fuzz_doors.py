"""Whatever stands in a path, a header or a form gets an answer of the contract's, never a failure of ours."""

from __future__ import annotations

import base64
import contextlib
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.domain.errors import InvalidRequest
from service.eka.audio_formats import PUBLISHED_FORMATS, normalise_audio_format
from service.store.paging import after_cursor
from tests.support.bridge import Bridge
from tests.support.examples import share
from tests.support.medscribe_clients import login
from tests.support.routes import routes

# What a path's segment may look like on the wire: any bytes percent-encoded, dots, slashes, NUL, long ones.
segments = (
    st.binary(min_size=1, max_size=40).map(lambda raw: "".join(f"%{byte:02X}" for byte in raw))
    | st.text(min_size=1, max_size=40).map(lambda text: quote(text, safe=""))
    | st.sampled_from(
        [
            ".", "..", "%2e%2e", "%2F", "a%2Fb", "..%2F..%2Fetc", "%00", "ses_%00", "ses_" + "a" * 24, "1e3",
            "%ED%A0%80", "%F0%9F%98%80", "ses_" + "0" * 5000, "*", "null", "-1", "%25", "%25%30%30", "a;b=c",
        ]
    )
)  # fmt: skip
NAMED = sorted(route for route in routes() if "{" in route[1] and route[0] != "WS")
header_bytes = st.binary(max_size=300).map(
    lambda raw: bytes(byte for byte in raw if byte >= 32 and byte != 127).strip()
)


@pytest.fixture
async def nobody(house: Bridge) -> httpx2.AsyncClient:
    """A client without a key."""
    return await house.client(None)


@pytest.fixture
async def token(house: Bridge) -> str:
    """A token of the protocol's login."""
    return str((await login(house)).json()["access_token"])


async def ask(client: httpx2.AsyncClient, method: str, path: str, **request: Any) -> httpx2.Response:
    """Send a request with its path as it is written; fails the test for a failure of ours."""
    address = client.base_url.copy_with(raw_path=path.encode("ascii"))
    answer = await client.request(method, address, **request)
    told = answer.text[:400]
    assert answer.status_code < 500, f"{method} {path}: {answer.status_code} {told}"
    if answer.status_code >= 400:
        assert "json" in answer.headers["content-type"] or path.startswith("/schema/"), told
    return answer


@given(data=st.data())
async def test_any_id_in_any_path_is_answered(house: Bridge, data: st.DataObject) -> None:
    method, path = data.draw(st.sampled_from(NAMED))
    while "{" in path:
        name = path[path.index("{") : path.index("}") + 1]
        path = (
            path.replace(name, data.draw(segments), 1)
            if data.draw(st.booleans())
            else path.replace(name, "0", 1)
        )
    body = data.draw(st.sampled_from([b"", b"{}", b"[]", b'{"template_id": "x"}', b"\xff"]))
    client = data.draw(st.sampled_from([house.api, house.admin]))
    headers = {"content-type": data.draw(st.sampled_from(["application/json", "audio/wav"]))}
    await ask(client, method, path, content=body, headers=headers)


@share(4)
@given(key=header_bytes)
@example(b"")
@example(b"a" * 255)
@example(b"a" * 256)
@example("ключ".encode())
async def test_any_idempotency_key_is_taken_or_refused(house: Bridge, key: bytes) -> None:
    headers = [(b"idempotency-key", key), (b"content-type", b"application/json")]
    answer = await house.api.post("/v1/sessions", content=b"{}", headers=headers)
    assert answer.status_code in {201, 400}, answer.text
    if answer.status_code == 400:
        assert answer.json()["code"] == "idempotency_key_invalid"
        return
    again = await house.api.post("/v1/sessions", content=b"{}", headers=headers)
    assert (again.json()["id"] == answer.json()["id"]) is (key != b"")


@share(2)
@given(
    key=header_bytes,
    scheme=st.sampled_from([b"Bearer ", b"bearer ", b"Basic ", b"", b"Bearer\t", b"Bearer ekb_"]),
)
async def test_any_key_is_refused_in_every_door(
    nobody: httpx2.AsyncClient, key: bytes, scheme: bytes
) -> None:
    headers = [(b"authorization", (scheme + key).strip())]
    assert (await nobody.get("/v1/sessions", headers=headers)).status_code == 401
    assert (await nobody.get("/voice/v1/sessions/x", headers=headers)).status_code in {401, 403}


@share(2)
@given(
    name=st.text(max_size=60) | st.from_regex(r"[a-z_]{0,8}[0-9]{0,7}\.[a-z0-9]{0,9}", fullmatch=True),
    kind=header_bytes
    | st.sampled_from([b"audio/wav", b"", b"multipart/form-data", b"multipart/form-data; boundary="]),
    content=st.binary(max_size=60)
    | st.just(b'--x\r\nContent-Disposition: form-data; name="file"; filename="a_0.wav"'),
)
@example(name="\0.wav", kind=b"audio/wav", content=b"a")
@example(name="../../0.wav", kind=b"audio/wav", content=b"a")
@example(name="audio_٣.wav", kind=b"audio/wav", content=b"a")
async def test_any_file_name_of_the_protocol_is_stored_by_its_number_or_refused(
    house: Bridge, name: str, kind: bytes, content: bytes
) -> None:
    session_id = (await house.create())["id"]
    path = f"/voice/v1/sessions/{session_id}/audio/{quote(name, safe='')}"
    answer = await ask(house.api, "POST", path, content=content, headers=[(b"content-type", kind)])
    stored = await house.database.fetch(
        "SELECT file_name, sequence FROM chunks WHERE session_id = $1", session_id
    )
    assert len(stored) == (answer.status_code == 200), answer.text
    for file_name, sequence in stored:
        assert file_name.isascii()
        assert not set(file_name) & set("/\\%\0. ") - {"."}
        assert 0 <= sequence <= 99_999


@share(2)
@given(
    boundary=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=80),
    parts=st.lists(
        st.tuples(st.text(max_size=20), st.none() | st.text(max_size=20), st.binary(max_size=40)), max_size=6
    ),
    cut=st.integers(0, 400),
)
async def test_any_form_is_stored_or_refused(
    house: Bridge, boundary: str, parts: list[tuple[str, str | None, bytes]], cut: int
) -> None:
    body = b""
    for name, file_name, content in parts:
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        body += b"" if file_name is None else f'; filename="{file_name}"'.encode()
        body += b"\r\n\r\n" + content + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    for path in ("/voice/v1/sessions/ses_x/audio", "/voice/v1/uploads/ses_x"):
        answer = await ask(house.api, "POST", path, content=body[: len(body) - cut or None], headers=headers)
        assert answer.status_code in {400, 403, 404}, answer.text


@share(4)
@given(
    body=st.binary(max_size=80)
    | st.fixed_dictionaries({"client_id": st.text(max_size=30), "client_secret": st.text(max_size=30)}).map(
        lambda pair: repr(pair).replace("'", '"').encode(errors="surrogatepass")
    )
)
async def test_any_login_is_refused(nobody: httpx2.AsyncClient, body: bytes) -> None:
    answer = await ask(nobody, "POST", "/connect-auth/v1/account/login", content=body)
    assert answer.status_code in {400, 401}


@share(4)
@given(data=st.data())
async def test_a_token_that_was_touched_opens_nothing(
    nobody: httpx2.AsyncClient, token: str, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(token) - 1))
    touched = token[:place] + data.draw(st.sampled_from("abcXYZ019._-~ ")) + token[place + 1 :]
    answer = await nobody.get("/voice/v1/sessions/x", headers={"authorization": f"Bearer {touched}"})
    assert answer.status_code == (404 if touched.strip() == token else 401)


def forged(text: str) -> str:
    """A cursor in the form of ours."""
    return base64.urlsafe_b64encode(text.encode()).decode()


@given(
    st.text(max_size=80)
    | st.tuples(st.datetimes().map(str) | st.text(max_size=30), st.text(max_size=70)).map(
        lambda pair: forged(f"{pair[0]}|{pair[1]}")
    )
)
@example(forged("9999-12-31T23:59:59.999999-23:59|x"))
@example(forged("0001-01-01T00:00:00+23:59|x"))
def test_any_cursor_is_a_place_or_refused(cursor: str) -> None:
    with contextlib.suppress(InvalidRequest):
        found = after_cursor(cursor)
        assert found is not None
        moment, last = found
        assert isinstance(moment, datetime)
        assert moment.tzinfo is not None
        assert last.isascii()


FIRST, LAST = datetime(1, 1, 1), datetime(9999, 12, 31)  # noqa: DTZ001 - their zone is written after them


@share(4)
@given(
    path=st.sampled_from(["/v1/sessions", "/v1/destinations", "/v1/deliveries", "/v1/audit"]),
    at=st.datetimes(),
    last=st.from_regex(r"[A-Za-z0-9_]{1,64}", fullmatch=True) | st.integers(0, 2**70).map(str),
)
@example(path="/v1/audit", at=LAST, last=str(2**63))
@example(path="/v1/audit", at=FIRST, last="٣")
async def test_a_forged_cursor_is_a_place_in_one_s_own_list(
    house: Bridge, path: str, at: datetime, last: str
) -> None:
    answer = await house.admin.get(path, params={"cursor": forged(f"{at.isoformat()}+00:00|{last}")})
    assert answer.status_code in {200, 400}, answer.text


@given(st.text(max_size=60) | st.sampled_from(PUBLISHED_FORMATS))
def test_any_content_type_is_one_of_the_vendor_s_or_none(content_type: str) -> None:
    found = normalise_audio_format(content_type, PUBLISHED_FORMATS)
    if found is None:
        assert content_type not in PUBLISHED_FORMATS
    else:
        assert found.media_type in PUBLISHED_FORMATS
        again = normalise_audio_format(found.media_type, PUBLISHED_FORMATS)
        assert again is not None
        assert again.media_type == found.media_type
