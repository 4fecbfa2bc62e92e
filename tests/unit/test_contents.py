"""The contents behind the addresses of one answer have one bound together, however many there are."""

from __future__ import annotations

from service.domain.ids import DEFAULT_ACCOUNT, UNFILTERED, SessionId
from service.eka.contents import MAX_CONTENT_BYTES
from tests.unit.calls_to_eka import BASE, ScriptedEka

PARTS = 4


async def test_addresses_beyond_the_bound_are_asked_for_another_time() -> None:
    entries = [
        {f"t{number}": {"status": "success", "data": None, "presigned_url": f"{BASE}/{number}"}}
        for number in range(2 * PARTS)
    ]
    content = {"text": "a" * (MAX_CONTENT_BYTES // PARTS - 20)}
    eka = ScriptedEka((200, {"status": "completed", "templates": entries}), (200, content))
    async with eka.client() as client:
        found = await client.get_session(DEFAULT_ACCOUNT, SessionId("ses_1"), UNFILTERED)
    statuses = [each.status for each in found.documents]
    assert statuses == ["success"] * PARTS + ["empty"] * PARTS
