"""A server whose filtered and unfiltered answers contradict each other (docs/vendor.md#filtered-document)."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.results import WarningInfo
from service.domain.errors import VendorRefused
from service.domain.ids import UNFILTERED, TemplateId
from service.domain.results.fetching import ResultFetcher
from service.domain.results.models import DocumentAnnotations, VendorResult
from tests.support.fakes import MemoryResults, ScriptedVendor
from tests.support.makers import LETTER, NOTE, SESSION, TurnedClock, make_document, make_result

REASON = "llm_structring_failure"
GOOD = make_document(NOTE)
BAD = make_document(LETTER, status="failed", data="text of before", vendor_code=REASON)
UNEXPLAINED = make_document(LETTER, status="failed", data=None)
PENDING = make_result("processing")
PARTIAL = make_document(
    NOTE,
    annotations=DocumentAnnotations(warnings=[WarningInfo(code="document_partial", message="part")]),
)


class House:
    """A Fetching whose time is that of its waits."""

    def __init__(self, *templates: TemplateId) -> None:
        self.store = MemoryResults(*templates)
        self.vendor = ScriptedVendor()
        self.fetching = ResultFetcher(store=self.store, vendor=self.vendor, clock=TurnedClock())
        self.settled_at: float | None = None

    def script(self, template_id: TemplateId, *answers: Any) -> None:
        self.vendor.answers[template_id] = list(answers)

    async def run(self, until: float = 3600.0, **fields: Any) -> None:
        """Make the calls in the order in which they are due, for so many seconds after the end."""
        while jobs := await self.fetching.claim(None, 10):
            if self.store.kept.now > until:
                return
            for job in jobs:
                await self.fetching.fetch(job)
            if self.store.kept.settled and self.settled_at is None:
                self.settled_at = self.store.kept.now

    @property
    def told(self) -> list[tuple[str, str | None, Any]]:
        """Of each event: its type, its template, its error's codes."""
        return sorted(
            (
                event.type,
                event.data.document.template_id if event.data.document else None,
                (event.data.document.error.code, event.data.document.error.vendor_code or None)
                if event.data.document and event.data.document.error
                else None,
            )
            for event in self.store.kept.events
        )


def good(transcript: str | None = None) -> VendorResult:
    return make_result("completed", GOOD, transcript=transcript)


@pytest.mark.parametrize("early", [0, 1, 3])
@pytest.mark.parametrize("first", ["failed", "good"])
async def test_a_failed_template_costs_no_other_document_whichever_is_done_first(first, early):
    house = House(NOTE, LETTER)
    wait = [PENDING] * early
    house.script(LETTER, *(wait if first == "good" else []), make_result("failed"))
    house.script(NOTE, *(wait if first == "failed" else []), good())
    both = make_result("partial", GOOD, BAD, transcript="words")
    house.script(UNFILTERED, *([PENDING] if early else []), both)
    await house.run()
    assert house.told == [
        ("document.failed", LETTER, ("template_failed", REASON)),
        ("document.ready", NOTE, None),
    ]
    assert {event.data.transcript for event in house.store.kept.events} == {"words"}
    assert next(e for e in house.store.kept.events if e.type == "document.failed").data.document.data is None
    assert (house.store.kept.status, house.store.kept.settled) == ("partial", 1)
    if not early:
        assert sum(house.vendor.asked.values()) <= 2 + 2


async def test_both_failed_with_a_good_transcript_are_two_failed_documents_and_no_failed_session():
    house = House(NOTE, LETTER)
    for template_id in (NOTE, LETTER):
        house.script(template_id, make_result("failed"))
    bad = make_document(NOTE, status="failed", data=None, vendor_code=REASON)
    house.script(UNFILTERED, make_result("partial", bad, BAD, transcript="words"))
    await house.run()
    assert [kind for kind, _, _ in house.told] == ["document.failed", "document.failed"]
    assert house.store.kept.transcript == "words"
    assert house.store.kept.status == "partial"
    assert sum(house.vendor.asked.values()) == 3


async def test_a_failed_transcription_ends_the_session_within_four_minutes():
    house = House(NOTE, LETTER)
    for template_id in (NOTE, LETTER):
        house.script(template_id, PENDING)
    house.script(UNFILTERED, PENDING, make_result("failed"))
    await house.run()
    assert house.told == [("session.failed", None, None)]
    assert house.settled_at is not None
    assert house.settled_at <= 240
    assert house.vendor.asked[UNFILTERED] == 2


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("templates", [(NOTE,), ()])
@pytest.mark.parametrize("first", [27.0, 29.5, 30.5, 33.0, 100.0, 118.0])
async def test_it_does_so_whenever_the_looks_before_the_vendors_two_minutes_fall(first, templates, jitter):
    house = House(*templates)
    house.fetching = ResultFetcher(store=house.store, vendor=house.vendor, clock=TurnedClock(jitter))
    for row in house.store.kept.fetches.values():
        row.next_at = first
    for template_id in templates:
        house.script(template_id, PENDING)
    while not house.store.kept.settled:
        jobs = await house.fetching.claim(None, 10)  # the time is now that of the call
        # The vendor's own two minutes are over a little later than ours.
        house.script(UNFILTERED, make_result("failed") if house.store.kept.now > 121 else PENDING)
        for job in jobs:
            await house.fetching.fetch(job)
    assert 121 < house.store.kept.now <= 150
    assert sum(house.vendor.asked.values()) <= 6


async def test_nothing_is_asked_each_second_while_a_document_is_undecided():
    house = House(NOTE)
    house.script(NOTE, PENDING)
    house.script(UNFILTERED, PENDING)
    await house.run(until=600)
    assert house.vendor.asked[NOTE] <= 10
    assert house.vendor.asked[UNFILTERED] <= 8


async def test_a_failure_that_only_the_unfiltered_answer_tells_without_a_reason_is_doubted_for_a_minute():
    house = House(NOTE, LETTER)
    house.script(NOTE, good("words"))
    house.script(LETTER, PENDING)
    house.script(UNFILTERED, make_result("partial", GOOD, UNEXPLAINED, transcript="words"))
    await house.run()
    assert ("document.failed", LETTER, ("template_failed", None)) in house.told
    assert house.settled_at is not None
    assert 180 <= house.settled_at <= 300


async def test_a_slow_document_that_the_unfiltered_answer_calls_failed_too_early_is_delivered():
    house = House(NOTE, LETTER)
    house.script(NOTE, good("words"))
    house.script(LETTER, *[PENDING] * 5, make_result("completed", make_document(LETTER)))
    house.script(UNFILTERED, make_result("partial", GOOD, UNEXPLAINED, transcript="words"))
    # It is ready a minute after the vendor's own two minutes were over.
    jobs = 0
    while jobs < 6 and house.store.kept.now < 170:
        for job in await house.fetching.claim(None, 10):
            await house.fetching.fetch(job)
            jobs += job.template_id == LETTER
    house.script(LETTER, make_result("completed", make_document(LETTER)))
    async with house.store.settling(job.session_id) as unit:
        assert unit is not None
        unit.kept.fetches[LETTER].next_at = unit.kept.now
    await house.run()
    assert [kind for kind, _, _ in house.told] == ["document.ready", "document.ready"]
    assert house.store.kept.status == "completed"


@pytest.mark.parametrize("status", ["empty", "unknown"])
async def test_what_is_neither_content_nor_failure_is_asked_again_for_ten_minutes(status):
    house = House(NOTE)
    odd = make_document(NOTE, status=status, data=None, vendor_code="odd" if status == "unknown" else None)
    filtered = make_result("completed", odd) if status == "empty" else PENDING
    house.script(NOTE, filtered)
    house.script(UNFILTERED, make_result("completed", odd, transcript="words"))
    await house.run()
    code = {"empty": ("document_empty", None), "unknown": ("document_undecided", "odd")}[status]
    assert house.told == [("document.failed", NOTE, code)]
    assert house.settled_at is not None
    assert 600 <= house.settled_at <= 800
    assert house.store.kept.status == "partial"


async def test_a_status_that_nobody_knows_ends_no_session_whose_documents_are_not_counted():
    house = House()
    unknown = make_result("unknown", GOOD, transcript="words")
    whole = make_result("completed", GOOD, make_document(LETTER), transcript="words")
    house.script(UNFILTERED, unknown, unknown, whole)
    await house.run()
    assert house.told == [("document.ready", NOTE, None), ("document.ready", LETTER, None)]
    assert house.store.kept.status == "completed"


async def test_a_status_that_stays_unknown_keeps_no_document_back_and_no_session_open():
    house = House()
    house.script(UNFILTERED, make_result("unknown", GOOD, transcript="words"))
    await house.run()
    assert house.told == [("document.ready", NOTE, None)]
    assert house.settled_at is not None
    assert 600 <= house.settled_at <= 800
    assert house.store.kept.status == "partial"


async def test_a_document_of_an_unknown_session_status_is_delivered_though_the_other_answer_never_ends():
    house = House(NOTE)
    house.script(NOTE, make_result("unknown", GOOD, transcript="words"))
    house.script(UNFILTERED, PENDING)
    await house.run(until=120.0)
    assert house.told == [("document.ready", NOTE, None)]


async def test_requested_documents_that_are_all_here_end_a_session_of_unknown_status():
    house = House(NOTE)
    house.script(NOTE, make_result("unknown", GOOD))
    house.script(UNFILTERED, make_result("unknown", GOOD, transcript="words"))
    await house.run()
    assert house.told == [("document.ready", NOTE, None)]
    assert house.store.kept.status == "completed"


@pytest.mark.parametrize("asked", [NOTE, UNFILTERED])
async def test_content_that_comes_later_is_delivered_whichever_call_sees_it(asked):
    house = House(NOTE)
    empty = make_result("completed", make_document(NOTE, status="empty", data=None), transcript="words")
    house.script(NOTE, empty, empty if asked == UNFILTERED else good("words"))
    house.script(UNFILTERED, empty, empty if asked == NOTE else good("words"))
    await house.run()
    assert house.told == [("document.ready", NOTE, None)]
    assert house.store.kept.status == "completed"


async def test_a_partial_success_is_delivered_with_its_warnings_and_the_session_is_partial():
    house = House(NOTE, LETTER)
    house.script(NOTE, make_result("partial", PARTIAL))
    house.script(LETTER, make_result("completed", make_document(LETTER)))
    both = make_result("partial", PARTIAL, make_document(LETTER), transcript="words")
    house.script(UNFILTERED, both)
    await house.run()
    assert [kind for kind, _, _ in house.told] == ["document.ready", "document.ready"]
    (note,) = (e.data.document for e in house.store.kept.events if e.data.document.template_id == NOTE)
    assert [warning.code for warning in note.warnings] == ["document_partial"]
    assert (house.store.kept.status, house.store.kept.settled) == ("partial", 1)
    assert house.vendor.asked == {NOTE: 1, LETTER: 1, UNFILTERED: 1}


async def test_every_document_of_one_template_is_delivered_though_the_filter_gives_only_one():
    house = House(NOTE)
    second = make_document(NOTE, upstream_id="doc_second", data={"note": "second"})
    house.script(NOTE, good())
    house.script(UNFILTERED, make_result("completed", second, GOOD, transcript="words"))
    await house.run()
    assert [kind for kind, _, _ in house.told] == ["document.ready", "document.ready"]
    assert {document.version for document, _ in house.store.kept.documents} == {1}
    assert house.vendor.asked == {NOTE: 1, UNFILTERED: 1}


async def test_of_two_documents_of_one_template_the_good_one_is_delivered_and_the_bad_one_told():
    house = House(LETTER)
    other = make_document(LETTER, upstream_id="doc_other")
    house.script(LETTER, make_result("failed"))
    house.script(UNFILTERED, make_result("partial", BAD, other, transcript="words"))
    await house.run()
    assert house.told == [
        ("document.failed", LETTER, ("template_failed", REASON)),
        ("document.ready", LETTER, None),
    ]


async def test_a_server_that_refuses_the_filter_is_asked_without_it():
    house = House(NOTE)
    house.script(NOTE, VendorRefused("400", status=400, vendor_code="bad_request"))
    house.script(UNFILTERED, good("words"))
    await house.run()
    assert house.told == [("document.ready", NOTE, None)]
    assert house.store.kept.status == "completed"


async def test_a_session_failed_by_contradiction_still_gives_the_document_that_is_here():
    house = House(NOTE, LETTER)
    house.script(NOTE, good("words"))
    house.script(LETTER, PENDING)
    house.script(UNFILTERED, make_result("failed"))
    await house.run()
    assert house.told == [
        ("document.failed", LETTER, ("template_failed", None)),
        ("document.ready", NOTE, None),
    ]
    assert (house.store.kept.status, house.store.kept.error_code) == ("partial", "vendor_failed")


async def test_an_unfiltered_failure_after_every_document_came_changes_nothing():
    house = House(NOTE)
    house.script(NOTE, make_result("partial", GOOD))
    house.script(UNFILTERED, make_result("failed"))
    await house.run()
    assert house.told == [("document.ready", NOTE, None)]
    assert house.store.kept.error_code is None


async def test_the_transcript_of_an_unfinished_answer_is_taken_once_a_document_was_made_of_it():
    house = House(NOTE, LETTER)
    house.script(NOTE, good())
    house.script(LETTER, PENDING)
    house.script(UNFILTERED, make_result("processing", transcript="words"))
    await house.run(until=30)
    assert house.told == [("document.ready", NOTE, None)]
    assert house.store.kept.events[0].data.transcript == "words"
    assert house.store.kept.status == "processing"


@pytest.mark.parametrize("pending", [3, 6, 9])
async def test_a_document_waits_for_its_transcript_however_often_the_session_was_unfinished_before(pending):
    house = House(NOTE, LETTER)
    house.script(NOTE, *[PENDING] * pending, good())
    house.script(LETTER, make_result("failed"))
    house.script(UNFILTERED, PENDING)
    while house.vendor.asked[NOTE] <= pending:
        for job in await house.fetching.claim(None, 10):
            await house.fetching.fetch(job)
    assert house.store.kept.events == []
    house.script(UNFILTERED, make_result("partial", GOOD, BAD, transcript="words"))
    asked = house.vendor.asked[UNFILTERED]
    await house.run()
    assert len(house.store.kept.events) == 2
    assert {event.data.transcript for event in house.store.kept.events} == {"words"}
    assert house.vendor.asked[UNFILTERED] == asked + 1


async def test_a_document_whose_transcript_nobody_gives_goes_out_without_it_after_a_minute():
    house = House(NOTE, LETTER)
    house.script(NOTE, *[PENDING] * 6, good())
    house.script(LETTER, make_result("failed"))
    house.script(UNFILTERED, PENDING)
    while house.vendor.asked[NOTE] <= 6:
        for job in await house.fetching.claim(None, 10):
            await house.fetching.fetch(job)
    await house.run(until=house.store.kept.now + 60)
    assert house.told == [("document.ready", NOTE, None)]
    assert house.store.kept.events[0].data.transcript is None


async def test_the_beginning_of_a_transcript_is_not_taken_for_it():
    house = House(NOTE)
    house.script(NOTE, PENDING)
    house.script(UNFILTERED, make_result("processing", transcript="wor"))
    await house.run(until=300)
    assert house.vendor.asked[UNFILTERED] >= 1
    assert house.store.kept.transcript is None


async def test_a_second_document_that_the_filter_gives_later_does_not_replace_the_first():
    house = House(NOTE)
    second = make_document(NOTE, upstream_id="doc_second", data={"note": "second"})
    slow = make_document(NOTE, upstream_id="doc_second", status="pending", data=None)
    house.script(NOTE, PENDING, make_result("completed", second))
    house.script(UNFILTERED, make_result("partial", GOOD, slow, transcript="words"))
    async with house.store.settling(SESSION) as unit:
        assert unit is not None
        await unit.request_unfiltered(at_once=True)
    await house.run()
    assert [kind for kind, _, _ in house.told] == ["document.ready", "document.ready"]
    assert {document.version for document, _ in house.store.kept.documents} == {1}


async def test_a_second_look_leaves_a_session_partial_that_the_vendor_still_calls_so():
    house = House(NOTE)
    both = make_result("partial", PARTIAL, transcript="words")
    house.script(NOTE, make_result("partial", PARTIAL))
    house.script(UNFILTERED, both)
    await house.run()
    assert house.store.kept.status == "partial"
    house.store.kept.fetches[UNFILTERED].outcome = None
    await house.run()
    assert (house.store.kept.status, house.store.kept.settled) == ("partial", 1)


async def test_a_session_that_was_partial_while_a_document_was_made_is_completed_by_the_last_answer():
    house = House(NOTE, LETTER)
    house.script(NOTE, make_result("partial", GOOD, transcript="words"))
    house.script(LETTER, *[PENDING] * 4, make_result("completed", make_document(LETTER)))
    unfinished = make_result("partial", GOOD, transcript="words")
    both = make_result("completed", GOOD, make_document(LETTER), transcript="words")
    house.script(UNFILTERED, *[unfinished] * 4, both)
    await house.run()
    assert (house.store.kept.status, house.store.kept.settled) == ("completed", 1)


async def test_a_server_that_never_answers_finally_does_not_keep_a_session_open():
    house = House(NOTE)
    house.script(NOTE, make_result("partial", GOOD, transcript="words"))
    house.script(UNFILTERED, PENDING)
    await house.run()
    assert (house.store.kept.status, house.store.kept.settled) == ("completed", 1)
    assert house.settled_at is not None
    assert house.settled_at < 1200
