"""Dictations at the stand-in vendor, told by their outcome."""

from typing import Any

from tests.sandbox.conftest import Bench
from tests.support.sounds import wav


async def dictate(house: Bench, *templates: str, **settings: Any) -> str:
    session_id = (await house.create(templates=list(templates)))["session_id"]
    await house.upload(session_id, "audio_0.wav", wav(1))
    if settings:
        await house.settle(**settings)
    await house.end(session_id)
    return session_id


async def until(house: Bench, session_id: str, status: int, **query: str) -> dict[str, Any]:
    await house.settle(long_poll_seconds=3)
    answer = await house.get(session_id, **query)
    assert answer.status_code == status, answer.text
    await house.settle(long_poll_seconds=0)
    return answer.json()


def only(body: dict[str, Any]) -> dict[str, Any]:
    (item,) = body["templates"]
    (entry,) = item.values()
    return entry
