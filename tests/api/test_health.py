"""Health and metrics, and a service that goes on while Redis is away."""

import re

import pytest

from tests.support.api_calls import hook, v2_event
from tests.support.bridge import Bridge, free_port, open_bridge


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics"])
async def test_operators_need_no_key(house: Bridge, path: str) -> None:
    nobody = await house.client(None)
    assert (await nobody.get(path)).status_code == 200


async def test_ready_says_what_it_asked(house: Bridge) -> None:
    assert (await house.api.get("/health/ready")).json() == {
        "status": "ready",
        "database": "ok",
        "redis": "ok",
    }


async def test_health_never_asks_the_vendor(house: Bridge) -> None:
    calls = await house.calls(".*")
    await house.fault(".*", times=None, mode="reset")
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert (await house.api.get(path)).status_code == 200
    assert await house.calls(".*") == calls


async def test_metrics_count_by_route_and_carry_no_id(house: Bridge) -> None:
    session_id = await house.dictate()
    await house.api.get(f"/v1/sessions/{session_id}")
    await house.api.get("/v1/sessions", params={"reference": "Asha-Rao"})
    await house.api.get("/no/such/path/Asha-Rao")
    await house.api.request("ASHA", "/v1/sessions")
    answer = await house.api.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.text
    assert re.search(r'ekabridge_http_requests_total\{.*route="/v1/sessions/\{session_id\}".*\} [1-9]', text)
    assert session_id not in text
    assert house.tenant_id not in text
    assert "asha" not in text.lower()


async def test_a_database_without_a_schema_is_not_ready(empty_database_url: str, house: Bridge) -> None:
    from service.app import create_app  # noqa: PLC0415 - this test alone starts a service on nothing
    from service.sandbox.serving import serve_app  # noqa: PLC0415
    from tests.support.bridge import make_settings  # noqa: PLC0415

    settings = make_settings(empty_database_url, house.settings.redis_url, eka_base_url=house.vendor_url)
    async with serve_app(create_app(settings)) as url:
        client = await house.client(None)
        assert (await client.get(f"{url}/health/live")).status_code == 200
        ready = await client.get(f"{url}/health/ready")
    assert ready.status_code == 503
    assert ready.json()["status"] == "not ready"


async def test_without_redis_the_service_goes_on(database_url: str) -> None:
    async with open_bridge(database_url, f"redis://127.0.0.1:{free_port()}/0") as bridge:
        await bridge.vendor_settings(webhooks_enabled=False)
        ready = await bridge.api.get("/health/ready")
        assert ready.json() == {"status": "ready", "database": "ok", "redis": "unreachable"}
        assert ready.status_code == 200
        await bridge.add_destination()
        session_id = await bridge.dictate()
        answer = await hook(bridge, v2_event(session_id))
        assert (answer.status_code, answer.json()) == (200, {"status": "accepted"})
        due = await bridge.database.fetchval(
            "SELECT next_at <= now() FROM fetches WHERE session_id = $1", session_id
        )
        assert due is True
        assert (await hook(bridge, v2_event(session_id))).json() == {"status": "duplicate"}
        assert (await bridge.session(session_id))["status"] == "processing"
        assert (await bridge.api.get("/health/live")).status_code == 200
