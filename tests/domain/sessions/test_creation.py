"""A create call that was sent and not answered well is asked after before anything else is done."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.sessions import SessionCreate, Upload
from service.domain.ids import SessionId
from service.domain.sessions.lifecycle import plan_session
from tests.support.fakes import MemorySessions
from tests.support.lifecycles import make_life
from tests.support.makers import SESSION, TurnedClock, make_lease, make_plan, make_principal
from tests.support.vendor_calls import ScriptedEka

ERROR = {"code": "unexpected_error", "message": "An unexpected error occurred"}
# The recorded answer to a stream's create call on premises, and the session that it had made all the same.
RECORDED = {"status": "failed", "error": ERROR, "txn_id": SESSION, "b_id": "onprem-workspace"}
MADE = {"session_id": SESSION, "status": "initialized", "upload_url": "ws://upstream.test/stream"}


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
@pytest.mark.parametrize("body", [RECORDED, {"error": {"code": "session_ended"}}, {"detail": "no"}, [], None])
async def test_any_5xx_may_have_made_the_session(status: int, body: Any) -> None:
    eka, store = ScriptedEka((status, body), (202, MADE)), MemorySessions()
    async with eka.client() as client:
        life = make_life(store, client, TurnedClock())
        await life.create_at_vendor(make_plan(upload="stream"), make_lease(), maybe_sent=False)
    assert [each.method for each in eka.sent] == ["POST", "GET"]
    assert store.recorded == ["created"]
    assert store.created is not None
    assert store.created.upload_url == MADE["upload_url"]


async def test_an_unreadable_success_may_have_made_it_too() -> None:
    eka, store = ScriptedEka((201, []), (202, MADE)), MemorySessions()
    async with eka.client() as client:
        life = make_life(store, client, TurnedClock())
        await life.create_at_vendor(make_plan(), make_lease(), maybe_sent=False)
    assert [each.method for each in eka.sent] == ["POST", "GET"]


async def test_fields_of_another_type_do_not_cost_the_session() -> None:
    odd = {"session_id": SESSION, "upload_url": {"uploadData": {}}, "expires_at": 1795256029}
    eka = ScriptedEka((201, odd | {"patient_details": "Asha", "session_details": 7}), (200, {}))
    async with eka.client() as client:
        made = await client.create_session(make_plan())
    assert (made.upload_url, made.expires_at) == (None, None)


@pytest.mark.parametrize(("upload", "days"), [("chunked", 0), ("stream", 0), ("recording", None)])
def test_a_stream_keeps_its_audio_as_its_tenant_chose(upload: Upload, days: int | None) -> None:
    plan = plan_session(make_principal(), SessionCreate(upload=upload), SessionId(SESSION), "until_result")
    assert plan.keep_audio_days == days
