"""`ekabridge session export-audio`: the operator gets the kept audio in a file, and the read is audited."""

from __future__ import annotations

import json
import os
import re
import stat
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support.commands import ekabridge
from tests.support.rig import Rig, open_rig


@pytest.fixture
async def rig(database_url: str, redis_url: str) -> AsyncIterator[Rig]:
    async with open_rig(database_url, redis_url, forks=True) as opened:
        yield opened


async def export(rig: Rig, *arguments: str, status: int = 0) -> str:
    code, out, err = await ekabridge(rig.environment, "session", "export-audio", *arguments)
    assert code == status, err
    return out if status == 0 else err


def names_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


async def hold(rig: Rig, api: Any, *sounds: bytes) -> str:
    session_id = (await api.post("/v1/sessions", json={})).json()["id"]
    fault = {"path_regex": "/voice/v1/sessions/", "mode": "reset", "times": None}
    (await rig.vendor.post("/_control/faults", json=fault)).raise_for_status()
    for sequence, sound in enumerate(sounds):
        answer = await api.put(
            f"/v1/sessions/{session_id}/audio/{sequence}",
            content=sound,
            headers={"content-type": "audio/wav"},
        )
        assert answer.json()["state"] == "held"
    return str(session_id)


async def test_audio_is_exported_to_a_file_that_only_its_owner_reads(
    rig: Rig, database_url: str, tmp_path: Path
) -> None:
    api = await rig.client(await rig.serve())
    sounds = [os.urandom(1_500_000), b"second"]
    session_id = await hold(rig, api, *sounds)
    found = json.loads(await export(rig, session_id, "--to", str(tmp_path), "--json"))
    file = tmp_path / f"{session_id}.zip"
    assert found == {"file": str(file), "bytes": file.stat().st_size, "chunks": 2}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert names_in(tmp_path) == [file.name]
    with zipfile.ZipFile(file) as archive:
        assert [archive.read(f"audio_{place}.wav") for place in range(2)] == sounds
    connection = await asyncpg.connect(database_url)
    try:
        entries = await connection.fetch("SELECT actor, object_id FROM audit WHERE action = 'recording.read'")
    finally:
        await connection.close()
    assert [tuple(each) for each in entries] == [("cli", session_id)]


async def test_doctor_says_what_waits_for_ekascribe(rig: Rig) -> None:
    api = await rig.client(await rig.serve())
    _, before, _ = await ekabridge(rig.environment, "doctor")
    assert re.search(r"^ok +held audio$", before, re.MULTILINE)
    await hold(rig, api, b"12345")
    _, after, _ = await ekabridge(rig.environment, "doctor")
    assert re.search(r"^note +held audio: 5 bytes wait for EkaScribe, for \d+ s$", after, re.MULTILINE)


async def test_an_export_of_nothing_says_why_and_leaves_no_file(rig: Rig, tmp_path: Path) -> None:
    api = await rig.client(await rig.serve())
    session_id = (await api.post("/v1/sessions", json={})).json()["id"]
    assert "keeps no audio" in await export(rig, session_id, "--to", str(tmp_path), status=1)
    unknown = "ses_unknown0000000000"
    assert "no such session" in await export(rig, unknown, "--to", str(tmp_path), status=1)
    assert "does not exist" in await export(rig, session_id, "--to", str(tmp_path / "no"), status=2)
    assert names_in(tmp_path) == []
