"""Deliveries as the EMR answers and the API lists them."""

import time
from typing import Any

from tests.support.bridge import Bridge


async def listed(bridge: Bridge, **params: Any) -> list[dict[str, Any]]:
    answer = await bridge.api.get("/v1/deliveries", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]  # type: ignore[no-any-return]


async def settled(bridge: Bridge, status: str, count: int = 1) -> list[dict[str, Any]]:
    """Wait until so many deliveries stand so."""
    deadline = time.monotonic() + 10
    while len(found := await listed(bridge, status=status)) < count:
        assert time.monotonic() < deadline, await listed(bridge)
        await bridge.api.get(f"/v1/sessions/{(await listed_session(bridge))}", params={"wait": 0.05})
    return found


async def listed_session(bridge: Bridge) -> str:
    return str((await bridge.api.get("/v1/sessions")).json()["items"][0]["id"])


async def behave(bridge: Bridge, **answer: Any) -> None:
    (await bridge.emr.post("/_control/behaviour", json={"otherwise": answer})).raise_for_status()
