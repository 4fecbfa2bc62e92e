"""An application of its own with a rate limit."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import msgspec

from service.api.dependencies import Services
from service.app import create_app
from service.http_server.server import CONNECTION_OPTIONS
from service.sandbox.serving import serve_app
from tests.support.bridge import Bridge


@asynccontextmanager
async def app_of(house: Bridge, **settings: Any) -> AsyncIterator[tuple[Services, str]]:
    """Another pod."""
    app: Any = create_app(msgspec.structs.replace(house.settings, **settings))
    async with serve_app(app, **CONNECTION_OPTIONS) as url:
        while not hasattr(app, "state"):
            app = app._app
        yield app.state.services, url


@contextlib.asynccontextmanager
async def client(url: str, key: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(
        base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30, trust_env=False
    ) as made:
        yield made
