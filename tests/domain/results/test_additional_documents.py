"""A further document is asked for once, awaited under its id, and never touches its session's ending."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.domain.errors import (
    InvalidRequest,
    NotFound,
    SessionErased,
    SessionNotFinished,
    VendorRefused,
    VendorTimeout,
    VendorUnavailable,
)
from service.domain.ids import DEFAULT_ACCOUNT, UNFILTERED, TemplateId
from service.domain.results.additional_document_requests import AdditionalDocumentRequests
from service.domain.results.additional_documents import MAX_TRIES
from service.domain.results.fetching import ResultFetcher
from service.domain.results.models import AdditionalDocumentState
from tests.support.fakes import MemoryResults, Owed, ScriptedVendor
from tests.support.makers import (
    AT_VENDOR,
    LETTER,
    NOTE,
    SESSION,
    TurnedClock,
    make_document,
    make_principal,
    make_result,
)

TIMEOUT = VendorTimeout("no answer", sent=True)
UNSENT = VendorUnavailable("refused", sent=False)
NOTHING = make_result("no_document")


def state(**fields: Any) -> AdditionalDocumentState:
    values: dict[str, Any] = {
        "vendor_id": AT_VENDOR,
        "account": DEFAULT_ACCOUNT,
        "status": "completed",
        "is_erased": False,
        "is_pending": False,
        "is_asking": False,
        "is_unclear": False,
        "document_id": None,
        "known": frozenset(),
    }
    return AdditionalDocumentState(**(values | fields))


class NoKeys:
    """The domain's DocumentKeyStore for calls without an Idempotency-Key: nothing of it is called."""

    async def reserve(self, *_: Any, lease_seconds: float) -> Any:
        raise AssertionError("no key was given")

    async def finish(self, *_: Any) -> None:
        raise AssertionError("no key was given")

    async def abandon(self, *_: Any) -> None:
        raise AssertionError("no key was given")


async def read_nothing(*_: Any) -> Any:
    raise AssertionError("no answer is made")


class MemoryFurther:
    """The domain's AdditionalDocumentStore for one session: what was recorded, in order."""

    def __init__(self, found: AdditionalDocumentState | None) -> None:
        self.state = found
        self.is_erased_after_begin = False
        self.recorded: list[Any] = []

    @asynccontextmanager
    async def opening(self, *_: Any) -> AsyncIterator[Any]:
        yield self if self.state is not None else None

    async def begin(self, lease: Any, lease_seconds: float) -> None:
        self.recorded.append("begun")
        if self.is_erased_after_begin:
            self.state = state(is_erased=True)

    async def record_asked(self, *values: Any) -> None:
        self.recorded.append(("asked", values[3]))

    async def leave(self, *_: Any) -> None:
        self.recorded.append("left")

    async def withdraw(self, *_: Any) -> None:
        self.recorded.append("withdrawn")


class Asking:
    """A AdditionalDocumentRequests with everything that it talks to."""

    def __init__(
        self, found: AdditionalDocumentState | None, *made: Any, looks: tuple[Any, ...] = (NOTHING,)
    ) -> None:
        self.store = MemoryFurther(found)
        self.vendor = ScriptedVendor()
        self.vendor.made = list(made)
        self.vendor.answers = {LETTER: list(looks)}

    async def ask(self, template_id: TemplateId = LETTER) -> str | None:
        clock = TurnedClock()
        further = AdditionalDocumentRequests(
            store=self.store, idempotency=NoKeys(), vendor=self.vendor, clock=clock, read=read_nothing
        )
        return await further.ask(make_principal(), SESSION, template_id)


async def test_it_is_asked_for_once_and_its_id_is_kept():
    desk = Asking(state(), "doc_x")
    assert await desk.ask() == "doc_x"
    assert desk.vendor.calls == ["make"]
    assert desk.store.recorded == ["begun", ("asked", "doc_x")]


@pytest.mark.parametrize(
    "found",
    [
        state(is_pending=True),
        state(is_pending=True, document_id="doc_x"),
        state(is_pending=True, is_asking=True),
    ],
)
async def test_what_is_on_its_way_is_not_asked_for_again(found):
    desk = Asking(found, "doc_y")
    assert await desk.ask() == found.document_id
    assert (desk.vendor.calls, desk.store.recorded) == ([], [])


async def test_what_somebody_left_unclear_is_looked_for_first():
    unclear = state(is_pending=True, is_unclear=True)
    desk = Asking(unclear, "doc_y", looks=(make_result("completed", make_document(LETTER)),))
    assert await desk.ask() == f"doc_of_{LETTER}"
    assert desk.vendor.calls == ["ask"]
    desk = Asking(unclear, "doc_y")
    assert await desk.ask() == "doc_y"
    assert desk.vendor.calls == ["ask", "make"]


@pytest.mark.parametrize(
    ("look", "calls", "answer"),
    [
        (NOTHING, ["make", "ask", "make"], "doc_y"),
        (make_result("processing"), ["make", "ask"], None),
        (make_result("completed", make_document(LETTER, upstream_id="doc_x")), ["make", "ask"], "doc_x"),
        (
            make_result("completed", make_document(LETTER, upstream_id="old")),
            ["make", "ask", "make"],
            "doc_y",
        ),
    ],
)
async def test_after_an_unclear_answer_only_a_document_that_was_not_there_before_counts(look, calls, answer):
    desk = Asking(state(known=frozenset({"old"})), TIMEOUT, "doc_y", looks=(look,))
    assert await desk.ask() == answer
    assert desk.vendor.calls == calls


async def test_a_call_that_was_never_sent_is_repeated_without_looking():
    desk = Asking(state(), UNSENT, UNSENT, "doc_x")
    assert await desk.ask() == "doc_x"
    assert desk.vendor.calls == ["make"] * 3


@pytest.mark.parametrize("error", [TIMEOUT, UNSENT])
async def test_a_vendor_that_is_away_leaves_it_to_be_found_out(error):
    desk = Asking(state(), error, looks=(TIMEOUT,))
    with pytest.raises(type(error)):
        await desk.ask()
    assert desk.store.recorded == ["begun", "left"]


@pytest.mark.parametrize(
    ("found", "made", "calls"),
    [
        (state(), (UNSENT, "doc_x"), ["make"]),
        (state(), (TIMEOUT, "doc_x"), ["make", "ask"]),
        (state(is_pending=True, is_unclear=True), ("doc_x",), ["ask"]),
    ],
)
async def test_nothing_is_asked_for_again_once_the_session_was_erased(found, made, calls):
    desk = Asking(found, *made)
    desk.store.is_erased_after_begin = True
    with pytest.raises(SessionErased):
        await desk.ask()
    assert (desk.vendor.calls, desk.store.recorded) == (calls, ["begun", "left"])


async def test_a_refusal_is_told_and_nothing_is_awaited():
    desk = Asking(state(), VendorRefused("no", status=404, vendor_code="template_not_found"))
    with pytest.raises(VendorRefused):
        await desk.ask()
    assert desk.store.recorded == ["begun", "withdrawn"]


@pytest.mark.parametrize("status", ["created", "recording", "processing", "failed", "expired", "cancelled"])
async def test_only_a_finished_session_has_further_documents(status):
    desk = Asking(state(status=status), "doc_x")
    with pytest.raises(SessionNotFinished):
        await desk.ask()
    with pytest.raises(SessionErased):
        await Asking(state(is_erased=True), "doc_x").ask()
    with pytest.raises(NotFound):
        await Asking(None, "doc_x").ask()
    for odd in ("", "a/b", "a\n", "x" * 129, "é", "a\0b"):
        with pytest.raises(InvalidRequest):
            await Asking(state(), "doc_x").ask(TemplateId(odd))
    assert (desk.vendor.calls, desk.store.recorded) == ([], [])


class Fetched:
    """A completed session that awaits a letter."""

    def __init__(self, *answers: Any, asked: str = "asked", document_id: str | None = "doc_x") -> None:
        self.store = MemoryResults(NOTE, status="completed", is_final=True, transcript="words")
        self.store.kept.fetches[NOTE].outcome = "completed"
        self.store.kept.fetches[LETTER] = Owed(LETTER, asked=asked, document_id=document_id)
        self.vendor = ScriptedVendor()
        self.vendor.answers = {LETTER: list(answers)}
        self.fetching = ResultFetcher(store=self.store, vendor=self.vendor, clock=TurnedClock())

    async def fetch(self, times: int = 1, **fields: Any) -> None:
        for _ in range(times):
            await self.fetching.fetch(self.store.claim(LETTER, **({"ended_seconds_ago": 9e9} | fields)))

    @property
    def events(self) -> list[tuple[str, int]]:
        return [(event.type, event.data.document.version) for event in self.store.kept.events]

    def is_as_it_was(self) -> bool:
        return (self.store.kept.status, self.store.kept.settled) == ("completed", 0)


X = make_document(LETTER, upstream_id="doc_x")
OLD = make_document(LETTER, upstream_id="doc_old", data={"note": "old"})


async def test_the_awaited_document_is_stored_and_told():
    desk = Fetched(make_result("completed", X))
    await desk.fetch()
    assert desk.events == [("document.ready", 1)]
    assert desk.store.kept.fetches[LETTER].outcome == "completed"
    assert desk.is_as_it_was()


@pytest.mark.parametrize(
    "answer",
    [
        make_result("processing"),
        NOTHING,
        make_result("completed", OLD),
        make_result("completed", make_document(LETTER, upstream_id="doc_x", status="pending")),
        make_result("missing"),
        TIMEOUT,
        VendorRefused("no", status=403, vendor_code=None),
    ],
)
async def test_an_answer_without_it_means_not_yet(answer):
    desk = Fetched(answer, answer, answer, make_result("completed", X))
    await desk.fetch(3)
    assert desk.events == []
    assert len(desk.store.waits) == 3
    await desk.fetch()
    assert desk.events == [("document.ready", 1)]
    assert desk.is_as_it_was()


async def test_a_failed_document_is_told_with_the_reason_that_the_unfiltered_answer_gives():
    desk = Fetched(make_result("failed"))
    failed = make_document(
        LETTER, upstream_id="doc_x", status="failed", data="old text", vendor_code="llm_failure"
    )
    desk.vendor.answers[UNFILTERED] = [make_result("partial", OLD, failed)]
    await desk.fetch()
    assert desk.vendor.document_ids == ["doc_x", None]
    assert desk.events == [("document.failed", 1)]
    told = desk.store.kept.events[0].data.document
    assert (told.error.code, told.error.vendor_code, told.data) == ("template_failed", "llm_failure", None)
    assert desk.is_as_it_was()


async def test_an_empty_document_is_waited_for_ten_minutes_and_then_told():
    empty = make_document(LETTER, upstream_id="doc_x", status="empty", data=None)
    desk = Fetched(make_result("completed", empty))
    for _ in range(60):
        for job in await desk.fetching.claim(None, 1):
            await desk.fetching.fetch(job)
    assert 600 <= sum(seconds for _, seconds, _ in desk.store.waits) < 700
    assert desk.events == [("document.failed", 1)]
    assert desk.store.kept.events[0].data.document.error.code == "document_empty"


async def test_a_document_under_an_unknown_session_status_is_doubted_for_ten_minutes_and_then_stored():
    desk = Fetched(make_result("unknown", make_document(LETTER, upstream_id="doc_x")))
    for _ in range(60):
        for job in await desk.fetching.claim(None, 1):
            await desk.fetching.fetch(job)
    assert 600 <= sum(seconds for _, seconds, _ in desk.store.waits) < 700
    assert desk.events == [("document.ready", 1)]
    assert desk.is_as_it_was()


@pytest.mark.parametrize(("answer", "tries"), [(NOTHING, 5), (make_result("missing"), 8)])
async def test_what_never_comes_is_told_as_failed_and_the_session_stays(answer, tries):
    desk = Fetched(answer)
    await desk.fetch(tries - 1)
    assert desk.events == []
    await desk.fetch()
    assert desk.events == [("document.failed", 1)]
    assert desk.store.kept.events[0].data.document.error.code == "document_missing"
    assert desk.is_as_it_was()


async def test_after_a_while_what_is_there_is_taken():
    desk = Fetched(make_result("completed", OLD))
    await desk.fetch(5)
    assert desk.events == [("document.ready", 1)]
    assert desk.store.kept.events[0].data.document.data == {"note": "old"}


@pytest.mark.parametrize("answer", [make_result("processing"), TIMEOUT])
async def test_it_is_given_up_after_very_many_tries_only(answer):
    desk = Fetched(answer)
    await desk.fetch(attempts=MAX_TRIES - 1)
    assert desk.events == []
    await desk.fetch(attempts=MAX_TRIES)
    assert desk.events == [("document.failed", 1)]


async def test_a_rerun_takes_the_place_of_what_there_was():
    desk = Fetched(make_result("completed", OLD), asked="asked", document_id="doc_old")
    await desk.fetch()
    desk.store.kept.fetches[LETTER] = Owed(LETTER, asked="asked", document_id="doc_x")
    desk.vendor.answers[LETTER] = [make_result("completed", OLD, X)]
    await desk.fetch()
    assert desk.events == [("document.ready", 1), ("document.ready", 2)]
    assert desk.store.kept.events[1].data.document.data == X.data


async def test_a_look_finds_what_was_asked_for_or_forgets_it():
    desk = Fetched(make_result("completed", X), asked="asking", document_id=None)
    await desk.fetch()
    row = desk.store.kept.fetches[LETTER]
    assert (row.asked, row.document_id, desk.events) == ("asked", "doc_x", [])
    desk = Fetched(NOTHING, asked="asking", document_id=None)
    await desk.fetch()
    assert LETTER not in desk.store.kept.fetches
    assert desk.events == []
    assert desk.is_as_it_was()


async def test_a_lost_lease_records_nothing():
    desk = Fetched(make_result("completed", X))
    late = desk.store.claim(LETTER)
    desk.store.claim(LETTER)
    await desk.fetching.fetch(late)
    assert (desk.events, desk.store.kept.fetches[LETTER].outcome) == ([], None)
