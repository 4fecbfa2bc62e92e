"""Steps of the conversations about tokens, users, templates and webhooks."""

from __future__ import annotations

import time
from typing import Any

from tests.support.likeness import compare
from tests.support.recordings import AUGUST, EXCHANGES, FIRST, JULY, Exchange, session_in
from tests.support.replay_others import process
from tests.support.replay_steps import before, dictated, opened
from tests.support.replaying import PATIENCE_SECONDS, Conversation

USER = {"username": "lab", "password": "a-long-password"}
LOGIN, REFRESH = "/connect-auth/v1/login", "/connect-auth/v1/refresh"


def say(talk: Conversation, token: str | None = "", json: Any = None) -> None:
    """Send the next request with this token instead (None: without), and this body."""
    talk.notes["headers"] = {} if token == "" else {"authorization": f"Bearer {token}" if token else "none"}
    talk.notes["request"] = {"json": json}


@before("auth.none", "auth.login_connect", "auth.login", "auth.refresh", "auth.mode", "auth.signup")
@before("auth.login_missing_field", "auth.login_with_client_id", "auth.device_code")
async def nobody(talk: Conversation, exchange: Exchange) -> None:
    say(talk, None, USER if exchange["label"] in {"auth.login", "auth.signup"} else None)


@before("auth.login", source=FIRST)
async def a_user_is_there(talk: Conversation, exchange: Exchange) -> None:
    await talk.bench.client.post("/connect-auth/v1/signup", json=USER)


@before("auth.signup_weak", "auth.login_bad")
async def wrong(talk: Conversation, exchange: Exchange) -> None:
    say(talk, None, {**USER, "password": "short"})


@before("auth.garbage")
async def garbage(talk: Conversation, exchange: Exchange) -> None:
    say(talk, "garbage")


@before("auth.expired")
async def token_is_old(talk: Conversation, exchange: Exchange) -> None:
    await talk.bench.client.post("/connect-auth/v1/signup", json=USER)
    issued = (await talk.bench.client.post(LOGIN, json=USER)).json()
    await talk.bench.client.post("/_control/tokens/expire")
    say(talk, issued["access_token"])


@before("auth.whoami", "auth.no_uuid_claim")
async def somebody(talk: Conversation, exchange: Exchange) -> None:
    if talk.source == JULY:
        say(talk)
        return
    issued = (await talk.bench.client.post(LOGIN, json=USER)).json()
    say(talk, issued["access_token"])


@before("auth.refresh", source=AUGUST)
async def logged_in(talk: Conversation, exchange: Exchange) -> None:
    first = (await talk.bench.client.post(LOGIN, json=USER)).json()["refresh_token"]
    talk.notes["refresh"] = first
    say(talk, None, {"refresh_token": first})


@before("auth.refresh_same_token_again_within_60s")
async def the_same_again(talk: Conversation, exchange: Exchange) -> None:
    say(talk, None, {"refresh_token": talk.notes["refresh"]})


@before("auth.refresh_same_token_again_after_64s")
async def the_same_too_late(talk: Conversation, exchange: Exchange) -> None:
    await talk.bench.client.post("/_control/tokens/expire", json={"refresh_seconds": 64})
    say(talk, None, {"refresh_token": talk.notes["refresh"]})


@before("auth.refresh_bad", "auth.refresh_no_body")
async def no_such_token(talk: Conversation, exchange: Exchange) -> None:
    has_body = exchange["request"]["body"] is not None
    say(talk, None, {"refresh_token": "rt_none", "access_token": "at_none"} if has_body else None)


@before("auth.refresh_newest_after_reuse", "auth.logout")
async def newest(talk: Conversation, exchange: Exchange) -> None:
    talk.notes["refresh"] = (await talk.bench.client.post(LOGIN, json=USER)).json()["refresh_token"]
    say(talk, None, {"refresh_token": talk.notes["refresh"]})


@before("auth.after_logout.refresh")
async def logged_out(talk: Conversation, exchange: Exchange) -> None:
    say(talk, None, {"refresh_token": talk.notes["refresh"]})


# Another user of the workspace


@before("other_user_same_workspace.get_session", source=AUGUST)
async def another_user_comes(talk: Conversation, exchange: Exchange) -> None:
    patient = exchange["response"]["body"]["json"]["session_details"]
    await dictated(talk, exchange, templates=["markdown_note"], session_details=patient)
    issued = (await talk.bench.client.post("/connect-auth/v1/signup", json=USER)).json()
    talk.notes["token"] = {"authorization": f"Bearer {issued['access_token']}"}
    talk.notes["headers"] = talk.notes["token"]


@before("other_user_same_workspace.get_document", source=AUGUST)
async def a_document_of_the_first(talk: Conversation, exchange: Exchange) -> None:
    seen = await talk.bench.witness(next(iter(talk.sessions.values())))
    recorded = exchange["request"]["path"].rpartition("/")[2]
    talk.documents[recorded] = seen["documents"][0]["document_id"]


@before("other_user_same_workspace.upload_same_id_create", source=AUGUST)
async def the_id_is_taken(talk: Conversation, exchange: Exchange) -> None:
    talk.notes["request"] = {"json": talk.translate(exchange["request"]["body"]["json"])}


# Templates


@before("templates.create")
async def names_are_made_here(talk: Conversation, exchange: Exchange) -> None:
    talk.templates = {name: ours for name, ours in talk.templates.items() if "default" in ours}


@before("templates.patch")
async def one_is_ours(talk: Conversation, exchange: Exchange) -> None:
    body = {"title": "Note", "desc": "A note.", "section_ids": []}
    made = (await talk.bench.client.post("/voice/api/v1/template", json=body)).json()
    talk.templates[exchange["request"]["path"].rpartition("/")[2]] = made["template_id"]


@before("templates.list.cut", source=JULY)
async def two_are_listed(talk: Conversation, exchange: Exchange) -> None:
    answer = (await talk.bench.client.get("/voice/api/v1/template")).json()
    real = talk.translate(exchange["response"]["body"]["json"])
    # The recording was cut to the newest and the default one.
    ours = {"items": [answer["items"][0], answer["items"][-1]]}
    ours["items"][0]["id"] = real["items"][0]["id"]
    compare(real, ours, talk.learn)
    talk.notes["answered"] = True


# Webhooks: the request is the vendor's, the answer ours


@before("webhook.session.create", "webhook.sent.process_template_good.scribe.session.document.generated")
async def receiver_is_set(talk: Conversation, exchange: Exchange) -> None:
    endpoint = {"url": f"{talk.bench.emr_url}/hooks/vendor"}
    await talk.bench.settle(webhook_endpoints=[endpoint])
    if "process" in exchange["label"]:
        recorded = await dictated(talk, exchange, templates=["markdown_note"])
        await process(talk, recorded, "markdown_third")


@before("webhook.sent.end_twice.scribe.session.end")
async def ended_again(talk: Conversation, exchange: Exchange) -> None:
    await talk.end(await opened(talk, exchange))


@before("webhook.sent.cancel.scribe.session.update")
async def cancelled_by_patch(talk: Conversation, exchange: Exchange) -> None:
    session_id = talk.sessions[str(session_in(exchange))]
    words = {"user_status": "cancelled", "processing_status": "cancelled"}
    await talk.bench.client.patch(f"/voice/v1/sessions/{session_id}", json=words)


@before("webhook.sent.delete_transaction.scribe.session.deleted")
async def transaction_deleted(talk: Conversation, exchange: Exchange) -> None:
    session_id = talk.sessions[str(session_in(exchange))]
    await talk.bench.client.delete(f"/voice/api/v2/transaction/{session_id}")


async def event_is_sent(talk: Conversation, exchange: Exchange) -> None:
    real = talk.translate(exchange["request"]["body"]["json"])
    used = talk.notes.setdefault("used", set())
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for entry in await talk.bench.received(1, name="vendor"):
            body = entry["body"]
            about = body["payload"]["transaction_id"] == real["payload"]["transaction_id"]
            template = real["payload"]["data"].get("template_id")
            same = about and body["payload"]["data"].get("template_id") == template
            if entry["seq"] not in used and body["event_id"] == real["event_id"] and same:
                used.add(entry["seq"])
                assert not {"eka-webhook-signature", "x-msa-signature"} & set(entry["headers"])
                compare(real, body, talk.learn)
                talk.notes["answered"] = True
                return
    raise AssertionError(f"{real['event_id']} was not sent")


for each in EXCHANGES:
    if each["label"].startswith("webhook.sent."):
        before(each["label"])(event_is_sent)
