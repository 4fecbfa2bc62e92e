"""Receivers of ten lines, with the library that the docs name, take what we send in every form."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle
from litestar import Litestar, Request, Response, post
from standardwebhooks import Webhook, WebhookVerificationError

from service.sandbox.serving import serve_app
from tests.support.bridge import Bridge


@dataclass
class Receiver:
    """Verifies, stores, answers: the ten lines of docs/webhooks.md."""

    secrets: list[str] = field(default_factory=list)
    answer: Any = None
    stored: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    url: str = ""

    def app(self) -> Litestar:
        @post("/hooks")
        async def receive(request: Request[Any, Any, Any]) -> Response[Any]:
            body, headers = await request.body(), dict(request.headers)
            verified = []
            for secret in self.secrets:
                try:
                    Webhook(secret).verify(body, headers)
                    verified.append(secret)
                except WebhookVerificationError:
                    pass
            self.stored.put_nowait((verified, headers, body))
            return Response(self.answer, status_code=200)

        return Litestar([receive], logging_config=None)

    async def next(self) -> Any:
        async with asyncio.timeout(20):
            return await self.stored.get()


@asynccontextmanager
async def receiving(bridge: Bridge, **fields: Any) -> AsyncIterator[tuple[Receiver, dict[str, Any]]]:
    receiver = Receiver()
    async with serve_app(receiver.app()) as url:
        answer = await bridge.api.post("/v1/destinations", json={"url": f"{url}/hooks", **fields})
        assert answer.status_code == 201, answer.text
        receiver.secrets.append(answer.json()["secret"])
        yield receiver, answer.json()


@pytest.mark.parametrize("payload", ["full", "reference"])
@pytest.mark.parametrize("form", ["ekabridge", "fhir-r4"])
async def test_every_form_is_signed_as_the_library_wants_it(bridge: Bridge, payload: str, form: str) -> None:
    async with receiving(bridge, payload=payload, format=form, headers={"X-Api-Key": "k-1"}) as (
        receiver,
        _,
    ):
        await bridge.start_worker()
        patient = {"id": "PAT-12345", "name": "Asha Rao"}
        session_id = await bridge.dictate(reference="ENC-1", patient=patient, metadata={"ward": "seventh"})
        verified, headers, body = await receiver.next()
    assert verified == receiver.secrets
    assert headers["x-api-key"] == "k-1"
    assert session_id.encode() in body
    if payload == "reference":
        for text in ("Asha Rao", "PAT-12345", "ENC-1", "seventh", "transcript"):
            assert text not in body.decode()
    if form == "fhir-r4":
        assert headers["content-type"] == "application/fhir+json"
        # In a thread: the library builds its models at first use, and nothing else here would run meanwhile.
        assert (await asyncio.to_thread(Bundle.model_validate_json, body)).type == "transaction"
        return
    data = json.loads(body)["data"]
    assert ("transcript" in data) is ("data" in data["document"]) is (payload == "full")
    if payload == "reference":
        read = await bridge.api.get(data["document_url"])
        assert read.json()["id"] == data["document"]["id"]


async def test_every_attempt_sends_the_same_bytes(bridge: Bridge) -> None:
    await bridge.emr.post("/_control/behaviour", json={"sequence": [{"status": 503, "times": 2}]})
    await bridge.add_destination(payload="reference", format="fhir-r4")
    await bridge.start_worker()
    await bridge.dictate(patient={"id": "PAT-1"})
    received = await bridge.received(3)
    assert len({entry["raw"] for entry in received}) == 1
    assert len({entry["headers"]["webhook-id"] for entry in received}) == 1


async def test_both_secrets_verify_while_one_is_rotated_out(bridge: Bridge) -> None:
    async with receiving(bridge) as (receiver, made):
        await bridge.start_worker()
        rotate = f"/v1/destinations/{made['id']}/rotate-secret"
        rotated = (await bridge.api.post(rotate, json={"overlap_seconds": 3600})).json()
        receiver.secrets.append(rotated["secret"])
        await bridge.dictate()
        verified, headers, _ = await receiver.next()
        assert verified == receiver.secrets
        assert len(headers["webhook-signature"].split()) == 2
        await bridge.database.execute("UPDATE destinations SET previous_until = now()")
        await bridge.dictate()
        verified, headers, _ = await receiver.next()
        assert verified == receiver.secrets[1:]
        assert len(headers["webhook-signature"].split()) == 1


async def test_a_fhir_server_that_says_where_the_note_is_has_filed_it(bridge: Bridge) -> None:
    async with receiving(bridge, format="fhir-r4") as (receiver, _):
        response = {"status": "201 Created", "location": "DocumentReference/8812/_history/1"}
        receiver.answer = {
            "resourceType": "Bundle", "id": "answer-1", "type": "transaction-response",
            "entry": [{"response": response}, {"response": {"location": "Patient/5/_history/9"}}],
        }  # fmt: skip
        await bridge.start_worker()
        session_id = await bridge.dictate(patient={"id": "PAT-1"})
        await receiver.next()
        await bridge.reach(session_id, "completed")
        async with asyncio.timeout(10):
            while True:
                found = (await bridge.api.get("/v1/deliveries", params={"status": "filed"})).json()["items"]
                if found:
                    break
                await bridge.api.get(f"/v1/sessions/{session_id}", params={"wait": 0.05})
    assert [each["record_id"] for each in found] == ["8812"]


async def test_nothing_secret_of_a_destination_is_logged(
    bridge: Bridge, capfd: pytest.CaptureFixture[str]
) -> None:
    auth = {
        "type": "oauth2",
        "token_url": f"{bridge.emr_url}/token-of-hunter2",
        "client_id": "bridge",
        "client_secret": "hunter2-secret",
    }
    made = await bridge.add_destination(headers={"x-key": "hunter2-header"}, auth=auth)
    await bridge.start_worker()
    await bridge.dictate()
    deadline = asyncio.get_running_loop().time() + 10
    while (await bridge.api.get(f"/v1/destinations/{made['id']}")).json()["paused_reason"] != "oauth_refused":
        assert asyncio.get_running_loop().time() < deadline
        await bridge.api.get("/v1/sessions")
    captured = capfd.readouterr()
    assert "oauth_refused" in captured.out + captured.err
    assert "hunter2" not in captured.out + captured.err
    assert made["secret"].removeprefix("whsec_") not in captured.out + captured.err
