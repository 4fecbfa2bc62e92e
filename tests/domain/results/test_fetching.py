"""Each template once, one call more for the transcript, and what each ending means."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from service.domain.errors import (
    EncryptionKeyMissing,
    VendorCallHeldBack,
    VendorRefused,
    VendorTimeout,
    VendorUnavailable,
)
from service.domain.ids import UNFILTERED, TemplateId
from service.domain.results.fetching import ResultFetcher
from service.domain.results.models import VendorResult
from tests.support.fakes import MemoryResults, ScriptedVendor
from tests.support.makers import LETTER, NOTE, SESSION, START, TurnedClock, make_document, make_result

DAY = 86_400.0
TIMEOUT = VendorTimeout("no answer", sent=True)
NO_KEY = EncryptionKeyMissing("no key", key_ids=["00000000"])


class Desk:
    """A Fetching with everything that it talks to."""

    def __init__(self, *templates: TemplateId, **kept: Any) -> None:
        self.store = MemoryResults(*templates, **kept)
        self.vendor = ScriptedVendor()
        self.fetching = ResultFetcher(store=self.store, vendor=self.vendor, clock=TurnedClock())

    def script(self, template_id: TemplateId, *answers: Any) -> None:
        self.vendor.answers[template_id] = list(answers)

    async def fetch(self, template_id: TemplateId, **fields: Any) -> bool:
        return await self.fetching.fetch(self.store.claim(template_id, **fields))

    async def run(self, most: int = 60) -> None:
        """Fetch what is due until nothing is."""
        for _ in range(most):
            jobs = await self.fetching.claim(None, 10)
            if not jobs:
                return
            for job in jobs:
                await self.fetching.fetch(job)
        raise AssertionError("it never ends")

    @property
    def event_types(self) -> list[str]:
        return [event.type for event in self.store.kept.events]


def done(template_id: TemplateId, transcript: str | None = "words", **fields: Any) -> VendorResult:
    return make_result("completed", make_document(template_id, **fields), transcript=transcript)


def pending(template_id: TemplateId | None = None) -> VendorResult:
    return make_result("processing", *([make_document(template_id, status="pending")] if template_id else []))


async def test_each_template_is_fetched_once_and_its_document_goes_out_with_the_transcript():
    desk = Desk(NOTE, LETTER)
    desk.script(NOTE, done(NOTE))
    desk.script(LETTER, done(LETTER, None))
    await desk.run()
    assert desk.vendor.asked == {NOTE: 1, LETTER: 1}
    assert desk.event_types == ["document.ready", "document.ready"]
    assert {event.data.transcript for event in desk.store.kept.events} == {"words"}
    assert (desk.store.kept.status, desk.store.kept.settled) == ("completed", 1)


async def test_a_transcript_that_no_filtered_answer_carried_costs_exactly_one_unfiltered_call():
    desk = Desk(NOTE, LETTER)
    desk.script(NOTE, done(NOTE, None))
    desk.script(LETTER, done(LETTER, None))
    desk.script(
        UNFILTERED, make_result("completed", make_document(NOTE), make_document(LETTER), transcript="words")
    )
    await desk.run()
    assert desk.vendor.asked == {NOTE: 1, LETTER: 1, UNFILTERED: 1}
    # The unfiltered answer is for the transcript: the documents in it are not stored a second time.
    assert len(desk.store.kept.documents) == 2
    assert [event.data.transcript for event in desk.store.kept.events] == ["words", "words"]
    assert desk.store.kept.status == "completed"


async def test_a_transcript_that_any_filtered_answer_carried_costs_no_other_call():
    desk = Desk(NOTE, LETTER)
    desk.script(NOTE, done(NOTE, None))
    desk.script(LETTER, done(LETTER))
    await desk.run()
    assert desk.vendor.asked == {NOTE: 1, LETTER: 1}
    assert [event.data.transcript for event in desk.store.kept.events] == ["words", "words"]


async def test_a_vendor_without_any_transcript_still_gets_one_unfiltered_call_and_the_documents_go_out():
    desk = Desk(NOTE)
    desk.script(NOTE, done(NOTE, None))
    desk.script(UNFILTERED, make_result("completed", transcript=None))
    await desk.run()
    assert desk.vendor.asked == {NOTE: 1, UNFILTERED: 1}
    assert desk.event_types == ["document.ready"]
    assert desk.store.kept.events[0].data.transcript is None


async def test_a_session_without_templates_is_fetched_by_one_unfiltered_call():
    desk = Desk()
    desk.script(UNFILTERED, make_result("completed", make_document(NOTE), transcript="words"))
    await desk.run()
    assert desk.vendor.asked == {UNFILTERED: 1}
    assert desk.event_types == ["document.ready"]
    assert (desk.store.kept.status, desk.store.kept.transcript) == ("completed", "words")


async def test_a_session_that_made_only_a_transcript_is_completed_without_an_event():
    desk = Desk()
    desk.script(UNFILTERED, make_result("completed", transcript="words"))
    await desk.run()
    assert (desk.store.kept.status, desk.event_types) == ("completed", [])


@pytest.mark.parametrize("answer", [pending(), make_result("open"), pending(NOTE)])
async def test_asked_too_early_is_asked_again_later(answer):
    desk = Desk(NOTE)
    desk.script(NOTE, answer, answer, done(NOTE))
    desk.script(UNFILTERED, make_result("processing"))
    assert await desk.fetch(NOTE) is False
    assert desk.store.kept.fetches[NOTE].outcome is None
    assert [(each, reason) for each, _, reason in desk.store.waits] == [(NOTE, answer.state)]
    assert 0 < desk.store.waits[0][1] < 10
    assert desk.store.kept.status == "processing"


async def test_a_completed_answer_with_the_document_still_pending_is_not_taken_for_the_result():
    desk = Desk(NOTE)
    desk.script(
        NOTE, make_result("partial", make_document(NOTE, status="pending"), transcript="w"), done(NOTE)
    )
    await desk.run()
    assert desk.vendor.asked == {NOTE: 2}
    assert desk.event_types == ["document.ready"]


async def test_one_slow_template_does_not_hold_the_other_back():
    desk = Desk(NOTE, LETTER)
    desk.script(NOTE, done(NOTE))
    desk.script(LETTER, pending())
    await desk.fetch(NOTE)
    await desk.fetch(LETTER)
    assert desk.event_types == ["document.ready"]
    assert desk.store.kept.status == "processing"
    assert desk.store.kept.settled == 0


async def test_a_document_does_not_wait_for_a_transcript_beyond_an_outage():
    desk = Desk(NOTE)
    desk.script(NOTE, done(NOTE, None))
    desk.script(UNFILTERED, TIMEOUT)
    await desk.fetch(NOTE)
    assert desk.event_types == []
    for _ in range(3):
        await desk.fetch(UNFILTERED)
    assert desk.event_types == ["document.ready"]
    await desk.fetch(UNFILTERED)
    assert desk.event_types == ["document.ready"]


@pytest.mark.parametrize(
    ("state", "status", "code", "event"),
    [
        ("failed", "failed", "vendor_failed", "session.failed"),
        ("expired", "expired", "session_expired", "session.expired"),
    ],
)
async def test_a_bad_ending_ends_the_session_and_is_told_once(state, status, code, event):
    desk = Desk(NOTE, LETTER)
    for template_id in (NOTE, LETTER, UNFILTERED):
        desk.script(template_id, make_result(state))
    await desk.run()
    assert desk.vendor.asked[UNFILTERED] == 1
    assert (desk.store.kept.status, desk.store.kept.error_code) == (status, code)
    assert desk.event_types == [event]
    told = desk.store.kept.events[0]
    assert told.data.error is not UNSET
    assert told.data.error.code == code
    assert told.data.document is UNSET


async def test_a_bad_ending_after_a_good_document_is_partial_and_the_document_goes_out():
    desk = Desk(NOTE, LETTER)
    desk.script(NOTE, done(NOTE))
    desk.script(LETTER, make_result("failed"))
    desk.script(UNFILTERED, make_result("failed"))
    await desk.run()
    assert desk.store.kept.status == "partial"
    assert desk.event_types == ["document.ready", "document.failed"]
    assert desk.store.kept.events[1].data.document.error.code == "template_failed"


async def test_a_failed_template_makes_the_session_partial_and_is_told():
    desk = Desk(NOTE, LETTER)
    desk.script(NOTE, done(NOTE))
    failed = make_document(LETTER, status="failed", data=None)
    desk.script(LETTER, make_result("partial", failed, transcript="w"))
    desk.script(UNFILTERED, make_result("partial", make_document(NOTE), failed, transcript="w"))
    await desk.run()
    assert desk.vendor.asked == {NOTE: 1, LETTER: 1, UNFILTERED: 1}
    assert desk.store.kept.status == "partial"
    assert desk.event_types == ["document.ready", "document.failed"]
    failed = desk.store.kept.events[1].data.document
    assert failed.error.code == "template_failed"


async def test_a_partial_answer_is_not_shown_as_a_completed_one():
    # 206 says that something failed (docs/vendor.md#status-codes), even where no template of ours tells what.
    desk = Desk()
    desk.script(UNFILTERED, make_result("partial", make_document(NOTE), transcript="half of the words"))
    await desk.run()
    assert desk.store.kept.status == "partial"
    assert desk.event_types == ["document.ready"]


async def test_a_lost_lease_records_nothing():
    for answer in (done(NOTE), make_result("failed"), make_result("processing"), TIMEOUT):
        desk = Desk(NOTE)
        desk.script(NOTE, answer)
        late = desk.store.claim(NOTE)
        desk.store.claim(NOTE)  # somebody else has it now
        await desk.fetching.fetch(late)
        kept = desk.store.kept
        assert (kept.status, kept.documents, kept.events, kept.transcript) == ("processing", [], [], None)
        assert kept.fetches[NOTE].outcome is None
        assert desk.store.waits == []


async def test_a_session_that_was_erased_meanwhile_records_nothing():
    desk = Desk(NOTE)
    desk.script(NOTE, done(NOTE))
    desk.store.is_gone = True
    assert await desk.fetch(NOTE) is False


async def test_a_404_is_believed_only_when_it_is_said_again_and_again():
    desk = Desk(NOTE)
    desk.script(NOTE, make_result("missing"))
    desk.script(UNFILTERED, make_result("missing"))
    await desk.fetch(NOTE)
    for _ in range(7):
        await desk.fetch(UNFILTERED)
        assert desk.store.kept.status == "processing"
    await desk.fetch(UNFILTERED)
    assert (desk.store.kept.status, desk.store.kept.error_code) == ("failed", "vendor_session_missing")
    assert desk.event_types == ["session.failed"]


async def test_a_404_that_was_a_hiccup_does_no_harm():
    desk = Desk(NOTE)
    desk.script(NOTE, *[make_result("missing")] * 5, done(NOTE))
    desk.script(UNFILTERED, *[make_result("missing")] * 5, make_result("processing"))
    await desk.run()
    assert (desk.store.kept.status, desk.event_types) == ("completed", ["document.ready"])


async def test_a_filter_that_hits_nothing_is_believed_once_two_unfiltered_answers_have_no_document_either():
    desk = Desk(NOTE)
    desk.script(NOTE, make_result("no_document"))
    desk.script(UNFILTERED, make_result("completed", transcript="words"))
    await desk.fetch(NOTE)
    await desk.fetch(UNFILTERED)
    assert desk.store.kept.documents == []
    assert desk.store.waits[-1] == (UNFILTERED, 10.0, "completed")
    await desk.run()
    assert desk.vendor.asked == {NOTE: 1, UNFILTERED: 2}
    assert desk.event_types == ["document.failed"]
    assert desk.store.kept.events[0].data.document.error.code == "document_missing"
    assert desk.store.kept.status == "partial"


@pytest.mark.parametrize(
    ("error", "reason", "least"),
    [
        (TIMEOUT, "vendor_timeout", 0.5),
        (VendorUnavailable("429", sent=False, retry_after_seconds=90.0), "vendor_unavailable", 90),
        (VendorRefused("403", status=403, vendor_code="x"), "vendor_refused_403", 0.5),
    ],
)
async def test_an_error_is_tried_again_later(error, reason, least):
    desk = Desk(NOTE)
    desk.script(NOTE, error, done(NOTE))
    desk.script(UNFILTERED, make_result("processing"))
    await desk.fetch(NOTE)
    (wait,) = desk.store.waits
    assert (wait[0], wait[2]) == (NOTE, reason)
    assert wait[1] >= least
    await desk.run()
    assert desk.store.kept.status == "completed"


@pytest.mark.parametrize(
    "fields", [{}, {"asked": "asked"}, {"is_end_hint": True}, {"ended_seconds_ago": 9 * DAY}]
)
async def test_a_call_that_our_own_gate_held_back_counts_for_nothing(fields):
    desk = Desk(NOTE)
    desk.script(NOTE, VendorCallHeldBack("closed", retry_after_seconds=4.0))
    for _ in range(500):
        assert not await desk.fetch(NOTE, **fields)
    row = desk.store.kept.fetches[NOTE]
    assert (row.attempts, row.last_error, row.outcome, row.lease) == (0, None, None, None)
    assert desk.store.kept.status == "processing"
    assert {round(seconds, 2) for _, seconds, _ in desk.store.waits} == {4.2}


@pytest.mark.parametrize(
    ("answer", "days"),
    [(make_result("processing"), 1), (make_result("open"), 1), (TIMEOUT, 3)],
)
async def test_what_is_not_there_after_a_day_is_given_up_and_an_outage_is_waited_for_longer(answer, days):
    desk = Desk()
    desk.script(UNFILTERED, answer)
    await desk.fetch(UNFILTERED, ended_seconds_ago=days * DAY - 1, attempts=20)
    assert desk.store.kept.status == "processing"
    # However long we were away ourselves, it is asked for more than once.
    await desk.fetch(UNFILTERED, ended_seconds_ago=days * DAY, attempts=7)
    assert desk.store.kept.status == "processing"
    await desk.fetch(UNFILTERED, ended_seconds_ago=days * DAY, attempts=8)
    assert (desk.store.kept.status, desk.store.kept.error_code) == ("failed", "vendor_gave_no_result")
    assert desk.event_types == ["session.failed"]


@pytest.mark.parametrize(
    ("status", "is_past", "ends"),
    [
        ("created", True, True),
        ("recording", True, True),
        ("processing", True, False),
        ("completed", True, False),
    ],
)
async def test_a_session_that_was_never_ended_expires_by_our_own_clock(status, is_past, ends):
    desk = Desk(NOTE, status=status, is_past=is_past)
    for _ in range(2):
        for session_id in await desk.fetching.past(10):
            await desk.fetching.expire(session_id)
    assert desk.store.kept.status == ("expired" if ends else status)
    assert desk.event_types == (["session.expired"] if ends else [])


async def test_an_event_carries_what_the_contract_lists_and_no_more_of_the_patient():
    desk = Desk(NOTE)
    desk.script(NOTE, done(NOTE))
    await desk.run()
    (event,) = desk.store.kept.events
    assert (event.type, event.timestamp) == ("document.ready", START)
    assert (event.data.reference, event.data.patient.id) == ("ENC-1", "PAT-1")
    assert "Asha" not in repr(event)
    assert event.data.document.data == {"note": NOTE}


# Any order of too early, errors and late transcripts.

hiccups = st.lists(
    st.sampled_from([pending(), make_result("open"), TIMEOUT, make_result("missing")]), max_size=6
)


@given(
    templates=st.sampled_from([(), (NOTE,), (NOTE, LETTER)]),
    early=st.tuples(hiccups, hiccups, hiccups),
    as_medscribe_error=st.tuples(st.booleans(), st.booleans()),
    order=st.randoms(use_true_random=False),
)
def test_whatever_comes_first_each_document_goes_out_once_and_the_session_ends_once(
    templates, early, as_medscribe_error, order
):
    desk = Desk(*templates)
    for template_id, before, has_transcript in zip(templates, early, as_medscribe_error, strict=False):
        desk.script(template_id, *before, done(template_id, "words" if has_transcript else None))
    whole = make_result("completed", *map(make_document, templates or (NOTE,)), transcript="words")
    desk.script(UNFILTERED, *early[2], whole)

    async def run() -> None:
        for _ in range(80):
            due = [each for each, row in desk.store.kept.fetches.items() if row.outcome is None]
            if not due:
                return
            await desk.fetch(order.choice(due))
        raise AssertionError("it never ends")

    asyncio.run(run())
    kept = desk.store.kept
    assert (kept.status, kept.settled) == ("completed", 1)
    assert kept.transcript == "words"
    assert desk.event_types == ["document.ready"] * max(1, len(templates))
    sent = [event.data.document.id for event in kept.events]
    assert len(set(sent)) == len(sent)
    for template_id, before in zip(templates, early, strict=False):
        assert desk.vendor.asked[template_id] <= len(before) + 1


async def test_a_template_that_comes_after_an_empty_transcript_is_released_too():
    """The call without the filter had settled, without a transcript, before the second template came."""
    desk = Desk(NOTE, LETTER)
    desk.script(NOTE, done(NOTE, None))
    desk.script(LETTER, make_result("processing"), done(LETTER, None))
    desk.script(UNFILTERED, make_result("partial"))
    for template_id in (NOTE, LETTER, UNFILTERED, LETTER):
        await desk.fetch(template_id)
    assert desk.store.kept.status == "completed"
    assert desk.event_types == ["document.ready", "document.ready"]


async def test_one_template_s_outage_holds_back_no_other():
    desk = Desk(NOTE, LETTER)
    desk.script(NOTE, done(NOTE, None))
    desk.script(LETTER, TIMEOUT)
    desk.script(UNFILTERED, make_result("partial", transcript="Fever."))
    for template_id in (NOTE, LETTER, UNFILTERED):
        await desk.fetch(template_id)
    assert desk.event_types == ["document.ready"]
    # The vendor's 206 says that it is done with some: that is shown, and is no ending.
    assert (desk.store.kept.status, desk.store.kept.settled) == ("partial", 0)


async def test_a_transcript_that_cannot_be_had_does_not_keep_a_session_open():
    desk = Desk(NOTE)
    desk.script(NOTE, done(NOTE, None))
    desk.script(UNFILTERED, TIMEOUT, TIMEOUT, TIMEOUT)
    await desk.fetch(NOTE)
    for tries in range(1, 4):
        assert desk.event_types == []
        await desk.fetch(UNFILTERED, attempts=tries)
    assert desk.event_types == ["document.ready"]
    assert (desk.store.kept.status, desk.store.kept.error_code) == ("completed", None)


@pytest.mark.parametrize("answer", [make_result("missing"), make_result("no_document")])
async def test_one_404_after_slow_processing_ends_nothing(answer):
    """Only what the vendor says again and again, with nothing else in between, is believed."""
    desk = Desk(NOTE)
    desk.script(NOTE, *[make_result("processing")] * 12, answer, make_result("processing"), done(NOTE))
    desk.script(UNFILTERED, make_result("processing"))
    await desk.run()
    assert desk.store.kept.status == "completed"
    assert desk.event_types == ["document.ready"]


async def test_a_call_that_crashed_is_asked_again_later():
    desk = Desk(NOTE)
    await desk.fetching.crashed(desk.store.claim(NOTE, attempts=3))
    ((template_id, seconds, reason),) = desk.store.waits
    assert (template_id, reason) == (NOTE, "internal_error")
    assert seconds >= 4


@pytest.mark.parametrize(("seconds_ago", "wait"), [(5.0, 10.0), (4 * DAY, 300.0)])
async def test_a_worker_that_lacks_a_key_leaves_the_result_to_another_and_counts_no_try(seconds_ago, wait):
    desk = Desk(NOTE)
    desk.script(NOTE, NO_KEY, done(NOTE))
    await desk.fetch(NOTE, attempts=99, ended_seconds_ago=seconds_ago)
    row = desk.store.kept.fetches[NOTE]
    assert (row.outcome, row.lease, row.attempts) == (None, None, 0)
    assert row.next_at - desk.store.kept.now == wait
    assert desk.event_types == []
    await desk.run()
    assert desk.event_types == ["document.ready"]


async def test_a_key_that_is_missing_when_the_answer_is_recorded_loses_nothing():
    desk = Desk(NOTE)
    desk.script(NOTE, done(NOTE), done(NOTE))
    desk.store.missing_key = NO_KEY
    await desk.fetch(NOTE, attempts=99)
    assert (desk.store.kept.fetches[NOTE].attempts, desk.event_types) == (0, [])
    desk.store.missing_key = None
    await desk.run()
    assert desk.event_types == ["document.ready"]


async def test_what_is_ready_goes_out_as_partial_and_the_rest_completes_it():
    desk = Desk(NOTE, LETTER)
    desk.script(NOTE, make_result("partial", make_document(NOTE), transcript="words"))
    desk.script(LETTER, pending(), done(LETTER))
    desk.script(
        UNFILTERED,
        make_result("partial", make_document(NOTE), transcript="words"),
        make_result("completed", make_document(NOTE), make_document(LETTER), transcript="words"),
    )
    await desk.fetch(NOTE)
    # A filtered answer says nothing of the session.
    assert (desk.store.kept.status, desk.event_types) == ("processing", ["document.ready"])
    await desk.fetch(LETTER)
    await desk.fetch(UNFILTERED)
    assert (desk.store.kept.status, desk.store.kept.settled) == ("partial", 0)
    await desk.run()
    assert (desk.store.kept.status, desk.store.kept.settled) == ("completed", 1)
    assert [event.data.session_status for event in desk.store.kept.events] == ["processing", "partial"]
    assert desk.vendor.asked == {NOTE: 1, LETTER: 2, UNFILTERED: 2}


async def test_one_answer_that_holds_some_documents_is_filed_in_part():
    desk = Desk()
    slow = make_document(LETTER, status="pending", data=None)
    desk.script(
        UNFILTERED,
        make_result("partial", make_document(NOTE), slow, transcript="words"),
        make_result("completed", make_document(NOTE), make_document(LETTER), transcript="words"),
    )
    await desk.fetch(UNFILTERED)
    assert (desk.store.kept.status, desk.event_types) == ("partial", ["document.ready"])
    assert desk.store.kept.fetches[UNFILTERED].outcome is None
    await desk.run()
    assert (desk.store.kept.status, desk.store.kept.settled) == ("completed", 1)
    assert desk.event_types == ["document.ready", "document.ready"]
    assert {document.version for document, _ in desk.store.kept.documents} == {1}


async def test_what_was_lost_with_its_lease_is_not_filed_in_part_either():
    desk = Desk()
    slow = make_document(LETTER, status="pending", data=None)
    desk.script(UNFILTERED, make_result("partial", make_document(NOTE), slow, transcript="words"))
    late = desk.store.claim(UNFILTERED)
    desk.store.claim(UNFILTERED)
    await desk.fetching.fetch(late)
    assert (desk.store.kept.documents, desk.store.kept.status) == ([], "processing")


FAILED_LETTER = make_document(LETTER, status="failed", data=None, vendor_code="llm_failure")


async def refreshed(*answers: Any) -> Desk:
    """A session that ended partial, its letter failed, and of which the vendor is asked again."""
    desk = Desk(NOTE, LETTER)
    desk.script(NOTE, done(NOTE))
    desk.script(LETTER, make_result("failed"))
    whole = make_result("partial", make_document(NOTE), FAILED_LETTER, transcript="words")
    desk.script(UNFILTERED, whole, *answers)
    await desk.run()
    assert (desk.store.kept.status, desk.store.kept.settled) == ("partial", 1)
    assert desk.event_types == ["document.ready", "document.failed"]
    desk.store.kept.fetches[UNFILTERED].outcome = None
    return desk


async def test_a_letter_that_succeeds_later_completes_the_session_as_a_new_version():
    letter = make_document(LETTER, upstream_id="doc_new")
    desk = await refreshed(make_result("completed", make_document(NOTE), letter, transcript="words"))
    await desk.run()
    assert desk.event_types == ["document.ready", "document.failed", "document.ready"]
    assert desk.store.kept.events[-1].data.document.version == 2
    assert (desk.store.kept.status, desk.store.kept.settled) == ("completed", 2)


@pytest.mark.parametrize("state", ["failed", "expired", "missing", "partial"])
async def test_a_second_look_never_makes_an_ending_worse(state):
    documents = [make_document(NOTE, status="failed", data=None), FAILED_LETTER]
    desk = await refreshed(make_result(state, *(documents if state == "partial" else [])))
    await desk.run()
    kept = desk.store.kept
    assert (kept.status, kept.settled, kept.error_code) == ("partial", 1, None)
    assert desk.event_types == ["document.ready", "document.failed"]


async def test_a_second_look_that_finds_the_same_files_nothing():
    desk = await refreshed(make_result("partial", make_document(NOTE), FAILED_LETTER, transcript="words"))
    await desk.run()
    assert len(desk.store.kept.documents) == 2
    assert desk.event_types == ["document.ready", "document.failed"]


async def test_a_second_look_waits_for_a_document_that_is_still_being_made():
    desk = await refreshed(
        make_result("processing"),
        make_result("partial", make_document(NOTE), make_document(LETTER, status="pending", data=None)),
        make_result("completed", make_document(NOTE), make_document(LETTER)),
    )
    await desk.run()
    assert desk.event_types[2:] == ["document.ready"]
    assert desk.store.kept.status == "completed"


async def test_a_session_that_had_failed_is_mended_by_a_second_look_and_each_failure_is_told():
    desk = Desk(NOTE, LETTER)
    for template_id in (NOTE, LETTER):
        desk.script(template_id, make_result("failed"))
    whole = make_result("partial", make_document(NOTE), FAILED_LETTER, transcript="words")
    desk.script(UNFILTERED, make_result("failed"), whole)
    await desk.run()
    assert (desk.store.kept.status, desk.event_types) == ("failed", ["session.failed"])
    desk.store.kept.fetches[UNFILTERED].outcome = None
    await desk.run()
    assert desk.store.kept.status == "partial"
    assert sorted(desk.event_types[1:]) == ["document.failed", "document.ready"]
    failed = next(each for each in desk.store.kept.events if each.type == "document.failed")
    assert failed.data.document.error.vendor_code == "llm_failure"


async def test_a_late_answer_of_another_call_does_not_complete_what_was_given_up():
    desk = Desk(NOTE, LETTER)
    desk.script(NOTE, done(NOTE))
    desk.script(LETTER, TIMEOUT)
    desk.script(UNFILTERED, make_result("failed"))
    await desk.fetch(NOTE)
    late = desk.store.claim(LETTER)
    async with desk.store.settling(SESSION) as unit:
        assert unit is not None
        await unit.request_unfiltered(at_once=True)
    await desk.fetch(UNFILTERED)
    assert (desk.store.kept.status, desk.store.kept.error_code) == ("partial", "vendor_failed")
    await desk.fetching.fetch(late)
    assert (desk.store.kept.status, desk.store.kept.settled) == ("partial", 1)


@pytest.mark.parametrize("state", ["expired", "failed"])
async def test_a_probe_that_is_confirmed_ends_a_session_that_nobody_ended(state):
    desk = Desk(status="recording")
    desk.store.kept.templates = [NOTE]
    desk.script(UNFILTERED, make_result(state))
    await desk.fetch(UNFILTERED)
    assert (desk.store.kept.status, desk.event_types) == (state, [f"session.{state}"])


@pytest.mark.parametrize("state", ["open", "processing", "completed", "partial", "missing"])
async def test_a_probe_that_is_not_confirmed_leaves_nothing(state):
    desk = Desk(status="recording")
    desk.script(UNFILTERED, make_result(state, make_document(NOTE), transcript="words"))
    await desk.fetch(UNFILTERED)
    kept = desk.store.kept
    assert (kept.status, kept.fetches, kept.documents, kept.events) == ("recording", {}, [], [])


async def test_a_probe_waits_for_a_vendor_that_is_away_and_not_for_ever():
    desk = Desk(status="recording")
    desk.script(UNFILTERED, TIMEOUT)
    for _ in range(7):
        await desk.fetch(UNFILTERED)
        assert UNFILTERED in desk.store.kept.fetches
    await desk.fetch(UNFILTERED)
    assert desk.store.kept.fetches == {}
    assert desk.store.kept.status == "recording"
