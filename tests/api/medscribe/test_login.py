"""Login and tokens: who comes in to /voice/v1, and what each door says to whoever does not."""

from __future__ import annotations

import time

import pytest

from service.bootstrap.container import open_stores
from service.domain.api_keys.changes import ApiKeys
from service.domain.ids import KeyId, SessionId
from service.store.medscribe_tokens import MedscribeTokens
from tests.support.bridge import Bridge, add_key, add_tenant
from tests.support.medscribe_clients import envelope, login, python_client

GET = "/voice/v1/sessions/ses_nope_nope_nope"


async def ask(house: Bridge, headers: dict[str, str]) -> object:
    return await (await house.client(None)).get(GET, headers=headers)


async def key_id(house: Bridge) -> KeyId:
    async with open_stores(house.settings) as stores:
        return KeyId((await stores.api_keys.list_keys(house.tenant_id))[0].id)


async def test_a_tenant_and_its_key_get_a_token_of_half_an_hour(house: Bridge) -> None:
    answer = await login(house)
    assert answer.status_code == 200
    assert set(answer.json()) == {"access_token", "expires_in"}
    assert answer.json()["expires_in"] == 1800
    assert answer.headers["cache-control"] == "no-store"
    token = answer.json()["access_token"]
    end = int(token.split(".")[1])
    assert 1790 < end - time.time() < 1810
    envelope(await ask(house, {"authorization": f"Bearer {token}"}), 404, "session_not_found")


@pytest.mark.parametrize(
    ("key", "client_id"), [("ekb_wrong", None), (None, "ten_of_somebody_else"), ("ekb_\u00fc", None)]
)
async def test_a_wrong_key_or_id_is_refused_as_the_vendor_refuses(
    house: Bridge, key: str | None, client_id: str | None
) -> None:
    answer = await login(house, key, client_id)
    assert answer.status_code == 401
    assert answer.json() == {"code": 401, "error": "invalid client_id or client_secret"}


async def test_a_key_of_another_tenant_opens_nothing_here(house: Bridge) -> None:
    _, other = await add_tenant(house.settings, "other", "emr")
    assert (await login(house, other)).status_code == 401


async def test_a_login_without_a_secret_is_told_so_in_its_own_form(house: Bridge) -> None:
    answer = await (await house.client(None)).post("/connect-auth/v1/account/login", json={"client_id": "x"})
    assert answer.status_code == 400
    assert answer.json()["code"] == 400
    assert "client_secret" in answer.json()["error"]


async def test_a_key_itself_is_a_token_too(house: Bridge) -> None:
    key = house.api.headers["authorization"]
    envelope(await ask(house, {"authorization": key}), 404, "session_not_found")
    for header in ("x-api-key", "X-API-Key"):
        envelope(await ask(house, {header: key.removeprefix("Bearer ")}), 404, "session_not_found")


@pytest.mark.parametrize("scheme", ["X-API-Key", "x-api-key", "X-Api-Key  "])
async def test_a_key_may_stand_where_the_specification_s_examples_have_it(house: Bridge, scheme: str) -> None:
    key = house.api.headers["authorization"].removeprefix("Bearer ")
    envelope(await ask(house, {"authorization": f"{scheme} {key}"}), 404, "session_not_found")
    envelope(await ask(house, {"authorization": f"{scheme} {key}x"}), 401, "token_expired")
    envelope(await ask(house, {"authorization": scheme.strip()}), 403, "missing_token")


async def test_v1_takes_a_key_as_bearer_only(house: Bridge) -> None:
    key = house.api.headers["authorization"].removeprefix("Bearer ")
    for headers in ({"x-api-key": key}, {"authorization": f"X-API-Key {key}"}):
        answer = await (await house.client(None)).get("/v1/sessions", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


async def test_without_any_it_is_403_as_at_the_vendor(house: Bridge) -> None:
    answer = await ask(house, {})
    envelope(answer, 403, "missing_token")
    assert answer.json()["detail"] == "missing_token"


async def test_an_old_token_is_401_and_a_client_logs_in_again(house: Bridge) -> None:
    async with open_stores(house.settings) as stores:
        old = await MedscribeTokens(stores.database, stores.hasher).issue_access(
            await key_id(house), seconds=-1
        )
    answer = await ask(house, {"authorization": f"Bearer {old}"})
    envelope(answer, 401, "token_expired")
    assert answer.json()["detail"] == "token_expired"
    client = await python_client(house)
    client.token = old
    assert (await client.create())["status"] == "created"
    assert client.logins == 1


async def test_a_forged_token_is_401(house: Bridge) -> None:
    token = (await login(house)).json()["access_token"]
    name, end, signature = token.split(".")
    other = f"ekt_{'0' * 24}"
    for forged in (
        f"{name}.{int(end) + 1}.{signature}",
        f"{other}.{end}.{signature}",
        f"{name}.{end}.{'A' * 43}",
        f"{name}.0{end}.{signature}",
        f"{name}.{end}",
        "ekt_",
        "x" * 5000,
    ):
        envelope(await ask(house, {"authorization": f"Bearer {forged}"}), 401, "token_expired")


async def test_a_token_ends_with_its_key(house: Bridge) -> None:
    key = await add_key(house.settings, house.tenant_id, "emr")
    token = (await login(house, key)).json()["access_token"]
    async with open_stores(house.settings) as stores:
        keys = await stores.api_keys.list_keys(house.tenant_id)
        await ApiKeys(stores.api_keys).revoke(house.tenant_id, KeyId(keys[-1].id))
    envelope(await ask(house, {"authorization": f"Bearer {token}"}), 401, "token_expired")
    assert (await login(house, key)).status_code == 401


async def test_what_opens_a_form_opens_nothing_else(house: Bridge) -> None:
    session = await house.create()
    async with open_stores(house.settings) as stores:
        tokens = MedscribeTokens(stores.database, stores.hasher)
        (row,) = await house.database.fetch("SELECT expires_at FROM sessions WHERE id = $1", session["id"])
        form = await tokens.issue_form(await key_id(house), SessionId(session["id"]), row["expires_at"])
        assert await tokens.read(form, SessionId(session["id"])) is not None
        assert await tokens.read(form, SessionId("ses_another_session")) is None
        assert (
            await tokens.read((await login(house)).json()["access_token"], SessionId(session["id"])) is None
        )
    envelope(await ask(house, {"authorization": f"Bearer {form}"}), 401, "token_expired")


async def test_nul_finds_nothing(house: Bridge) -> None:
    key = {"authorization": house.api.headers["authorization"]}
    http = await house.client(None)
    envelope(await http.get("/voice/v1/sessions/ses%00_nope_nope", headers=key), 404, "session_not_found")
    session = await house.create()
    answer = await http.get(f"/voice/v1/sessions/{session['id']}?template_id=a%00", headers=key)
    envelope(answer, 400, "invalid_request")
