"""What others would pick, each in processes of its own: nginx, fastapi-proxy-lib, a bare handler."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import msgspec
import psutil

from service.sandbox.stack import free_port
from tests.tools.bench.load import Load, Loaded

_START_SECONDS = 30.0
_NGINX = """
worker_processes {workers};
daemon off;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_max_body_size 100m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        keepalive_requests 1000000;  # the default closes each connection after a thousand
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
{more}
        }}
    }}
}}
"""
UNBUFFERED = """
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_buffering off;
"""
WEBSOCKET = """
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_read_timeout 300;
"""


def nginx() -> str | None:
    """Return the system's nginx, None if there is none."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@asynccontextmanager
async def started(
    *command: str, port: int, env: dict[str, str] | None = None
) -> AsyncIterator[psutil.Process]:
    """Run a command until its port is open, and until the block ends."""
    process = await asyncio.create_subprocess_exec(*command, env=env, stdout=asyncio.subprocess.DEVNULL)
    try:
        await _listens(process, port)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        await process.wait()


async def _listens(process: asyncio.subprocess.Process, port: int) -> None:
    deadline = monotonic() + _START_SECONDS
    while True:
        assert process.returncode is None, f"a peer ended: {process.returncode}"
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            assert monotonic() < deadline, "a peer does not start"
            await asyncio.sleep(0.05)
            continue
        writer.close()
        return


@asynccontextmanager
async def open_listening(module: str) -> AsyncIterator[int]:
    """Start a module of ours that says its port (`tests/tools/bench/raw.py`); that port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield int(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def open_nginx(
    upstream: int, more: str = "", workers: int = 1
) -> AsyncIterator[tuple[psutil.Process, int]]:
    """Start nginx before a port, with its defaults and what more is said."""
    program = nginx()
    assert program is not None
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        configuration.write_text(
            _NGINX.format(folder=folder, port=port, upstream=upstream, more=more, workers=workers, user=user)
        )
        async with started(program, "-c", str(configuration), "-p", folder, port=port) as process:
            yield process, port


async def send(load: Load) -> Loaded:
    """Send a load from a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.tools.bench.load",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate(msgspec.json.encode(load))
    assert process.returncode == 0, "the load could not be sent"
    return msgspec.json.decode(output, type=Loaded)


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """Return the CPU time that these and their children have used."""
    total = 0.0
    for process in processes:
        for each in [process, *process.children(recursive=True)]:
            times = each.cpu_times()
            total += times.user + times.system
    return total
