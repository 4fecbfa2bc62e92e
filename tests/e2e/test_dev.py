"""`ekabridge dev` and `ekabridge demo`: what a newcomer runs first, and what is left of it afterwards."""

import asyncio
import io
import re
import secrets
import shutil
import signal
import socket
import sys
import wave
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import httpx2
import psutil
import pytest

from service.sandbox.demo import split_recording
from service.sandbox.stack import free_port
from tests.support.commands import bare_environment, in_a_new_interpreter
from tests.support.rig import dictate, until


@dataclass
class Dev:
    """A running `ekabridge dev`."""

    process: asyncio.subprocess.Process
    url: str
    key: str

    def family(self) -> list[psutil.Process]:
        """Every process that it started."""
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
async def dev() -> AsyncIterator[Dev]:
    port = free_port()
    # Outside any home: as root, PostgreSQL runs as another user, who must be able to enter.
    data = Path("/var/tmp") / f"ekabridge-test-{secrets.token_hex(4)}"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service.cli.main",
        "dev",
        "--port",
        str(port),
        "--data",
        str(data),
        env=bare_environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    key, said = "", ""
    while not key:
        line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        said += line
        assert line, f"dev ended before it was ready: {said}"
        found = re.match(r"\s+key\s+(\S+)", line)
        key = found.group(1) if found else ""
    made = Dev(process, f"http://127.0.0.1:{port}", key)
    family = made.family()
    yield made
    if process.returncode is None:
        process.kill()
        await process.wait()
    await until(lambda: _all_gone(family), 40)
    await asyncio.to_thread(shutil.rmtree, data)


async def _all_gone(family: list[psutil.Process]) -> bool:
    return not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in family)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_dev_runs_a_dictation_and_leaves_nothing_behind(dev: Dev, number: int) -> None:
    headers = {"authorization": f"Bearer {dev.key}"}
    async with httpx2.AsyncClient(base_url=dev.url, headers=headers, timeout=30, trust_env=False) as api:
        session_id = await dictate(api)

        async def is_completed() -> bool:
            answer = await api.get(f"/v1/sessions/{session_id}", params={"wait": 1})
            return answer.json()["status"] == "completed"

        await until(is_completed)
    family = dev.family()
    assert len(family) >= 8  # three of ours, each with its guard, the guardian, PostgreSQL, Valkey
    dev.process.send_signal(number)
    status = await asyncio.wait_for(dev.process.wait(), 40)
    assert status == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    assert await until(lambda: _all_gone(family), 40)


async def test_dev_says_that_its_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, _, err = await in_a_new_interpreter(bare_environment(), "dev", "--port", port)
    assert status == 1
    assert port in err


@pytest.mark.parametrize("options", [[], ["--stream"]])
async def test_the_demo_shows_a_document_that_arrived(options: list[str]) -> None:
    status, out, err = await in_a_new_interpreter(bare_environment(), "demo", *options)
    assert status == 0, out + err
    assert "signature verified" in out
    assert '"type": "document.ready"' in out
    assert "webhook-signature: v1," in out


def test_the_demo_splits_a_recording_without_losing_a_sample() -> None:
    recording = files("service.sandbox").joinpath("recordings", "dictation.wav").read_bytes()

    def samples(content: bytes) -> bytes:
        with wave.open(io.BytesIO(content)) as opened:
            assert (opened.getframerate(), opened.getnchannels(), opened.getsampwidth()) == (16_000, 1, 2)
            return opened.readframes(opened.getnframes())

    chunks = list(split_recording(recording, 5))
    assert len(chunks) == 5
    assert b"".join(samples(chunk) for chunk in chunks) == samples(recording)
