"""No dump of the database, of Redis or of the metrics, and no log, holds what was put in or received.

The words that are looked for are collected by the run itself: whatever secret or patient data it sends, and
whatever it is given, is written down at that moment.
"""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis.asyncio import Redis
from websockets.asyncio.client import connect

from schemas.tenants import SessionDefaults
from service.bootstrap.container import open_stores
from service.domain.api_keys.changes import ApiKeys
from service.domain.ids import TenantId
from service.domain.tenants.changes import Tenants
from service.domain.vendor_accounts import AccountChange, Credentials
from service.sandbox.serving import serve_app
from tests.support.bridge import ENCRYPTION_KEY, WEBHOOK_SECRET, encoded_key, make_settings
from tests.support.dumps import _dump_database
from tests.support.oauth_server import Login
from tests.support.rig import Rig, Running, open_rig, until

AUDIO = {"headers": {"content-type": "audio/wav"}}


@pytest.fixture
async def rig(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_rig(database_url, redis_url, forks=True) as opened:
        opened.log = tmp_path / "processes.log"
        yield opened


class Needles:
    """Words that must be nowhere."""

    def __init__(self) -> None:
        self.words: set[str] = set()

    def make(self, name: str) -> str:
        """A new word that nobody else says."""
        return self.keep(f"{name}-{secrets.token_hex(6)}")

    def keep(self, word: str) -> str:
        """A word that came from elsewhere."""
        assert len(word) >= 8, word  # a shorter one would be found by chance
        self.words.add(word)
        return word

    def keep_leaves(self, value: Any) -> None:
        """Every text of a document that has several words; a single one, such as a mode, is elsewhere too."""
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            for each in value:
                self.keep_leaves(each)
        elif isinstance(value, str) and " " in value:
            self.keep(value)

    def fields(self) -> dict[str, Any]:
        """A session's fields, all of them to be kept secret."""
        return {
            "patient": {"id": self.make("PAT"), "name": self.make("Zaphrandine")},
            "reference": self.make("ENC"),
            "metadata": {"ward": self.make("ward")},
        }

    def found_in(self, place: str, text: str) -> list[str]:
        """The words that a text holds, in clear, as hexadecimal or as base64, with what is around them."""
        lowered = text.lower()
        found = []
        for word in self.words:
            raw = word.encode()
            for form in (word.lower(), raw.hex(), base64.b64encode(raw).decode().rstrip("=").lower()[:-1]):
                at = lowered.find(form)
                found += [f"{place}: {text[max(0, at - 80) : at + 80]!r}"] if at >= 0 else []
        return found


async def _dump_redis(redis_url: str) -> str:
    """Every key of every database, whatever its type."""
    dumped = []
    async with Redis.from_url(redis_url) as here:
        numbers = [int(name.removeprefix("db")) for name in await here.info("keyspace")]
    for number in numbers:
        async with Redis.from_url(redis_url, db=number) as redis:
            for key in await redis.keys("*"):
                value = await redis.dump(key)  # None: it went meanwhile
                dumped.append(key.decode("latin-1") + (value or b"").decode("latin-1"))
    return "\n".join(dumped)


async def end(api: httpx2.AsyncClient, session_id: str) -> None:
    ended = await api.post(f"/v1/sessions/{session_id}/end")
    assert ended.status_code == 202, ended.text


async def chunked(needles: Needles, api: httpx2.AsyncClient) -> str:
    """A dictation in chunks under an Idempotency-Key."""
    headers = {"idempotency-key": needles.make("idem")}
    session = (await api.post("/v1/sessions", json=needles.fields(), headers=headers)).json()
    audio = needles.make("spoken").encode()
    stored = await api.put(f"/v1/sessions/{session['id']}/audio/0", content=audio, **AUDIO)
    assert stored.status_code == 200, stored.text
    await end(api, session["id"])
    return str(session["id"])


async def streamed(needles: Needles, rig: Rig, api: httpx2.AsyncClient) -> str:
    """A live one."""
    created = await api.post("/v1/sessions", json=needles.fields() | {"upload": "stream"})
    session = created.json()
    needles.keep(session["stream_url"].rpartition("/")[2])
    async with connect(session["stream_url"], compression=None, proxy=None) as stream:
        await stream.send(needles.make("frame").encode().ljust(3200, b"\0"))

        async def is_heard() -> bool:
            return bool((await rig.seen(session["id"]))["stream"]["frames"])

        await until(is_heard)
    needles.keep((await rig.seen(session["id"]))["stream"]["stream_id"])
    await end(api, session["id"])
    return str(session["id"])


async def spoken_by_protocol(needles: Needles, rig: Rig, service: Running) -> str:
    """One by a client of the protocol."""
    async with httpx2.AsyncClient(base_url=service.url, timeout=70, trust_env=False) as http:
        login = {"client_id": rig.tenant_id, "client_secret": rig.key}
        token = (await http.post("/connect-auth/v1/account/login", json=login)).json()["access_token"]
        http.headers["authorization"] = f"Bearer {needles.keep(token)}"
        wanted = {
            "templates": ["eka_emr_template"],
            "upload_type": "chunked",
            "communication_protocol": "http",
            "patient_details": {"username": needles.make("Quillibrand")},
            "additional_data": {"visit": needles.make("visit")},
        }
        created = await http.post("/voice/v1/sessions", json=wanted)
        assert created.status_code == 201, created.text
        path = f"/voice/v1/sessions/{created.json()['session_id']}"
        stored = await http.post(f"{path}/audio/chunk_0.wav", content=b"audio", **AUDIO)
        assert stored.status_code == 200, stored.text
        assert (await http.post(f"{path}/end", json={"audio_files_sent": 1})).status_code in (200, 202)
        return str(created.json()["session_id"])


async def own_account(needles: Needles, rig: Rig, database_url: str) -> str:
    """A tenant with an account of its own; returns its key."""
    secret = needles.make("hospital-secret")
    known = {"clients": {"sandbox": "sandbox-secret", "hospital": secret}}
    (await rig.vendor.patch("/_control/settings", json=known)).raise_for_status()
    account = AccountChange(
        credentials=Credentials(
            client_id="hospital", client_secret=secret, sharing_key=needles.make("sharing")
        ),
        webhook_secrets=(needles.make("hook-secret"),),
    )
    async with open_stores(make_settings(database_url, "redis://unused")) as stores:
        defaults = SessionDefaults(templates=["eka_emr_template"])
        tenant = await Tenants(stores.tenants).add("hospital", defaults, account)
        return needles.keep(str((await ApiKeys(stores.api_keys).add(TenantId(tenant.id), "admin")).key))


async def destinations(needles: Needles, rig: Rig, api: httpx2.AsyncClient, oauth: str) -> None:
    """One with a header, one with OAuth, one that refuses; each with secrets."""
    client_secret = needles.make("oauth-secret")
    wanted: list[dict[str, Any]] = [
        {
            "url": f"{rig.emr_url}/hooks?token={needles.make('url')}",
            "headers": {"x-emr": needles.make("header")},
        },
        {
            "url": f"{oauth}/hooks",
            "auth": {
                "type": "oauth2",
                "token_url": f"{oauth}/token",
                "client_id": needles.make("oauth-client"),
                "client_secret": client_secret,
            },
        },
        {"url": f"{rig.emr_url}/{needles.make('nowhere')}"},
    ]
    made = []
    for fields in wanted:
        answer = await api.post("/v1/destinations", json=fields)
        assert answer.status_code == 201, answer.text
        made.append(needles.keep(answer.json()["secret"].removeprefix("whsec_")))
    await rig.emr.post("/_control/secrets", json={"secrets": [f"whsec_{secret}" for secret in made]})


async def test_no_dump_and_no_log_holds_what_was_put_in_or_received(
    rig: Rig, database_url: str, redis_url: str
) -> None:
    needles = Needles()
    for word in (rig.key, WEBHOOK_SECRET, "sandbox-secret", encoded_key()):
        needles.keep(word)
    needles.keep(ENCRYPTION_KEY.decode("latin-1"))
    access = needles.make("oauth-access")
    login = Login(body={"access_token": access, "token_type": "bearer", "expires_in": 3600})
    login.gate.set()
    oauth = await rig.stack.enter_async_context(serve_app(login.app()))
    # The own account's webhooks come to nobody: its results are asked for.
    service = await rig.serve(log_level="debug", reconcile_after_seconds="1")
    api = await rig.client(service)
    await destinations(needles, rig, api, oauth)
    hospital = httpx2.AsyncClient(
        base_url=service.url,
        headers={"authorization": f"Bearer {await own_account(needles, rig, database_url)}"},
        timeout=70,
        trust_env=False,
    )
    await rig.stack.enter_async_context(hospital)
    # Both sides answer with what they were sent, as careless ones do.
    secret_words = needles.make("Zaphrandine")
    await rig.emr.post("/_control/behaviour", json={"sequence": [{"status": 503, "body": secret_words}]})
    await rig.fault("/audio/", mode="respond", status=500, body={"detail": secret_words}, times=1)

    ids = [
        await chunked(needles, api),
        await streamed(needles, rig, api),
        await spoken_by_protocol(needles, rig, service),
        await chunked(needles, hospital),
    ]
    erased = await chunked(needles, api)

    async def are_queued() -> str:
        dumped = await _dump_redis(redis_url)
        return dumped if all(each in dumped for each in ids[:3]) else ""

    queued = await until(are_queued)  # no worker runs yet: the nudges wait in Redis
    worker = await rig.worker(log_level="debug")

    async def are_done() -> bool:
        answers = [await api.get(f"/v1/sessions/{each}") for each in [*ids[:3], erased]]
        answers.append(await hospital.get(f"/v1/sessions/{ids[3]}"))
        return all(answer.json()["status"] == "completed" for answer in answers)

    await until(are_done, 40)
    received = await rig.received(4)
    for each in received:
        needles.keep_leaves(each["body"]["data"].get("transcript"))
        needles.keep_leaves(each["body"]["data"]["document"]["data"])
    assert f"Bearer {access}" in await until(lambda: _seen(login))
    assert (await api.delete(f"/v1/sessions/{erased}")).status_code == 202
    vendor_tokens = rig.vendor_app.state.vendor.tokens
    for token in (*vendor_tokens._access, *vendor_tokens._refresh):
        needles.keep(token)
    async with httpx2.AsyncClient(trust_env=False) as http:
        metrics = "".join([(await http.get(f"{each.url}/metrics")).text for each in (service, worker)])
    places = {
        "queued": queued,
        "redis": await _dump_redis(redis_url),
        "metrics": metrics,
        "database": await _dump_database(database_url),
    }
    assert (await worker.stop(), await service.stop()) == (0, 0)
    assert rig.log is not None
    places["log"] = await asyncio.to_thread(rig.log.read_text)
    # Each dump is one that would show them, and each kind of word was collected.
    assert all(each in places["database"] and each in places["log"] for each in ids)
    assert "ekabridge_ledger_sessions" in metrics
    assert len(needles.words) > 40
    assert [found for place, text in places.items() for found in needles.found_in(place, text)] == []


async def _seen(login: Login) -> list[str]:
    return login.seen


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into the process's open files")
async def test_audio_that_waits_on_disk_is_not_readable_there(rig: Rig, tmp_path: Path) -> None:
    word = b"spoken-words-of-a-patient-QXZ"
    rig.environment["TMPDIR"] = str(tmp_path)
    service = await rig.serve()
    api = await rig.client(service)
    session_id = (await api.post("/v1/sessions", json={})).json()["id"]
    is_seen = asyncio.Event()
    pieces = word * (1 + 3 * 1024 * 1024 // len(word))

    async def body() -> AsyncIterator[bytes]:
        yield pieces
        await is_seen.wait()
        yield b"end"

    sending = asyncio.create_task(api.put(f"/v1/sessions/{session_id}/audio/0", content=body(), **AUDIO))
    files = Path(f"/proc/{service.process.pid}/fd")

    async def spooled() -> list[bytes]:
        return await asyncio.to_thread(_deleted_files, files, len(pieces) - 1024 * 1024)

    try:
        (held,) = await until(spooled)
    finally:
        is_seen.set()
    assert (await sending).status_code == 200
    assert word[:8] not in held


def _deleted_files(folder: Path, least: int) -> list[bytes]:
    """What a process's open files without a name hold, of those that have so many bytes."""
    found = []
    for each in folder.iterdir():
        try:
            is_deleted = each.readlink().name.endswith("(deleted)")
            held = each.read_bytes() if is_deleted else b""
        except OSError:
            continue  # closed meanwhile
        if len(held) >= least:
            found.append(held)
    return found
