"""The discovery document: what official clients demand of it, and our own addresses in it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from service.api.medscribe.discovery import make_discovery
from service.eka.discovery import SEED_LIMITS, read_limits
from tests.support.bridge import Bridge
from tests.support.discovery_schema import DISCOVERY_SCHEMA
from tests.support.medscribe_clients import no_nulls

PATHS = [
    "/.well-known/medscribealliance",
    "/voice/.well-known/medscribealliance",
    "/voice/v1/.well-known/medscribealliance",
]


@pytest.mark.parametrize("path", PATHS)
async def test_it_holds_what_official_clients_demand(house: Bridge, path: str) -> None:
    answer = await (await house.client(None)).get(path)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "max-age=10800"
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert (found["protocol"], found["protocol_version"]) == ("medscribealliance", "0.1")
    assert found["endpoints"]["base_url"] == f"{house.url}/voice/v1"
    assert found["authentication"]["supported_methods"] == ["api_key"]
    assert "audio/webm;codecs=opus" in found["capabilities"]["audio_formats"]
    assert found["capabilities"]["max_chunk_duration_seconds"] > 0
    assert {"chunked", "stream"} <= set(found["capabilities"]["upload_methods"])
    assert "en" in found["languages"]["supported"]
    durations = {model["id"]: model["max_session_duration_seconds"] for model in found["models"]}
    assert durations == {"lite": 600, "pro": 3600}
    assert no_nulls(found)


async def test_no_address_of_the_vendor_is_in_it(house: Bridge) -> None:
    found = (await (await house.client(None)).get(PATHS[2])).text
    assert house.vendor_url not in found
    assert "upstream" not in found
    assert json.loads(found)["endpoints"]["base_url"][-1] != "/"


@pytest.mark.parametrize("path", PATHS)
async def test_it_passes_the_protocol_s_schema(house: Bridge, path: str) -> None:
    found = (await (await house.client(None)).get(path)).json()
    Draft202012Validator(DISCOVERY_SCHEMA).validate(found)
    assert found["service"]["name"] == "Scribe Service through ekabridge"
    assert found["service"]["documentation_url"] == f"{house.url}/docs"
    assert found["endpoints"]["templates_url"] == f"{house.url}/voice/v1/templates"
    names = {model["id"]: (model["display_name"], model["response_speed"]) for model in found["models"]}
    assert names == {"lite": ("Lite", "fast"), "pro": ("Professional", "standard")}


async def test_its_addresses_lead_somewhere(house: Bridge) -> None:
    found = (await house.api.get(PATHS[0])).json()
    for url in (found["service"]["documentation_url"], found["endpoints"]["templates_url"]):
        assert (await house.api.get(url, follow_redirects=True)).status_code == 200, url


async def test_it_promises_no_webhooks_because_there_are_none(house: Bridge) -> None:
    found = (await house.api.get(PATHS[0])).json()
    assert found["capabilities"]["webhook_delivery"] is False
    assert "webhooks_url" not in found["endpoints"]
    assert (await house.api.post("/voice/v1/webhooks", json={})).status_code == 404


def shown(document: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Our document, made of the vendor's."""
    made = make_discovery("https://scribe.example", read_limits(document), **settings)
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made))
    return found


@pytest.mark.parametrize(
    ("document", "methods"),
    [
        ({}, ["chunked", "single", "stream"]),
        ({"capabilities": {"upload_methods": ["chunked", "single"]}}, ["chunked", "single"]),
        ({"capabilities": {"upload_methods": ["chunked", "carrier_pigeon"]}}, ["chunked"]),
        ({"capabilities": {"upload_methods": "chunked"}}, ["chunked", "single", "stream"]),
    ],
)
def test_its_upload_methods_are_the_vendor_s(document: dict[str, Any], methods: list[str]) -> None:
    assert shown(document)["capabilities"]["upload_methods"] == methods


@pytest.mark.parametrize(
    ("languages", "is_detected"),
    [
        ({}, False),
        ({"supported": ["en"], "auto_detection": True}, True),
        ({"supported": ["en"], "auto_detection": "yes"}, False),
        ({"supported": ["en", "auto_detect"]}, True),
    ],
)
def test_it_says_whether_languages_are_recognised(languages: dict[str, Any], is_detected: bool) -> None:
    assert shown({"languages": languages})["languages"]["auto_detection"] is is_detected


def test_an_odd_document_of_the_vendor_makes_a_good_one_of_ours() -> None:
    odd = {
        "service": 5,
        "models": [{"id": "pro", "display_name": 7, "response_speed": []}],
        "languages": "en",
    }
    made = shown(odd, support_email="it@hospital.example")
    Draft202012Validator(DISCOVERY_SCHEMA).validate(made)
    assert made["service"]["support_email"] == "it@hospital.example"
    assert made["models"][0]["display_name"] == "Pro"
    assert SEED_LIMITS.auto_detection is False
