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


async def test_accounts_see_only_their_own_sessions_and_subscriptions(bench):
    await bench.settle(
        clients={"sandbox": "sandbox-secret", "other": "x"},
        static_tokens=["sandbox-token", "other-token"],
        token_accounts={"other-token": "other"},
    )
    session_id = (await bench.create())["session_id"]
    subscriptions = "/notification/v1/connect/webhook/subscriptions"
    made = (await bench.client.post(subscriptions, json={"endpoint": "https://x.example/"})).json()
    other = {"Authorization": "Bearer other-token"}
    session = f"/voice/v1/sessions/{session_id}"
    for method, path, body in (
        ("GET", session, None),
        ("PATCH", session, {"model": "lite"}),
        ("POST", f"{session}/end", {"audio_files_sent": 0}),
        ("POST", f"{session}/audio/audio_0.wav", None),
        ("POST", f"{session}/process/template/x", None),
        ("DELETE", f"{subscriptions}/{made['id']}", None),
    ):
        answer = await bench.client.request(method, path, json=body, headers=other)
        assert answer.status_code == 404, path
    assert (await bench.client.get(subscriptions, headers=other)).json() == []
    again = await bench.client.post(subscriptions, json={"endpoint": "https://x.example/"}, headers=other)
    assert again.status_code == 201
    mine = {"Authorization": f"Bearer {(await log_in(bench))['access_token']}"}
    assert (await bench.client.get(session, headers=mine)).status_code == 202
    assert [each["id"] for each in (await bench.client.get(subscriptions, headers=mine)).json()] == [
        made["id"]
    ]
