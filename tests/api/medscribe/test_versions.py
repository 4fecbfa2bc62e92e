"""MSA-Version: told with every answer of the protocol, and refused where it is not ours."""

from __future__ import annotations

import pytest

from tests.support.bridge import Bridge
from tests.support.medscribe_clients import envelope

SESSION = "/voice/v1/sessions/ses_nope_nope_nope"
NEW = {"upload_type": "chunked", "communication_protocol": "http"}


@pytest.mark.parametrize("asked", [None, "0.1"])
async def test_our_version_or_none_is_served(house: Bridge, asked: str | None) -> None:
    headers = {} if asked is None else {"MSA-Version": asked}
    answer = await house.api.post("/voice/v1/sessions", json=NEW, headers=headers)
    assert answer.status_code == 201
    assert answer.headers["msa-version"] == "0.1"


@pytest.mark.parametrize("asked", ["0.2", "1.0", "", "v0.1", "0.1, 0.2", "9" * 500])
async def test_another_version_is_refused_and_nothing_is_begun(house: Bridge, asked: str) -> None:
    before = len((await house.api.get("/v1/sessions")).json()["items"])
    answer = await house.api.post("/voice/v1/sessions", json=NEW, headers={"MSA-Version": asked})
    error = envelope(answer, 400, "unsupported_version")
    assert error["details"]["requested_version"] == asked[:20]
    assert error["details"]["supported_versions"] == ["0.1"]
    assert answer.headers["msa-version"] == "0.1"
    assert len((await house.api.get("/v1/sessions")).json()["items"]) == before


@pytest.mark.parametrize(
    ("path", "status"),
    [("/.well-known/medscribealliance", 200), (SESSION, 404), ("/voice/v1/nothing", 404)],
)
async def test_every_answer_says_its_version(house: Bridge, path: str, status: int) -> None:
    answer = await house.api.get(path)
    assert (answer.status_code, answer.headers["msa-version"]) == (status, "0.1")
    assert "msa-version" not in (await house.api.get("/v1/sessions")).headers


async def test_discovery_answers_a_client_of_any_version(house: Bridge) -> None:
    answer = await house.api.get("/.well-known/medscribealliance", headers={"MSA-Version": "9.9"})
    assert answer.json()["supported_versions"] == ["0.1"]
