"""The patient reaches the vendor under the name that its server takes, is checked, and is never wiped."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from schemas.eka import SessionCreated
from schemas.sessions import SessionChange
from service.domain.errors import VendorRefused
from service.domain.ids import DEFAULT_ACCOUNT, UNFILTERED, Account
from service.domain.sessions.models import SessionDetails
from service.eka.metrics import PATIENTS_DROPPED
from service.eka.patient_fields import PatientFields, carries_patient
from tests.support.makers import NOTE, SESSION, make_plan
from tests.support.vendor_calls import ScriptedEka

PATIENT = {"id": "PAT-7", "name": "Asha Rao", "age": 41}
DETAILS = {"oid": "PAT-7", "name": "Asha Rao", "age": 41}
CHANGED = (200, {"session_id": SESSION, "status": "success", "message": "Session updated successfully"})
OTHER = Account("acc_other")


def created(**fields: Any) -> tuple[int, dict[str, Any]]:
    """The recorded answer to create."""
    return 201, {
        "session_id": SESSION,
        "status": "created",
        "created_at": "2026-11-29T21:30:55Z",
        "expires_at": "2026-11-29T22:30:55Z",
        "upload_url": f"http://upstream.test/voice/v1/sessions/{SESSION}/audio",
        "storage_provider": None,
        **fields,
    }


def extra(name: str) -> tuple[int, dict[str, Any]]:
    """The recorded refusal of a field that a server does not know."""
    message = f"Field 'body -> {name}': Extra inputs are not permitted"
    return 400, {"error": {"code": "BAD_REQUEST", "message": message}}


async def create(eka: ScriptedEka, patient: dict[str, Any] | None = PATIENT) -> None:
    async with eka.client() as client:
        await client.create_session(make_plan(details=SessionDetails(patient=patient)))


def dropped(outcome: str) -> float:
    return PATIENTS_DROPPED.labels(outcome)._value.get()


@pytest.mark.parametrize("name", ["patient_details", "session_details"])
async def test_create_sends_both_names_and_is_content_with_either(name: str) -> None:
    eka = ScriptedEka(created(**{name: DETAILS}))
    with capture_logs() as logs:
        await create(eka)
    (sent,) = eka.sent
    assert (sent.method, sent.body["patient_details"], sent.body["session_details"]) == (
        "POST",
        DETAILS,
        DETAILS,
    )
    assert logs == []


@pytest.mark.parametrize("patient", [None, {}])
async def test_without_a_patient_neither_name_is_sent_and_none_is_missed(patient: Any) -> None:
    eka = ScriptedEka(created(session_details=None))
    await create(eka, patient)
    (sent,) = eka.sent
    assert {"patient_details", "session_details"}.isdisjoint(sent.body)


@pytest.mark.parametrize(
    ("answered", "name"),
    [
        ({"session_details": None}, "session_details"),
        ({"patient_details": None}, "patient_details"),
        ({"patient_details": {}}, "patient_details"),
        ({"session_details": {"oid": "PAT-8"}}, "session_details"),
        ({}, "patient_details"),
    ],
)
async def test_a_patient_that_create_dropped_is_sent_once_more(answered: Any, name: str) -> None:
    before, eka = dropped("repaired"), ScriptedEka(created(**answered), CHANGED)
    with capture_logs() as logs:
        await create(eka)
    assert [(each.method, each.body) for each in eka.sent[1:]] == [("PATCH", {name: DETAILS})]
    assert dropped("repaired") == before + 1
    assert [(each["event"], each["session_id"], each["outcome"]) for each in logs] == [
        ("patient_dropped", SESSION, "repaired")
    ]
    assert "Asha" not in repr(logs)
    assert "PAT-7" not in repr(logs)


@pytest.mark.parametrize("refusal", [(500, {}), (400, {"error": {"code": "BAD_REQUEST"}})])
async def test_a_session_stands_even_when_its_patient_cannot_be_sent(refusal: Any) -> None:
    before, eka = dropped("missing"), ScriptedEka(created(session_details=None), refusal)
    with capture_logs() as logs:
        await create(eka)
    assert len(eka.sent) == 2
    assert dropped("missing") == before + 1
    assert [each["outcome"] for each in logs] == ["missing"]


async def test_a_change_uses_the_name_that_create_s_answer_showed() -> None:
    eka = ScriptedEka(created(session_details=None), CHANGED)
    async with eka.client() as client:
        await client.create_session(make_plan(details=SessionDetails()))
        await client.change_session(DEFAULT_ACCOUNT, SESSION, SessionChange(patient=PATIENT))
        assert eka.sent[-1].body == {"session_details": DETAILS}
        await client.change_session(OTHER, SESSION, SessionChange(patient=PATIENT))
        assert eka.sent[-1].body == {"patient_details": DETAILS}, "another account's server"


@pytest.mark.parametrize("template_id", [UNFILTERED, NOTE])
async def test_a_change_uses_the_name_that_a_get_showed(template_id: Any) -> None:
    eka = ScriptedEka((202, {"status": "initialized", "session_details": None}), CHANGED)
    async with eka.client() as client:
        await client.get_session(DEFAULT_ACCOUNT, SESSION, template_id)
        await client.change_session(DEFAULT_ACCOUNT, SESSION, SessionChange(patient=PATIENT))
    assert eka.bodies("PATCH") == [{"session_details": DETAILS}]


async def test_a_refused_name_is_replaced_by_the_other_once_and_remembered() -> None:
    eka = ScriptedEka(extra("patient_details"), CHANGED)
    async with eka.client() as client:
        for _ in range(2):
            await client.change_session(
                DEFAULT_ACCOUNT, SESSION, SessionChange(patient=PATIENT, languages=["hi"])
            )
    assert eka.bodies("PATCH") == [
        {"patient_details": DETAILS, "language_hint": ["hi"]},
        {"session_details": DETAILS, "language_hint": ["hi"]},
        {"session_details": DETAILS, "language_hint": ["hi"]},
    ]


async def test_when_both_names_are_refused_it_ends_there() -> None:
    eka = ScriptedEka(extra("patient_details"), extra("session_details"))
    async with eka.client() as client:
        with pytest.raises(VendorRefused):
            await client.change_session(DEFAULT_ACCOUNT, SESSION, SessionChange(patient=PATIENT))
    assert len(eka.sent) == 2


@pytest.mark.parametrize(
    "refusal", [extra("templates"), (400, {"error": {"code": "BAD_REQUEST"}}), (404, {"detail": "no"})]
)
async def test_another_refusal_is_not_taken_for_that(refusal: Any) -> None:
    eka = ScriptedEka(refusal)
    async with eka.client() as client:
        with pytest.raises(VendorRefused):
            await client.change_session(DEFAULT_ACCOUNT, SESSION, SessionChange(patient=PATIENT))
    assert len(eka.sent) == 1


async def test_an_empty_patient_is_never_sent() -> None:
    eka = ScriptedEka(CHANGED)
    async with eka.client() as client:
        await client.change_session(DEFAULT_ACCOUNT, SESSION, SessionChange(patient={}, languages=["hi"]))
    assert eka.bodies("PATCH") == [{"language_hint": ["hi"]}]


@pytest.mark.parametrize(
    ("sent", "shown", "carries"),
    [
        ({"oid": "1"}, {"oid": "1", "added": True}, True),
        ({"oid": "1"}, {"oid": "2"}, False),
        ({"oid": "1"}, {"name": "A"}, False),
        ({"name": "A"}, {"name": "A"}, True),
        ({"name": "A"}, {}, False),
        ({"name": "A"}, "A", False),
        ({"oid": "1"}, None, False),
    ],
)
def test_a_patient_is_told_by_its_id(sent: Any, shown: Any, carries: bool) -> None:
    for name in ("patient_details", "session_details"):
        assert carries_patient(SessionCreated(session_id=SESSION, **{name: shown}), sent) is carries


@pytest.mark.parametrize(
    ("answered", "learned"),
    [
        ({"patient_details": None, "session_details": {"oid": "1"}}, "session_details"),
        ({"patient_details": {"oid": "1"}, "session_details": None}, "patient_details"),
        ({"patient_details": {"oid": "1"}, "session_details": {"oid": "1"}}, None),
        ({"patient_details": None, "session_details": None}, None),
        ({}, None),
    ],
)
def test_an_answer_with_both_names_teaches_by_the_filled_one(answered: Any, learned: Any) -> None:
    fields = PatientFields()
    fields.learn(DEFAULT_ACCOUNT, SessionCreated(session_id=SESSION, **answered))
    assert fields.is_known(DEFAULT_ACCOUNT) is (learned is not None)
    assert fields.name_for(DEFAULT_ACCOUNT) == (learned or "patient_details")
