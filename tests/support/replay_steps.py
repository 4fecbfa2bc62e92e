"""What happened before a recorded exchange and is not recorded itself, by label.

A step puts the stand-in into the state that the label tells of, through the public calls where there are
any, and through the control API where the label says `db_set`, `callback_set` or `forced`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.recordings import AUGUST, FIRST, JULY, Exchange, session_in
from tests.support.replaying import Conversation, Step

STEPS: dict[tuple[str, str], list[Step]] = {}
TEMPLATES = {
    JULY: {
        "ef9a6c5f-0f3b-487e-bb48-0c3553bb4d7f": "markdown_note",
        "db4d11a8-55e2-4139-b609-aa63ebc1ca46": "markdown_plan",
        "bb33cb1c-d728-479d-bf1c-fcc3bcc24556": "markdown_third",
        "a1a0c871-558a-4370-8bf5-a2f6198ea548": "json_note",
        "ef157257-a331-4ace-9066-1e5e5c4f0411": "fail_first",
        "fa0ae369-5582-48cb-8f24-78e72c41fbf1": "fail_empty",
        "f0f87e03-6522-4f3f-bef6-1efa98281a60": "slow_note",
        "02ffdf18-b604-42c9-ba10-3a52b13114e9": "slow_fail",
        "19288d2f-81a9-46a6-b804-9651242a9b3e": "soap_notes_default",
    },
    AUGUST: {
        "9553d330-43df-4095-969a-d659dccdea43": "markdown_note",
        "f6f13642-652e-4327-8c57-100b88eadad8": "markdown_plan",
        "cba298a8-a4ae-426e-b95f-a30664f29b4c": "markdown_third",
        "24a4827b-b35e-4087-b0e0-d18a339de5b0": "json_note",
        "f4b665c3-6ee3-4a11-8230-9800bc646fb8": "fail_first",
        "0f7e6f9d-ac6a-43f1-90f0-c195f66b8f06": "soap_notes_default",
    },
    FIRST: {},
}
NOTE = "## Clinical note\n\n- **Complaint:** cough and fever, three days"
FAILURE = {
    "type": "error",
    "code": "llm_structring_failure",
    "msg": "Something went wrong while generating the response. Please try again.",
}
WARNING = {
    "type": "warning",
    "code": "audio_quality_poor",
    "msg": "Parts of the recording could not be understood.",
}
PATIENT = {"oid": "PAT-7", "name": "Asha Rao", "age": 41, "gender": "F"}


def before(*labels: str, source: str = "") -> Callable[[Step], Step]:
    def keep(step: Step) -> Step:
        for label in labels:
            STEPS.setdefault((source, label), []).append(step)
        return step

    return keep


async def opened(talk: Conversation, exchange: Exchange, **fields: Any) -> str:
    recorded = str(session_in(exchange))
    if recorded not in talk.sessions:
        await talk.open(recorded, **fields)
    return recorded


async def dictated(talk: Conversation, exchange: Exchange, files: int = 1, **fields: Any) -> str:
    """Make, fill and end the session of this exchange."""
    recorded = await opened(talk, exchange, **fields)
    await talk.upload_files(recorded, [f"{number}.wav" for number in range(files)])
    if recorded not in talk.ended:
        await talk.end(recorded)
    return recorded


async def documented(talk: Conversation, exchange: Exchange, **document: Any) -> None:
    await talk.control(str(session_in(exchange)), "/documents", **document)


# Two templates, one of which fails


@before("two_templates.one_failed.both_done.unfiltered", source=JULY)
async def slow_one_fails(talk: Conversation, exchange: Exchange) -> None:
    await documented(talk, exchange, template_id="slow_fail", status="failure", errors=[FAILURE])


@before("two_templates.failed_first.both_done.unfiltered", source=JULY)
async def slow_one_is_done(talk: Conversation, exchange: Exchange) -> None:
    await documented(talk, exchange, template_id="slow_note", status="success", content=NOTE)


@before("two_templates.one_failed.both_done.db_set.filter_failed", source=AUGUST)
async def path_is_set(talk: Conversation, exchange: Exchange) -> None:
    await documented(talk, exchange, template_id="markdown_note", has_path=True)


# Documents with nothing in them


@before("success_empty.blob_removed.unfiltered")
async def content_is_gone(talk: Conversation, exchange: Exchange) -> None:
    recorded = await dictated(talk, exchange)
    if talk.source == AUGUST:
        plan = {"chief_complaint": ["cough"], "plan": "rest"}
        await talk.control(recorded, "/documents", template_id="json_note", status="success", content=plan)
    await talk.control(recorded, "/documents", template_id="markdown_note", status="success", content=None)


@before("markdown_and_json.unfiltered", "markdown_and_json.unfiltered.db_set")
async def content_is_back(talk: Conversation, exchange: Exchange) -> None:
    await documented(talk, exchange, template_id="markdown_note", content=NOTE)


@before(
    "success_empty.new_document.documents_create",
    "documents.create",
    "context.document_create",
    "flavour_web.documents_create",
    "success_empty.put_to_unfinished_document.documents_update.put_url",
    "documents.after.unfiltered",
    "erase.open_transaction_delete",
    "patch.after_end.details",
    "convert_to_template.after_audio",
    "upload.after_completed",
    "upload.after_end",
)
async def dictation_is_done(talk: Conversation, exchange: Exchange) -> None:
    fields: dict[str, Any] = {}
    if exchange["label"] == "documents.create":
        fields = {"templates": ["markdown_note"], talk.notes["patient"]: PATIENT}
    if exchange["label"].startswith("success_empty.put"):
        fields = {"templates": ["markdown_note"]}
    if exchange["label"] == "erase.open_transaction_delete":
        await opened(talk, exchange)
        return
    await dictated(talk, exchange, **fields)


# Partial success


@before("partial_success.db_set.set_document", source=AUGUST)
async def both_are_good(talk: Conversation, exchange: Exchange) -> None:
    await documented(talk, exchange, template_id="markdown_note", status="success", content=NOTE)
    await documented(talk, exchange, template_id="markdown_plan", status="success", content="Plan: rest")


@before(
    "partial_success.beside_failure.api_set.unfiltered", "partial_success.beside_failure.db_set.unfiltered"
)
async def other_one_fails(talk: Conversation, exchange: Exchange) -> None:
    await documented(talk, exchange, template_id="markdown_plan", status="failure", errors=[FAILURE])


@before("unknown_status.unfiltered.db_set")
async def status_is_new(talk: Conversation, exchange: Exchange) -> None:
    await documented(talk, exchange, template_id="markdown_note", status="some_new_status")


# Failed and empty transcription


@before("stt_failed.end")
async def no_transcript_comes(talk: Conversation, exchange: Exchange) -> None:
    session_id = talk.sessions[str(session_in(exchange))]
    await talk.upload_files(str(session_in(exchange)), ["0.wav", "1.wav"])
    await talk.bench.settle(outcomes={session_id: "stt_failed"})


@before("stt_failed_no_templates.after_124s.unfiltered")
async def no_transcript_came(talk: Conversation, exchange: Exchange) -> None:
    recorded = await opened(talk, exchange)
    await talk.bench.settle(outcomes={talk.sessions[recorded]: "stt_failed"})
    await dictated(talk, exchange)
    await talk.control(recorded, ended_seconds_ago=124)


def ended_ago(seconds: float, poll_seconds: float = 0.0) -> Step:
    async def step(talk: Conversation, exchange: Exchange) -> None:
        await talk.control(str(session_in(exchange)), ended_seconds_ago=seconds)
        await talk.bench.settle(long_poll_seconds=poll_seconds)

    return step


for after, seconds in (("040s", 40.0), ("112s", 112.0), ("128s", 128.0)):
    for asked in ("unfiltered", "filter", "filter_transcript"):
        before(f"stt_failed.after_{after}.{asked}")(ended_ago(seconds))
# This poll was held until the two minutes were over.
before("stt_failed.after_112s.unfiltered", source=AUGUST)(ended_ago(119.6, poll_seconds=5.0))
for asked in ("unfiltered", "filter_good", "filter_stuck"):
    before(f"document_never_made.after_120s.{asked}.db_set")(ended_ago(121.0))


@before("document_never_made.early.unfiltered.db_set")
async def one_is_made(talk: Conversation, exchange: Exchange) -> None:
    await dictated(talk, exchange)
    await documented(talk, exchange, template_id="markdown_note", status="success", content=NOTE)


@before("empty_transcript.unfiltered", source=JULY)
@before("empty_transcript.filter_transcript", source=AUGUST)
async def silence(talk: Conversation, exchange: Exchange) -> None:
    session_id = talk.sessions[await opened(talk, exchange)]
    await talk.bench.settle(outcomes={session_id: "silent"})


# Expiry


@before(
    "expired.six_hours_old_never_ended.filter.db_set", "expired.six_hours_old_never_ended.unfiltered.db_set"
)
async def six_hours_pass(talk: Conversation, exchange: Exchange) -> None:
    recorded = await opened(talk, exchange)
    await talk.control(recorded, age_seconds=6 * 3600.0)


@before("expired.410.no_audio.unfiltered.forced", "expired.410.unfiltered.forced")
async def expiry_is_forced(talk: Conversation, exchange: Exchange) -> None:
    recorded = await opened(talk, exchange)
    await talk.upload_files(recorded, exchange["response"]["body"]["json"]["audio_files"])
    await talk.control(recorded, expired=True)


# The first file


@before("get.initialized_with_files", source=FIRST)
async def another_session(talk: Conversation, exchange: Exchange) -> None:
    await talk.open(str(session_in(exchange)))


@before("tmplT.get", source=FIRST)
async def none_is_made(talk: Conversation, exchange: Exchange) -> None:
    recorded = await dictated(talk, exchange)
    await talk.control(recorded, ended_seconds_ago=121)


@before("tmplG.get", source=FIRST)
async def both_are_set(talk: Conversation, exchange: Exchange) -> None:
    await dictated(talk, exchange)
    for template_id in ("eka_emr_template", "clinical_notes_template"):
        await documented(talk, exchange, template_id=template_id, status="success")


before("sttfail.get_early", source=FIRST)(no_transcript_came)
before("sttfail.get_early", source=FIRST)(ended_ago(1))
before("sttfail.after_terminal", source=FIRST)(ended_ago(124))


@before("patch.mode_after_commit", source=FIRST)
async def committed(talk: Conversation, exchange: Exchange) -> None:
    await dictated(talk, exchange)
