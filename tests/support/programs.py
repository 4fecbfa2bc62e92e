"""Programs that stand between ekabridge and its neighbours in a hospital, run for one test."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.support.bridge import free_port
from tests.support.rig import until


@asynccontextmanager
async def program(*command: str | Path, cwd: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program that runs until the block ends; what it says is in `said.log` of its folder."""
    with (cwd / "said.log").open("ab") as said:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=cwd, stdin=asyncio.subprocess.DEVNULL, stdout=said, stderr=said
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until_open(port: int) -> None:
    """Wait until a port of this machine answers."""

    async def is_open() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    await until(is_open)


def pooled(database_url: str, folder: Path, *, connections: int) -> tuple[list[str | Path], str, int]:
    """The command of a PgBouncer in transaction mode before a database, the URL through it, and its port."""
    parts = urlsplit(database_url)
    host = parse_qs(parts.query).get("host", [parts.hostname])[0]
    port = free_port()
    (folder / "pgbouncer.ini").write_text(f"""
[databases]
* = host={host} port={parts.port or 5432} user={parts.username}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {connections}
ignore_startup_parameters = extra_float_digits
""")
    # It refuses to run as root, and the embedded PostgreSQL's socket is open to `nobody` alone then.
    account = ["-u", "nobody"] if os.geteuid() == 0 else []
    command = ["pgbouncer", *account, folder / "pgbouncer.ini"]
    return command, f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}", port


@asynccontextmanager
async def tls_before(port: int, certificate: Path, key: Path) -> AsyncIterator[int]:
    """Ends TLS before a port of this machine, as a managed Redis does; yields the port to speak TLS with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        except (OSError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plain_reader, plain_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, plain_writer), pump(plain_reader, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]
