"""A query parameter that a call does not have is refused by name: a typo must not widen a list."""

from __future__ import annotations

import pytest

from tests.support.api_calls import problem
from tests.support.bridge import Bridge
from tests.support.routes import routes

SAMPLE = {
    "session_id": "ses_nope_nope_nope",
    "document_id": "doc_x",
    "destination_id": "dst_x",
    "delivery_id": "msg_x",
    "sequence": "0",
}


def calls() -> list[tuple[str, str]]:
    """Every call under /v1 that a key opens."""
    return sorted(route for route in routes() if route[1].startswith("/v1/") and route[0] != "WS")


@pytest.mark.parametrize(("method", "path"), calls())
async def test_every_call_refuses_what_is_no_parameter_of_it(house: Bridge, method: str, path: str) -> None:
    url = path.format(**SAMPLE)
    answer = await house.admin.request(method, f"{url}?nonsense=1&Limit=2")
    if method == "HEAD":  # an answer to it has no body
        assert answer.status_code == 400
        return
    found = problem(answer, 400, "invalid_request")
    assert found["errors"] == [
        {"field": "nonsense", "message": "is not a parameter of this call"},
        {"field": "Limit", "message": "is not a parameter of this call"},
    ]


async def test_a_typo_in_a_filter_does_not_list_everybody(house: Bridge) -> None:
    await house.create(patient={"id": "P-1"})
    found = problem(await house.api.get("/v1/sessions?patientid=P-2"), 400, "invalid_request")
    assert [each["field"] for each in found["errors"]] == ["patientid"]
    assert "P-2" not in str(found)
    assert (await house.api.get("/v1/sessions?patient_id=P-2")).json()["items"] == []


@pytest.mark.parametrize("query", ["p%00=1", "Asha%20Rao=1", "x" * 65 + "=1", "=1"])
async def test_a_name_that_may_be_anything_is_not_repeated(house: Bridge, query: str) -> None:
    answer = await house.api.get(f"/v1/sessions?{query}")
    found = problem(answer, 400, "invalid_request")
    assert [each["field"] for each in found["errors"]] == ["(a parameter)"]


async def test_a_stranger_learns_nothing_of_parameters(house: Bridge) -> None:
    answer = await (await house.client(None)).get("/v1/sessions?nonsense=1")
    problem(answer, 401, "unauthenticated")


async def test_known_ones_are_taken_however_they_are_spelt(house: Bridge) -> None:
    for query in ("limit=1", "%6cimit=1", "from=2026-01-01T00:00:00Z", ""):
        path = "/v1/audit" if "from" in query else "/v1/sessions"
        assert (await house.admin.get(f"{path}?{query}")).status_code == 200, query


async def test_the_protocol_stays_lenient(house: Bridge) -> None:
    body = {"upload_type": "chunked", "communication_protocol": "http"}
    answer = await house.api.post("/voice/v1/sessions?version=v2&nonsense=1", json=body)
    assert answer.status_code == 201
    url = f"/voice/v1/sessions/{answer.json()['session_id']}"
    assert (await house.api.get(url, params={"nonsense": "1"})).status_code == 202
