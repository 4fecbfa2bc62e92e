"""A correct EMR: keeps its own keys, repeats what was not answered, believes only a 2xx."""

import asyncio
import hashlib
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2

from tests.tools.chaos.hospital import Hospital

PATIENT_MARK = "Chaospatient"
TEMPLATES = ("eka_emr_template", "clinical_notes_template")
_REPEATED = frozenset({408, 429, 500, 502, 503, 504})
_REPEATED_CONFLICTS = frozenset({"idempotency_in_progress", "session_not_ready"})


class GaveUp(Exception):
    """An answer that no correct EMR would repeat, or none for too long."""


@dataclass
class Dictation:
    """What an EMR knows of one dictation; `ended` once it was told so with a 2xx."""

    number: int
    templates: list[str]
    chunks: list[bytes]
    patient: dict[str, str]
    session_id: str | None = None
    further: list[str] = field(default_factory=list)
    further_repeats: int = 0
    step: str = "create"
    ended: bool = False
    cancelled: bool = False
    failure: str | None = None
    refusals: list[str] = field(default_factory=list)

    @property
    def reference(self) -> str:
        """The EMR's own id of it."""
        return f"ENC-{self.number}"

    @property
    def hashes(self) -> list[str]:
        """The SHA-256 of every chunk."""
        return [hashlib.sha256(chunk).hexdigest() for chunk in self.chunks]


def new_dictation(number: int, jitter: random.Random, templates: list[str] | None = None) -> Dictation:
    """Think of a dictation."""
    if templates is None:
        templates = jitter.choice([[], [TEMPLATES[0]], [TEMPLATES[1]], list(TEMPLATES)])
    chunks = [jitter.randbytes(jitter.randint(1, 4096)) for _ in range(jitter.randint(1, 4))]
    patient = {"id": f"PAT-{number}", "name": f"{PATIENT_MARK} {number}"}
    return Dictation(number, templates, chunks, patient)


class EmrClient:
    """Dictates through whichever service answers."""

    def __init__(self, hospital: Hospital, jitter: random.Random, *, patience_seconds: float = 600.0) -> None:
        self._hospital = hospital
        self._chance = jitter
        self._patience_seconds = patience_seconds
        self._services = [slot for slot in hospital.slots.values() if slot.role == "service"]

    async def dictate(self, dictation: Dictation, *, change: bool = False) -> None:
        """Create, send and end a session, each step as often as it takes; raises GaveUp."""
        body = {"reference": dictation.reference, "patient": dictation.patient}
        if dictation.templates:
            body |= {"templates": dictation.templates}
        key = {"idempotency-key": f"dictation-{dictation.number}"}
        created = await self._until_told(dictation, "POST", "/v1/sessions", 201, json=body, headers=key)
        dictation.session_id = created["id"]
        path = f"/v1/sessions/{dictation.session_id}"
        if change:
            dictation.step = "change"
            dictation.patient["name"] += " changed"
            await self._until_told(dictation, "PATCH", path, 200, json={"patient": dictation.patient})
        dictation.step = "audio"
        wav = {"content-type": "audio/wav"}
        for sequence, chunk in enumerate(dictation.chunks):
            where = f"{path}/audio/{sequence}"
            await self._until_told(dictation, "PUT", where, 200, content=chunk, headers=wav)
        dictation.step = "end"
        await self._until_told(dictation, "POST", f"{path}/end", 202, json={"chunks": len(dictation.chunks)})
        dictation.ended, dictation.step = True, "ended"

    async def ask_for(self, dictation: Dictation, template_id: str) -> None:
        """Ask for a further document."""
        dictation.step = "further"
        path = f"/v1/sessions/{dictation.session_id}/documents"
        await self._until_told(dictation, "POST", path, 202, json={"template_id": template_id})
        dictation.further.append(template_id)
        dictation.step = "ended"

    async def cancel(self, dictation: Dictation) -> None:
        """Create a session, send audio, and want none of it any more."""
        key = {"idempotency-key": f"dictation-{dictation.number}"}
        created = await self._until_told(dictation, "POST", "/v1/sessions", 201, json={}, headers=key)
        dictation.session_id = created["id"]
        path = f"/v1/sessions/{dictation.session_id}"
        wav = {"content-type": "audio/wav"}
        await self._until_told(
            dictation, "PUT", f"{path}/audio/0", 200, content=dictation.chunks[0], headers=wav
        )
        dictation.step = "delete"
        await self._until_told(dictation, "DELETE", path, 202)
        dictation.cancelled = True

    async def _until_told(
        self, dictation: Dictation, method: str, path: str, wanted: int, **request: Any
    ) -> Any:
        headers = request.pop("headers", {}) | {"authorization": f"Bearer {self._hospital.key}"}
        deadline = time.monotonic() + self._patience_seconds
        while time.monotonic() < deadline:
            slot = self._chance.choice(self._services)
            answer = None
            with suppress(httpx2.HTTPError):
                answer = await self._hospital.http.request(
                    method, slot.url + path, headers=headers, **request
                )
            if answer is not None and method == "DELETE" and answer.status_code == 410:
                return None  # an earlier try, whose answer was lost, has done it
            if answer is not None and answer.status_code == wanted:
                return answer.json() if answer.content else None
            dictation.further_repeats += dictation.step == "further"
            wait = 0.2
            if answer is not None:
                code = answer.json().get("code", "")
                if len(dictation.refusals) < 20:
                    dictation.refusals.append(f"{dictation.step}: {answer.status_code} {code}")
                is_repeated = answer.status_code in _REPEATED or (
                    answer.status_code == 409 and code in _REPEATED_CONFLICTS
                )
                if not is_repeated:
                    break
                wait = min(float(answer.headers.get("retry-after", 0.2)), 1.0)
            await asyncio.sleep(max(wait, 0.05))
        dictation.failure = dictation.refusals[-1] if dictation.refusals else f"{dictation.step}: no answer"
        raise GaveUp(dictation.failure)
