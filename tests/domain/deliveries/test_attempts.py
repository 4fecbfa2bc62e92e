"""What each outcome of an attempt means: the table of the contract, "For the EMR's own endpoint"."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.body_budget import BodyBudget
from service.domain.deliveries.attempts import DeliveryForwarder, judge
from service.domain.deliveries.circuit_breaker import DestinationCircuitBreaker, FailureCount
from service.domain.deliveries.models import Answer, CallFailure, DeliveryJob
from service.domain.ids import DeliveryId, DestinationId, SessionId
from tests.support.makers import TurnedClock, make_answer, make_delivery_job

ID = DeliveryId("msg_0123456789abcdef01234567")
OTHER = "msg_ffffffffffffffffffffffff"


def kind_of(outcome: Answer | CallFailure) -> str:
    return judge(outcome, ID).kind


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_delivered(status):
    assert judge(make_answer(status), ID).kind == "delivered"
    assert judge(make_answer(status), ID).error_class is None


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 507, 511, 599])
def test_a_hiccup_is_tried_again_as_late_as_the_destination_asks(status):
    verdict = judge(make_answer(status, retry_after_seconds=77.0), ID)
    assert (verdict.kind, verdict.error_class) == ("retry", f"http_{status}")
    assert verdict.retry_after_seconds == 77.0


@pytest.mark.parametrize(
    ("status", "kind", "error_class"),
    [(410, "disable", "gone"), (401, "pause", "unauthorized"), (403, "pause", "forbidden")],
)
def test_gone_and_unauthorised_are_about_the_destination(status, kind, error_class):
    verdict = judge(make_answer(status), ID)
    assert (verdict.kind, verdict.error_class) == (kind, error_class)


@pytest.mark.parametrize("status", sorted({*range(400, 500)} - {401, 403, 408, 410, 425, 429}))
def test_any_other_4xx_is_dead_at_once_with_its_reason(status):
    verdict = judge(make_answer(status, b'{"code": "not_a_duplicate"}', retry_after_seconds=5.0), ID)
    assert (verdict.kind, verdict.error_class) == ("dead", f"http_{status}")


@pytest.mark.parametrize("status", [400, 401])
@pytest.mark.parametrize(
    "body",
    [
        b"Message timestamp too old",
        b'{"error": "Timestamp outside the tolerance"}',
        b'{"code":"stale_time_stamp"}',
        b'{"errors": {"webhook-timestamp": ["is too old"]}}',
    ],
)
def test_a_refusal_of_our_timestamp_is_tried_again(status, body):
    verdict = judge(make_answer(status, body, retry_after_seconds=9.0), ID)
    assert (verdict.kind, verdict.error_class) == ("retry", "stale_timestamp")
    assert verdict.retry_after_seconds == 9.0


@pytest.mark.parametrize(("status", "kind"), [(400, "dead"), (401, "pause")])
@pytest.mark.parametrize(
    "body",
    [
        b'{"timestamp":"2026-11-30T00:00:00Z","status":401,"error":"Unauthorized","path":"/hooks"}',
        b'{"timestamp" : 1796000000}',
        b"<Map><timestamp>2026-11-30</timestamp><status>401</status></Map>",
    ],
)
def test_an_error_that_says_when_it_happened_names_no_timestamp_of_ours(status, kind, body):
    assert judge(make_answer(status, body), ID).kind == kind


def test_while_our_clock_is_off_no_400_and_no_401_is_believed():
    for status in (400, 401):
        verdict = judge(make_answer(status, b"bad request"), ID, is_clock_off=True)
        assert (verdict.kind, verdict.error_class) == ("retry", "stale_timestamp")
    assert judge(make_answer(400, b"bad request"), ID).kind == "dead"
    assert judge(make_answer(401, b"bad request"), ID).kind == "pause"
    for status, kind in ((403, "pause"), (410, "disable"), (422, "dead"), (200, "delivered")):
        assert judge(make_answer(status, b"timestamp"), ID, is_clock_off=True).kind == kind


async def test_the_clock_is_asked_when_the_answer_is_there():
    desk = WrittenDown(make_answer(401))
    forwarding = forwarding_with(desk, is_clock_off=lambda: True)
    await forwarding.forward(make_delivery_job())
    assert (desk.recorded["status"], desk.recorded["error_class"]) == ("pending", "stale_timestamp")
    assert desk.recorded["pause_destination"] is False


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_not_followed(status):
    verdict = judge(make_answer(status, location="https://elsewhere.example/"), ID)
    assert (verdict.kind, verdict.error_class, verdict.record_id) == ("dead", "redirect", None)


@pytest.mark.parametrize(
    "answer",
    [
        make_answer(409, b'{"code": "duplicate"}'),
        make_answer(409, b'{"code": "already_exists", "id": "REC-9"}'),
        make_answer(409, b'{"error": {"code": "duplicate"}}'),
        make_answer(409, b'{"error": "already_exists"}'),
        make_answer(409, b"", echoed_id=ID),
        make_answer(409, f"we have {ID} already".encode()),
        make_answer(409, json.dumps({"webhook-id": ID}).encode()),
    ],
)
def test_a_conflict_that_says_that_it_is_there_already_is_delivered(answer):
    assert kind_of(answer) == "delivered"


@pytest.mark.parametrize(
    "answer",
    [
        make_answer(409),
        make_answer(409, b'{"code": "locked"}'),
        make_answer(409, b'{"code": ["duplicate"]}'),
        make_answer(409, b'{"message": "duplicate"}'),
        make_answer(409, b"duplicate"),
        make_answer(409, b"", echoed_id=OTHER),
        make_answer(409, OTHER.encode()),
        make_answer(422, b'{"code": "duplicate"}'),
        make_answer(400, b"", echoed_id=ID),
    ],
)
def test_a_conflict_of_another_kind_is_dead(answer):
    assert kind_of(answer) == "dead"


def test_no_answer_is_tried_again_and_a_forbidden_address_is_not():
    for error_class in ("timeout", "dns", "connect", "tls", "connection_broken", "protocol"):
        verdict = judge(CallFailure(error_class=error_class, duration_ms=3), ID)
        assert (verdict.kind, verdict.error_class) == ("retry", error_class)
    forbidden = CallFailure(error_class="forbidden_address", duration_ms=3, is_forbidden=True)
    assert judge(forbidden, ID).kind == "dead"


@pytest.mark.parametrize(
    ("answer", "record_id"),
    [
        (make_answer(201, location="https://emr.example/patients/asha-rao/notes/9?x=1"), "9"),
        (make_answer(201, location="https://emr.example/fhir/DocumentReference/9/_history/2"), "9"),
        (make_answer(201, b'{"id": "REC-1"}', location="/notes/9"), "9"),
        (make_answer(200, b'{"id": "REC-1"}'), "REC-1"),
        (make_answer(200, b'{"id": 17}'), "17"),
        (make_answer(409, b'{"code": "duplicate", "id": "REC-1"}'), "REC-1"),
        (make_answer(200, b'{"id": true}'), None),
        (make_answer(200, b'{"id": null}'), None),
        (make_answer(200, b'{"id": ""}'), None),
        (make_answer(200, b'{"id": {"a": 1}}'), None),
        (make_answer(200, b'["REC-1"]'), None),
        (make_answer(200, b"REC-1"), None),
        (make_answer(200, b"\xff\xfe"), None),
        (make_answer(200, b'{"id": "' + b"x" * 300 + b'"}'), None),
        (make_answer(500, b'{"id": "REC-1"}'), None),
    ],
)
def test_the_emr_s_own_id_comes_from_location_or_the_body(answer, record_id):
    assert judge(answer, ID).record_id == record_id


@pytest.mark.parametrize("status", [200, 409, 500])
def test_an_answer_that_is_nested_beyond_reason_is_still_judged(status):
    deep = judge(make_answer(status, b"[" * 60_000), ID)
    assert deep == judge(make_answer(status), ID)


def test_a_record_id_can_be_stored_as_text():
    # PostgreSQL's text cannot hold NUL: such an id would fail each time it is recorded.
    found = judge(make_answer(200, b'{"id": "REC\\u0000-1"}'), ID)
    assert found.kind == "delivered"
    assert "\0" not in (found.record_id or "")


@given(status=st.integers(200, 599), excerpt=st.binary(max_size=80), echoed=st.none() | st.text(max_size=8))
def test_every_answer_has_a_verdict_and_a_reason_unless_it_is_delivered(status, excerpt, echoed):
    verdict = judge(make_answer(status, excerpt, echoed_id=echoed), ID)
    assert (verdict.kind == "delivered") == (verdict.error_class is None)
    assert verdict.record_id is None or verdict.kind == "delivered"
    if 200 <= status < 300:
        assert verdict.kind == "delivered"


class WrittenDown:
    """A store of deliveries and breakers that keeps what was recorded, and a Sender with one answer."""

    def __init__(self, outcome: Answer | CallFailure, *, has_lease: bool = True) -> None:
        self.outcome = outcome
        self.has_lease = has_lease
        self.recorded: dict[str, Any] = {}
        self.claimed_for = 0.0
        self.claimed_with: dict[str, Any] = {}
        self.due: list[DeliveryJob] = []
        self.count = FailureCount(failures=1, failing_seconds=0, is_open=False, has_just_opened=False)
        self.counted: list[Any] = []
        self.released: list[DeliveryJob] = []
        self.withdrawn: list[DeliveryJob] = []

    async def count_failure(
        self, destination_id: DestinationId, *given: Any, took_long: bool = False
    ) -> FailureCount | None:
        self.counted.append(("failure", given[-1], took_long))
        return self.count

    async def count_contact(self, destination_id: DestinationId) -> bool:
        self.counted.append(("contact",))
        return True

    async def give_up(self, destination_id: DestinationId, seconds: float, error_class: str) -> int:
        self.counted.append(("give_up", seconds, error_class))
        return 2

    async def next_slot_seconds(self) -> float | None:
        return 0.25

    async def claim_deliveries(
        self,
        session_id: SessionId | None,
        limit: int,
        lease_seconds: float,
        passed_over: Any = (),
        **bodies: Any,
    ) -> list[DeliveryJob]:
        self.claimed_for = lease_seconds
        self.claimed_with = bodies | {"passed_over": passed_over}
        return self.due

    async def record_attempt(self, job: DeliveryJob, outcome: Answer | CallFailure, **recorded: Any) -> bool:
        self.recorded = recorded
        return self.has_lease

    async def release_delivery(self, job: DeliveryJob) -> None:
        self.released.append(job)

    async def may_leave(self, job: DeliveryJob) -> bool:
        return True

    async def withdraw_delivery(self, job: DeliveryJob) -> None:
        self.withdrawn.append(job)

    async def send(self, job: DeliveryJob, may_leave: Any) -> Answer | CallFailure:
        assert await may_leave()
        return self.outcome


def forwarding_with(desk: WrittenDown, *schedule: float, **more: Any) -> DeliveryForwarder:
    seconds = schedule or (5, 30)
    return DeliveryForwarder(
        store=desk,
        sender=desk,
        clock=TurnedClock(),
        schedule_seconds=seconds,
        timeout_seconds=20,
        breaker=DestinationCircuitBreaker(store=desk, schedule_total_seconds=sum(seconds)),
        **({"bodies": BodyBudget()} | more),
    )


async def attempt(outcome: Answer | CallFailure, **job: Any) -> dict[str, Any]:
    desk = WrittenDown(outcome)
    await forwarding_with(desk).forward(make_delivery_job(**job))
    return desk.recorded


@pytest.mark.parametrize(
    ("outcome", "status", "spends", "pauses"),
    [
        (make_answer(200), "delivered", False, False),
        (make_answer(200, b'{"id": "R"}'), "filed", False, False),
        (make_answer(500), "pending", True, False),
        (make_answer(401), "paused", False, True),
        (make_answer(410), "paused", False, True),
        (make_answer(422), "dead", False, False),
        (CallFailure(error_class="timeout", duration_ms=1), "pending", True, False),
    ],
)
async def test_the_verdict_decides_what_is_recorded(outcome, status, spends, pauses):
    recorded = await attempt(outcome)
    assert recorded["status"] == status
    assert recorded["spends_schedule"] is spends
    assert recorded["pause_destination"] is pauses
    assert (recorded["wait_seconds"] is not None) == (status == "pending")
    assert (recorded["reason"] is None) == (status in {"delivered", "filed"})


async def test_the_schedule_counts_only_the_places_that_were_spent():
    assert (await attempt(make_answer(503), attempts=9, scheduled=1))["wait_seconds"] == 30
    used_up = await attempt(make_answer(503), attempts=2, scheduled=2)
    assert used_up["status"] == "dead"
    assert used_up["wait_seconds"] is None
    assert "http_503" in used_up["reason"]


async def test_retry_after_lengthens_the_wait_and_does_not_shorten_it():
    assert (await attempt(make_answer(429, retry_after_seconds=1000.0)))["wait_seconds"] == 1000
    assert (await attempt(make_answer(429, retry_after_seconds=0.0)))["wait_seconds"] == 5


async def test_a_lease_is_longer_than_the_longest_call():
    desk = WrittenDown(make_answer(200))
    await forwarding_with(desk).claim(None, 5)
    assert desk.claimed_for > 20


async def test_only_calls_that_did_not_get_through_count_against_the_destination():
    for outcome in (make_answer(503, retry_after_seconds=9.0), CallFailure(error_class="tls", duration_ms=1)):
        desk = WrittenDown(outcome)
        await forwarding_with(desk).forward(make_delivery_job(failures=3))
        assert desk.counted == [("failure", 9.0 if isinstance(outcome, Answer) else 0.0, False)]
    for status in (200, 401, 409, 410, 422):
        desk = WrittenDown(make_answer(status))
        await forwarding_with(desk).forward(make_delivery_job(failures=3))
        assert desk.counted == [("contact",)]
        desk = WrittenDown(make_answer(status))
        await forwarding_with(desk).forward(make_delivery_job())
        assert desk.counted == []  # a healthy destination costs no further statement
    desk = WrittenDown(CallFailure(error_class="forbidden_address", duration_ms=1, is_forbidden=True))
    await forwarding_with(desk).forward(make_delivery_job(failures=3))
    assert desk.counted == []


async def test_what_was_withheld_is_no_attempt():
    desk = WrittenDown(CallFailure(error_class="withheld", duration_ms=1, is_withheld=True))
    job = make_delivery_job(failures=3)
    await forwarding_with(desk).forward(job)
    assert (desk.withdrawn, desk.recorded, desk.counted) == ([job], {}, [])


@pytest.mark.parametrize(
    ("outcome", "took_long"),
    [
        (CallFailure(error_class="timeout", duration_ms=300), True),
        (CallFailure(error_class="oauth_token", duration_ms=9_000), True),
        (CallFailure(error_class="connect", duration_ms=20), False),
        (msgspec.structs.replace(make_answer(503), duration_ms=110_000), True),
        (make_answer(503), False),
    ],
)
async def test_a_failure_that_held_a_place_for_long_is_counted_as_one_that_hung(outcome, took_long):
    desk = WrittenDown(outcome)
    await forwarding_with(desk).forward(make_delivery_job())
    assert desk.counted == [("failure", 0.0, took_long)]


async def test_a_probe_takes_no_place_in_the_schedule_and_is_never_the_last():
    for scheduled in (0, 2, 9):
        recorded = await attempt(make_answer(503), scheduled=scheduled, is_probe=True)
        assert (recorded["status"], recorded["spends_schedule"]) == ("pending", False)
        assert recorded["wait_seconds"] == (5 if scheduled == 0 else 30)


async def test_a_name_that_we_had_no_thread_for_costs_neither_the_schedule_nor_the_destination():
    failure = CallFailure(error_class="dns", duration_ms=5001, is_ours=True)
    for scheduled in (0, 9):
        recorded = await attempt(failure, scheduled=scheduled)
        assert (recorded["status"], recorded["spends_schedule"]) == ("pending", False)
        assert recorded["wait_seconds"] == (5 if scheduled == 0 else 30)
    desk = WrittenDown(failure)
    await forwarding_with(desk, 20, 40).forward(make_delivery_job())
    assert desk.counted == []


@pytest.mark.parametrize(
    ("is_open", "seconds", "given_up"), [(True, 70.0, True), (True, 59.0, False), (False, 70.0, False)]
)
async def test_nothing_waits_at_an_open_breaker_for_longer_than_the_schedule(is_open, seconds, given_up):
    desk = WrittenDown(CallFailure(error_class="connect", duration_ms=1))
    desk.count = FailureCount(failures=30, failing_seconds=seconds, is_open=is_open, has_just_opened=False)
    await forwarding_with(desk, 20, 40).forward(make_delivery_job())
    assert (("give_up", 60, "connect") in desk.counted) is given_up
