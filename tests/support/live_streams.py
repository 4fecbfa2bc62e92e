"""Live streams as clients open them."""

import json
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.support.rig import until

FRAME = bytes(range(256)) * 12 + bytes(128)  # 3,200 bytes: 100 ms of PCM


def opened(session: dict[str, Any], **options: Any) -> connect:
    return connect(session["stream_url"], **({"compression": None, "proxy": None} | options))


async def refusal(url: str) -> dict[str, Any]:
    """Try to open a stream that must be refused; return the problem."""
    with pytest.raises(InvalidStatus) as caught:
        await connect(url, compression=None, proxy=None)
    response = caught.value.response
    assert response.headers["content-type"] == "application/problem+json"
    problem = json.loads(response.body)
    assert problem["status"] == response.status_code
    return problem


async def arrived(bridge: Any, session: dict[str, Any], frames: int) -> dict[str, Any]:
    """Wait until the vendor has so many frames."""

    async def has_come() -> dict[str, Any] | None:
        seen = (await bridge.seen(session["id"]))["stream"]
        return seen if seen["frames"] >= frames else None

    return await until(has_come)
