"""The forms of an event: what each keeps and leaves out, and that FHIR's own rules take our Bundles."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from fhir.resources.R4B.bundle import Bundle
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Event, EventData, EventDocument, EventPatient
from schemas.results import ErrorInfo
from service.forwarding.fhir import FhirSystems
from service.forwarding.payloads import PayloadRenderer, RenderedPayload

AT = datetime(2026, 5, 4, 3, 2, 1, 123456, tzinfo=UTC)
PING = b'{"type":"ping","timestamp":"2026-05-04T03:02:01Z","data":{"destination_id":"dst_1"}}'
FORMS = PayloadRenderer(
    public_url="https://bridge.example", systems=FhirSystems(patient="https://emr.example/mrn")
)
PRIVATE = ("PAT-1", "ENC-1", "ward", "cough", "spoken words")
ERROR = ErrorInfo(code="template_failed", message="EkaScribe could not make this document")


def document(**fields: Any) -> EventDocument:
    values: dict[str, Any] = {
        "id": "doc_2",
        "template_id": "eka_emr_template",
        "type": None,
        "status": "success",
        "data": {"complaint": "cough"},
        "version": 2,
        "replaces": "doc_1",
    }
    return EventDocument(**(values | fields))


def event(kind: Any = "document.ready", **fields: Any) -> bytes:
    values: dict[str, Any] = {
        "session_id": "ses_1",
        "reference": "ENC-1",
        "patient": EventPatient(id="PAT-1"),
        "metadata": {"ward": "7"},
        "session_status": "completed",
        "transcript": "spoken words",
        "document": document(),
    }
    return msgspec.json.encode(Event(type=kind, timestamp=AT, data=EventData(**(values | fields))))


FAILED = event(
    "document.failed", document=document(status="failed", data=None, replaces=msgspec.UNSET, error=ERROR)
)
EXPIRED = event("session.expired", document=msgspec.UNSET, error=ErrorInfo("session_expired", "expired"))


def bundle(form: RenderedPayload) -> dict[str, Any]:
    """Check a Bundle against FHIR's own model, and that every reference inside it leads somewhere."""
    assert form.content_type == "application/fhir+json"
    Bundle.model_validate_json(form.body)
    found: dict[str, Any] = json.loads(form.body)
    entries = found.get("entry", [])
    here = {entry["fullUrl"] for entry in entries}
    assert len(here) == len(entries)
    assert set(pointers(found)) <= here
    for entry in entries:
        kind, identifier = entry["resource"]["resourceType"], entry["resource"]["identifier"][0]
        request = entry["request"]
        assert (request["method"], request["url"]) == ("POST", kind)
        assert request["ifNoneExist"].startswith(f"identifier={identifier['system']}%7C")
    return found


def pointers(value: Any) -> list[str]:
    if isinstance(value, list):
        return [each for item in value for each in pointers(item)]
    if not isinstance(value, dict):
        return []
    own = [value["reference"]] if isinstance(value.get("reference"), str) else []
    return own + pointers(list(value.values()))


def test_the_whole_event_as_our_json_is_the_frozen_bytes_themselves():
    frozen = event()
    form = FORMS.render(frozen, payload="full", format="ekabridge")
    assert (form.content_type, form.body) == ("application/json", frozen)


def test_a_reference_names_the_document_and_nothing_of_the_patient():
    form = FORMS.render(event(), payload="reference", format="ekabridge")
    assert json.loads(form.body) == {
        "type": "document.ready",
        "timestamp": "2026-05-04T03:02:01.123456Z",
        "data": {
            "session_id": "ses_1",
            "session_status": "completed",
            "document": {
                "id": "doc_2",
                "template_id": "eka_emr_template",
                "type": None,
                "status": "success",
                "version": 2,
                "replaces": "doc_1",
            },
            "document_url": "https://bridge.example/v1/documents/doc_2",
        },
    }


@pytest.mark.parametrize("form", ["ekabridge", "fhir-r4"])
@pytest.mark.parametrize("frozen", [event(), FAILED, EXPIRED], ids=["ready", "failed", "expired"])
def test_no_reference_holds_content(frozen, form):
    body = FORMS.render(frozen, payload="reference", format=form).body.decode()
    assert "ses_1" in body
    for text in PRIVATE:
        assert text not in body
        assert base64.b64encode(text.encode()).decode().rstrip("=") not in body


@pytest.mark.parametrize("frozen", [FAILED, EXPIRED])
def test_a_reference_says_why_something_failed(frozen):
    data = json.loads(FORMS.render(frozen, payload="reference", format="ekabridge").body)["data"]
    assert data["error"]["code"] in {"template_failed", "session_expired"}


@pytest.mark.parametrize("payload", ["full", "reference", "digest"])
@pytest.mark.parametrize("form", ["ekabridge", "fhir-r4", "hl7v2"])
def test_a_payload_or_format_that_nobody_knows_is_an_error_with_its_name_and_no_body(payload, form):
    if payload == "digest" or form == "hl7v2":
        with pytest.raises(AssertionError, match=r"digest|hl7v2"):
            FORMS.render(event(), payload=payload, format=form)
    else:
        assert FORMS.render(event(), payload=payload, format=form).body


def test_a_note_becomes_a_document_reference_with_patient_and_encounter():
    found = bundle(FORMS.render(event(), payload="full", format="fhir-r4"))
    assert (found["type"], found["timestamp"]) == ("transaction", "2026-05-04T03:02:01.123456Z")
    note, patient, encounter = (entry["resource"] for entry in found["entry"])
    assert note["resourceType"] == "DocumentReference"
    assert (note["status"], note["docStatus"]) == ("current", "preliminary")
    assert note["identifier"] == [{"system": "urn:ekabridge:document", "value": "doc_2"}]
    assert note["type"]["coding"] == [{"system": "urn:ekabridge:template", "code": "eka_emr_template"}]
    attachments = [content["attachment"] for content in note["content"]]
    assert [each["contentType"] for each in attachments] == ["application/json", "text/plain; charset=utf-8"]
    assert json.loads(base64.b64decode(attachments[0]["data"])) == {"complaint": "cough"}
    assert base64.b64decode(attachments[1]["data"]) == b"spoken words"
    assert patient["identifier"] == [{"system": "https://emr.example/mrn", "value": "PAT-1"}]
    assert encounter["identifier"] == [{"system": "urn:ekabridge:encounter", "value": "ENC-1"}]
    urls = [entry["fullUrl"] for entry in found["entry"]]
    assert note["subject"]["reference"] == encounter["subject"]["reference"] == urls[1]
    assert note["context"]["encounter"][0]["reference"] == urls[2]
    assert note["subject"]["identifier"] == patient["identifier"][0]


def test_a_new_version_replaces_the_one_before_it_and_a_first_one_nothing():
    (entry, *_) = bundle(FORMS.render(event(), payload="full", format="fhir-r4"))["entry"]
    target = {
        "type": "DocumentReference",
        "identifier": {"system": "urn:ekabridge:document", "value": "doc_1"},
    }
    assert entry["resource"]["relatesTo"] == [{"code": "replaces", "target": target}]
    first = event(document=document(version=1, replaces=msgspec.UNSET))
    (entry, *_) = bundle(FORMS.render(first, payload="full", format="fhir-r4"))["entry"]
    assert "relatesTo" not in entry["resource"]


def test_by_reference_the_note_is_a_url():
    (entry,) = bundle(FORMS.render(event(), payload="reference", format="fhir-r4"))["entry"]
    (content,) = entry["resource"]["content"]
    assert content["attachment"]["url"] == "https://bridge.example/v1/documents/doc_2"
    assert "data" not in content["attachment"]
    assert "subject" not in entry["resource"]


@pytest.mark.parametrize(("frozen", "known"), [(FAILED, "doc_2"), (EXPIRED, "ses_1")])
def test_what_failed_becomes_a_task_that_failed(frozen, known):
    (entry, *others) = bundle(FORMS.render(frozen, payload="full", format="fhir-r4"))["entry"]
    task = entry["resource"]
    assert (task["resourceType"], task["status"], task["intent"]) == ("Task", "failed", "order")
    assert task["identifier"][0]["value"] == known
    assert task["statusReason"]["coding"][0]["code"] in {"template_failed", "session_expired"}
    assert task["for"]["reference"] == others[0]["fullUrl"]


def test_a_ping_is_a_transaction_that_does_nothing():
    found = bundle(FORMS.render(PING, payload="full", format="fhir-r4"))
    assert found == {"resourceType": "Bundle", "type": "transaction", "timestamp": "2026-05-04T03:02:01Z"}
    for payload in ("full", "reference"):
        assert FORMS.render(PING, payload=payload, format="ekabridge").body == PING


def test_a_value_that_would_part_a_search_is_escaped():
    frozen = event(reference="a|b,c&d=e")
    encounter = bundle(FORMS.render(frozen, payload="full", format="fhir-r4"))["entry"][2]
    assert encounter["request"]["ifNoneExist"] == (
        "identifier=urn:ekabridge:encounter%7Ca%5C%7Cb%5C%2Cc%26d%3De"
    )


def test_an_event_of_an_older_version_of_ours_is_read():
    frozen = event().replace(b',"replaces":"doc_1"', b"")
    assert b"replaces" not in frozen
    assert bundle(FORMS.render(frozen, payload="full", format="fhir-r4"))["entry"]


TEXT = st.none() | st.text(min_size=1, max_size=20)


@given(
    reference=TEXT,
    patient_id=TEXT,
    transcript=TEXT,
    template=st.text(max_size=20),
    data=st.recursive(st.none() | st.text() | st.integers(-9, 9), lambda inner: st.lists(inner, max_size=3)),
)
def test_whatever_is_in_an_event_its_bundle_is_fhir_and_the_same_each_time(
    reference, patient_id, transcript, template, data
):
    frozen = event(
        reference=reference,
        patient=EventPatient(id=patient_id),
        transcript=transcript,
        document=document(template_id=template, data=data),
    )
    made = [FORMS.render(frozen, payload="full", format="fhir-r4") for _ in range(2)]
    assert made[0] == made[1]
    note = bundle(made[0])["entry"][0]["resource"]
    assert ("subject" in note) is bool((patient_id or "").strip())
    assert ("encounter" in note["context"]) is bool((reference or "").strip())
