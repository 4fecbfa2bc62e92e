"""Steps of the conversations about creates, uploads, ends and changes."""

from __future__ import annotations

from tests.support.recordings import AUGUST, JULY, Exchange, session_in
from tests.support.replay_steps import before, dictated, opened
from tests.support.replaying import Conversation

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
