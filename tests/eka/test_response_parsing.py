"""The real bodies that the vendor's server gave, read as our code reads them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.results.models import VendorDocument
from service.eka.fields import UNKNOWN, read_time
from service.eka.response_parsing import read_error_code, read_session

RECORDINGS = Path(__file__).parents[1] / "recordings" / "eka.jsonl"
EXCHANGES = {each["label"]: each for each in map(json.loads, RECORDINGS.read_text().splitlines())}
RESULTS = {
    label: each
    for label, each in EXCHANGES.items()
    if each["request"]["method"] == "GET"
    and "/sessions/" in each["request"]["path"]
    and each["response"]["status"] in {200, 202, 206, 410}
}
# Expected of each: state, whether it carries the transcript, how documents stand. A failed session has no
# fields for either (docs/vendor.md#failed-shape).
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
    "tmplG.get": ("completed", True, {"eka_emr_template": "empty", "clinical_notes_template": "empty"}),
    "tmplG.filter_hit": ("completed", False, {"eka_emr_template": "empty"}),
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
    found = read_session(exchange["response"]["status"], body_of(exchange))
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
        (200, None, "unknown"),
        (200, "archived", "unknown"),
        (200, " ", "unknown"),
        (200, {"code": "completed"}, "unknown"),
        (200, True, "unknown"),
        (206, {"code": "completed"}, "partial"),
        (202, "archived", "processing"),
        (206, "archived", "partial"),
        (200, "in-progress", "processing"),
        (200, "partial", "partial"),
        (206, None, "partial"),
        (206, "completed", "partial"),
    ],
)
@pytest.mark.parametrize("transcript", [None, "words"])
def test_the_http_status_is_the_signal(status_code, status, state, transcript):
    body = msgspec.json.encode({"status": status, "transcript": transcript})
    if status is None and transcript and status_code == 200:
        state = "completed"
    assert read_session(status_code, body).state == state


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        ({"status": "success", "data": {"a": 1}}, "success"),
        ({"status": "success", "data": None}, "empty"),
        ({"status": "success", "data": {"note": " ", "parts": [{}, []]}}, "empty"),
        ({"status": "success", "data": {"fever": False}}, "success"),
        ({"status": "success", "data": 0}, "success"),
        ({"status": "completed"}, "empty"),
        ({"status": "partial_success", "data": "text"}, "success"),
        ({"status": "partial_success", "data": None}, "empty"),
        ({"status": "some_new_status", "data": "text"}, "unknown"),
        ({"status": ["success"], "data": "text"}, "success"),
        ({"status": 7, "data": "text"}, "unknown"),
        ({"status": {"code": "success"}, "data": "text"}, "unknown"),
        ({"status": True, "data": "text"}, "unknown"),
        ("text", "success"),
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
    documents = read_session(200, body).documents
    assert [(each.template_id, each.status) for each in documents] == [("t", status)]


@pytest.mark.parametrize(
    "templates",
    [
        [{"t": {"document_id": "a", "data": 1}}, {"t": {"document_id": "b", "data": 2}}],
        {"t": [{"document_id": "a", "data": 1}, {"document_id": "b", "data": 2}]},
        [
            {"template_id": "t", "document_id": "a", "data": 1},
            {"template_id": "t", "document_id": "b", "data": 2},
        ],
        [{"t": {"document_id": "a", "data": 1}}, "odd", None, {"t": {"document_id": "b", "data": 2}}],
    ],
)
def test_templates_are_read_as_a_list_or_a_map_and_what_is_odd_is_passed_over(templates):
    found = read_session(200, json.dumps({"status": "completed", "templates": templates}).encode()).documents
    assert [(each.template_id, each.upstream_id, each.data) for each in found] == [
        ("t", "a", 1),
        ("t", "b", 2),
    ]


def test_a_failed_document_carries_the_reason_and_a_partial_one_its_warnings():
    entries = {
        "bad": {
            "status": "failure",
            "errors": [{"type": "error", "code": "llm_structring_failure", "msg": "m"}],
        },
        "half": {
            "status": "partial_success",
            "data": "text",
            "warnings": [{"type": "warning", "code": "audio_quality_poor", "msg": "Parts were lost."}],
            "errors": [{"code": "llm_structring_failure", "msg": "m"}],
            "fhir": {"resourceType": "Bundle"},
        },
        "new": {"status": "some_new_status", "data": "text"},
    }
    body = json.dumps({"status": "partial", "templates": entries}).encode()
    bad, half, new = (each.annotations for each in read_session(206, body).documents)
    assert (bad.vendor_code, bad.warnings) == ("llm_structring_failure", [])
    assert [(each.code, each.vendor_code or None) for each in half.warnings] == [
        ("document_partial", None),
        ("vendor_warning", "audio_quality_poor"),
        ("vendor_error", "llm_structring_failure"),
    ]
    assert half.warnings[1].message == "Parts were lost."
    assert (half.vendor_code, half.fhir) == (None, {"resourceType": "Bundle"})
    assert new.vendor_code == "some_new_status"


def test_the_errors_of_processing_are_warnings_of_the_session():
    body = {"status": "partial", "processing_errors": [{"type": "request_failure", "message": "unclear"}]}
    (warning,) = read_session(206, json.dumps(body).encode()).warnings
    assert (warning.code, warning.vendor_code, warning.message) == (
        "processing_error",
        "request_failure",
        "unclear",
    )


ODD = [
    ({"transcript": ["Fever.", "Cough."]}, "Fever.\nCough."),
    ({"transcript": 12}, "12"),
    ({"transcript": {"text": "Fever."}}, None),
    ({"transcript": "Fever.", "model_used": ["pro"]}, "Fever."),
    ({"transcript": "Fever.", "processing_errors": "none"}, "Fever."),
    ({"transcript": "Fever.", "templates": 5}, "Fever."),
    ({"transcript": "Fever.", "expires_at": 1_795_991_103, "audio_files_received": "4"}, "Fever."),
]


@pytest.mark.parametrize(("fields", "transcript"), ODD)
def test_a_field_of_an_unexpected_type_costs_nothing_and_is_told(fields, transcript):
    found = read_session(200, json.dumps({"status": "completed", **fields}).encode())
    assert (found.state, found.transcript) == ("completed", transcript)
    if "audio_files_received" not in fields:
        (warning,) = found.warnings
        assert warning.code == "vendor_field_unexpected"
        assert "get." in warning.message
        assert "Fever" not in warning.message


@pytest.mark.parametrize("where", ["get.status", "get.templates.status", "get.transcript", "get"])
def test_a_new_word_of_the_wire_is_counted_by_its_place(where):
    def count() -> float:
        return UNKNOWN.labels(where)._value.get()

    before = count()
    body = {
        "get.status": b'{"status": "archived"}',
        "get.templates.status": b'{"status": "completed", "templates": [{"t": {"status": "draft"}}]}',
        "get.transcript": b'{"status": "completed", "transcript": 7}',
        "get": b'{"status": "completed", "transcript": "\xe9"}',
    }[where]
    read_session(200, body)
    assert count() == before + 1


@pytest.mark.parametrize(
    ("body", "transcript"),
    [
        (b'\xef\xbb\xbf{"status": "completed", "transcript": "Fever"}', "Fever"),
        ('{"status": "completed", "transcript": "Fi\xe8vre"}'.encode("latin-1"), "Fi\xe8vre"),
        (b'{"status": "completed", "transcript": "a\\ud800b"}', "a\ufffdb"),
        (b'{"status": "completed", "transcript": "a\tb", "score": NaN}', "a\tb"),
        (b'{"status": "completed", "transcript": "Fever", "score": 1e400}', "Fever"),
        (
            b'{"status": "completed", "transcript": "Fever", "deep": ' + b"[" * 5000 + b"]" * 5000 + b"}",
            "Fever",
        ),
    ],
)
def test_an_answer_that_is_not_quite_json_is_read_and_can_be_written_again(body, transcript):
    found = read_session(200, body)
    assert (found.state, found.transcript) == ("completed", transcript)
    assert [each.code for each in found.warnings] == ["vendor_field_unexpected"]
    assert msgspec.json.decode(msgspec.json.encode(found))["transcript"] == transcript


def test_deep_content_is_kept_as_text_where_it_gets_too_deep():
    deep = b'{"k":' * 1000 + b'"bottom"' + b"}" * 1000
    body = b'{"status": "completed", "templates": [{"t": {"status": "success", "data": ' + deep + b"}}]}"
    (document,) = read_session(200, body).documents
    assert document.status == "success"
    assert b"bottom" in msgspec.json.encode(document.data)


def test_no_answer_brings_more_documents_than_one_transaction_may_hold():
    entries = [{"t": {"status": "success", "document_id": str(number), "data": 1}} for number in range(501)]
    found = read_session(200, json.dumps({"status": "completed", "templates": entries}).encode())
    assert len(found.documents) == 500
    assert "get.templates.count" in found.warnings[0].message


def test_an_id_that_is_too_long_for_an_index_is_cut():
    body = json.dumps({"templates": [{"t": {"document_id": "x" * 4000, "data": 1}}]}).encode()
    assert read_session(200, body).documents[0].upstream_id == "x" * 200


@pytest.mark.parametrize("body", [b"", b'{"status": "comp', b"[]", b"null", b"<html>"])
def test_half_an_answer_is_none(body):
    with pytest.raises(ValueError, match=r"."):
        read_session(200, body)


def test_a_template_that_made_two_documents_has_both():
    body = b'{"templates":[{"t":{"document_id":"a","data":1}},{"t":{"document_id":"b","data":2}}]}'
    found = read_session(200, body).documents
    assert [(each.upstream_id, each.data) for each in found] == [("a", 1), ("b", 2)]
    assert all(isinstance(each, VendorDocument) for each in found)


@pytest.mark.parametrize(
    "body", [b"{}", b'{"templates": null, "transcript": null}', b'{"upload_url": {"url": "x"}}']
)
def test_a_missing_or_null_field_costs_nothing(body):
    found = read_session(200, body)
    assert (found.state, found.transcript, found.documents, found.upload_url) == ("unknown", None, [], None)


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
        (1_795_991_103, datetime(2026, 11, 29, 22, 25, 3, tzinfo=UTC)),
        (1_795_991_103_500, datetime(2026, 11, 29, 22, 25, 3, 500_000, tzinfo=UTC)),
        (True, None),
        (1e300, None),
        ([1], None),
    ],
)
def test_times_are_utc_and_what_is_none_is_none(text, moment):
    assert read_time(text) == moment


def test_a_list_of_odd_entries_is_told_once() -> None:
    """A line in the log for each took six seconds and 30 MB for the entries of half a megabyte."""
    before = UNKNOWN.labels("get.templates")._value.get()
    result = read_session(200, b'{"status": "completed", "templates": [' + b",".join([b"7"] * 1000) + b"]}")
    assert UNKNOWN.labels("get.templates")._value.get() == before + 1
    (warning,) = result.warnings
    assert warning.code == "vendor_field_unexpected"
