"""How many destinations a tenant may have, and how much of what belongs to one: settings of the operator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.api_calls import invalid, problem
from tests.support.bridge import Bridge, open_bridge

URL = "https://93.184.216.34/hooks"


@pytest.fixture
async def small(database_url: str, redis_url: str) -> AsyncIterator[Bridge]:
    limits = {"max_destinations": 3, "max_destination_templates": 2, "max_destination_headers": 1}
    async with open_bridge(database_url, redis_url, **limits) as opened:
        yield opened


async def test_a_tenant_has_no_more_destinations_than_it_may(small: Bridge) -> None:
    answers = await asyncio.gather(*(small.api.post("/v1/destinations", json={"url": URL}) for _ in range(8)))
    made = [answer.json()["id"] for answer in answers if answer.status_code == 201]
    assert len(made) == 3
    for answer in answers:
        if answer.status_code != 201:
            problem(answer, 409, "too_many_destinations")
    stranger = await small.tenant()
    assert (await stranger.post("/v1/destinations", json={"url": URL})).status_code == 201
    assert (await small.api.delete(f"/v1/destinations/{made[0]}")).status_code == 204
    assert (await small.api.post("/v1/destinations", json={"url": URL})).status_code == 201
    problem(await small.api.post("/v1/destinations", json={"url": URL}), 409, "too_many_destinations")


async def test_a_destination_has_no_more_templates_and_headers_than_it_may(small: Bridge) -> None:
    most = {"templates": ["a", "b"], "headers": {"x-a": "1"}}
    made = await small.api.post("/v1/destinations", json={"url": URL} | most)
    assert made.status_code == 201, made.text
    for field, value in (("templates", ["a", "b", "c"]), ("headers", {"x-a": "1", "x-b": "2"})):
        invalid(await small.api.post("/v1/destinations", json={"url": URL, field: value}), field)
        path = f"/v1/destinations/{made.json()['id']}"
        invalid(await small.api.patch(path, json={field: value}), field)
