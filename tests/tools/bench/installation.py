"""An installation to be measured: servers, stand-ins, and a rig that starts processes of ours."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from service.sandbox.embedded.api import start_embedded
from service.store.migrate import migrate
from tests.support.rig import Rig, open_rig


@asynccontextmanager
async def open_installation() -> AsyncIterator[Rig]:
    """Start servers and stand-ins of our own; PostgreSQL does not wait for the disk."""
    async with AsyncExitStack() as stack:
        urls = stack.enter_context(start_embedded(temporary=True)).urls
        await migrate(urls.database_url)
        yield await stack.enter_async_context(open_rig(urls.database_url, urls.redis_url))


@asynccontextmanager
async def open_durable_installation() -> AsyncIterator[Rig]:
    """The same, but PostgreSQL keeps what it commits, as one does that is relied on."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        await asyncio.to_thread(folder.chmod, 0o755)  # as root PostgreSQL runs as a user of its own
        urls = stack.enter_context(start_embedded(folder / "data")).urls
        await migrate(urls.database_url)
        yield await stack.enter_async_context(open_rig(urls.database_url, urls.redis_url))
