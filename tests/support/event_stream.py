"""A reader of server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

from tests.support.bridge import Bridge


@dataclass
class Followed:
    """What came over one stream of events."""

    response: httpx2.Response
    lines: AsyncIterator[str]
    events: list[dict[str, Any]] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)

    @property
    def types(self) -> list[str]:
        return [event["event"] for event in self.events]

    @property
    def last_id(self) -> str:
        return str([event["id"] for event in self.events if "id" in event][-1])

    async def read(self) -> dict[str, Any] | None:
        """Read the next event; None when the stream is over."""
        found: dict[str, Any] = {}
        async for line in self.lines:
            if line.startswith(":"):
                self.comments.append(line)
            elif not line and found:
                self.events.append(found)
                return found
            elif line:
                name, _, value = line.partition(": ")
                found[name] = json.loads(value) if name == "data" else value
        return None

    async def until(self, event_type: str, count: int = 1) -> dict[str, Any]:
        """Read until so many events of a type have come."""
        async with asyncio.timeout(15):
            while self.types.count(event_type) < count:
                assert await self.read() is not None, self.types
        return self.events[-1]

    async def rest(self) -> None:
        """Read to the end."""
        async with asyncio.timeout(15):
            while await self.read() is not None:
                pass


@asynccontextmanager
async def follow(
    bridge: Bridge, session_id: str, last_id: str | None = None, api: httpx2.AsyncClient | None = None
) -> AsyncIterator[Followed]:
    headers = {} if last_id is None else {"last-event-id": last_id}
    path = f"/v1/sessions/{session_id}/events"
    async with (api or bridge.api).stream("GET", path, headers=headers) as response:
        assert response.status_code == 200, (await response.aread()).decode()
        yield Followed(response, response.aiter_lines())
