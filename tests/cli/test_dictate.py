"""`ekabridge dictate FILE`: a recording from the command line to its documents."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path

import pytest

from tests.support.bridge import Bridge
from tests.support.commands import bare_environment, ekabridge
from tests.support.rig import until
from tests.support.whole_recordings import SPEECH, speech


@pytest.fixture
def environment(bridge: Bridge) -> dict[str, str]:
    key = bridge.api.headers["authorization"].removeprefix("Bearer ")
    return bare_environment(URL=bridge.url, API_KEY=key) | {"NO_PROXY": "*"}


async def test_it_prints_the_id_and_nothing_else(bridge: Bridge, environment: dict[str, str]) -> None:
    status, out, err = await ekabridge(environment, "dictate", str(SPEECH), "--reference", "ENC-1")
    assert (status, err) == (0, "")
    session = await bridge.session(out.removesuffix("\n"))
    assert session["reference"] == "ENC-1"
    assert session["recording"]["bytes"] == SPEECH.stat().st_size


async def test_it_waits_for_the_documents(bridge: Bridge, environment: dict[str, str]) -> None:
    await bridge.start_worker()
    status, out, err = await ekabridge(environment, "dictate", str(SPEECH), "--wait")
    assert (status, err) == (0, "")
    session_id, document, ended = out.splitlines()
    assert ended == "completed"
    document_id, *rest = document.split("  ")
    assert rest == ["eka_emr_template", "success"]
    assert [each["id"] for each in (await bridge.session(session_id))["documents"]] == [document_id]


async def test_json_is_one_object_on_one_line(bridge: Bridge, environment: dict[str, str]) -> None:
    status, out, err = await ekabridge(
        environment, "dictate", str(SPEECH), "--json", "--template", "a", "--template", "b", "--model", "lite"
    )
    assert (status, out.count("\n"), err) == (0, 1, "")
    session = json.loads(out)
    assert session == await bridge.session(session["id"])
    assert (session["templates"], session["model"]) == (["a", "b"], "lite")


async def test_the_session_comes_from_a_file(
    bridge: Bridge, environment: dict[str, str], tmp_path: Path
) -> None:
    fields = tmp_path / "session.json"
    fields.write_text('{"patient": {"id": "P-1"}, "reference": "of the file"}')
    arguments = ("dictate", str(SPEECH), "--session", str(fields), "--reference", "of the option")
    status, out, _ = await ekabridge(environment, *arguments)
    assert status == 0
    session = await bridge.session(out.strip())
    assert (session["patient"], session["reference"]) == ({"id": "P-1"}, "of the option")
    fields.write_text('{"upload": "chunked"}')
    status, out, err = await ekabridge(environment, *arguments)
    assert (status, out) == (1, "")
    assert "upload" in err


async def test_the_same_idempotency_key_makes_one_session(environment: dict[str, str]) -> None:
    arguments = ("dictate", str(SPEECH), "--idempotency-key", "visit-1")
    first, second = [await ekabridge(environment, *arguments) for _ in range(2)]
    assert first == second
    assert first[0] == 0


async def test_refusals_are_one_sentence(bridge: Bridge, environment: dict[str, str], tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no audio " * 500)
    status, out, err = await ekabridge(environment, "dictate", str(text))
    assert (status, out) == (1, "")
    assert err.endswith("(recording_unreadable)\n")
    status, _, err = await ekabridge(environment | {"EKABRIDGE_API_KEY": "wrong"}, "dictate", str(text))
    assert (status, err.count("\n")) == (1, 1)
    assert "(unauthenticated)" in err
    assert bridge.api.headers["authorization"].removeprefix("Bearer ") not in err
    away = environment | {"EKABRIDGE_URL": "http://127.0.0.1:9"}
    status, _, err = await ekabridge(away, "dictate", str(text))
    assert (status, "cannot be reached" in err) == (1, True)


async def test_a_session_that_fails_is_status_1(bridge: Bridge, environment: dict[str, str]) -> None:
    waiting = asyncio.create_task(ekabridge(environment, "dictate", str(SPEECH), "--wait"))

    async def is_sent() -> bool:
        return bool(await bridge.database.fetchval("SELECT count(*) FROM sessions"))

    await until(is_sent)
    await bridge.database.execute("DELETE FROM audio_blocks")
    await bridge.start_worker()
    status, out, _ = await waiting
    assert status == 1
    assert out.splitlines()[-2:] == [
        "the recording could not be cut into chunks (recording_unreadable)",
        "failed",
    ]


def all_shown(terminal: int) -> str:
    """What a terminal gets until its other end is closed."""
    shown = b""
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 4096):
            shown += piece
    os.close(terminal)
    return shown.decode()


async def test_a_terminal_shows_how_far_it_is(
    bridge: Bridge, environment: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "visit.wav"
    file.write_bytes(speech(120))
    terminal, other_end = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service.cli.main", "dictate", str(file)),
        env=environment | {"TERM": "xterm"},
        stdout=asyncio.subprocess.PIPE,
        stderr=other_end,
    )
    os.close(other_end)
    shown, (out, _) = await asyncio.gather(asyncio.to_thread(all_shown, terminal), process.communicate())
    assert process.returncode == 0
    assert "sending visit.wav" in shown
    assert "100%" in shown
    assert (await bridge.session(out.decode().strip()))["recording"]["seconds"] == 120.0
