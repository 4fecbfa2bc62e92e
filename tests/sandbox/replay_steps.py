"""What happened before a recorded exchange and is not recorded itself, by label.

A step puts the stand-in into the state that the label tells of, through the public calls where there are
any, and through the control API where the label says `db_set`, `callback_set` or `forced`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.sandbox.replaying import (
    AUGUST,
    FIRST,
    JULY,
    PATIENCE_SECONDS,
    Conversation,
    Exchange,
    Step,
    session_in,
)

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


# A second create, single recordings, forms


@before("create.id_duplicate.after_end.unfiltered")
async def duplicate_is_over(talk: Conversation, exchange: Exchange) -> None:
    await dictated(talk, exchange)


@before("create.id_duplicate", "create.stream.get_after_500")
async def id_is_taken(talk: Conversation, exchange: Exchange) -> None:
    recorded = str(session_in(exchange))
    if recorded not in talk.sessions:
        await talk.open(recorded, session_id=recorded)


@before("create.id_duplicate.end")
async def duplicate_has_audio(talk: Conversation, exchange: Exchange) -> None:
    await talk.upload_files(str(session_in(exchange)), ["0.wav"])


@before("single.upload_again", "single.garbage.upload", "single.plain_name.get", "single.create")
async def single_is_open(talk: Conversation, exchange: Exchange) -> None:
    if exchange["label"] == "single.create":
        return
    recorded = await opened(talk, exchange, upload_type="single")
    if "upload" not in exchange["label"] or exchange["label"] == "single.upload_again":
        seen = await talk.bench.witness(talk.sessions[recorded])
        if not seen["files"]:
            await talk.upload_files(recorded, ["s3://x/1.m4a"])


@before("form_upload.get_before_end", source=AUGUST)
async def forms_were_sent(talk: Conversation, exchange: Exchange) -> None:
    recorded = str(session_in(exchange))
    talk.sessions.setdefault(recorded, talk.notes.get("form_session", ""))


@before("form_upload.post_1", "form_upload.post_2", "form_upload.post_bad_token")
async def form_is_made(talk: Conversation, exchange: Exchange) -> None:
    if "form" not in talk.notes:
        answer = await talk.bench.client.post(
            "/voice/v1/sessions",
            params={"version": "v2"},
            json={"upload_type": "chunked", "language_hint": ["en"], "templates": []},
        )
        made = answer.json()
        talk.notes["form"] = made["upload_url"]["uploadData"]["fields"]
        talk.notes["form_session"] = made["session_id"]
        for each in talk.exchanges:
            recorded = session_in(each)
            if recorded is not None:
                talk.sessions[recorded] = made["session_id"]
    names = ["2.mp3"] if exchange["label"].endswith("_2") else ["1.mp3"]
    if exchange["label"] == "form_upload.post_2" and talk.source == JULY:
        names = ["1.mp3", "2.mp3"]
    for name in names:
        fields = dict(talk.notes["form"])
        if exchange["label"].endswith("bad_token"):
            fields["x-scribe-token"] = "bad"
        talk.notes["request"] = {
            "content": form_of(fields, name),
        }
        talk.notes["headers"] = {"content-type": "multipart/form-data; boundary=xyz"}
        if name != names[-1]:
            await talk.send({**exchange})


def form_of(fields: dict[str, str], name: str) -> bytes:
    parts = [
        f'--xyz\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in fields.items()
    ]
    head = f'--xyz\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
    return ("".join(parts) + head + "Content-Type: audio/mp3\r\n\r\nID3 sound\r\n--xyz--\r\n").encode()


# Ends


@before("end.says_9_has_2", "end.says_1_has_2", "end.chunk_1_missing", "end.names_list", "end.no_body")
@before("end.empty_object", "webhook.session.end")
async def audio_is_there(talk: Conversation, exchange: Exchange) -> None:
    recorded = await opened(talk, exchange)
    await talk.upload_files(recorded, exchange["response"]["body"]["json"]["audio_files"])


@before("end.no_audio", "end.no_audio.unfiltered")
async def nothing_was_sent(talk: Conversation, exchange: Exchange) -> None:
    recorded = await opened(talk, exchange, templates=["markdown_note"])
    if exchange["label"] == "end.no_audio.unfiltered" and recorded not in talk.ended:
        await talk.end(recorded)


# PATCH


@before("patch.patient_details")
async def patched_is_new(talk: Conversation, exchange: Exchange) -> None:
    await opened(talk, exchange, templates=["markdown_note"])


@before("patch.cancel", "patch.cancel_user_only")
async def to_be_cancelled(talk: Conversation, exchange: Exchange) -> None:
    templates = ["markdown_note"] if exchange["label"] == "patch.cancel" else []
    recorded = await opened(talk, exchange, templates=templates)
    if exchange["label"] == "patch.cancel":
        await talk.upload_files(recorded, ["0.wav"])


@before("patch.cancel.get", source=JULY)
async def cancelled(talk: Conversation, exchange: Exchange) -> None:
    recorded = await opened(talk, exchange, templates=["markdown_note"])
    await talk.upload_files(recorded, ["0.wav"])
    words = {"user_status": "cancelled", "processing_status": "cancelled"}
    await talk.bench.client.patch(f"/voice/v1/sessions/{talk.sessions[recorded]}", json=words)


@before("patch.cancel.end", source=JULY)
async def more_audio(talk: Conversation, exchange: Exchange) -> None:
    await talk.upload_files(str(session_in(exchange)), ["1.wav"])


@before("patch.templates_replaced.end")
async def replaced_has_audio(talk: Conversation, exchange: Exchange) -> None:
    await talk.upload_files(str(session_in(exchange)), ["0.wav"])


@before("patch.after_end.templates", source=AUGUST)
async def languages_were_patched(talk: Conversation, exchange: Exchange) -> None:
    path = f"/voice/v1/sessions/{talk.sessions[str(session_in(exchange))]}"
    await talk.bench.client.patch(path, json={"language_hint": ["hi"]})


# Further documents, transcripts


@before("process_template.before_end")
async def not_ended_yet(talk: Conversation, exchange: Exchange) -> None:
    recorded = await opened(talk, exchange, templates=["markdown_note"])
    await talk.upload_files(recorded, ["0.wav"])


@before("process_template.new.unfiltered_at_once", source=JULY)
async def another_one_is_made(talk: Conversation, exchange: Exchange) -> None:
    recorded = await dictated(talk, exchange)
    await process(talk, recorded, "markdown_third")


@before("process_template.requested_template_again.filter_template_id", source=JULY)
@before("process_template.failing.document_id", "process_template.same_template_again.document_id")
async def all_is_made(talk: Conversation, exchange: Exchange) -> None:
    await settled(talk, str(session_in(exchange)))


@before("process_template.same_template_again.unfiltered", source=AUGUST)
async def ended_by_api_set(talk: Conversation, exchange: Exchange) -> None:
    await dictated(talk, exchange)
    await documented(talk, exchange, template_id="markdown_note", status="success")


@before("process_template.slow.before.unfiltered")
async def one_good(talk: Conversation, exchange: Exchange) -> None:
    await dictated(talk, exchange)


@before("process_template.slow.pending.filter_first_template")
async def slow_one_begins(talk: Conversation, exchange: Exchange) -> None:
    await talk.bench.settle(processing_seconds=3600)
    path = f"/voice/v1/sessions/{talk.sessions[str(session_in(exchange))]}/process/template/slow_note"
    await talk.bench.client.post(path)


@before("process_template.slow.done.unfiltered")
async def slow_one_ends(talk: Conversation, exchange: Exchange) -> None:
    await documented(talk, exchange, template_id="slow_note", status="success", content=NOTE)


async def process(talk: Conversation, recorded: str, template_id: str) -> None:
    path = f"/voice/v1/sessions/{talk.sessions[recorded]}/process/template/{template_id}"
    assert (await talk.bench.client.post(path)).status_code == 202
    await settled(talk, recorded)


async def settled(talk: Conversation, recorded: str, template_id: str | None = None) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        seen = await talk.bench.witness(talk.sessions[recorded])
        asked = [each for each in seen["documents"] if template_id in {None, each["template_id"]}]
        if not any(each["status"] == "pending" for each in asked):
            return
    raise AssertionError("documents are still pending")


@before(
    "convert_to_template.with_template",
    "convert_to_template.no_template",
    "convert_to_template.flavour_web",
    "convert_to_template.empty",
    "convert_to_template.none_requested",
    "convert_to_template.none_requested.unfiltered",
    "convert_to_template.unknown_template",
)
async def nothing_was_said(talk: Conversation, exchange: Exchange) -> None:
    label = exchange["label"].split(".")[1]
    templates = ["markdown_note"] if label in {"with_template", "no_template", "flavour_web"} else []
    recorded = str(session_in(exchange))
    if recorded in talk.sessions:
        return
    if label == "flavour_web":
        talk.sessions[recorded] = (
            await talk.bench.client.post(
                "/voice/v1/sessions",
                json={"upload_type": "chunked", "language_hint": ["en"], "templates": templates},
                headers={"flavour": "ekascribe-web"},
            )
        ).json()["session_id"]
        return
    await talk.open(recorded, templates=templates)
    if exchange["label"] == "convert_to_template.none_requested.unfiltered":
        path = f"/voice/api/v1/transaction/{talk.sessions[recorded]}/convert-to-template"
        assert (await talk.bench.client.post(path, json={"transcript": "A cough."})).status_code == 202
        talk.ended.add(recorded)


@before("convert_to_template.stored_transcript_by_path.unfiltered", source=JULY)
async def made_from_the_stored(talk: Conversation, exchange: Exchange) -> None:
    session_id = talk.sessions[str(session_in(exchange))]
    path = f"/voice/api/v1/transaction/{session_id}/convert-to-template/markdown_note"
    assert (await talk.bench.client.post(path)).status_code == 202


@before(
    "convert_to_template.later.unfiltered",
    "convert_to_template.later.filter",
    "convert_to_template.again.unfiltered",
    "convert_to_template.no_template.filter",
    "convert_to_template.no_template.unfiltered",
    "convert_to_template.flavour_web.unfiltered",
    "convert_to_template.unknown_template.unfiltered",
    "convert_to_template.at_once.unfiltered",
)
async def no_end_is_needed(talk: Conversation, exchange: Exchange) -> None:
    talk.ended.add(str(session_in(exchange)))


# The other APIs


@before("documents.put_content_bad_token", "documents.get_content", source=AUGUST)
async def content_was_put(talk: Conversation, exchange: Exchange) -> None:
    if exchange["label"] == "documents.get_content":
        address = next(iter(talk.addresses.values()))
        await talk.bench.client.put(address, content=b"## Edited note 2")


@before("documents.session_details", source=JULY)
async def unknown_template_has_a_document(talk: Conversation, exchange: Exchange) -> None:
    body = {"session_id": talk.sessions[str(session_in(exchange))], "template_id": "no-such-template"}
    await talk.bench.client.post("/voice/api/v1/documents", json=body)


@before("erase.document_get_before")
async def to_be_erased(talk: Conversation, exchange: Exchange) -> None:
    found = (each for each in talk.exchanges if each["label"] == "erase.document_deleted.unfiltered")
    recorded = str(session_in(next(found)))
    if recorded not in talk.sessions:
        await talk.open(recorded, templates=["markdown_note"], **{talk.notes["patient"]: PATIENT})
    await talk.upload_files(recorded, ["0.wav"])
    await talk.end(recorded)
    if talk.source == AUGUST:
        await talk.control(recorded, "/documents", template_id="markdown_note", status="success")


@before("erase.transaction_delete_again", source=JULY)
async def erased(talk: Conversation, exchange: Exchange) -> None:
    session_id = talk.sessions[str(session_in(exchange))]
    assert (await talk.bench.client.delete(f"/voice/api/v2/transaction/{session_id}")).status_code == 200


@before("erase.transaction_deleted.history_of_patient")
async def another_of_the_patient(talk: Conversation, exchange: Exchange) -> None:
    row = exchange["response"]["body"]["json"]["data"][0]
    await talk.open(row["txn_id"], templates=["markdown_note"], **{talk.notes["patient"]: PATIENT})
    await talk.upload_files(row["txn_id"], ["0.wav"])
    await talk.end(row["txn_id"])


@before("history.of_patient", "history.count_2")
async def two_of_the_patient(talk: Conversation, exchange: Exchange) -> None:
    for row in reversed(exchange["response"]["body"]["json"]["data"]):
        patient = {talk.notes["patient"]: PATIENT} if "patient_oid" in row else {}
        requested = row["request_templates"]["visual"]
        patched = "integration" not in row["request_templates"]
        templates = [each["template_id"] for each in requested]
        more = {"additional_data": {"visit": "V9"}} if "V9" in row["additional_data"] else {}
        await talk.open(
            row["txn_id"],
            templates=["markdown_note"] if patched else templates,
            session_mode=row["mode"],
            model=row["model_type"],
            language_hint=row["input_language"],
            **patient,
            **more,
        )
        if row.get("client_uploaded_files"):
            await talk.upload_files(row["txn_id"], ["0.wav"])
        if "commit_at" in row:
            await talk.end(row["txn_id"])
        if patched:
            path = f"/voice/v1/sessions/{talk.sessions[row['txn_id']]}"
            await talk.bench.client.patch(path, json=talk.translate({"templates": templates}))


@before("processing_error.request_failure.callback_set.patch_transaction")
@before("processing_error.system_failure.callback_set.patch_transaction")
@before("processing_error.system_failure.callback_set.filter")
@before("processing_error.request_failure.callback_set.unfiltered")
async def pipeline_fails(talk: Conversation, exchange: Exchange) -> None:
    recorded = await opened(talk, exchange, templates=["markdown_note"])
    await talk.bench.settle(outcomes={talk.sessions[recorded]: "never"})
    await talk.upload_files(recorded, ["0.wav"])
    await talk.bench.end(talk.sessions[recorded])
    talk.ended.add(recorded)
    if exchange["request"]["method"] == "GET":
        error = {"type": "request_failure", "code": "audio_quality_poor", "msg": "No."}
        status = exchange["label"].split(".")[1]
        await talk.bench.client.patch(
            f"/voice/api/v2/transaction/{talk.sessions[recorded]}",
            json={"processing_status": status, "processing_error": {"error": error}},
        )


@before("processing_error.beside_transcript.callback_set.patch_transaction")
async def pipeline_is_done(talk: Conversation, exchange: Exchange) -> None:
    await dictated(talk, exchange, templates=["markdown_note"])


@before("processing_error.beside_transcript.callback_set.unfiltered", source=JULY)
async def it_was_partial(talk: Conversation, exchange: Exchange) -> None:
    await documented(
        talk, exchange, template_id="markdown_note", status="partial_success", warnings=[WARNING]
    )


@before("agent_run.unfiltered", source=AUGUST)
async def agents_ran(talk: Conversation, exchange: Exchange) -> None:
    recorded = await dictated(talk, exchange)
    await talk.control(
        recorded, "/documents", template_id="markdown_note", new=True, status="success", content=None
    )
    await talk.control(recorded, "/documents", template_id="fail_first", new=True, status="in-progress")


@before("flavour_web_process_template.filter")
async def web_document_is_made(talk: Conversation, exchange: Exchange) -> None:
    await settled(talk, str(session_in(exchange)), "markdown_third")


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
