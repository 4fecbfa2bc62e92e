"""GET /voice/v1/templates: the account's own list, whichever of the two EkaScribe's server has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from tests.support.api_calls import clear_faults
from tests.support.bridge import Bridge, add_tenant, open_bridge
from tests.support.medscribe_clients import envelope, no_nulls

PATH = "/voice/v1/templates"
OWN, OTHER = "^/voice/v1/templates$", "^/voice/api/v1/template$"
# Both as recorded, the texts cut (templates.v1_list.cut, templates.list.cut).
BROKEN = {"error": {"code": "internal_error", "message": "Failed to retrieve templates"}}
LISTED = {
    "items": [
        {
            "id": "ef9a6c5f-0f3b-487e-bb48-0c3553bb4d7f",
            "title": "Clinic note",
            "desc": "Short clinical note.",
            "section_ids": [],
            "default": False,
            "is_favorite": False,
            "available_tools": None,
        },
        {"id": "19288d2f", "title": "SOAP Notes", "desc": "", "section_ids": [], "default": True},
    ]
}
SHOWN = [
    {
        "id": "ef9a6c5f-0f3b-487e-bb48-0c3553bb4d7f",
        "name": "Clinic note",
        "description": "Short clinical note.",
    },
    {"id": "19288d2f", "name": "SOAP Notes", "description": ""},
]


@pytest.fixture
async def fresh(database_url: str, redis_url: str) -> AsyncIterator[Bridge]:
    """A service of this test alone: lists are kept for a minute."""
    async with open_bridge(database_url, redis_url) as opened:
        yield opened


async def answered(bridge: Bridge, path: str, status: int, body: Any) -> None:
    await bridge.fault(path, method="GET", status=status, body=body, times=None)


def templates(answer: httpx2.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert set(found) == {"templates"}
    assert no_nulls(found)
    return list(found["templates"])


async def test_the_protocol_s_own_list_is_passed_on(fresh: Bridge) -> None:
    own = [{"id": "soap", "name": "SOAP Note", "description": "Four parts", "section_ids": ["x"]}]
    await answered(fresh, OWN, 200, {"templates": own})
    answer = await fresh.api.get(PATH)
    assert templates(answer) == [{"id": "soap", "name": "SOAP Note", "description": "Four parts"}]
    assert answer.headers["cache-control"] == "no-store"
    assert await fresh.calls(OTHER) == 0


@pytest.mark.parametrize(("status", "body"), [(500, BROKEN), (404, {"detail": "Not Found"})])
async def test_a_server_without_it_is_asked_for_its_other_list(
    fresh: Bridge, status: int, body: dict[str, Any]
) -> None:
    await answered(fresh, OWN, status, body)
    await answered(fresh, OTHER, 200, LISTED)
    assert templates(await fresh.api.get(PATH)) == SHOWN


async def test_a_server_with_neither_leaves_the_tenant_s_defaults(fresh: Bridge) -> None:
    await answered(fresh, OWN, 404, {"detail": "Not Found"})
    await answered(fresh, OTHER, 500, BROKEN)
    name = "eka_emr_template"
    assert templates(await fresh.api.get(PATH)) == [{"id": name, "name": name, "description": ""}]
    _, key = await add_tenant(fresh.settings, "without defaults", "emr")
    assert templates(await (await fresh.client(key)).get(PATH)) == []


async def test_many_calls_cost_one_call_of_the_vendor(fresh: Bridge) -> None:
    await answered(fresh, OWN, 500, BROKEN)
    await answered(fresh, OTHER, 200, LISTED)
    for _ in range(5):
        assert templates(await fresh.api.get(PATH)) == SHOWN
    assert (await fresh.calls(OWN), await fresh.calls(OTHER)) == (1, 1)


async def test_a_vendor_that_is_away_is_told_in_the_protocol_s_envelope(fresh: Bridge) -> None:
    await answered(fresh, OWN, 503, {})
    answer = await fresh.api.get(PATH)
    envelope(answer, 503, "vendor_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    await clear_faults(fresh)
    await answered(fresh, OWN, 403, {"detail": "forbidden"})
    envelope(await fresh.api.get(PATH), 502, "vendor_error")


async def test_it_needs_a_key(house: Bridge) -> None:
    envelope(await (await house.client(None)).get(PATH), 403, "missing_token")
