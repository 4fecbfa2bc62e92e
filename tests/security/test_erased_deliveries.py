"""An erasure while a delivery is being attempted: what has not left stays, what has left is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.api_calls import until
from tests.support.bridge import Bridge, RunningWorker

FIELDS = {"patient": {"id": "PAT-1", "name": "MARK-patient"}, "reference": "MARK-reference"}


class Endpoint:
    """A destination and its token endpoint on plain sockets: each answers when the test says so."""

    def __init__(self) -> None:
        self.url = ""
        self.token_asked = asyncio.Event()
        self.give_token = asyncio.Event()
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()
        self.got = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after another."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    int(line.partition(b":")[2])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                )
                if b"/token " in head:
                    await reader.readexactly(length)
                    self.token_asked.set()
                    await self.give_token.wait()
                    body = b'{"access_token": "t", "token_type": "Bearer", "expires_in": 3600}'
                else:
                    self.got += head + await reader.readexactly(length)
                    self.asked.set()
                    await self.answer.wait()
                    body = b'{"id": "NOTE-77"}'
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def endpoint() -> AsyncIterator[Endpoint]:
    made = Endpoint()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        made.give_token.set()
        made.answer.set()
        server.close()


@pytest.fixture
async def hospital() -> AsyncIterator[Endpoint]:
    async with endpoint() as made:
        yield made


async def begin(bridge: Bridge, hospital: Endpoint, **destination: Any) -> tuple[str, RunningWorker]:
    await bridge.add_destination(f"{hospital.url}/hooks", **destination)
    worker = await bridge.start_worker()
    session_id = await bridge.dictate(**FIELDS)
    await bridge.reach(session_id, "completed")
    return session_id, worker


async def erase(bridge: Bridge, session_id: str) -> None:
    assert (await bridge.api.delete(f"/v1/sessions/{session_id}")).status_code == 202


async def told(bridge: Bridge) -> dict[str, Any]:
    (listed,) = (await bridge.api.get("/v1/deliveries")).json()["items"]
    shown = (await bridge.api.get(f"/v1/deliveries/{listed['id']}")).json()
    assert (shown["status"], shown["reason"], shown["record_id"]) == ("dead", "session_erased", None)
    assert listed["attempts"] == len(shown["attempts"])
    return shown


def oauth(hospital: Endpoint) -> dict[str, Any]:
    return {"type": "oauth2", "token_url": f"{hospital.url}/token", "client_id": "a", "client_secret": "b"}


async def test_nothing_leaves_that_was_erased_while_it_waited_for_a_token(
    bridge: Bridge, hospital: Endpoint
) -> None:
    session_id, worker = await begin(bridge, hospital, auth=oauth(hospital))
    await hospital.token_asked.wait()
    await erase(bridge, session_id)
    hospital.give_token.set()
    hospital.answer.set()
    await worker.stop()
    assert hospital.got == b""
    assert (await told(bridge))["attempts"] == []


async def test_an_attempt_that_was_on_its_way_is_told_at_once_and_how_it_ended(
    bridge: Bridge, hospital: Endpoint
) -> None:
    session_id, worker = await begin(bridge, hospital)
    await hospital.asked.wait()
    await erase(bridge, session_id)
    (attempt,) = (await told(bridge))["attempts"]
    assert (attempt["status_code"], attempt["error_class"]) == (None, "on_its_way")
    hospital.answer.set()
    await worker.stop()
    assert b"MARK-patient" in hospital.got
    (attempt,) = (await told(bridge))["attempts"]
    assert (attempt["status_code"], attempt["error_class"]) == (200, None)
    kept = await bridge.database.fetch("SELECT response_sha256, response_bytes FROM attempts")
    assert [tuple(row) for row in kept] == [(None, None)]


async def test_an_attempt_whose_worker_died_stays_told_as_one_that_was_on_its_way(
    bridge: Bridge, hospital: Endpoint
) -> None:
    session_id, worker = await begin(bridge, hospital)
    await hospital.asked.wait()
    await bridge.database.execute("UPDATE deliveries SET lease = gen_random_uuid()")
    await erase(bridge, session_id)
    hospital.answer.set()
    await worker.stop()
    (attempt,) = (await told(bridge))["attempts"]
    assert (attempt["status_code"], attempt["error_class"]) == (None, "on_its_way")


async def test_nothing_leaves_whose_filing_was_confirmed_meanwhile(
    bridge: Bridge, hospital: Endpoint
) -> None:
    await begin(bridge, hospital, auth=oauth(hospital))
    await hospital.token_asked.wait()
    (listed,) = (await bridge.api.get("/v1/deliveries")).json()["items"]
    answer = await bridge.api.post(f"/v1/deliveries/{listed['id']}/confirm", json={"record_id": "NOTE-1"})
    assert answer.json()["status"] == "filed"
    hospital.give_token.set()
    hospital.answer.set()
    await bridge.workers[0].stop()
    assert hospital.got == b""


async def test_a_delivery_that_waited_long_and_is_wanted_still_is_sent(
    bridge: Bridge, hospital: Endpoint
) -> None:
    session_id, _ = await begin(bridge, hospital, auth=oauth(hospital))
    await hospital.token_asked.wait()
    hospital.give_token.set()
    hospital.answer.set()

    async def is_filed() -> bool:
        session = await bridge.session(session_id)
        return session["deliveries"]["delivered"] == 1

    await until(is_filed)
    assert b"MARK-patient" in hospital.got
