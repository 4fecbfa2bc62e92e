"""Transcripts and notes of the stand-in: words from which a test reads which audio truly arrived."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from service.sandbox.vendor.playing_times import webm_seconds
from service.sandbox.vendor.records import Chunk, Session

_MARKDOWN = "markdown"


@dataclass(frozen=True)
class AudioFacts:
    """The received audio in sequence order; `sha256` covers all bytes joined."""

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
    """Read back and measure the copy of every chunk that is transcribed (docs/vendor.md#first-copy)."""
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


def write_note(session: Session, facts: AudioFacts, template_id: str) -> dict[str, Any] | str:
    """Write the content of one document: an object, or text where the template id starts with "markdown"."""
    complaint, plan = "Cough and fever for three days", "Fluids, rest, review in three days"
    medicine = {"name": "Paracetamol 650 mg", "frequency": "1-1-1", "duration_days": 3}
    if template_id.startswith(_MARKDOWN):
        return f"## Clinical note\n\n- **Complaint:** {complaint}\n- Plan: {plan}\n- Audio: {facts.sha256}"
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
