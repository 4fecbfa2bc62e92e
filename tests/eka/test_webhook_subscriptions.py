"""One subscription of ours at each of the vendor's two APIs, however it lists them; others' stay."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import msgspec
import pytest

from service.domain.ids import DEFAULT_ACCOUNT, Account
from service.domain.vendor_limits import Limits
from service.eka.call_limiter import CallLimiters
from service.eka.discovery import SEED_LIMITS
from service.eka.webhook_subscriptions import CONNECT_PATH, Subscriptions, webhook_endpoint
from tests.support.makers import TENANT
from tests.support.vendor_calls import open_client

BASE = "https://eka.example"
PROTOCOL_PATH = "/voice/v1/webhooks"
OURS = "https://bridge.example/webhooks/eka"
OTHER = "https://other.example/webhooks/eka?token=hush"


class Vendor:
    """Both of the vendor's APIs, or one, or none; its lists have the shape that a test wants."""

    def __init__(self, wrap: Any = lambda found: found, *, without: tuple[str, ...] = ()) -> None:
        self.wrap = wrap
        self.without = without
        self.known: dict[str, list[dict[str, Any]]] = {CONNECT_PATH: [], PROTOCOL_PATH: []}
        self.status: dict[tuple[str, str], int] = {}
        self.calls: list[tuple[str, str, Any]] = []
        self.id_name = "id"

    async def take(self, request: httpx2.Request) -> httpx2.Response:
        raw = request.url.raw_path.decode()
        path, _, subscription_id = raw.partition("/sub-")
        body = json.loads(request.content) if request.content else None
        self.calls.append((request.method, raw, body))
        assert request.url.host == "eka.example"
        assert request.headers["authorization"] == "Bearer token"
        if path in self.without:
            return httpx2.Response(405 if path == PROTOCOL_PATH else 404)
        if status := self.status.get((request.method, path)):
            return httpx2.Response(status, json={"detail": "no"})
        if path not in self.known:
            return httpx2.Response(404)
        known = self.known[path]
        if request.method == "GET":
            return httpx2.Response(200, content=json.dumps(self.wrap(known)).encode())
        if request.method == "DELETE":
            kept = [each for each in known if each[self.id_name] != f"sub-{subscription_id}"]
            self.known[path] = kept
            return httpx2.Response(204 if len(kept) < len(known) else 404)
        target = body.get("endpoint", body.get("url"))
        if any(target in each.values() for each in known):
            return httpx2.Response(400, json={"code": 400, "error": "registered"})
        number = sum(len(each) for each in self.known.values()) + 1
        known.append({self.id_name: f"sub-{number}", "status": "active", **body})
        return httpx2.Response(201, json={"id": f"sub-{number}", "status": "success"})

    def endpoints(self, path: str) -> list[str]:
        return [str(each.get("endpoint", each.get("url"))) for each in self.known[path]]

    def count(self, method: str) -> int:
        return sum(each == method for each, _, _ in self.calls)


class Garbled(Vendor):
    """Answers what nobody can read."""

    async def take(self, request: httpx2.Request) -> httpx2.Response:
        await super().take(request)
        return httpx2.Response(200, content=b"<html>")


@asynccontextmanager
async def subscriptions(
    vendor: Vendor, webhooks_url: str | None = BASE + PROTOCOL_PATH
) -> AsyncIterator[Subscriptions]:
    async def limits() -> Limits:
        return msgspec.structs.replace(SEED_LIMITS, webhooks_url=webhooks_url)

    async with open_client(vendor.take, call_limiters=CallLimiters(max_calls=8), token="token") as client:
        yield Subscriptions(client=client, limits=limits)


SHAPES: dict[str, Any] = {
    "bare": lambda found: found,
    "data": lambda found: {"data": found},
    "subscriptions": lambda found: {"subscriptions": found, "total": len(found)},
    "webhooks": lambda found: {"webhooks": found},
    "data of data": lambda found: {"status": "success", "data": {"subscriptions": found}},
    "odd entries": lambda found: [None, 5, {"id": 1}, {"endpoint": 7}, *found],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("id_name", ["id", "webhook_id"])
async def test_registering_twice_leaves_one_of_each_and_removing_leaves_those_of_others(shape, id_name):
    vendor = Vendor(SHAPES[shape])
    vendor.id_name = id_name
    for path in vendor.known:
        vendor.known[path].append({id_name: "sub-other", "endpoint": OTHER, "signing_key": "hush"})
    async with subscriptions(vendor) as ours:
        first = await ours.register(DEFAULT_ACCOUNT, OURS, "key-1")
        again = await ours.register(DEFAULT_ACCOUNT, OURS, "key-2")
        removed = await ours.remove(DEFAULT_ACCOUNT, OURS)
        nothing = await ours.remove(DEFAULT_ACCOUNT, OURS)
    outcomes = [[each.outcome for each in report.apis] for report in (first, again, removed, nothing)]
    assert outcomes == [["registered"] * 2, ["already"] * 2, ["removed"] * 2, ["absent"] * 2]
    assert all(report.is_well for report in (first, again, removed, nothing))
    assert [(each.api, each.ours) for each in again.items] == [
        ("connect", False), ("connect", True), ("protocol", False), ("protocol", True),
    ]  # fmt: skip
    assert vendor.count("POST") == 2
    assert vendor.count("DELETE") == 2
    assert [vendor.endpoints(path) for path in vendor.known] == [[OTHER], [OTHER]]
    assert "hush" not in msgspec.json.encode(again).decode()


async def test_what_is_registered_says_which_events_and_how_they_are_signed():
    vendor = Vendor()
    async with subscriptions(vendor) as ours:
        await ours.register(DEFAULT_ACCOUNT, OURS, "key-1")
    bodies = [body for method, _, body in vendor.calls if method == "POST"]
    assert bodies == [
        {
            "event_names": ["v2rx.completed"],
            "endpoint": OURS,
            "protocol": "https",
            "signing_key": "key-1",
        },
        {
            "url": OURS,
            "events": ["session.completed", "session.partial", "session.failed", "session.expired"],
            "secret": "key-1",
        },
    ]


async def test_without_a_secret_none_is_named():
    vendor = Vendor()
    async with subscriptions(vendor) as ours:
        await ours.register(DEFAULT_ACCOUNT, "http://bridge.example/webhooks/eka", None)
    connect, protocol = (body for method, _, body in vendor.calls if method == "POST")
    assert "signing_key" not in connect
    assert "secret" not in protocol
    assert connect["protocol"] == "http"


@pytest.mark.parametrize(("missing", "there"), [(CONNECT_PATH, PROTOCOL_PATH), (PROTOCOL_PATH, CONNECT_PATH)])
async def test_one_of_the_two_apis_is_enough(missing: str, there: str):
    vendor = Vendor(without=(missing,))
    async with subscriptions(vendor) as ours:
        report = await ours.register(DEFAULT_ACCOUNT, OURS, "key")
        assert sorted(each.outcome for each in report.apis) == ["registered", "unavailable"]
        assert report.is_well
        assert vendor.endpoints(there) == [OURS]
        assert (await ours.look(DEFAULT_ACCOUNT, OURS)).is_well
        assert (await ours.remove(DEFAULT_ACCOUNT, OURS)).is_well
        assert vendor.endpoints(there) == []


async def test_a_vendor_with_neither_is_told():
    vendor = Vendor(without=(CONNECT_PATH, PROTOCOL_PATH))
    async with subscriptions(vendor) as ours:
        for report in (
            await ours.register(DEFAULT_ACCOUNT, OURS, "key"),
            await ours.look(DEFAULT_ACCOUNT, OURS),
            await ours.remove(DEFAULT_ACCOUNT, OURS),
        ):
            assert [each.outcome for each in report.apis] == ["unavailable", "unavailable"]
            assert not report.is_well


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.example/voice/v1/webhooks",
        "http://eka.example/voice/v1/webhooks",
        "https://eka.example:8443/voice/v1/webhooks",
        "https://eka.example.evil.example/voice/v1/webhooks",
        None,
    ],
)
async def test_a_token_goes_to_no_other_origin(elsewhere: str | None):
    vendor = Vendor()
    async with subscriptions(vendor, elsewhere) as ours:
        report = await ours.register(DEFAULT_ACCOUNT, OURS, "key")
        assert [each.outcome for each in report.apis] == ["registered", "unavailable"]
        assert report.apis[1].detail
        with pytest.raises(Exception, match="not EkaScribe's"):
            await ours._client.ask(DEFAULT_ACCOUNT, "GET", elsewhere or "https://evil.example/")
    assert {path for _, path, _ in vendor.calls} == {CONNECT_PATH}


async def test_a_failure_at_one_api_is_told_and_the_other_is_done():
    vendor = Vendor()
    vendor.status["POST", CONNECT_PATH] = 503
    async with subscriptions(vendor) as ours:
        report = await ours.register(DEFAULT_ACCOUNT, OURS, "key")
    assert [each.outcome for each in report.apis] == ["failed", "registered"]
    assert "503" in str(report.apis[0].detail)
    assert not report.is_well


async def test_a_refusal_that_is_no_repeat_is_a_failure():
    vendor = Vendor()
    vendor.status["POST", CONNECT_PATH] = 400
    async with subscriptions(vendor) as ours:
        report = await ours.register(DEFAULT_ACCOUNT, OURS, "key")
    assert report.apis[0].outcome == "failed"


async def test_somebody_who_registers_at_the_same_moment_does_no_harm():
    vendor = Vendor()
    empty_once = iter([[]])
    vendor.wrap = lambda found: next(empty_once, found)
    vendor.known[CONNECT_PATH].append({"id": "sub-1", "endpoint": OURS})
    async with subscriptions(vendor, None) as ours:
        report = await ours.register(DEFAULT_ACCOUNT, OURS, "key")
    assert report.apis[0].outcome == "already"
    assert vendor.endpoints(CONNECT_PATH) == [OURS]


@pytest.mark.parametrize("there", [True, False])
async def test_a_list_that_cannot_be_had_does_not_hinder_registering(there: bool):
    vendor = Vendor()
    vendor.status["GET", CONNECT_PATH] = 404
    if there:
        vendor.known[CONNECT_PATH].append({"id": "sub-1", "endpoint": OURS})
    async with subscriptions(vendor, None) as ours:
        report = await ours.register(DEFAULT_ACCOUNT, OURS, "key")
    assert report.apis[0].outcome == ("already" if there else "registered")
    assert vendor.endpoints(CONNECT_PATH) == [OURS]


async def test_a_list_that_cannot_be_read_is_a_failure_and_removes_nothing():
    vendor = Garbled()
    vendor.known[CONNECT_PATH].append({"id": "sub-1", "endpoint": OURS})
    async with subscriptions(vendor, None) as ours:
        report = await ours.remove(DEFAULT_ACCOUNT, OURS)
    assert report.apis[0].outcome == "failed"
    assert vendor.count("DELETE") == 0


async def test_ours_without_an_id_cannot_be_removed_and_it_is_said():
    vendor = Vendor()
    vendor.known[CONNECT_PATH].append({"endpoint": OURS})
    async with subscriptions(vendor, None) as ours:
        report = await ours.remove(DEFAULT_ACCOUNT, OURS)
    assert report.apis[0].outcome == "failed"
    assert "without an id" in str(report.apis[0].detail)


async def test_an_id_is_one_step_of_the_path():
    vendor = Vendor()
    vendor.known[CONNECT_PATH].append({"id": "../../voice/v1/sessions", "endpoint": OURS + "/"})
    async with subscriptions(vendor, None) as ours:
        await ours.remove(DEFAULT_ACCOUNT, OURS)
    method, path, _ = vendor.calls[-1]
    assert method == "DELETE"
    assert path == f"{CONNECT_PATH}/..%2F..%2Fvoice%2Fv1%2Fsessions"


def test_each_account_has_a_door_of_its_own():
    assert webhook_endpoint("https://b.example", DEFAULT_ACCOUNT) == "https://b.example/webhooks/eka"
    assert (
        webhook_endpoint("https://b.example", Account(TENANT)) == f"https://b.example/webhooks/eka/{TENANT}"
    )
