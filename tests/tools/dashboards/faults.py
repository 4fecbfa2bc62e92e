"""What goes wrong in the minutes that the dashboards show, and when, as parts of the whole time."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any
from urllib.parse import urlsplit

import httpx2
from redis.asyncio import Redis

from tests.support.rig import Rig, Running


async def vendor_stumbles(rig: Rig, services: list[Running], hospital: Any) -> None:
    """EkaScribe answers 503 now and then, 429 to uploads, and is slow."""
    await rig.fault("/end$", status=503, times=6)
    await rig.fault("/audio/", status=429, times=6, headers={"retry-after": "1"})
    await rig.fault("/sessions/[^/]+$", method="GET", delay_seconds=2, times=10)


async def vendor_goes(rig: Rig, services: list[Running], hospital: Any) -> None:
    """EkaScribe is away: the gates close."""
    await rig.fault("/voice/v1/", status=503, times=None)
    await asyncio.sleep(20)
    (await rig.vendor.delete("/_control/faults")).raise_for_status()


async def emr_fails(rig: Rig, services: list[Running], hospital: Any) -> None:
    """A hospital's endpoint answers 503, then refuses documents, then the key."""
    await rig.emr.post("/_control/behaviour", json={"name": "troubled", "otherwise": {"status": 503}})
    await asyncio.sleep(15)
    await rig.emr.post("/_control/behaviour", json={"name": "troubled", "otherwise": {"status": 422}})
    await asyncio.sleep(10)
    await rig.emr.post("/_control/behaviour", json={"name": "troubled", "otherwise": {"status": 401}})


async def emr_is_mended(rig: Rig, services: list[Running], hospital: Any) -> None:
    """The hospital mends its endpoint, and the destination is turned on again."""
    await rig.emr.post("/_control/behaviour", json={"name": "troubled"})
    for each in (await hospital.api.get("/v1/destinations")).json()["items"]:
        await hospital.api.patch(f"/v1/destinations/{each['id']}", json={"enabled": True})


async def emr_files(rig: Rig, services: list[Running], hospital: Any) -> None:
    """Another one answers with the id of its record, and slowly."""
    answer = {"status": 201, "delay_seconds": 0.3, "body": {"id": "DOC-1"}}
    await rig.emr.post("/_control/behaviour", json={"name": "filing", "otherwise": answer})


async def webhooks_are_forged(rig: Rig, services: list[Running], hospital: Any) -> None:
    """Somebody sends webhooks that are not EkaScribe's."""
    async with httpx2.AsyncClient(trust_env=False) as http:
        for _ in range(30):
            await http.post(
                f"{services[0].url}/webhooks/eka",
                content=b'{"event": "session.completed", "session_id": "ses_unknown00000000"}',
                headers={"eka-webhook-signature": "t=1,v1=00"},
            )


async def streams_drop(rig: Rig, services: list[Running], hospital: Any) -> None:
    """EkaScribe drops the live streams."""
    for session_id in list(rig.vendor_app.state.vendor.sockets):
        path = f"/_control/sessions/{session_id}/stream"
        (await rig.vendor.post(path, json={"text": '{"event": "interim"}', "drop": True})).raise_for_status()


async def an_emr_floods(rig: Rig, services: list[Running], hospital: Any) -> None:
    """An EMR polls without measure, uploads too much at once, and speaks broken HTTP."""
    api = hospital.clients[0]
    session_id = (await api.post("/v1/sessions", json={})).raise_for_status().json()["id"]
    for _ in range(4):
        await asyncio.gather(*(api.get("/v1/sessions") for _ in range(150)))
    await rig.fault("/audio/", method="POST", delay_seconds=2, times=40)
    await asyncio.gather(
        *(
            api.put(
                f"/v1/sessions/{session_id}/audio/{sequence}",
                content=bytes(1_500_000),
                headers={"content-type": "audio/wav"},
            )
            for sequence in range(60)
        ),
        return_exceptions=True,
    )
    for each in services:
        parts = urlsplit(each.url)
        for _ in range(10):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
            await reader.read()
            writer.close()


async def redis_hangs(rig: Rig, services: list[Running], hospital: Any) -> None:
    """Redis stops for a while."""
    async with Redis.from_url(rig.environment["EKABRIDGE_REDIS_URL"]) as redis:
        process_id = int((await redis.info("server"))["process_id"])
    os.kill(process_id, signal.SIGSTOP)
    try:
        await asyncio.sleep(15)
    finally:
        os.kill(process_id, signal.SIGCONT)


FAULTS = [
    (0.03, emr_files),
    (0.10, vendor_stumbles),
    (0.20, emr_fails),
    (0.35, webhooks_are_forged),
    (0.42, streams_drop),
    (0.48, vendor_goes),
    (0.65, emr_is_mended),
    (0.70, an_emr_floods),
    (0.78, redis_hangs),
    (0.92, streams_drop),
]
