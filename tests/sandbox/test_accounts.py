from __future__ import annotations

import asyncio

import pytest

LOGIN = "/connect-auth/v1/account/login"
REFRESH = "/connect-auth/v1/account/refresh-token"
SESSIONS = "/voice/v1/sessions/ses_nope_nope_nope"
GOOD = {"client_id": "sandbox", "client_secret": "sandbox-secret"}


async def log_in(bench):
    answer = await bench.client.post(LOGIN, json=GOOD)
    assert answer.status_code == 200
    return answer.json()


async def use(bench, token):
    return (await bench.client.get(SESSIONS, headers={"Authorization": f"Bearer {token}"})).status_code


async def refresh(bench, tokens):
    body = {"refresh_token": tokens["refresh_token"], "access_token": tokens["access_token"]}
    return await bench.client.post(REFRESH, json=body, headers={"Client-Id": "sandbox"})


async def test_login_gives_a_token_that_works(bench):
    tokens = await log_in(bench)
    assert (tokens["expires_in"], set(tokens)) == (
        1800,
        {"access_token", "expires_in", "refresh_token", "refresh_expires_in"},
    )
    assert await use(bench, tokens["access_token"]) == 404


@pytest.mark.parametrize("body", [{}, {**GOOD, "client_secret": "wrong"}, {**GOOD, "client_id": "who"}])
async def test_wrong_credentials_are_refused(bench, body):
    answer = await bench.client.post(LOGIN, json=body)
    assert answer.status_code == 401
    assert {key: type(value) for key, value in answer.json().items()} == {"code": int, "error": str}


async def test_two_refreshes_racing_log_the_client_out(bench):
    tokens = await log_in(bench)
    answers = await asyncio.gather(refresh(bench, tokens), refresh(bench, tokens))
    assert sorted(each.status_code for each in answers) == [200, 403]
    won = next(each.json() for each in answers if each.status_code == 200)
    assert await use(bench, won["access_token"]) == 401
    assert await use(bench, tokens["access_token"]) == 401
    assert (await refresh(bench, won)).status_code == 403
    assert await use(bench, (await log_in(bench))["access_token"]) == 404


async def test_expiry_spares_refresh_and_static_tokens(bench):
    tokens = await log_in(bench)
    assert (await bench.client.post("/_control/tokens/expire")).json() == {"expired": 1}
    assert await use(bench, tokens["access_token"]) == 401
    assert await use(bench, "sandbox-token") == 404
    renewed = await refresh(bench, tokens)
    assert await use(bench, renewed.json()["access_token"]) == 404
    await bench.client.post("/_control/tokens/expire", json={"static": True})
    assert await use(bench, "sandbox-token") == 401
