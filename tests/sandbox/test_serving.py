from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time

import httpx2
import pytest

from service.sandbox.emr.app import create_emr
from service.sandbox.serving import run_sandbox, serve_app
from service.sandbox.vendor.app import create_vendor


async def test_a_taken_port_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        async with serve_app(create_emr(), port=taken.getsockname()[1]):
            pass


async def test_it_stops_with_calls_that_hang():
    async with serve_app(create_vendor()) as url, httpx2.AsyncClient(trust_env=False) as client:
        await client.post(
            f"{url}/_control/faults", json={"path_regex": "x", "mode": "hang", "read_body": False}
        )
        with pytest.raises(httpx2.ReadTimeout):
            await client.get(f"{url}/x", timeout=0.1)
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 5
    async with httpx2.AsyncClient(trust_env=False) as client:
        with pytest.raises(httpx2.ConnectError):
            await client.get(url)


def test_only_loopback_is_served():
    with pytest.raises(ValueError, match="loopback"):
        run_sandbox("0.0.0.0", 0)


@pytest.mark.parametrize(
    ("number", "character"), [(signal.SIGINT, "hosted"), (signal.SIGTERM, "onprem-2026-07")]
)
def test_the_command_stops_cleanly_on_signals(number, character):
    code = f"from service.sandbox.serving import run_sandbox; run_sandbox(port=0, character='{character}')"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        first = process.stdout.readline().decode()
        url = re.search(r"http://127\.0\.0\.1:\d+", first)
        assert url is not None
        settings = httpx2.get(f"{url[0]}/_control/settings", trust_env=False).json()
        assert settings["character"] == character
        process.send_signal(number)
        assert process.wait(10) == 0
