import base64
import hashlib
import hmac
import json
import time

import pytest

from tests.support.stand_in_webhooks import signature_fits

SUBSCRIPTIONS = "/notification/v1/connect/webhook/subscriptions"


WEBHOOKS = "/voice/v1/webhooks"


async def finish_one(bench, **fields):
    session_id = (await bench.create(**fields))["session_id"]
    await bench.end(session_id)
    return session_id


@pytest.mark.parametrize("shape", ["nested", "flat", "flat-event-type", "v2", "protocol"])
async def test_each_shape_names_the_event_and_the_session(bench, shape):
    endpoint = {"url": f"{bench.emr_url}/hooks/eka", "secret": "s3cret"}
    await bench.settle(webhook_endpoints=[endpoint], webhook_shape=shape, webhook_copies=2)
    session_id = await finish_one(bench)
    first, second = await bench.received(2, name="eka")
    assert first["raw"] == second["raw"]
    assert signature_fits(first["headers"]["eka-webhook-signature"], "s3cret", first["raw"].encode())
    body = first["body"]
    event, found = {
        "nested": lambda: (body["event_id"], body["payload"]["transaction_id"]),
        "flat": lambda: (body["event"], body["transaction_id"]),
        "flat-event-type": lambda: (body["event_type"], body["transaction_id"]),
        "v2": lambda: (body["event"], body["data"]["session_id"]),
        "protocol": lambda: (body["event"], body["session_id"]),
    }[shape]()
    assert event == ("session.completed" if shape == "protocol" else "v2rx.completed")
    assert found == session_id


async def test_subscriptions_of_both_kinds_receive(bench):
    secret = {"signing_key": "one"}
    connect = {"event_names": ["v2rx.completed"], "endpoint": f"{bench.emr_url}/hooks/connect", **secret}
    made = await bench.client.post(SUBSCRIPTIONS, json=connect)
    assert (made.status_code, set(made.json())) == (201, {"id", "status"})
    assert (await bench.client.post(SUBSCRIPTIONS, json=connect)).status_code == 400
    protocol = {"url": f"{bench.emr_url}/hooks/protocol", "events": ["session.failed"], "secret": "two"}
    made_too = await bench.client.post(WEBHOOKS, json=protocol)
    assert made_too.status_code == 201
    assert (await bench.client.post(WEBHOOKS, json=protocol)).status_code == 400
    await finish_one(bench)
    assert len(await bench.received(1, name="connect")) == 1
    await bench.settle(outcome="failed")
    await finish_one(bench)
    (failed,) = await bench.received(1, name="protocol")
    assert failed["body"]["event"] == "session.failed"
    assert signature_fits(failed["headers"]["x-msa-signature"], "two", failed["raw"].encode())
    assert len(await bench.received(1, name="connect")) == 1
    for path, answer in ((SUBSCRIPTIONS, made), (WEBHOOKS, made_too)):
        listed = (await bench.client.get(path)).text
        assert "one" not in listed.replace("connection", "")
        removed = await bench.client.delete(f"{path}/{answer.json()['id']}")
        assert removed.status_code in {200, 204}
        assert (await bench.client.delete(f"{path}/{answer.json()['id']}")).status_code == 404


async def test_a_receiver_that_is_gone_is_recorded_only(bench):
    await bench.settle(webhook_endpoints=[{"url": "http://127.0.0.1:9/hooks"}])
    session_id = await finish_one(bench)
    query = {"session_id": session_id}
    while not (found := (await bench.client.get("/_control/webhooks", params=query)).json()):
        pass
    assert (found[0]["status"], found[0]["error"]) == (None, "ConnectError")


@pytest.mark.parametrize("signing", ["raw", "compact", "compact-ascii", "wrong", "none"])
async def test_webhooks_can_be_sent_by_hand(bench, signing):
    order = {
        "url": f"{bench.emr_url}/hooks/hand",
        "secret": "k",
        "session_id": "ses_x",
        "data": {"name": "Zoë"},
        "copies": 3,
        "sign": signing,
        "timestamp": 1_700_000_000,
        "header": "X-MSA-Signature",
    }
    answers = (await bench.client.post("/_control/webhooks/send", json=order)).json()["answers"]
    assert [each["status"] for each in answers] == [200, 200, 200]
    entry = (await bench.received(3, name="hand"))[0]
    header = entry["headers"].get("x-msa-signature")
    if signing == "none":
        assert header is None
        return
    assert header.startswith("t=1700000000,v1=")
    compact = {"separators": (",", ":")}
    signed = {
        "compact": json.dumps(entry["body"], ensure_ascii=False, **compact),
        "compact-ascii": json.dumps(entry["body"], **compact),
    }.get(signing, entry["raw"])
    assert signature_fits(header, "k", signed.encode()) == (signing != "wrong")


def standard_headers(body, secret, at):
    mac = hmac.new(
        base64.b64decode(secret.removeprefix("whsec_")), f"msg_1.{at}.".encode() + body, hashlib.sha256
    )
    signature = f"v1,AAAA v1,{base64.b64encode(mac.digest()).decode()}"
    return {"webhook-id": "msg_1", "webhook-timestamp": str(at), "webhook-signature": signature}


async def test_the_emr_verifies_standard_webhooks(bench):
    secret, now = "whsec_" + base64.b64encode(b"k" * 24).decode(), int(time.time())
    await bench.client.post(f"{bench.emr_url}/_control/secrets", json={"secrets": ["whsec_!!", secret]})
    body = b'{"type": "ping"}'
    for headers in (
        standard_headers(body, secret, now),
        standard_headers(body, secret, now - 1000),
        standard_headers(b"{}", secret, now),
        {},
    ):
        await bench.client.post(f"{bench.emr_url}/hooks", content=body, headers=headers)
    entries = await bench.received(4, type="ping")
    assert [each["verified"] for each in entries] == [True, False, False, False]
    assert len(await bench.received(3, webhook_id="msg_1")) == 3


async def test_the_emr_answers_as_told(bench):
    sequence = [
        {"status": 503, "headers": {"retry-after": "1"}, "times": 2},
        {"status": 409, "body": {"code": "duplicate"}},
        {"status": 204},
    ]
    url = f"{bench.emr_url}/hooks/clinic"
    plan = {"sequence": sequence, "otherwise": {"status": 410}, "name": "clinic"}
    await bench.client.post(f"{bench.emr_url}/_control/behaviour", json=plan)
    answers = [await bench.client.post(url, json={}) for _ in range(5)]
    assert [each.status_code for each in answers] == [503, 503, 409, 204, 410]
    assert answers[0].headers["retry-after"] == "1"
    assert answers[2].json() == {"code": "duplicate"}
    assert (await bench.client.post(f"{bench.emr_url}/hooks/other", json={})).status_code == 200


async def test_the_emr_can_cut_the_connection(bench):
    plan = {"sequence": [{"mode": "reset"}]}
    await bench.client.post(f"{bench.emr_url}/_control/behaviour", json=plan)
    order = {"url": f"{bench.emr_url}/hooks", "session_id": "ses_x"}
    answers = (await bench.client.post("/_control/webhooks/send", json=order)).json()["answers"]
    assert answers[0]["error"] == "ReadError"
