"""Every call of the API, made to a small and to a large installation in turns."""

import base64
import hashlib
import hmac
import statistics
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from time import perf_counter, time
from uuid import uuid4

import asyncpg
import httpx2
import msgspec
from msgspec import Struct

from tests.support.bridge import WEBHOOK_SECRET
from tests.support.rig import Rig, dictate

ROUNDS = 25
_WAV = {"content-type": "audio/wav"}
_DEEP = """
SELECT created_at, id FROM sessions WHERE tenant_id = $1
ORDER BY created_at, id OFFSET (SELECT count(*) / 10 FROM sessions WHERE tenant_id = $1) LIMIT 1
"""
_RARE = """
SELECT id FROM destinations
WHERE tenant_id = $1 AND id LIKE 'dst\\_1%' AND enabled ORDER BY created_at LIMIT 1
"""
_OWN = "SELECT id, destination_id FROM deliveries WHERE session_id = ANY($1)"
_DOCUMENTS = "SELECT id FROM documents WHERE session_id = ANY($1) ORDER BY id"


class Bench(Struct, kw_only=True):
    """An installation under measurement: real sessions of its own among all the others."""

    api: httpx2.AsyncClient
    real: list[str]
    documents: list[str]
    deliveries: list[str]
    destination: str
    rare: str
    cursor: str
    made: list[str]
    medscribe_sessions: list[str]


Call = Callable[[Bench, int], Awaitable[httpx2.Response]]


async def dictations(rig: Rig) -> list[str]:
    """Make real sessions, whose documents are delivered to a real destination; no worker runs afterwards."""
    service, worker = await rig.serve(rate_limit_per_second="0"), await rig.worker()
    api = await rig.client(service)
    await rig.register_emr(api)
    fields = {"patient": {"id": "PAT-1"}, "reference": "ENC-1"}
    real = [await dictate(api, 1, **fields) for _ in range(ROUNDS)]
    await rig.received(ROUNDS)
    await worker.stop()
    return real


async def open_bench(rig: Rig, database: asyncpg.Connection, real: list[str]) -> Bench:
    """Return what the calls are made with."""
    deep = await database.fetchrow(_DEEP, rig.tenant_id)
    own = await database.fetch(_OWN, real)
    page = f"{deep['created_at'].isoformat()}|{deep['id']}"
    return Bench(
        api=await rig.client(rig.running[0]),
        real=real,
        documents=[row["id"] for row in await database.fetch(_DOCUMENTS, real)],
        deliveries=[row["id"] for row in own],
        destination=own[0]["destination_id"],
        rare=await database.fetchval(_RARE, rig.tenant_id),
        cursor=base64.urlsafe_b64encode(page.encode()).decode(),
        made=[],
        medscribe_sessions=[],
    )


async def time_calls(small: Bench, large: Bench) -> dict[str, tuple[float, float]]:
    """Return the median milliseconds of each call to both; raises when one is refused."""
    found = {}
    for name, call in CALLS.items():
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(ROUNDS):
            turns = list(zip((small, large), times, strict=True))
            for bench, taken in turns if number % 2 else turns[::-1]:
                began = perf_counter()
                answer = await call(bench, number)
                taken.append((perf_counter() - began) * 1000)
                if not answer.is_success:
                    raise AssertionError(f"{name}: {answer.status_code} {answer.text}")
        found[name] = (statistics.median(times[0]), statistics.median(times[1]))
    return found


async def _create(bench: Bench, number: int) -> httpx2.Response:
    body = {"patient": {"id": f"PAT-{number}"}, "reference": f"ENC-{number}"}
    answer = await bench.api.post(
        "/v1/sessions", json=body, headers={"idempotency-key": f"growth-{uuid4().hex}"}
    )
    bench.made.append(answer.json()["id"])
    return answer


async def _speak(bench: Bench, _: int) -> httpx2.Response:
    answer = await bench.api.post("/voice/v1/sessions", json=_VOICE)
    bench.medscribe_sessions.append(answer.json()["session_id"])
    return answer


_VOICE = {"upload_type": "chunked", "communication_protocol": "http", "mode": "dictation"}


async def _hear(bench: Bench, session_id: str) -> httpx2.Response:
    body = msgspec.json.encode(
        {"event": "v2rx.completed", "data": {"transaction_id": session_id, "status": "completed"}}
    )
    at = int(time())
    digest = hmac.new(WEBHOOK_SECRET.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    signed = {"eka-webhook-signature": f"t={at},v1={digest}", "content-type": "application/json"}
    return await bench.api.post("/webhooks/eka", content=body, headers=signed)


def _get(path: str, **query: str) -> Call:
    """A GET, in whose words `{real}` and the like stand for what the installation has."""

    async def call(bench: Bench, number: int) -> httpx2.Response:
        words = {
            "real": bench.real[number],
            "document": bench.documents[number % len(bench.documents)],
            "delivery": bench.deliveries[number % len(bench.deliveries)],
            "destination": bench.destination,
            "rare": bench.rare,
            "cursor": bench.cursor,
            "spoken": bench.medscribe_sessions[number] if bench.medscribe_sessions else "",
            "recent": (datetime.now(UTC) - timedelta(hours=2)).isoformat(),
        }
        return await bench.api.get(
            path.format_map(words), params={name: value.format_map(words) for name, value in query.items()}
        )

    return call


async def _recover(bench: Bench, _: int) -> httpx2.Response:
    since = (datetime.now(UTC) - timedelta(seconds=30)).isoformat()
    return await bench.api.post(f"/v1/destinations/{bench.destination}/recover", json={"since": since})


CALLS: dict[str, Call] = {
    "create": _create,
    "audio": lambda b, n: b.api.put(f"/v1/sessions/{b.made[n]}/audio/0", content=b"audio", headers=_WAV),
    "audio again": lambda b, n: b.api.put(
        f"/v1/sessions/{b.made[n]}/audio/0", content=b"audio", headers=_WAV
    ),
    "change": lambda b, n: b.api.patch(f"/v1/sessions/{b.made[n]}", json={"patient": {"id": f"PAT-x{n}"}}),
    "end": lambda b, n: b.api.post(f"/v1/sessions/{b.made[n]}/end", json={"chunks": 1}),
    "webhook": lambda b, n: _hear(b, b.made[n]),
    "webhook, again": lambda b, n: _hear(b, b.made[n]),
    "webhook, unknown session": lambda b, _: _hear(b, f"ses_{uuid4().hex[:24]}"),
    "session": _get("/v1/sessions/{real}"),
    "timeline": _get("/v1/sessions/{real}/timeline"),
    "documents": _get("/v1/sessions/{real}/documents"),
    "document": _get("/v1/documents/{document}"),
    "sessions": _get("/v1/sessions"),
    "sessions, last pages": _get("/v1/sessions", cursor="{cursor}"),
    "sessions of a rare status": _get("/v1/sessions", status="recording"),
    "sessions of a frequent status": _get("/v1/sessions", status="completed"),
    "sessions of a reference": _get("/v1/sessions", reference="ENC-1"),
    "sessions of an unknown patient": _get("/v1/sessions", patient_id="nobody"),
    "sessions since": _get("/v1/sessions", created_after="{recent}"),
    "destinations": _get("/v1/destinations"),
    "deliveries": _get("/v1/deliveries"),
    "deliveries, last pages": _get("/v1/deliveries", cursor="{cursor}"),
    "deliveries, dead": _get("/v1/deliveries", status="dead"),
    "deliveries, paused": _get("/v1/deliveries", status="paused"),
    "deliveries of a session": _get("/v1/deliveries", session_id="{real}"),
    "deliveries of a destination": _get("/v1/deliveries", destination_id="{destination}"),
    "deliveries of a rare destination": _get("/v1/deliveries", destination_id="{rare}"),
    "delivery": _get("/v1/deliveries/{delivery}"),
    "confirm": lambda b, n: b.api.post(
        f"/v1/deliveries/{b.deliveries[n % len(b.deliveries)]}/confirm", json={"record_id": "r-1"}
    ),
    "test of a destination": lambda b, _: b.api.post(f"/v1/destinations/{b.destination}/test"),
    "recover": _recover,
    "ledger": _get("/v1/ledger"),
    "ledger, window": _get("/v1/ledger", **{"from": "{recent}"}),
    "audit": _get("/v1/audit"),
    "audit of a session": _get("/v1/audit", object_id="{real}"),
    "audit of a rare action": _get("/v1/audit", action="session.erased"),
    "voice: create": _speak,
    "voice: audio": lambda b, n: b.api.post(
        f"/voice/v1/sessions/{b.medscribe_sessions[n]}/audio/a_0.wav", content=b"RIFF", headers=_WAV
    ),
    "voice: session": _get("/voice/v1/sessions/{spoken}"),
    "voice: end": lambda b, n: b.api.post(
        f"/voice/v1/sessions/{b.medscribe_sessions[n]}/end", json={"audio_files_sent": 1}
    ),
    "erase": lambda b, n: b.api.delete(f"/v1/sessions/{b.real[n]}"),
}
