"""The service process around the application."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
import uvicorn

from service.http_server.server import Server, listen

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def restored() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


@pytest.mark.usefixtures("restored")
async def test_garbage_is_looked_for_once_the_service_has_started() -> None:
    async def application(scope: object, receive: object, send: object) -> None:
        raise AssertionError("nobody calls")

    config = uvicorn.Config(application, lifespan="off", log_config=None)
    config.load()
    server = Server(config, shutdown_seconds=2)
    server.lifespan = config.lifespan_class(config)
    listening = listen("127.0.0.1", 0)
    gc.disable()
    await server.startup([listening])
    try:
        assert gc.isenabled()
        assert gc.get_freeze_count()
    finally:
        await server.shutdown([listening])
