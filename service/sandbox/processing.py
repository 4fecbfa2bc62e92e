"""What happens between End Session and the results: transcript, documents, and how a session ends."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Any

from service.sandbox.audio import webm_seconds
from service.sandbox.settings import Outcome
from service.sandbox.vendor_state import Chunk, Document, Session, VendorState
from service.sandbox.vendor_webhooks import announce_outcome


@dataclass(frozen=True)
class AudioFacts:
    """What was truly received, in sequence order; `sha256` is of all bytes joined."""

    files: int
    seconds: float | None
    size: int
    sha256: str
    lines: tuple[str, ...]

    def view(self) -> dict[str, Any]:
        """Write the `audio` object of every document."""
        return {"files": self.files, "seconds": self.seconds, "bytes": self.size, "sha256": self.sha256}

    def transcript(self) -> str:
        """Write a transcript that a test can check against what it sent."""
        noun = "file" if self.files == 1 else "files"
        head = f"Received {self.files} audio {noun}, {_spell(self.seconds)}, sha256 {self.sha256}."
        return "\n".join((head, *self.lines))


def read_audio(session: Session) -> AudioFacts:
    """Read back and measure the first copy of every chunk (facts, Audio: the first bytes are transcribed)."""
    chunks = session.ordered_chunks()
    digest, webm, slices = hashlib.sha256(), bytearray(), 0
    known: list[float | None] = []
    for chunk in chunks:
        data = chunk.first.path.read_bytes()
        digest.update(data)
        if chunk.extension == "webm":
            webm += data
            slices += 1
        else:
            known.append(chunk.first.seconds)
    if slices:
        known.append(webm_seconds(bytes(webm)))
    total = sum(seconds for seconds in known if seconds is not None)
    return AudioFacts(
        files=len(chunks),
        seconds=None if None in known else round(total, 6),
        size=sum(chunk.first.size for chunk in chunks),
        sha256=digest.hexdigest(),
        lines=tuple(_describe(chunk) for chunk in chunks),
    )


def start_processing(vendor: VendorState, session: Session) -> None:
    """Queue one run, as every End Session does, however many came before."""
    session.committed = True
    if session.status == "cancelled":
        return
    session.status = "processing"
    session.announce_change()
    vendor.spawn(_process(vendor, session), session)


async def finish(vendor: VendorState, session: Session, outcome: Outcome) -> None:
    """End a session now; "never" leaves it processing. Notifies pollers and webhook receivers."""
    if outcome == "never":
        return
    session.runs += 1
    session.committed = True
    if outcome == "expired":
        session.status, session.completed_at = "expired", time.time()
    else:
        facts = await asyncio.to_thread(read_audio, session)
        _write_results(vendor, session, facts, outcome)
    session.announce_change()
    announce_outcome(vendor, session)


def add_document(vendor: VendorState, session: Session, template_id: str) -> Document:
    """Queue one more document of a finished session, or the same one anew, as the settings say."""
    known = [each for each in session.documents if each.current and each.template_id == template_id]
    if known and vendor.settings.rerun_reuses_document:
        document = known[-1]
        document.status = "pending"
    else:
        document = Document(template_id, secrets.token_hex(12), "pending")
        session.documents.append(document)
    document.runs = max((each.runs for each in known), default=0) + 1
    vendor.spawn(_extract_later(vendor, session, document, vendor.settings.processing_seconds), session)
    return document


async def _process(vendor: VendorState, session: Session) -> None:
    settings = vendor.settings
    await asyncio.sleep(settings.damage_seconds if session.damaged else settings.processing_seconds)
    chosen = settings.outcomes.get(session.session_id, settings.outcome)
    await finish(vendor, session, "partial" if session.damaged else chosen)


def _write_results(vendor: VendorState, session: Session, facts: AudioFacts, outcome: Outcome) -> None:
    session.completed_at, session.completed_shown = time.time(), False
    for document in session.documents:
        document.current = False
    if outcome == "failed":
        session.status = "failed"
        return
    session.transcript = facts.transcript()
    made = [_extract(session, facts, template_id) for template_id in session.templates]
    if outcome == "partial" and made and all(document.status == "success" for document in made):
        made[-1].status, made[-1].data = "failed", None
    for document in made:
        if document.template_id.startswith("slow"):
            document.status = "pending"
            delay = vendor.settings.slow_template_seconds
            vendor.spawn(_extract_later(vendor, session, document, delay), session)
    session.documents.extend(made)
    failed = any(document.status == "failed" for document in made)
    waits = vendor.settings.partial_while_pending and any(document.status == "pending" for document in made)
    session.status = "partial" if failed or waits or outcome == "partial" else "completed"


async def _extract_later(
    vendor: VendorState, session: Session, document: Document, delay_seconds: float
) -> None:
    await asyncio.sleep(delay_seconds)
    facts = await asyncio.to_thread(read_audio, session)
    ready = _extract(session, facts, document.template_id)
    document.data, document.status = ready.data, ready.status
    if vendor.settings.rerun_changes and document.runs > 1 and document.data is not None:
        document.data["revision"] = document.runs
    is_whole = all(each.status == "success" for each in session.documents if each.current)
    if vendor.settings.partial_while_pending and session.status == "partial" and is_whole:
        session.status = "completed"
        session.announce_change()
        announce_outcome(vendor, session)
        return
    session.announce_change()
    if vendor.settings.webhook_on_document:
        announce_outcome(vendor, session)


def _extract(session: Session, facts: AudioFacts, template_id: str) -> Document:
    document_id = secrets.token_hex(12)
    if template_id.startswith("fail"):
        return Document(template_id, document_id, "failed")
    return Document(template_id, document_id, "success", _write_note(session, facts, template_id))


def _write_note(session: Session, facts: AudioFacts, template_id: str) -> dict[str, Any]:
    complaint, plan = "Cough and fever for three days", "Fluids, rest, review in three days"
    medicine = {"name": "Paracetamol 650 mg", "frequency": "1-1-1", "duration_days": 3}
    if template_id.startswith("clinical_notes"):
        note: dict[str, Any] = {
            "subjective": complaint,
            "objective": "Temperature 38.4 °C, chest clear",
            "assessment": "Acute bronchitis",
            "plan": plan,
        }
    else:
        note = {
            "chief_complaint": complaint,
            "vitals": {"temperature_celsius": 38.4, "pulse_per_minute": 92},
            "diagnosis": ["Acute bronchitis"],
            "medications": [medicine],
            "advice": plan,
        }
    return {**note, "mode": session.session_mode, "patient": session.patient, "audio": facts.view()}


def _describe(chunk: Chunk) -> str:
    copy = chunk.first
    return f"{chunk.name}: {copy.size} bytes, {_spell(copy.seconds)}, sha256 {copy.sha256}"


def _spell(seconds: float | None) -> str:
    return "unknown length" if seconds is None else f"{seconds:.2f} seconds"
