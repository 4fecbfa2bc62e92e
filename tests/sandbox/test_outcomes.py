"""A filtered and an unfiltered Get Session of each outcome, in each character.

See docs/vendor.md#filtered-document and docs/vendor.md#partial-success.
"""

import re
from pathlib import Path
from typing import Any, get_args

import httpx2
import pytest

from service.sandbox.vendor.characters import CHARACTERS
from service.sandbox.vendor.processing import PREFIXES
from service.sandbox.vendor.settings import Outcome
from tests.sandbox.conftest import Bench
from tests.support.sounds import wav
from tests.support.stand_in_outcomes import dictate, only, until

GOOD = "a_note"


CODE = "llm_structring_failure"


@pytest.fixture(params=list(CHARACTERS))
async def house(bench: Bench, request: pytest.FixtureRequest) -> Bench:
    await bench.settle(character=request.param, long_poll_seconds=0)
    return bench


async def ask(house: Bench, session_id: str, **query: str) -> tuple[int, str]:
    answer = await house.get(session_id, **query)
    return answer.status_code, answer.json()["status"]


def entries(body: dict[str, Any]) -> list[tuple[str, str, Any]]:
    return [(name, each["status"], each["data"]) for item in body["templates"] for name, each in item.items()]


async def test_one_good_one_failing(house: Bench):
    session_id = await dictate(house, GOOD, "fail_b")
    whole = await until(house, session_id, 206)
    assert whole["status"] == "partial"
    assert whole["transcript"].startswith("Received 1 audio file")
    found = {name: (status, data is None) for name, status, data in entries(whole)}
    failed = "failed" if "patient_details" not in whole and "expires_at" in whole else "failure"
    assert found == {GOOD: ("success", False), "fail_b": (failed, True)}
    (errors,) = (each["fail_b"]["errors"] for each in whole["templates"] if "fail_b" in each)
    assert [each["code"] for each in errors] == [CODE]
    alone = await until(house, session_id, 200, template_id="fail_b")
    assert alone["status"] == "failed"
    assert {"templates", "transcript", "completed_at", "errors"}.isdisjoint(alone)
    assert (await until(house, session_id, 200, template_id=GOOD))["status"] == "completed"
    text = await until(house, session_id, 200, template_id="transcript")
    assert (text["transcript"], text["templates"]) == (whole["transcript"], [])


async def test_every_template_failed_but_the_transcript_is_there(house: Bench):
    session_id = await dictate(house, "fail_a", "fail_b")
    whole = await until(house, session_id, 206)
    assert whole["transcript"]
    assert len(whole["templates"]) == 2
    assert await ask(house, session_id, template_id="transcript") == (200, "completed")


async def test_a_failed_document_is_told_while_the_other_is_made(house: Bench):
    session_id = await dictate(house, "fail_a", "slow_b", slow_template_seconds=30)
    assert (await until(house, session_id, 200, template_id="fail_a"))["status"] == "failed"
    assert await ask(house, session_id, template_id="slow_b") == (202, "processing")
    whole = await house.get(session_id)
    assert (whole.status_code, whole.json()["status"]) == (202, "processing")
    assert whole.json()["transcript"]
    assert (await house.get(session_id, template_id="slow_b")).json()["transcript"] == ""


async def test_a_slow_second_document_arrives(house: Bench):
    session_id = await dictate(house, GOOD, "slow_b", slow_template_seconds=0.3)
    await until(house, session_id, 200, template_id=GOOD)
    assert (await until(house, session_id, 200, template_id="slow_b"))["status"] == "completed"
    assert len((await until(house, session_id, 200))["templates"]) == 2


async def test_partial_success_has_content_and_warnings(house: Bench):
    session_id = await dictate(house, GOOD, "partial_b")
    whole = await until(house, session_id, 206)
    assert sorted(status for _, status, _ in entries(whole)) == ["partial_success", "success"]
    alone = await until(house, session_id, 206, template_id="partial_b")
    entry = only(alone)
    assert entry["data"]["audio"]["files"] == 1
    assert [each["code"] for each in entry["warnings"]] == ["audio_quality_poor"]
    assert await ask(house, session_id, template_id=GOOD) == (200, "completed")


async def test_an_empty_success_stays_empty_and_a_late_one_fills(house: Bench):
    session_id = await dictate(house, "empty_a", "late_b", late_content_seconds=0.3)
    whole = await until(house, session_id, 200)
    assert {(status, data) for _, status, data in entries(whole)} == {("success", None)}
    while only((await house.get(session_id, template_id="late_b")).json())["data"] is None:
        pass
    assert only((await house.get(session_id, template_id="empty_a")).json())["data"] is None


async def test_a_failed_transcription_shows_only_unfiltered_and_late(house: Bench):
    session_id = await dictate(house, GOOD, outcome="stt_failed", stt_fail_seconds=0.5)
    for query in ({}, {"template_id": GOOD}, {"template_id": "transcript"}):
        assert await ask(house, session_id, **query) == (202, "processing")
    whole = await until(house, session_id, 200)
    assert whole["status"] == "failed"
    assert {"templates", "transcript", "completed_at"}.isdisjoint(whole)
    assert await ask(house, session_id, template_id=GOOD) == (202, "processing")
    assert await ask(house, session_id, template_id="transcript") == (202, "processing")


async def test_an_unknown_status_is_202_under_a_filter_and_a_word_without(house: Bench):
    session_id = await dictate(house, GOOD, "odd_b")
    await until(house, session_id, 200, template_id=GOOD)
    whole = await house.get(session_id)
    assert whole.status_code == 206
    assert "some_new_status" in {status for _, status, _ in entries(whole.json())}
    assert await ask(house, session_id, template_id="odd_b") == (202, "processing")


async def test_two_documents_of_one_template(house: Bench):
    session_id = await dictate(house, "twice_a")
    whole = await until(house, session_id, 200)
    assert [name for name, _, _ in entries(whole)] == ["twice_a", "twice_a"]
    ids = [each["twice_a"]["document_id"] for each in whole["templates"]]
    contents = []
    for document_id in ids:
        alone = only((await house.get(session_id, document_id=document_id)).json())
        assert alone["document_id"] == document_id
        contents.append(alone["data"].get("revision"))
    assert set(contents) == {None, 2}


async def test_content_by_address_needs_no_token(house: Bench):
    session_id = await dictate(house, "presigned_a")
    entry = only(await until(house, session_id, 200, template_id="presigned_a"))
    assert entry["data"] is None
    assert isinstance(entry["presigned_url_expires_at"], int)
    async with httpx2.AsyncClient(trust_env=False) as bare:
        text = await bare.get(entry["presigned_url"])
        bad = await bare.get(entry["presigned_url"][:-4] + "0000")
    assert (text.status_code, text.json()["audio"]["files"]) == (200, 1)
    assert text.headers["content-type"].startswith("text/plain")
    assert (bad.status_code, bad.json()) == (403, {"detail": "invalid or expired storage token"})


@pytest.mark.parametrize(
    ("outcome", "status", "word"),
    [
        ("partial", 206, "failure"),
        ("partial_success", 206, "partial_success"),
        ("empty", 200, "success"),
        ("odd", 206, "some_new_status"),
    ],
)
async def test_an_outcome_can_be_chosen_for_one_session(house: Bench, outcome: str, status: int, word: str):
    session_id = (await house.create(templates=[GOOD, "b_note"]))["session_id"]
    await house.upload(session_id, "audio_0.wav", wav(1))
    await house.settle(outcomes={session_id: outcome})
    await house.end(session_id)
    found = {name: (each, data) for name, each, data in entries(await until(house, session_id, status))}
    assert found[GOOD][0] == "success"
    assert found["b_note"][0].replace("failed", "failure") == word
    assert (found["b_note"][1] is None) == (outcome in {"partial", "empty"})


async def test_before_the_end_a_filter_is_held_and_the_session_is_not(house: Bench):
    session_id = (await house.create(templates=[GOOD]))["session_id"]
    assert await ask(house, session_id) == (202, "initialized")
    assert await ask(house, session_id, template_id=GOOD) == (202, "processing")
    await house.settle(long_poll_seconds=30)
    with pytest.raises(httpx2.ReadTimeout):
        await house.client.get(f"/voice/v1/sessions/{session_id}", params={"template_id": GOOD}, timeout=0.2)
    assert await ask(house, session_id) == (202, "initialized")
    assert (await house.get(session_id, template_id="nope")).status_code == 404


async def test_august_never_makes_a_document_by_itself(bench: Bench):
    await bench.settle(character="onprem-2026-08", makes_documents=False, long_poll_seconds=0)
    session_id = await dictate(bench, GOOD, "b_note", stt_fail_seconds=0.5)
    assert (await until(bench, session_id, 200, template_id="transcript"))["transcript"]
    assert await ask(bench, session_id) == (202, "processing")
    whole = await until(bench, session_id, 206)
    assert {(status, data) for _, status, data in entries(whole)} == {("failure", None)}
    assert [each["errors"] for item in whole["templates"] for each in item.values()] == [[], []]
    assert await ask(bench, session_id, template_id=GOOD) == (202, "processing")


def test_the_page_tells_of_every_prefix_and_outcome() -> None:
    page = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text(encoding="utf-8")
    prefixes = page.partition("| prefix |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", prefixes, re.MULTILINE)) == {*PREFIXES, "markdown", "no_such"}
    outcomes = page.partition("| outcome |")[2].partition("\n\n")[0]
    named = {
        word for cell in re.findall(r"^\| (`.*?) \|", outcomes, re.MULTILINE) for word in cell.split(", ")
    }
    assert {each.strip("`") for each in named} == set(get_args(Outcome))
    characters = page.partition("| `character` | what")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([\w-]+)`", characters, re.MULTILINE)) == set(CHARACTERS)
