"""Tenants with an EkaScribe account of their own: their sessions, their webhooks, and nobody else's."""

import json
from collections.abc import AsyncIterator

import pytest

from service.domain.errors import AccountInUse
from service.domain.vendor_account_changes import VendorAccounts
from service.domain.vendor_accounts import AccountChange, Credentials
from tests.support.api_calls import hook, problem, signature, v2_event
from tests.support.bridge import WEBHOOK_SECRET
from tests.support.two_accounts import CLIENTS, OWN_SECRET, Two, client_of, open_two


@pytest.fixture
async def two(database_url: str, redis_url: str) -> AsyncIterator[Two]:
    async with open_two(database_url, redis_url, OWN_SECRET) as opened:
        yield opened


async def test_each_tenant_s_sessions_live_in_its_own_account_to_the_end(two: Two) -> None:
    await two.bridge.start_worker()
    ours, theirs = await two.bridge.dictate(), await two.dictate()
    assert (await two.hook(v2_event(theirs))).json() == {"status": "accepted"}
    assert (await hook(two.bridge, v2_event(ours))).json() == {"status": "accepted"}
    done = await two.bridge.reach(ours, "completed")
    assert [each["status"] for each in done["documents"]] == ["success"]
    answer = await two.api.get(f"/v1/sessions/{theirs}", params={"wait": 20})
    assert answer.json()["status"] == "completed"
    assert [each["status"] for each in answer.json()["documents"]] == ["success"]

    assert await two.at_vendor("hospital-token", theirs) == 200
    assert await two.at_vendor("sandbox-token", theirs) == 404
    assert await two.at_vendor("sandbox-token", ours) == 200
    assert await two.at_vendor("hospital-token", ours) == 404


async def test_a_door_acts_on_sessions_of_its_own_account_alone(two: Two) -> None:
    ours, theirs = await two.bridge.dictate(), await two.dictate()
    # Each is well signed for the door that it comes to, and speaks of the other's session.
    assert (await hook(two.bridge, v2_event(theirs))).json() == {"status": "ignored"}
    assert (await two.hook(v2_event(ours))).json() == {"status": "ignored"}
    due = await two.bridge.database.fetchval("SELECT count(*) FROM fetches WHERE next_at <= now()")
    assert due == 0
    assert await two.recorded(theirs) == {("default", "unknown")}
    assert await two.recorded(ours) == {(two.tenant_id, "unknown")}
    assert (await two.hook(v2_event(theirs))).json() == {"status": "accepted"}
    assert (await two.hook(v2_event(theirs))).json() == {"status": "duplicate"}
    assert (await hook(two.bridge, v2_event(ours))).json() == {"status": "accepted"}
    timeline = (await two.api.get(f"/v1/sessions/{theirs}/timeline")).json()["items"]
    assert [each["type"] for each in timeline].count("webhook.received") == 1


async def test_only_the_tenant_s_own_secrets_are_believed_at_its_door(two: Two) -> None:
    session_id = await two.dictate()
    for secret in (WEBHOOK_SECRET, "", "wrong"):
        problem(await two.hook(v2_event(session_id), secret=secret), 401, "signature_invalid")
    body = json.dumps(v2_event(session_id)).encode()
    header = signature(body, secret=OWN_SECRET)
    problem(await hook(two.bridge, body, header=header), 401, "signature_invalid")
    assert await two.recorded(session_id) == set()
    problem(await two.hook(b"{"), 400, "invalid_request")
    problem(await two.hook(b"x" * 65_537), 413, "body_too_large")


async def test_a_door_that_leads_nowhere_tells_nothing(two: Two) -> None:
    shared = two.bridge.tenant_id
    event = v2_event(await two.bridge.dictate())
    told = set()
    for door in (shared, "ten_" + "0" * 24, "default", "x", "%00", "ten_%2e%2e", "a" * 5000):
        for secret in (WEBHOOK_SECRET, OWN_SECRET, ""):
            answer = await two.hook(event, door, secret=secret)
            found = problem(answer, 401, "signature_invalid")
            told.add((found["detail"], found["title"], answer.headers["content-type"]))
    wrong = problem(await two.hook(event, secret="wrong"), 401, "signature_invalid")
    assert told == {(wrong["detail"], wrong["title"], "application/problem+json")}


async def test_unsigned_webhooks_need_the_same_word_as_at_the_default_door(
    database_url: str, redis_url: str
) -> None:
    async with open_two(database_url, redis_url) as two:
        problem(await two.hook(v2_event("x"), secret=""), 401, "signature_invalid")
        problem(await two.hook(v2_event("x")), 401, "signature_invalid")
    async with open_two(database_url, redis_url, webhook_secrets=(), webhook_allow_unsigned=True) as two:
        session_id = await two.dictate()
        assert (await two.hook(v2_event(session_id), secret="")).json() == {"status": "accepted"}
        for door in (two.bridge.tenant_id, "ten_" + "0" * 24, "default"):
            problem(await two.hook(v2_event(session_id), door, secret=""), 401, "signature_invalid")
    async with open_two(
        database_url, redis_url, OWN_SECRET, webhook_secrets=(), webhook_allow_unsigned=True
    ) as two:
        problem(await two.hook(v2_event("x"), secret=""), 401, "signature_invalid")


async def test_all_of_the_tenant_s_secrets_are_believed(two: Two) -> None:
    session_id = await two.bridge.dictate()
    tenant_id = two.bridge.tenant_id
    change = AccountChange(credentials=client_of("clinic"), webhook_secrets=("newer", "older"))
    await VendorAccounts(two.stores.vendor_accounts).change(tenant_id, change, force=False)
    for secret in ("newer", "older"):
        answer = await two.hook(v2_event(session_id), tenant_id, secret=secret)
        assert answer.status_code == 200


async def test_sessions_keep_the_account_that_they_began_with(two: Two) -> None:
    await two.bridge.start_worker()
    before = await two.bridge.create()
    tenant_id = two.bridge.tenant_id
    await VendorAccounts(two.stores.vendor_accounts).change(
        tenant_id,
        AccountChange(credentials=client_of("clinic"), webhook_secrets=("clinic-key",)),
        force=False,
    )
    after = await two.bridge.create()
    assert await two.at_vendor("sandbox-token", before["id"]) == 202
    assert await two.at_vendor("clinic-token", after["id"]) == 202
    assert await two.at_vendor("sandbox-token", after["id"]) == 404
    for session in (before, after):
        assert (await two.bridge.put(session["id"], 0)).status_code == 200
        assert (await two.bridge.end(session["id"], chunks=1)).status_code == 202
    with pytest.raises(AccountInUse):
        await VendorAccounts(two.stores.vendor_accounts).clear(tenant_id)
    assert (await hook(two.bridge, v2_event(before["id"]))).json() == {"status": "accepted"}
    answer = await two.hook(v2_event(after["id"]), tenant_id, secret="clinic-key")
    assert answer.json() == {"status": "accepted"}
    for session in (before, after):
        await two.bridge.reach(session["id"], "completed")
    await VendorAccounts(two.stores.vendor_accounts).clear(tenant_id)
    again = await two.bridge.create()
    assert await two.at_vendor("sandbox-token", again["id"]) == 202
    # Kept secrets open the door for a while; an account that is gone has no session to act on.
    assert (await two.bridge.session(after["id"]))["status"] == "completed"


async def test_credentials_that_the_vendor_took_back_are_replaced_without_a_restart(two: Two) -> None:
    await two.start()
    await two.bridge.vendor_settings(clients=CLIENTS | {"hospital": "rotated"})
    (await two.bridge.vendor.post("/_control/tokens/expire")).raise_for_status()
    await VendorAccounts(two.stores.vendor_accounts).change(
        two.tenant_id,
        AccountChange(credentials=Credentials(client_id="hospital", client_secret="rotated")),
        force=False,
    )
    session_id = await two.start()
    assert await two.at_vendor("hospital-token", session_id) == 202


async def test_an_account_without_good_credentials_fails_alone(two: Two) -> None:
    await VendorAccounts(two.stores.vendor_accounts).change(
        two.tenant_id,
        AccountChange(credentials=Credentials(client_id="hospital", client_secret="wrong-one")),
        force=False,
    )
    answer = await two.api.post("/v1/sessions", json={})
    found = problem(answer, 502, "vendor_error")
    assert "wrong-one" not in answer.text
    assert found["vendor_status"] == 401
    assert (await two.bridge.create())["status"] == "created"


async def test_logins_are_counted_by_account(two: Two) -> None:
    for _ in range(3):
        await two.start()
        await two.bridge.create()
    assert await two.bridge.calls("/account/login$") == 2
    kept = await two.bridge.database.fetch("SELECT account FROM vendor_tokens ORDER BY account")
    assert [row["account"] for row in kept] == ["default", two.tenant_id]
