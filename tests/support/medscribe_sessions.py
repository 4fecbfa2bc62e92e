"""Sessions of the protocol as its clients make, end and read them."""

from typing import Any

import httpx2

from tests.support.bridge import Bridge
from tests.support.medscribe_clients import no_nulls


async def begin(bridge: Bridge, **fields: Any) -> str:
    body = {"upload_type": "chunked", "communication_protocol": "http"} | fields
    session: str = (await bridge.api.post("/voice/v1/sessions", json=body)).json()["session_id"]
    url = f"/voice/v1/sessions/{session}/audio/audio_0.wav"
    assert (await bridge.api.post(url, content=b"RIFF dictation")).status_code == 200
    return session


async def end(bridge: Bridge, session: str) -> None:
    answer = await bridge.api.post(f"/voice/v1/sessions/{session}/end", json={"audio_files_sent": 1})
    assert answer.status_code == 202, answer.text


async def get(bridge: Bridge, session: str, **params: str) -> httpx2.Response:
    answer = await bridge.api.get(f"/voice/v1/sessions/{session}", params=params)
    assert no_nulls(answer.json()), answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer


async def finished(bridge: Bridge, outcome: str, **fields: Any) -> str:
    """Bring a session to its ending at the vendor, and wait until it is ours."""
    await bridge.start_worker()
    session = await begin(bridge, **fields)
    await bridge.vendor_settings(outcomes={session: outcome}, webhook_all_outcomes=True)
    await end(bridge, session)
    await bridge.reach(session, "completed", "partial", "failed", "expired")
    return session
