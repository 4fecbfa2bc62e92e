"""A database that is full or read-only, and a temporary folder that is full: told as that, never as a 500."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client import REGISTRY

from tests.support.api_calls import hook, problem, until, v2_event
from tests.support.bridge import Bridge, random_bytes

MEBIBYTE = 1024 * 1024
TRIGGER = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '{code}'; END $$;
"""


@asynccontextmanager
async def refusing(bridge: Bridge, code: str) -> AsyncIterator[None]:
    """Let every write fail as PostgreSQL does under that condition."""
    tables = await bridge.database.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    await bridge.database.execute(TRIGGER.format(code=code))
    for row in tables:
        await bridge.database.execute(
            f'CREATE TRIGGER refused BEFORE INSERT OR UPDATE OR DELETE ON "{row["relname"]}" '
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
        )
    try:
        yield
    finally:
        await bridge.database.execute("DROP FUNCTION refuse() CASCADE")


@asynccontextmanager
async def read_only(bridge: Bridge) -> AsyncIterator[None]:
    """Let the database take no writes, as a standby does after a failover; connections are made anew."""
    name = await bridge.database.fetchval("SELECT current_database()")
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await bridge.database.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    await bridge.database.execute(cut)
    try:
        yield
    finally:
        await bridge.database.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        await bridge.database.execute(cut)


async def writes(bridge: Bridge, session_id: str) -> list[httpx2.Response]:
    """Make every kind of call that writes."""
    voice = {"upload_type": "chunked", "communication_protocol": "http"}
    return [
        await bridge.api.post("/v1/sessions", json={}),
        await bridge.api.post("/v1/sessions", json={}, headers={"idempotency-key": "key-1"}),
        await bridge.put(session_id, 0),
        await bridge.api.patch(f"/v1/sessions/{session_id}", json={"languages": ["hi"]}),
        await bridge.api.delete(f"/v1/sessions/{session_id}"),
        await bridge.admin.post("/v1/destinations", json={"url": f"{bridge.emr_url}/hooks"}),
        await hook(bridge, v2_event(session_id)),
        await bridge.api.post("/voice/v1/sessions", json=voice),
    ]


def counted(reason: str) -> float:
    return REGISTRY.get_sample_value("ekabridge_database_errors_total", {"reason": reason}) or 0.0


def check_told(answers: list[httpx2.Response]) -> None:
    for answer in answers:
        assert answer.status_code == 503, f"{answer.request.url.path}: {answer.status_code} {answer.text}"
        assert int(answer.headers["retry-after"]) > 0
        body = answer.json()
        assert (body.get("error") or body)["code"] == "store_unavailable"
        assert "extend file" not in answer.text


@pytest.mark.parametrize(
    ("code", "reason", "named"),
    [("53100", "full", "full"), ("53200", "exhausted", None), ("40P01", "interrupted", None)],
)
async def test_a_database_without_room_is_told_as_that(
    bridge: Bridge, code: str, reason: str, named: str | None
) -> None:
    session = await bridge.create()
    before = counted(reason)
    async with refusing(bridge, code):
        check_told(await writes(bridge, session["id"]))
        assert (await bridge.api.get(f"/v1/sessions/{session['id']}")).status_code == 200
        ready = await bridge.api.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "ready")
        assert (named or "ok") in ready.json()["database"]
        assert (
            f'ekabridge_database_errors_total{{reason="{reason}"}}' in (await bridge.api.get("/metrics")).text
        )
    assert counted(reason) >= before + 8
    assert (await bridge.create())["status"] == "created"


async def test_a_read_only_database_is_told_as_that_and_named_without_a_write(bridge: Bridge) -> None:
    session = await bridge.create()
    before = counted("read_only")

    async def is_back() -> bool:
        """The connections that were cut are made anew."""
        return (await bridge.api.get("/health/ready")).is_success

    async with read_only(bridge):
        await until(is_back)
        ready = await bridge.api.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "ready")
        assert "read-only" in ready.json()["database"]
        check_told(await writes(bridge, session["id"]))
        assert (await bridge.api.get(f"/v1/sessions/{session['id']}")).status_code == 200
    assert counted("read_only") >= before + 8
    await until(is_back)
    assert (await bridge.create())["status"] == "created"


def large(bridge: Bridge, session_id: str) -> dict[str, Any]:
    """An upload that goes to the disk: its length is not announced, and it is more than memory takes."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield random_bytes(MEBIBYTE)

    return {
        "url": f"/v1/sessions/{session_id}/audio/0",
        "content": pieces(),
        "headers": {"content-type": "audio/wav"},
    }


def overloaded(answer: httpx2.Response) -> None:
    found = problem(answer, 503, "overloaded")
    assert "folder" in found["detail"]
    assert int(answer.headers["retry-after"]) > 0


def refused() -> float:
    labels = {"kind": "uploads", "reason": "folder"}
    return REGISTRY.get_sample_value("ekabridge_requests_refused_total", labels) or 0.0


async def test_a_temporary_folder_that_is_gone_is_told(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session = await bridge.create()
    before = refused()
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        overloaded(await bridge.api.put(**large(bridge, session["id"])))
        voice = large(bridge, session["id"])
        answer = await bridge.api.post(
            f"/voice/v1/sessions/{session['id']}/audio/0.wav",
            content=voice["content"],
            headers=voice["headers"],
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    assert refused() == before + 2
    assert (await bridge.api.put(**large(bridge, session["id"]))).status_code == 200


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("buffering", [-1, 8 * MEBIBYTE])
async def test_a_temporary_folder_that_is_full_is_told_whenever_it_shows(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, buffering: int
) -> None:
    """What is buffered may fail as late as at the last byte, and once more when the file is closed."""
    session = await bridge.create()
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", partial(Path("/dev/full").open, "r+b", buffering=buffering))
        overloaded(await bridge.api.put(**large(bridge, session["id"])))
    assert (await bridge.api.put(**large(bridge, session["id"]))).status_code == 200
