"""Lists of templates: read from either shape, shared by callers, kept for a minute and, in need, an hour."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from schemas.tenants import SessionDefaults
from service.domain.api_keys.models import Principal
from service.domain.errors import VendorFailure, VendorRefused, VendorUnavailable
from service.domain.ids import DEFAULT_ACCOUNT, Account, KeyId, TenantId
from service.domain.templates import Templates, VendorTemplate
from service.eka.http_exchange import VendorAnswer
from service.eka.templates import EkaTemplates, read_templates

ONE, TWO = VendorTemplate(id="one", title="One"), VendorTemplate(id="two", title="Two")


def principal(account: str = DEFAULT_ACCOUNT) -> Principal:
    return Principal(
        key_id=KeyId("key_1"),
        tenant_id=TenantId("ten_1"),
        role="emr",
        defaults=SessionDefaults(templates=["mine"]),
        account=Account(account),
    )


class Source:
    """Answers what it is told to; `gate` holds its answers back."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.was_asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def list_templates(self, account: Account) -> list[VendorTemplate] | None:
        self.asked.append(account)
        self.was_asked.set()
        await self.gate.wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        found: list[VendorTemplate] | None = answer
        return found


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def away() -> VendorUnavailable:
    return VendorUnavailable("away", sent=False)


async def test_a_list_is_kept_for_a_minute():
    source, time = Source([ONE], [TWO]), Time()
    templates = Templates(source=source, time=time)
    for _ in range(3):
        assert await templates.available(principal()) == [ONE]
    time.now += 60
    assert await templates.available(principal()) == [TWO]
    assert len(source.asked) == 2


async def test_an_hour_old_list_serves_while_the_vendor_is_away_and_no_older_one():
    source, time = Source([ONE], away(), away()), Time()
    templates = Templates(source=source, time=time)
    await templates.available(principal())
    time.now += 3599
    assert await templates.available(principal()) == [ONE]
    time.now += 1
    with pytest.raises(VendorUnavailable):
        await templates.available(principal())


async def test_each_account_has_its_own_list():
    templates = Templates(source=Source([ONE], [TWO]), time=Time())
    assert await templates.available(principal()) == [ONE]
    assert await templates.available(principal("ten_2")) == [TWO]


async def test_callers_share_a_look_and_one_that_leaves_cancels_nothing():
    source = Source([ONE])
    source.gate.clear()
    templates = Templates(source=source, time=Time())
    callers = [asyncio.create_task(templates.available(principal())) for _ in range(10)]
    await source.was_asked.wait()
    callers[0].cancel()
    source.gate.set()
    found = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1:] == [[ONE]] * 9
    assert len(source.asked) == 1


async def test_without_a_list_the_tenant_s_defaults_are_named_and_that_is_kept_too():
    source = Source(None)
    templates = Templates(source=source, time=Time())
    for _ in range(2):
        (found,) = await templates.available(principal())
        assert (found.id, found.title, found.is_default) == ("mine", "mine", True)
    assert len(source.asked) == 1


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"id": "a"}, VendorTemplate(id="a", title="a")),
        ({"id": "a", "name": "N", "title": "T"}, VendorTemplate(id="a", title="N")),
        ({"id": "a", "name": None, "title": "T", "desc": "D"},
         VendorTemplate(id="a", title="T", description="D")),
        ({"id": "a", "title": 5, "description": [], "default": "yes"}, VendorTemplate(id="a", title="a")),
        ({"id": "a", "title": "x" * 900, "default": True},
         VendorTemplate(id="a", title="x" * 200, is_default=True)),
        ({"id": 7}, None),
        ({"id": "with blank"}, None),
        ({"id": "x" * 129}, None),
        ("text", None),
        (None, None),
    ],
)  # fmt: skip
def test_an_entry_is_read_or_left_out(entry: Any, expected: VendorTemplate | None):
    found = read_templates(json.dumps({"items": [entry, {"id": "z"}]}).encode())
    assert found == [*([expected] if expected else []), VendorTemplate(id="z", title="z")]


def test_a_list_without_end_is_cut_and_ids_are_told_once():
    many = [{"id": f"t{number}"} for number in range(2000)]
    assert len(read_templates(json.dumps({"templates": many}).encode())) == 500
    twice = [{"id": "a", "name": "first"}, {"id": "a", "name": "second"}]
    assert [each.title for each in read_templates(json.dumps({"templates": twice}).encode())] == ["first"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"templates": {}}', b"{}", b"[" * 5000, b"\xff"])
def test_what_is_no_list_is_no_answer(body: bytes):
    with pytest.raises(VendorFailure):
        read_templates(body)


class Client:
    """Answers by path, as EkaClient.ask does."""

    def __init__(self, **answers: tuple[int, bytes]) -> None:
        self.answers = {"/voice/v1/templates": answers["own"], "/voice/api/v1/template": answers["other"]}
        self.asked: list[str] = []

    async def ask(self, account: Account, method: str, url: str, **_: Any) -> VendorAnswer:
        self.asked.append(url)
        status, body = self.answers[url]
        return VendorAnswer(status, None, body)


async def test_a_server_s_permanent_500_is_seen_once():
    client = Client(own=(500, b"{}"), other=(200, b'{"items": [{"id": "a"}]}'))
    source = EkaTemplates(client)  # type: ignore[arg-type]
    for _ in range(3):
        assert await source.list_templates(DEFAULT_ACCOUNT) == [VendorTemplate(id="a", title="a")]
    assert client.asked.count("/voice/v1/templates") == 1
    assert client.asked.count("/voice/api/v1/template") == 3
    client.answers["/voice/api/v1/template"] = (404, b"{}")
    client.answers["/voice/v1/templates"] = (200, b'{"templates": [{"id": "b"}]}')
    assert await source.list_templates(DEFAULT_ACCOUNT) == [VendorTemplate(id="b", title="b")]


@pytest.mark.parametrize("status", [401, 403])
async def test_credentials_that_are_refused_are_told_and_no_other_list_is_asked(status: int):
    client = Client(own=(status, b"{}"), other=(200, b'{"items": []}'))
    with pytest.raises(VendorRefused):
        await EkaTemplates(client).list_templates(DEFAULT_ACCOUNT)  # type: ignore[arg-type]
    assert client.asked == ["/voice/v1/templates"]
