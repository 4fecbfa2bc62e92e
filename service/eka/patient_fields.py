"""Names the patient's field in calls to the vendor: there are two names, and each server accepts one.

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
    """Return the patient with the vendor's name for the id, `oid` (docs/vendor.md#patient-oid).

    An empty patient is None, because `{}` makes servers of July 2026 wipe the stored patient
    (docs/vendor.md#patch-empty-patient).
    """
    if not patient:
        return None
    details = {name: value for name, value in patient.items() if name != "id"}
    return details | {"oid": patient["id"]} if "id" in patient else details


def with_patient(body: ChangeSession, name: PatientField, details: dict[str, Any] | None) -> ChangeSession:
    """Return the body with the patient under this name; without a patient, the body unchanged."""
    return body if details is None else msgspec.structs.replace(body, **{name: details})


class NamesPatient(Protocol):
    """An answer that may hold the patient under either name; UNSET means that the name is absent."""

    patient_details: Any
    session_details: Any


def carries_patient(answer: NamesPatient, details: dict[str, Any]) -> bool:
    """Return whether an answer holds the patient that was sent, compared by `oid` if there is one."""
    for held in (answer.patient_details, answer.session_details):
        if isinstance(held, dict) and held and ("oid" not in details or held.get("oid") == details["oid"]):
            return True
    return False


class PatientFields:
    """Remembers for each account which name of the patient its server accepts in a PATCH."""

    def __init__(self) -> None:
        self._known: dict[Account, PatientField] = {}

    def is_known(self, account: Account) -> bool:
        """Whether an answer of the account's server has shown which name it accepts."""
        return account in self._known

    def name_for(self, account: Account) -> PatientField:
        """Return the name to try first, which is the documented one by default."""
        return self._known.get(account, "patient_details")

    def remember(self, account: Account, name: PatientField) -> None:
        """Record that the account's server accepted this name."""
        self._known[account] = name

    def learn(self, account: Account, answer: NamesPatient) -> None:
        """Learn the name from an answer, even from a null field; of two names the filled one counts."""
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
    """Return whether the server refused a call because it does not know this field."""
    return answer.status in _FIELD_REFUSED and _EXTRA_INPUT in answer.body and name.encode() in answer.body
