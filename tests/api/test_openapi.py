"""The OpenAPI document tells the truth, and its pages need no other host."""

import json
import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

import msgspec
import pytest

from schemas.problems import STATUS_OF_CODE, Problem
from schemas.sessions import SessionCreate
from tests.support.bridge import Bridge

METHODS = {"get", "post", "put", "patch", "delete"}
EXPECTED = {
    ("post", "/v1/sessions"): {201, 400, 401, 409, 413, 422, 502, 503, 504},
    ("get", "/v1/sessions"): {200, 400, 401},
    ("get", "/v1/sessions/{session_id}"): {200, 400, 401, 404, 410},
    ("patch", "/v1/sessions/{session_id}"): {200, 400, 401, 404, 409, 410, 413, 502, 503, 504},
    ("delete", "/v1/sessions/{session_id}"): {202, 401, 404, 410},
    ("get", "/v1/sessions/{session_id}/events"): {200, 204, 401, 404, 410, 503},
    ("post", "/v1/sessions/{session_id}/documents"): {202, 400, 401, 404, 409, 410, 413, 502, 503, 504},
    ("put", "/v1/sessions/{session_id}/audio/{sequence}"): {
        200, 400, 401, 404, 409, 413, 415, 502, 503, 504,
    },
    ("post", "/v1/sessions/{session_id}/end"): {202, 400, 401, 404, 409, 413, 502, 503, 504},
    ("get", "/v1/sessions/{session_id}/timeline"): {200, 401, 404},
    ("get", "/v1/sessions/{session_id}/documents"): {200, 401, 404},
    ("get", "/v1/documents/{document_id}"): {200, 401, 404},
    ("post", "/v1/destinations"): {201, 400, 401, 413},
    ("get", "/v1/destinations"): {200, 400, 401},
    ("get", "/v1/destinations/{destination_id}"): {200, 401, 404},
    ("delete", "/v1/destinations/{destination_id}"): {204, 401, 404},
    ("post", "/v1/destinations/{destination_id}/rotate-secret"): {200, 400, 401, 404, 413},
    ("get", "/v1/deliveries"): {200, 400, 401},
    ("get", "/v1/deliveries/{delivery_id}"): {200, 401, 404},
    ("post", "/v1/deliveries/{delivery_id}/retry"): {202, 401, 404, 409},
    ("post", "/v1/deliveries/{delivery_id}/confirm"): {200, 400, 401, 404, 409, 410, 413},
    ("post", "/v1/destinations/{destination_id}/test"): {202, 401, 404, 409},
    ("post", "/v1/destinations/{destination_id}/recover"): {202, 400, 401, 404, 409, 413},
    ("post", "/webhooks/eka"): {200, 400, 401, 413, 503},
    ("post", "/webhooks/eka/{tenant}"): {200, 400, 401, 413, 503},
    ("get", "/health/live"): {200},
    ("get", "/health/ready"): {200, 503},
    ("get", "/metrics"): {200},
}  # fmt: skip


@pytest.fixture
async def document(house: Bridge) -> dict[str, Any]:
    """The document as anybody gets it, without a key."""
    answer = await (await house.client(None)).get("/schema/openapi.json")
    assert answer.status_code == 200
    assert "json" in answer.headers["content-type"]
    found: dict[str, Any] = json.loads(answer.content)
    return found


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method, path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }


def everything_in(node: Any) -> Any:
    yield node
    if isinstance(node, dict):
        for value in node.values():
            yield from everything_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from everything_in(value)


def resolve(document: dict[str, Any], reference: str) -> Any:
    node: Any = document
    for part in reference.removeprefix("#/").split("/"):
        node = node[part.replace("~1", "/").replace("~0", "~")]
    return node


async def test_it_is_openapi_and_holds_every_reference_itself(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["info"]["title"] == "ekabridge"
    assert document["info"]["version"]
    references = [
        node["$ref"] for node in everything_in(document) if isinstance(node, dict) and "$ref" in node
    ]
    assert references
    for reference in references:
        assert isinstance(reference, str)
        assert reference.startswith("#/"), reference
        assert resolve(document, reference)


@pytest.mark.parametrize(("method", "path"), EXPECTED)
async def test_every_status_of_a_route_is_told(document: dict[str, Any], method: str, path: str) -> None:
    told = {int(status) for status in operations(document)[method, path]["responses"]}
    assert EXPECTED[method, path] <= told


async def test_every_door_to_the_database_may_say_that_it_is_away(document: dict[str, Any]) -> None:
    silent = {
        f"{method} {path}"
        for (method, path), operation in operations(document).items()
        if path.startswith("/v1/") and "503" not in operation["responses"]
    }
    assert silent == set()


async def test_every_door_that_asks_for_a_key_may_say_that_it_is_too_much(document: dict[str, Any]) -> None:
    for (method, path), operation in operations(document).items():
        assert ("429" in operation["responses"]) == path.startswith("/v1/"), (method, path)


async def test_every_refusal_is_a_problem(document: dict[str, Any]) -> None:
    for (method, path), operation in operations(document).items():
        for status, response in operation["responses"].items():
            if int(status) < 400 or path.startswith("/health"):
                continue
            assert set(response["content"]) == {"application/problem+json"}, (method, path, status)
            schema = response["content"]["application/problem+json"]["schema"]
            if "$ref" in schema:
                schema = resolve(document, schema["$ref"])
            assert set(Problem.__struct_fields__) <= set(schema["properties"]), (method, path, status)
            assert response["description"]
            assert int(status) in STATUS_OF_CODE.values()


async def test_every_operation_is_named_once_and_described(document: dict[str, Any]) -> None:
    found = operations(document)
    names = [operation["operationId"] for operation in found.values()]
    assert len(names) == len(set(names))
    for key, operation in found.items():
        assert operation["summary"], key
        assert operation["tags"], key
        for parameter in operation.get("parameters", []):
            assert parameter["schema"], key
            if parameter["in"] == "path":
                assert parameter["required"] is True
                assert f"{{{parameter['name']}}}" in key[1]
        in_path = set(re.findall(r"\{(\w+)\}", key[1]))
        told = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
        assert in_path == told, key


async def test_v1_asks_for_a_key_and_the_rest_does_not(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    assert schemes["apiKey"]["type"] == "http"
    assert schemes["apiKey"]["scheme"] == "bearer"
    for (method, path), operation in operations(document).items():
        asks = any("apiKey" in each for each in operation.get("security", []))
        assert asks == path.startswith("/v1/"), (method, path)


async def test_parameters_of_the_contract_are_told(document: dict[str, Any]) -> None:
    def named(method: str, path: str) -> set[tuple[str, str]]:
        parameters = operations(document)[method, path].get("parameters", [])
        return {(each["in"], each["name"]) for each in parameters}

    for path in ("/v1/sessions", "/v1/destinations", "/v1/sessions/{session_id}/documents"):
        assert ("header", "Idempotency-Key") in named("post", path), path
    assert ("query", "wait") in named("get", "/v1/sessions/{session_id}")
    assert ("header", "Last-Event-ID") in named("get", "/v1/sessions/{session_id}/events")
    assert {
        ("query", name) for name in ("status", "reference", "patient_id", "created_after", "limit", "cursor")
    } <= named("get", "/v1/sessions")
    assert ("query", "template_id") in named("get", "/v1/sessions/{session_id}/documents")
    assert {("query", name) for name in ("status", "destination_id", "session_id")} <= named(
        "get", "/v1/deliveries"
    )


async def test_audio_is_told_as_bytes_of_each_format(document: dict[str, Any]) -> None:
    body = operations(document)["put", "/v1/sessions/{session_id}/audio/{sequence}"]["requestBody"]
    assert set(body["content"]) >= {"audio/wav", "audio/webm;codecs=opus", "audio/mp3", "audio/mp4"}
    assert body["required"] is True


async def test_live_events_are_told_with_an_example(document: dict[str, Any]) -> None:
    told = operations(document)["get", "/v1/sessions/{session_id}/events"]["responses"]["200"]["content"]
    (example,) = told["text/event-stream"]["examples"].values()
    assert "event: session.created" in example["value"]
    assert example["value"].endswith("event: end\ndata: {}\n\n")


async def test_optional_bodies_are_told_as_optional(document: dict[str, Any]) -> None:
    for key in (("post", "/v1/sessions"), ("post", "/v1/sessions/{session_id}/end")):
        assert not operations(document)[key]["requestBody"].get("required", False), key


async def test_examples_are_accepted_by_the_schema_they_stand_in(document: dict[str, Any]) -> None:
    schema = body_schema(document, "/v1/sessions", "post")
    example = {
        name: found["examples"][0]
        for name, property_ in schema["properties"].items()
        for found in [property_, *property_.get("oneOf", []), *property_.get("anyOf", [])]
        if found.get("examples")
    }
    assert {"templates", "languages", "patient", "reference"} <= set(example)
    msgspec.convert(example, SessionCreate)


def body_schema(document: dict[str, Any], path: str, method: str) -> dict[str, Any]:
    """The schema of a JSON body."""
    return document["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/v1/sessions", "post"),
        ("/v1/sessions/{session_id}/end", "post"),
        ("/v1/sessions/{session_id}", "patch"),
        ("/v1/sessions/{session_id}/documents", "post"),
        ("/v1/destinations", "post"),
        ("/v1/destinations/{destination_id}/recover", "post"),
        ("/v1/deliveries/{delivery_id}/confirm", "post"),
        ("/v1/destinations/{destination_id}", "patch"),
    ],
)
async def test_that_unknown_fields_are_refused_is_told(
    document: dict[str, Any], path: str, method: str
) -> None:
    assert body_schema(document, path, method).get("additionalProperties") is False


async def test_answers_are_as_the_document_tells(house: Bridge, document: dict[str, Any]) -> None:
    """The keys of real answers are the properties that are told, and all the required ones are there."""
    session = await house.create(reference="E")
    chunk = (await house.put(session["id"], 0)).json()
    destination = (await house.api.post("/v1/destinations", json={"url": "https://emr.example/hook"})).json()
    problem = (await house.api.get("/v1/sessions/ses_x")).json()
    for name, answer in (
        ("Session", session),
        ("ChunkStored", chunk),
        ("Destination", destination),
        ("Problem", problem),
    ):
        schema = document["components"]["schemas"][name]
        assert set(answer) <= set(schema["properties"]), name
        assert set(schema.get("required", [])) <= set(answer), name


async def test_times_are_told_as_times(document: dict[str, Any]) -> None:
    properties = document["components"]["schemas"]["Session"]["properties"]
    assert properties["created_at"]["format"] == "date-time"


class Links(HTMLParser):
    """Every address that a page makes a browser ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"src", "href", "action", "data", "srcset"} and value:
                self.found.append(value)


async def test_the_docs_page_needs_no_other_host(house: Bridge) -> None:
    nobody = await house.client(None)
    answer = await nobody.get("/docs", follow_redirects=True)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert urlsplit(str(answer.url)).netloc == urlsplit(house.url).netloc
    links = Links()
    links.feed(answer.text)
    links.close()
    assets = [link for link in links.found if not link.startswith(("data:", "#"))]
    assert any(asset.endswith(".js") for asset in assets)
    assert any(asset.endswith(".css") for asset in assets)
    for asset in assets:
        address = urljoin(str(answer.url), asset)
        assert urlsplit(address).netloc == urlsplit(house.url).netloc, asset
        served = await nobody.get(address)
        assert served.status_code == 200, asset
        assert len(served.content) > 100, asset
        kind = served.headers["content-type"]
        assert ("javascript" in kind) if asset.endswith(".js") else ("css" in kind or "json" in kind), asset
        if asset.endswith(".css"):
            assert not re.search(r"url\(\s*['\"]?(https?:)?//", served.text)
            assert "@import" not in served.text
    for foreign in ("cdn.", "unpkg", "jsdelivr", "googleapis", "gstatic", "validator.swagger.io"):
        assert foreign not in answer.text


@pytest.mark.parametrize("name", ["nothing.js", "..%2F..%2Fpyproject.toml", "%2e%2e", "%00", "x.map"])
async def test_nothing_else_is_served_as_an_asset(house: Bridge, name: str) -> None:
    answer = await house.api.get(f"/docs/assets/{name}")
    assert answer.status_code == 404
