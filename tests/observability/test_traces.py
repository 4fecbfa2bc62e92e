"""One dictation is one trace, across processes, from the EMR's call to the EMR's own endpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar, Request, post
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from service.observability.tracing import is_wanted
from service.sandbox.serving import serve_app
from tests.support.rig import Rig, open_rig, until

EMR_TRACE, EMR_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
END_TRACE = "0af7651916cd43dd8448eb211c80319c"


@dataclass
class Collector:
    """A collector of OTLP over HTTP: what it was sent, and by which services."""

    raw: bytes = b""
    spans: list[tuple[str, Span]] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        self.raw += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [(named["service.name"], each) for each in scope.spans]

    def of(self, trace_id: str) -> list[tuple[str, Span]]:
        return [(service, each) for service, each in self.spans if each.trace_id.hex() == trace_id]

    def one(self, name: str) -> Span:
        """The first span of that name."""
        return min(
            (each for _, each in self.spans if each.name == name), key=lambda each: each.start_time_unix_nano
        )


def make_app(collector: Collector) -> Litestar:
    @post("/v1/traces", media_type="application/x-protobuf")
    async def take(request: Request[Any, Any, Any]) -> bytes:
        collector.take(await request.body())
        return b""

    return Litestar([take], openapi_config=None)


@pytest.fixture
async def rig(database_url: str, redis_url: str) -> AsyncIterator[Rig]:
    async with open_rig(database_url, redis_url) as opened:
        yield opened


async def vendor_calls(rig: Rig) -> list[dict[str, Any]]:
    answer = (await rig.vendor.get("/_control/calls")).json()
    return answer["items"] if isinstance(answer, dict) else answer


async def dictate_traced(rig: Rig, url: str) -> str:
    api = await rig.client(await rig.serve())
    await rig.worker()
    await rig.register_emr(api)
    created = await api.post(
        "/v1/sessions",
        json={"patient": {"id": "PAT-1", "name": "Asha Rao"}, "reference": "ENC-7"},
        headers={"traceparent": f"00-{EMR_TRACE}-{EMR_SPAN}-01"},
    )
    session_id = created.json()["id"]
    # The first call of a dictation says whose trace it is; the others need not.
    stored = await api.put(
        f"/v1/sessions/{session_id}/audio/0", content=b"audio", headers={"content-type": "audio/wav"}
    )
    assert stored.status_code == 200, stored.text
    ended = await api.post(
        f"/v1/sessions/{session_id}/end",
        json={"chunks": 1},
        headers={"traceparent": f"00-{END_TRACE}-{EMR_SPAN}-01"},
    )
    assert ended.status_code == 202, ended.text
    return str(session_id)


async def test_a_dictation_is_one_trace_through_every_process(rig: Rig, tmp_path: Path) -> None:
    collector = Collector()
    async with serve_app(make_app(collector)) as url:
        rig.environment |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "EKABRIDGE_FORWARD_TIMEOUT_SECONDS": "20",  # one delivery, however busy the machine
        }
        rig.log = tmp_path / "log"
        session_id = await dictate_traced(rig, url)
        (received,) = await rig.received(1)

        async def is_whole() -> bool:
            names = {each.name for _, each in collector.spans}
            return {"delivery", "fetch", "webhook", "POST /v1/sessions/{session_id}/end"} <= names

        await until(is_whole)
        stops = [await each.stop() for each in rig.running]
    assert stops == [0, 0]

    request = collector.one("POST /v1/sessions")
    assert request.trace_id.hex() == EMR_TRACE
    assert request.parent_span_id.hex() == EMR_SPAN
    inside = {(service, each.name) for service, each in collector.of(EMR_TRACE)}
    # Who needs a token or EkaScribe's limits first asks for them.
    assert {each for each in inside if each[1] not in {"eka login", "eka discovery"}} == {
        ("ekabridge-serve", "POST /v1/sessions"),
        ("ekabridge-serve", "PUT /v1/sessions/{session_id}/audio/{sequence}"),
        ("ekabridge-serve", "eka create"),
        ("ekabridge-serve", "eka upload"),
        ("ekabridge-serve", "webhook"),
        ("ekabridge-worker", "delivery"),
        ("ekabridge-worker", "eka get"),
        ("ekabridge-worker", "fetch"),
    }
    for child, parent in {
        "eka create": "POST /v1/sessions",
        "PUT /v1/sessions/{session_id}/audio/{sequence}": "POST /v1/sessions",
        "eka upload": "PUT /v1/sessions/{session_id}/audio/{sequence}",
        "webhook": "POST /v1/sessions",
        "fetch": "POST /v1/sessions",
        "eka get": "fetch",
        "delivery": "POST /v1/sessions",
    }.items():
        assert collector.one(child).parent_span_id == collector.one(parent).span_id, child
    # A call that comes with a trace of its own stays there, and points to the dictation's.
    end = collector.one("POST /v1/sessions/{session_id}/end")
    assert end.trace_id.hex() == END_TRACE
    assert [(link.trace_id.hex(), link.span_id) for link in end.links] == [(EMR_TRACE, request.span_id)]
    assert collector.one("eka end").parent_span_id == end.span_id

    sent = {name: each for name, each in received["headers"].items() if name == "traceparent"}
    assert sent == {"traceparent": f"00-{EMR_TRACE}-{collector.one('delivery').span_id.hex()}-01"}
    assert received["verified"] is True
    upload = collector.one("eka upload")
    heard = [
        call["headers"].get("traceparent") for call in await vendor_calls(rig) if "/audio" in call["path"]
    ]
    assert heard == [f"00-{EMR_TRACE}-{upload.span_id.hex()}-01"]

    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line[:1] == "{"]
    traced = {line["event"] for line in lines if line.get("trace_id") == EMR_TRACE}
    assert {"request", "webhook_received", "fetch", "delivery_attempted"} <= traced

    assert session_id.encode() in collector.raw
    for secret in (b"Asha", b"PAT-1", b"ENC-7", rig.key.encode(), b"sandbox-secret"):
        assert secret not in collector.raw


async def test_without_the_variables_nothing_is_traced_or_passed_on(rig: Rig) -> None:
    await dictate_traced(rig, "")
    (received,) = await rig.received(1)
    assert "traceparent" not in received["headers"]
    assert not any("traceparent" in call["headers"] for call in await vendor_calls(rig))


async def test_a_collector_that_is_away_costs_nobody_anything(rig: Rig) -> None:
    rig.environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    await dictate_traced(rig, "")
    assert len(await rig.received(1)) == 1
    assert [await each.stop() for each in rig.running] == [0, 0]


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
    ],
)
def test_the_standard_variables_turn_it_on(environment: dict[str, str], wanted: bool) -> None:
    assert is_wanted(environment) is wanted


def test_the_sdk_is_not_loaded_before_it_is_wanted() -> None:
    program = (
        "import sys, service.app, service.worker;"
        "sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
