"""The real bodies that the vendor's server gave, read as our code reads them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.eka import SessionAnswer
from service.domain.records import VendorDocument
from service.eka.answers import read_error_code, read_session, read_time

RECORDINGS = Path(__file__).parents[1] / "recordings" / "eka.jsonl"
EXCHANGES = {each["label"]: each for each in map(json.loads, RECORDINGS.read_text().splitlines())}
RESULTS = {
    label: each
    for label, each in EXCHANGES.items()
    if each["request"]["method"] == "GET"
    and "/sessions/" in each["request"]["path"]
    and each["response"]["status"] in {200, 202, 206, 410}
}
# What a reader of facts.md expects of each: state, whether it carries the transcript, how documents stand.
EXPECTED = {
    "get.initialized_with_files": ("open", False, {}),
    "conc.get_before_end": ("open", False, {}),
    "sttfail.get_early": ("processing", False, {}),
    "tmplT.filter_in_progress_doc": ("processing", False, {}),
    "endB.completed": ("completed", True, {}),
    "endB.completed_filter_transcript": ("completed", True, {}),
    "slowF.get": ("completed", True, {}),
    "reup.final": ("completed", True, {}),
    "cat.get": ("completed", True, {}),
    "tmplT.get": ("partial", True, {"eka_emr_template": "failed", "clinical_notes_template": "failed"}),
    "tmplT.after_terminal": (
        "partial",
        True,
        {"eka_emr_template": "failed", "clinical_notes_template": "failed"},
    ),
    "tmplG.get": ("completed", True, {"eka_emr_template": "success", "clinical_notes_template": "success"}),
    "tmplG.filter_hit": ("completed", False, {"eka_emr_template": "success"}),
    "sttfail.after_terminal": ("failed", False, {}),
}
CODES = {
    "auth.none": "missing_token",
    "auth.expired": "token_expired",
    "create.no_language_hint": "bad_request",
    "create.bad_upload_type": "BAD_REQUEST",
    "create.client_id_duplicate_same": "txn_already_initialized",
    "upload.audio_mpeg": "invalid_audio_format",
    "upload.after_end": "session_ended",
    "get.unknown": "transaction_not_found",
    "endB.completed_filter_miss": "resource_not_found",
    "patch.mode_after_commit": "session_already_committed",
}


def body_of(exchange: dict) -> bytes:
    return json.dumps(exchange["response"]["body"]["json"]).encode()


def test_every_recorded_result_is_among_the_expected_ones():
    assert set(RESULTS) == set(EXPECTED)


@pytest.mark.parametrize("label", sorted(EXPECTED))
def test_a_recorded_result_is_read_as_what_it_is(label):
    exchange = RESULTS[label]
    answer = msgspec.json.decode(body_of(exchange), type=SessionAnswer)
    found = read_session(exchange["response"]["status"], answer)
    state, has_transcript, documents = EXPECTED[label]
    assert found.state == state
    assert (found.transcript is not None) is has_transcript
    assert {document.template_id: document.status for document in found.documents} == documents
    real = exchange["response"]["body"]["json"]
    assert found.upload_url == real.get("upload_url")
    if real.get("expires_at"):
        assert found.expires_at == datetime.fromisoformat(real["expires_at"])
    for document in found.documents:
        wire = next(
            entry[document.template_id] for entry in real["templates"] if document.template_id in entry
        )
        assert (document.upstream_id, document.data) == (wire["document_id"], wire["data"])


@pytest.mark.parametrize(
    "label", sorted(label for label, each in EXCHANGES.items() if each["response"]["status"] >= 400)
)
def test_each_recorded_error_body_gives_its_code(label):
    code = read_error_code(body_of(EXCHANGES[label]))
    assert code is not None
    assert code == CODES.get(label, code)
    assert " " not in code


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"detail": "missing_token"}', "missing_token"),
        (b'{"detail": "A sentence about Asha Rao"}', None),
        (b'{"detail": [{"loc": ["body"], "msg": "bad"}]}', None),
        (b'{"error": {"code": "bad_request", "message": {"a": 1}}}', "bad_request"),
        (b'{"status": "failed", "error": {"code": "x_y", "display_message": "z"}, "txn_id": 1}', "x_y"),
        (b'{"error": {"code": 17}}', None),
        (b'{"error": {"code": "Asha Rao"}}', None),
        (b'{"code": 401, "error": "invalid client"}', None),
        (b'{"error": null}', None),
        (b"null", None),
        (b"<html>", None),
        (b"\xff", None),
        (b"", None),
        (b"[" * 100_000, None),
    ],
)
def test_a_code_is_a_code_and_never_a_sentence(body, code):
    assert read_error_code(body) == code


@given(st.binary(max_size=100) | st.text(max_size=60).map(lambda text: json.dumps({"detail": text}).encode()))
def test_no_error_body_breaks_the_reader_or_lets_a_message_through(body):
    code = read_error_code(body)
    assert code is None or (code.isascii() and " " not in code and len(code) <= 64)


@pytest.mark.parametrize(
    ("status_code", "status", "state"),
    [
        (410, None, "expired"),
        (410, "completed", "expired"),
        (200, "expired", "expired"),
        (202, "processing", "processing"),
        (202, "created", "open"),
        (202, "initialized", "open"),
        (202, "completed", "processing"),
        (202, None, "processing"),
        (200, "failed", "failed"),
        (206, "failed", "failed"),
        (200, "completed", "completed"),
        (200, None, "completed"),
        (200, "partial", "partial"),
        (206, None, "partial"),
        (206, "completed", "partial"),
    ],
)
def test_the_http_status_is_the_signal(status_code, status, state):
    assert read_session(status_code, SessionAnswer(status=status)).state == state


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        ({"status": "success", "data": {"a": 1}}, "success"),
        ({"status": "success", "data": None}, "success"),
        ({"status": "completed"}, "success"),
        ({"data": "text"}, "success"),
        ({"status": "failure", "data": None}, "failed"),
        ({"status": "failed"}, "failed"),
        ({"status": "error", "data": {}}, "failed"),
        ({"status": "in_progress"}, "pending"),
        ({"status": "queued", "data": {"a": 1}}, "pending"),
        ({}, "pending"),
        (None, "pending"),
    ],
)
def test_a_document_stands_as_its_status_says(wire, status):
    body = json.dumps({"templates": [{"t": wire}], "something_new": [1]}).encode()
    documents = read_session(200, msgspec.json.decode(body, type=SessionAnswer)).documents
    assert [(each.template_id, each.status) for each in documents] == [("t", status)]


def test_a_template_that_made_two_documents_has_both():
    body = b'{"templates":[{"t":{"document_id":"a","data":1}},{"t":{"document_id":"b","data":2}}]}'
    found = read_session(200, msgspec.json.decode(body, type=SessionAnswer)).documents
    assert [(each.upstream_id, each.data) for each in found] == [("a", 1), ("b", 2)]
    assert all(isinstance(each, VendorDocument) for each in found)


@pytest.mark.parametrize(
    "body", [b"{}", b'{"templates": null, "transcript": null}', b'{"upload_url": {"url": "x"}}']
)
def test_a_missing_or_null_field_costs_nothing(body):
    found = read_session(200, msgspec.json.decode(body, type=SessionAnswer))
    assert (found.state, found.transcript, found.documents, found.upload_url) == ("completed", None, [], None)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-21T08:13:48+00:00", datetime(2026, 11, 21, 8, 13, 48, tzinfo=UTC)),
        ("2026-11-21T08:13:48Z", datetime(2026, 11, 21, 8, 13, 48, tzinfo=UTC)),
        ("2026-11-21T08:13:48", datetime(2026, 11, 21, 8, 13, 48, tzinfo=UTC)),
        ("2026-11-21T13:43:48+05:30", datetime(2026, 11, 21, 8, 13, 48, tzinfo=UTC)),
        ("in an hour", None),
        ("", None),
        (None, None),
    ],
)
def test_times_are_utc_and_what_is_none_is_none(text, moment):
    assert read_time(text) == moment
