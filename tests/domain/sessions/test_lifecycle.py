"""A create and an end reach the vendor once, whatever becomes of the answers.

See docs/vendor.md#create-twice and docs/vendor.md#end-twice.
"""

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from schemas.sessions import SessionEnd
from service.domain.errors import (
    AudioIncomplete,
    AudioMissing,
    EncryptionKeyMissing,
    NotFound,
    SessionEnded,
    SessionExpired,
    SessionNotReady,
    VendorCallHeldBack,
    VendorFailure,
    VendorRefused,
    VendorTimeout,
    VendorUnavailable,
)
from service.domain.ids import DEFAULT_ACCOUNT, UNFILTERED, Account, TemplateId, VendorSessionId
from service.domain.results.models import VendorResult
from service.domain.sessions.models import EndState, PendingCall, SessionPlan, VendorEnd, VendorSession
from tests.support.fakes import MemorySessions, ScriptedVendor
from tests.support.lifecycles import Connections, make_life, make_pending_calls
from tests.support.makers import (
    AT_VENDOR,
    SESSION,
    TENANT,
    TurnedClock,
    make_lease,
    make_plan,
    make_principal,
    make_result,
)

MADE = VendorSession(upload_url="https://api.eka.care/u", expires_at=None)


LOST = VendorTimeout("no answer", sent=True)


BROKEN = VendorFailure("500", sent=True)


UNSENT = VendorUnavailable("refused", sent=False)


REFUSED = VendorRefused("no", status=400, vendor_code="bad_request")


OPEN, MISSING, PROCESSING = (
    make_result("open", upload_url="u"),
    make_result("missing"),
    make_result("processing"),
)


CLOSED = VendorCallHeldBack("closed", retry_after_seconds=3.0)


class Desk:
    """A SessionLifecycle with everything that it talks to."""

    def __init__(self, state: EndState | None = None) -> None:
        self.vendor = ScriptedVendor()
        self.store = MemorySessions(state)
        self.clock = TurnedClock()
        self.life = make_life(self.store, self.vendor, self.clock)
        self.pending_calls = make_pending_calls(self.store, self.vendor, self.clock)

    async def create_at_vendor(self, *, maybe_sent: bool = False) -> None:
        await self.life.create_at_vendor(make_plan(), make_lease(), maybe_sent=maybe_sent)

    async def end(self, **request: Any) -> None:
        await self.life.end(make_principal(), SESSION, SessionEnd(**request))


def creating(*creates: Any, asks: tuple[Any, ...] = (MISSING,)) -> Desk:
    desk = Desk()
    desk.vendor.creates = list(creates)
    desk.vendor.answers = {UNFILTERED: list(asks)}
    return desk


async def test_a_create_that_is_answered_is_made_once_and_recorded():
    desk = creating(MADE)
    await desk.create_at_vendor()
    assert desk.vendor.calls == ["create"]
    assert (desk.store.recorded, desk.store.created) == (["created"], MADE)


@pytest.mark.parametrize("unclear", [LOST, BROKEN])
async def test_after_an_unclear_create_it_asks_and_finds_the_session(unclear):
    desk = creating(unclear, asks=(OPEN,))
    await desk.create_at_vendor()
    assert desk.vendor.calls == ["create", "ask"]
    assert desk.store.created == VendorSession(upload_url="u", expires_at=None)


async def test_only_a_404_lets_it_send_the_create_again():
    desk = creating(LOST, MADE, asks=(MISSING,))
    await desk.create_at_vendor()
    assert desk.vendor.calls == ["create", "ask", "create"]
    assert desk.store.created == MADE


async def test_an_ask_that_fails_is_asked_again_and_not_taken_for_a_no():
    desk = creating(LOST, MADE, asks=(UNSENT, OPEN))
    await desk.create_at_vendor()
    assert desk.vendor.calls == ["create", "ask", "ask"]
    assert desk.store.recorded == ["created"]


async def test_a_create_that_was_never_sent_is_repeated_without_asking():
    desk = creating(UNSENT, UNSENT, MADE)
    await desk.create_at_vendor()
    assert desk.vendor.calls == ["create", "create", "create"]
    assert len(desk.clock.waits) == 2
    assert desk.clock.waits == sorted(desk.clock.waits)


async def test_a_call_that_may_have_been_sent_before_begins_by_asking():
    desk = creating(MADE, asks=(OPEN,))
    await desk.create_at_vendor(maybe_sent=True)
    assert desk.vendor.calls == ["ask"]
    desk = creating(MADE, asks=(MISSING,))
    await desk.create_at_vendor(maybe_sent=True)
    assert desk.vendor.calls == ["ask", "create"]


async def test_after_three_tries_the_create_is_held():
    desk = creating(UNSENT)
    await desk.create_at_vendor()
    assert desk.vendor.calls == ["create"] * 3
    assert desk.store.recorded == ["create_held"]
    assert desk.store.postponed_seconds[0] > 0


async def test_the_create_of_a_stream_is_held_like_any_other():
    desk = creating(UNSENT)
    await desk.life.create_at_vendor(make_plan(upload="stream"), make_lease(), maybe_sent=False)
    assert desk.store.recorded == ["create_held"]


async def test_a_refusal_ends_it_at_once():
    desk = creating(REFUSED)
    with pytest.raises(VendorRefused):
        await desk.create_at_vendor()
    assert desk.vendor.calls == ["create"]
    assert (desk.store.recorded, desk.store.error_code) == (["never_created"], "vendor_error")


async def test_a_long_retry_after_is_not_waited_for():
    desk = creating(VendorUnavailable("busy", sent=False, retry_after_seconds=30.0), MADE)
    await desk.create_at_vendor()
    assert (desk.vendor.calls, desk.clock.waits) == (["create"], [])
    assert desk.store.recorded == ["create_held"]


async def test_a_short_retry_after_is_waited_for():
    desk = creating(VendorUnavailable("busy", sent=False, retry_after_seconds=4.0), MADE)
    await desk.create_at_vendor()
    assert desk.clock.waits == [4.0]
    assert desk.vendor.calls == ["create", "create"]


async def test_a_session_that_another_call_took_over_is_not_answered_as_ours():
    desk = creating(MADE)
    desk.store.has_lease = False
    with pytest.raises(VendorUnavailable):
        await desk.create_at_vendor()
    assert desk.store.recorded == []


class Hanging(ScriptedVendor):
    """A vendor that takes the call and never answers."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = asyncio.Event()

    async def create_session(self, plan: SessionPlan) -> VendorSession:
        self.taken.set()
        await asyncio.Event().wait()
        raise AssertionError("never")

    async def end_session(self, account: Account, session_id: VendorSessionId, files_sent: int) -> VendorEnd:
        self.taken.set()
        await asyncio.Event().wait()
        raise AssertionError("never")


@pytest.mark.parametrize("call", ["create", "end"])
async def test_a_caller_that_goes_away_leaves_the_debt_in_its_row(call):
    vendor, store = Hanging(), MemorySessions(ended_state())
    life = make_life(store, vendor, TurnedClock())
    work = (
        life.create_at_vendor(make_plan(), make_lease(), maybe_sent=False)
        if call == "create"
        else life.end(make_principal(), SESSION, SessionEnd())
    )
    task = asyncio.create_task(work)
    await vendor.taken.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.recorded[-1] == "postponed"


class WitnessVendor:
    """A vendor that keeps what reached it; the script decides which answers get lost."""

    def __init__(self, draw: Any, *, creates: int = 0) -> None:
        self._draw = draw
        self.creates, self.ends = creates, 0
        self.trace: list[str] = []

    def _fate(self, call: str) -> str:
        fate = self._draw(st.sampled_from(["ok", "lost", "broke", "unsent", "busy"]))
        self.trace.append(f"{call}:{fate}")
        return str(fate)

    async def create_session(self, plan: SessionPlan) -> VendorSession:
        fate = self._fate("create")
        self.creates += fate in {"ok", "lost"}
        _fail(fate)
        return MADE

    async def end_session(self, account: Account, session_id: VendorSessionId, files_sent: int) -> VendorEnd:
        fate = self._fate("end")
        self.ends += fate in {"ok", "lost"}
        _fail(fate)
        return VendorEnd(files_received=files_sent)

    async def get_session(
        self, account: Account, session_id: VendorSessionId, template_id: TemplateId
    ) -> VendorResult:
        _fail(self._fate("ask"))
        if self.ends:
            return PROCESSING
        return OPEN if self.creates else MISSING

    async def upload_audio(self, *_: Any) -> None:
        raise AssertionError("no audio is sent here")


def _fail(fate: str) -> None:
    if fate in {"lost", "broke"}:
        raise VendorTimeout("no answer", sent=True)
    if fate in {"unsent", "busy"}:
        asked = 60.0 if fate == "busy" else None
        raise VendorUnavailable("not sent", sent=False, retry_after_seconds=asked)


def assert_asked_in_between(trace: list[str], call: str) -> None:
    is_unclear = False
    for entry in trace:
        if entry == "ask:ok":
            is_unclear = False
        elif entry.startswith(f"{call}:"):
            assert not is_unclear, trace
            is_unclear = entry.split(":")[1] in {"lost", "broke", "ok"}


@given(data=st.data(), runs=st.integers(1, 4))
def test_no_vendor_gets_a_second_create_whatever_is_lost(data, runs):
    vendor, store = WitnessVendor(data.draw), MemorySessions()
    life = make_life(store, vendor, TurnedClock())

    async def repeat() -> None:
        for run in range(runs):
            before = len(store.recorded)
            await life.create_at_vendor(make_plan(), make_lease(), maybe_sent=run > 0)
            assert store.recorded[before:] in (["create_held"], ["created"])
            if store.recorded[-1] == "created":
                assert vendor.creates == 1
                return

    asyncio.run(repeat())
    assert vendor.creates <= 1
    assert_asked_in_between(vendor.trace, "create")


@given(data=st.data(), runs=st.integers(1, 4))
def test_no_vendor_gets_a_second_end_whatever_is_lost(data, runs):
    vendor, store = WitnessVendor(data.draw, creates=1), MemorySessions()
    pending_calls = make_pending_calls(store, vendor, TurnedClock())

    async def repeat() -> None:
        for _ in range(runs):
            store.recorded.clear()
            await pending_calls.process(make_owed("end"))
            assert store.recorded in (["postponed"], ["end_told"])
            if store.recorded == ["end_told"]:
                return

    asyncio.run(repeat())
    assert vendor.ends <= 1
    assert_asked_in_between(["end:ok", *vendor.trace], "end")
    if store.recorded == ["end_told"]:
        assert vendor.ends == 1


def ended_state(**fields: Any) -> EndState:
    values: dict[str, Any] = {
        "vendor_id": AT_VENDOR,
        "account": DEFAULT_ACCOUNT,
        "status": "recording",
        "upload": "chunked",
        "templates": ["t"],
        "pending_call": None,
        "pending_call_is_free": True,
        "is_held": False,
        "is_past": False,
        "sequences": [0, 1, 2],
    }
    return EndState(**(values | fields))


def ending(*ends: Any, asks: tuple[Any, ...] = (PROCESSING,), **state: Any) -> Desk:
    desk = Desk(ended_state(**state))
    desk.vendor.ends = list(ends) or [VendorEnd(files_received=3)]
    desk.vendor.answers = {UNFILTERED: list(asks)}
    return desk


async def test_an_end_is_told_once_with_the_number_of_stored_chunks():
    desk = ending()
    await desk.end(chunks=3)
    assert desk.store.recorded == ["end_begun", "end_told"]
    assert (desk.vendor.calls, desk.vendor.files_sent) == (["end"], [3])
    assert desk.store.told == VendorEnd(files_received=3)


async def test_a_stream_s_end_announces_no_files_and_needs_none():
    desk = ending(upload="stream", sequences=[], has_stream_audio=True)
    await desk.end()
    assert desk.vendor.files_sent == [0]


async def test_by_the_protocol_s_rule_a_stream_may_be_ended_unheard():
    desk = ending(upload="stream", sequences=[])
    await desk.life.end(make_principal(), SESSION, SessionEnd(force=True), min_chunks=0)
    assert desk.vendor.files_sent == [0]


@pytest.mark.parametrize(
    ("state", "request_", "error", "missing"),
    [
        ({"sequences": [0, 2, 5]}, {}, AudioIncomplete, [1, 3, 4]),
        ({"sequences": [1]}, {}, AudioIncomplete, [0]),
        ({"sequences": [0, 1]}, {"chunks": 4}, AudioIncomplete, [2, 3]),
        ({"sequences": []}, {}, AudioMissing, None),
        ({"sequences": []}, {"chunks": 2}, AudioMissing, [0, 1]),
        ({"sequences": []}, {"chunks": 2, "force": True}, AudioMissing, [0, 1]),
        ({"is_past": True}, {}, SessionExpired, None),
        ({"status": "expired"}, {}, SessionExpired, None),
        ({"status": "cancelled"}, {}, SessionEnded, None),
        ({"pending_call": "create", "status": "created"}, {}, SessionNotReady, None),
    ],
)
async def test_an_end_that_cannot_be_is_refused_and_nobody_is_told(state, request_, error, missing):
    desk = ending(**state)
    with pytest.raises(error) as refusal:
        await desk.end(**request_)
    assert refusal.value.extra.get("missing") == missing
    assert (desk.vendor.calls, desk.store.recorded) == ([], [])


async def test_holes_are_accepted_when_the_emr_insists():
    desk = ending(sequences=[0, 2])
    await desk.end(chunks=5, force=True)
    assert desk.vendor.files_sent == [2]


async def test_fewer_announced_chunks_than_stored_is_no_hole():
    desk = ending()
    await desk.end(chunks=1)
    assert desk.vendor.files_sent == [3]


async def test_a_session_of_nobody_s_cannot_be_ended():
    desk = Desk(None)
    with pytest.raises(NotFound):
        await desk.end()


@pytest.mark.parametrize("status", ["processing", "completed", "partial", "failed"])
async def test_calling_end_again_calls_nobody(status):
    desk = ending(status=status, pending_call=None)
    await desk.end(chunks=99)
    assert (desk.vendor.calls, desk.store.recorded) == ([], [])


async def test_calling_end_while_another_call_is_at_it_calls_nobody():
    desk = ending(status="processing", pending_call="end", pending_call_is_free=False)
    await desk.end()
    assert (desk.vendor.calls, desk.store.recorded) == ([], [])


async def test_an_end_that_nobody_finished_is_taken_over_and_asked_for_first():
    desk = ending(status="processing", pending_call="end", pending_call_is_free=True)
    await desk.end()
    assert desk.store.recorded == ["end_taken_over", "end_told"]
    assert desk.vendor.calls == ["ask"]


async def test_an_unclear_end_is_asked_for_and_repeated_only_if_the_session_is_still_open():
    desk = ending(LOST, VendorEnd(files_received=3), asks=(OPEN,))
    await desk.end()
    assert desk.vendor.calls == ["end", "ask", "end"]
    desk = ending(LOST, asks=(PROCESSING,))
    await desk.end()
    assert desk.vendor.calls == ["end", "ask"]
    assert desk.store.recorded == ["end_begun", "end_told"]


async def test_an_end_whose_answer_was_lost_is_compared_with_the_files_that_the_look_found():
    held = VendorEnd(files_received=2, sequences=[0, 2])
    desk = ending(LOST, asks=(make_result("processing", audio=held),))
    await desk.end()
    assert (desk.vendor.calls, desk.store.told) == (["end", "ask"], held)


@pytest.mark.parametrize(("missing", "told"), [(None, []), ([], [0]), ([1, 2], [2])])
async def test_fewer_files_than_were_confirmed_are_told_in_the_log(missing, told):
    desk = ending(VendorEnd(files_received=1))
    desk.store.missing = missing
    with capture_logs() as logs:
        await desk.end()
    assert [each["missing"] for each in logs if each["event"] == "vendor_holds_fewer_files"] == told


@pytest.mark.parametrize("failure", [UNSENT, LOST])
async def test_an_end_without_an_answer_ends_the_session_here_and_stays_pending(failure):
    desk = ending(failure, asks=(failure,))
    await desk.end()
    assert desk.store.recorded == ["end_begun", "postponed"]


async def test_a_refused_end_leaves_the_session_ended_and_the_call_pending():
    desk = ending(REFUSED, asks=(REFUSED,))
    with pytest.raises(VendorRefused):
        await desk.end()
    assert desk.store.recorded == ["end_begun", "postponed"]


async def test_the_end_of_a_session_with_held_audio_calls_nobody():
    desk = ending(is_held=True, pending_call="audio")
    await desk.end()
    assert (desk.vendor.calls, desk.store.recorded) == ([], ["held_end_begun"])


async def test_a_session_whose_create_call_is_held_can_be_ended():
    desk = ending(is_held=True, pending_call="create", status="recording")
    await desk.end()
    assert (desk.vendor.calls, desk.store.recorded) == ([], ["held_end_begun"])


@pytest.mark.parametrize(("first", "calls"), [(UNSENT, ["end"]), (LOST, ["end", "ask"])])
async def test_an_end_is_not_repeated_once_the_session_was_cancelled_and_its_lease_is_released(first, calls):
    desk = ending(first, VendorEnd(files_received=3), asks=(OPEN,))
    desk.store.was_cancelled = True
    await desk.end()
    assert (desk.vendor.calls, desk.store.recorded) == (calls, ["end_begun", "postponed"])


async def test_an_abandoned_end_is_not_made_when_the_session_was_cancelled_while_it_was_looked_for():
    desk = ending(asks=(OPEN,))
    desk.store.was_cancelled = True
    await desk.pending_calls.process(make_owed("end"))
    assert (desk.vendor.calls, desk.store.recorded) == (["ask"], ["postponed"])


def make_owed(call: Any, **fields: Any) -> PendingCall:
    values: dict[str, Any] = {
        "session_id": SESSION,
        "vendor_id": AT_VENDOR,
        "tenant_id": TENANT,
        "account": DEFAULT_ACCOUNT,
        "call": call,
        "lease": make_lease(),
        "attempts": 2,
        "upload": "chunked",
        "chunks": 3,
    }
    return PendingCall(**(values | fields))


@pytest.mark.parametrize(
    ("answer", "attempts", "recorded"),
    [
        (OPEN, 2, ["created"]),
        (PROCESSING, 2, ["created"]),
        (MISSING, 2, ["never_created"]),
        (UNSENT, 2, ["postponed"]),
        (LOST, 19, ["postponed"]),
        (LOST, 20, ["never_created"]),
        (REFUSED, 2, ["postponed"]),
    ],
)
async def test_an_abandoned_create_is_looked_for_and_never_made(answer, attempts, recorded):
    desk = creating(MADE, asks=(answer,))
    await desk.pending_calls.process(make_owed("create", attempts=attempts))
    assert desk.vendor.calls == ["ask"]
    assert desk.store.recorded == recorded


async def test_an_abandoned_end_is_asked_for_before_it_is_told_again():
    desk = ending(asks=(OPEN,))
    await desk.pending_calls.process(make_owed("end"))
    assert (desk.vendor.calls, desk.store.recorded) == (["ask", "end"], ["end_told"])


async def test_a_stream_whose_audio_is_held_goes_to_a_second_session_and_the_first_is_not_ended() -> None:
    desk = ending(upload="stream", sequences=[], has_stream_audio=True)
    desk.store.has_held_stream = True
    await desk.end()
    assert desk.vendor.calls == []
    assert desk.store.recorded[-1] == "stream_handed_over"


async def test_a_stream_without_audio_cannot_be_ended() -> None:
    desk = ending(upload="stream", sequences=[])
    with pytest.raises(AudioMissing):
        await desk.end()
    assert desk.vendor.calls == []


@pytest.mark.parametrize("open_looks", [0, 3])
async def test_the_vendor_is_told_of_the_end_when_the_stream_has_closed(open_looks: int) -> None:
    desk, streams = ending(upload="stream", sequences=[], has_stream_audio=True), Connections(open_looks)
    desk.life = make_life(desk.store, desk.vendor, desk.clock, streams)
    await desk.end()
    assert desk.vendor.calls == ["end"]
    assert desk.vendor.files_sent == [0]
    assert streams.looks == open_looks + 1


@pytest.mark.parametrize(("attempts", "calls"), [(1, []), (3, []), (4, ["end"])])
async def test_the_end_waits_a_few_tries_for_a_stream_that_would_not_close(
    attempts: int, calls: list[str]
) -> None:
    desk, streams = ending(upload="stream", sequences=[], has_stream_audio=True), Connections(-1)
    life = make_life(desk.store, desk.vendor, desk.clock, streams)
    pending = make_owed("end", upload="stream", attempts=attempts)
    with contextlib.nullcontext() if calls else pytest.raises(VendorUnavailable):
        await life.finish_end(pending, maybe_sent=False)
    # Audio that the stream holds after the end call is handed over by no call.
    assert desk.vendor.calls == calls
    assert streams.looks == 150
    assert bool(desk.store.postponed_seconds) != bool(calls)


async def test_an_open_circuit_breaker_holds_the_create_at_once():
    desk = Desk()
    desk.vendor.creates = [CLOSED]
    await desk.create_at_vendor()
    assert (desk.vendor.calls, desk.clock.waits) == (["create"], [])
    assert (desk.store.recorded, desk.store.postponed_seconds) == (["create_held"], [pytest.approx(3.15)])


@pytest.mark.parametrize("call", ["create", "end"])
async def test_what_is_owed_is_not_given_up_for_a_gate_that_is_closed(call):
    desk = Desk()
    desk.vendor.answers[UNFILTERED] = [CLOSED]
    await desk.pending_calls.process(make_owed(call, attempts=99))
    assert desk.store.recorded == ["given_back"]


@pytest.mark.parametrize("call", ["create", "end"])
async def test_a_worker_that_lacks_a_key_leaves_what_is_owed_to_another_and_counts_no_try(call):
    desk = Desk()
    desk.vendor.answers[UNFILTERED] = [EncryptionKeyMissing("no key", key_ids=["00000000"])]
    await desk.pending_calls.process(make_owed(call, attempts=99))
    assert (desk.store.recorded, desk.store.postponed_seconds) == (["given_back"], [10.0])


@pytest.mark.parametrize(
    ("keeps_audio", "recorded"), [(True, ["remade audio_incomplete"]), (False, ["end_told"])]
)
async def test_an_end_with_missing_files_makes_the_session_again_if_all_audio_is_here(keeps_audio, recorded):
    desk = ending(VendorEnd(files_received=1))
    desk.store.missing, desk.store.may_be_remade, desk.store.keeps_audio = [1, 2], True, keeps_audio
    with capture_logs() as logs:
        await desk.end()
    assert desk.store.recorded == ["end_begun", *recorded]
    events = {entry["event"] for entry in logs} & {"session_remade", "vendor_holds_fewer_files"}
    assert events == {"session_remade" if keeps_audio else "vendor_holds_fewer_files"}
