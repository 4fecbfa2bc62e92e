"""Steps of the conversations about further documents, transcripts, and the vendor's other APIs."""

from __future__ import annotations

import time

from tests.support.recordings import AUGUST, JULY, Exchange, session_in
from tests.support.replay_steps import NOTE, PATIENT, WARNING, before, dictated, documented, opened
from tests.support.replaying import PATIENCE_SECONDS, Conversation

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
