"""The patient on the vendor's wire, which has two names for one object: each server takes one of them.

Servers of July 2026 read `patient_details`, those of August `session_details`. A create drops the other name
without an error (docs/vendor.md#patient-names), a PATCH is refused because of it
(docs/vendor.md#patch-unknown-fields).
"""

from typing import Any, Literal, Protocol

import msgspec
from msgspec import UNSET

from schemas.eka import ChangeSession
from service.domain.ids import Account
from service.eka.http_exchange import VendorAnswer

PatientField = Literal["patient_details", "session_details"]

OTHER_FIELD: dict[PatientField, PatientField] = {
    "patient_details": "session_details",
    "session_details": "patient_details",
}
# Servers answer 400, their documentation says 422 (docs/vendor.md#patch-unknown-fields).
_FIELD_REFUSED = frozenset({400, 422})
_EXTRA_INPUT = b"Extra inputs are not permitted"


def patient_details(patient: dict[str, Any] | None) -> dict[str, Any] | None:
    """Name the patient's id as the vendor does: it indexes by `oid` (docs/vendor.md#patient-oid).

    An empty patient is None: over `{}` servers of July 2026 wipe the one that they have
    (docs/vendor.md#patch-empty-patient).
    """
    if not patient:
        return None
    details = {name: value for name, value in patient.items() if name != "id"}
    return details | {"oid": patient["id"]} if "id" in patient else details


def with_patient(body: ChangeSession, name: PatientField, details: dict[str, Any] | None) -> ChangeSession:
    """Return the body with the patient under this name; without a patient, the body as it is."""
    return body if details is None else msgspec.structs.replace(body, **{name: details})


class NamesPatient(Protocol):
    """An answer that may hold the patient under either name; UNSET is a name that is not there."""

    patient_details: Any
    session_details: Any


def carries_patient(answer: NamesPatient, details: dict[str, Any]) -> bool:
    """Return whether an answer shows the patient that was sent, told by its `oid` where there is one."""
    for shown in (answer.patient_details, answer.session_details):
        if isinstance(shown, dict) and shown and ("oid" not in details or shown.get("oid") == details["oid"]):
            return True
    return False


class PatientFields:
    """Remembers for each account the one name of the patient that its server takes in a PATCH."""

    def __init__(self) -> None:
        self._known: dict[Account, PatientField] = {}

    def is_known(self, account: Account) -> bool:
        """Whether the account's server has shown which name it takes."""
        return account in self._known

    def name_for(self, account: Account) -> PatientField:
        """Return the name to try first; without knowledge it is the documented one."""
        return self._known.get(account, "patient_details")

    def remember(self, account: Account, name: PatientField) -> None:
        """Note that the account's server took this name."""
        self._known[account] = name

    def learn(self, account: Account, answer: NamesPatient) -> None:
        """Learn from the names in an answer, null ones too; an answer with both teaches by the filled one."""
        values: dict[PatientField, Any] = {
            "patient_details": answer.patient_details,
            "session_details": answer.session_details,
        }
        names = [name for name, value in values.items() if value is not UNSET]
        if len(names) > 1:
            names = [name for name in names if values[name]]
        if len(names) == 1:
            self._known[account] = names[0]


def refuses_field(answer: VendorAnswer, name: PatientField) -> bool:
    """Return whether an answer refuses a call because the server does not know this field."""
    return answer.status in _FIELD_REFUSED and _EXTRA_INPUT in answer.body and name.encode() in answer.body
