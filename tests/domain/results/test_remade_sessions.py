"""Which bad endings at the vendor make a session again there, and that the EMR hears nothing of them."""

from __future__ import annotations

from typing import Any

import pytest

from service.domain.ids import UNFILTERED, VendorSessionId
from service.domain.results.fetching import ResultFetcher
from service.domain.results.models import VendorResult
from tests.support.fakes import MemoryResults, ScriptedVendor
from tests.support.makers import AT_VENDOR, LETTER, NOTE, SESSION, TurnedClock, make_document, make_result

DONE = make_result("completed", make_document(NOTE), transcript="words")


class Desk:
    """A fetcher over a session whose audio is kept."""

    def __init__(self, *answers: VendorResult, **fields: Any) -> None:
        self.store = MemoryResults(**({"keeps_audio": True} | fields))
        self.vendor = ScriptedVendor()
        self.vendor.answers = {UNFILTERED: list(answers)}
        self.fetcher = ResultFetcher(store=self.store, vendor=self.vendor, clock=TurnedClock())

    async def run(self) -> None:
        """Make all calls until the session is made again, or has its ending."""
        for _ in range(200):
            jobs = await self.fetcher.claim(None, 10)
            if not jobs or self.store.kept.remade_for or self.store.kept.is_final:
                return
            for job in jobs:
                await self.fetcher.fetch(job)
        raise AssertionError("it never ends")

    @property
    def told(self) -> list[str]:
        return [event.type for event in self.store.kept.events]


@pytest.mark.parametrize(
    ("state", "reason", "event"),
    [
        ("failed", "vendor_failed", "session.failed"),
        ("expired", "session_expired", "session.expired"),
        ("missing", "vendor_session_missing", "session.failed"),
    ],
)
async def test_it_is_made_again_once_and_the_emr_hears_of_the_second_ending_only(
    state: str, reason: str, event: str
) -> None:
    desk = Desk(make_result(state))
    await desk.run()
    assert (desk.store.kept.remade_for, desk.told, desk.store.kept.status) == (reason, [], "processing")
    assert [row.outcome for row in desk.store.kept.fetches.values()] == [None]
    desk.store.kept.remade_for = "once"
    (job,) = await desk.fetcher.claim(None, 1)
    while not desk.store.kept.is_final:
        await desk.fetcher.fetch(job)
        (job, *_) = await desk.fetcher.claim(None, 1) or [job]
    assert (desk.told, desk.store.kept.error_code) == ([event], reason)


async def test_a_result_that_is_made_again_is_not_counted_as_given_up() -> None:
    counted: list[str] = []
    desk = Desk(make_result("missing"))
    desk.fetcher = ResultFetcher(
        store=desk.store, vendor=desk.vendor, clock=TurnedClock(), count=counted.append
    )
    await desk.run()
    assert desk.store.kept.remade_for == "vendor_session_missing"
    assert set(counted) == {"pending", "settled"}


async def test_without_kept_audio_it_ends_as_ever() -> None:
    desk = Desk(make_result("failed"), keeps_audio=False)
    await desk.run()
    assert (desk.store.kept.remade_for, desk.told) == (None, ["session.failed"])


async def test_a_result_that_never_comes_is_no_reason() -> None:
    desk = Desk(make_result("processing"), now=90_000.0)
    await desk.run()
    assert (desk.store.kept.remade_for, desk.store.kept.error_code) == (None, "vendor_gave_no_result")


async def test_documents_that_are_here_go_out_instead() -> None:
    desk = Desk()
    desk.store = MemoryResults(NOTE, LETTER, keeps_audio=True)
    desk.fetcher = ResultFetcher(store=desk.store, vendor=desk.vendor, clock=TurnedClock())
    desk.vendor.answers = {
        NOTE: [make_result("partial", make_document(NOTE), transcript="words")],
        LETTER: [make_result("processing")],
        UNFILTERED: [make_result("failed")],
    }
    await desk.run()
    assert desk.store.kept.remade_for is None
    assert "document.ready" in desk.told
    assert desk.store.kept.status == "partial"


async def test_a_caller_that_speaks_of_a_replaced_session_changes_nothing() -> None:
    desk = Desk()
    await desk.fetcher.fail(SESSION, VendorSessionId("ses_replaced"), "vendor_session_missing")
    assert (desk.store.kept.status, desk.store.kept.remade_for, desk.told) == ("processing", None, [])
    await desk.fetcher.fail(SESSION, AT_VENDOR, "vendor_session_missing")
    assert (desk.store.kept.remade_for, desk.told) == ("vendor_session_missing", [])


@pytest.mark.parametrize("code", ["vendor_unavailable", "vendor_error"])
async def test_a_vendor_that_is_away_or_refuses_the_session_is_no_reason(code: str) -> None:
    desk = Desk()
    await desk.fetcher.fail(SESSION, AT_VENDOR, code)
    assert (desk.store.kept.remade_for, desk.told) == (None, ["session.failed"])
