"""The stand-in's records of a session: chunks, documents, stream."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from service.sandbox.vendor.playing_times import pcm_seconds, wav_seconds, webm_seconds
from service.sandbox.vendor.settings import FIRST_ACCOUNT

SessionStatus = Literal["initialized", "processing", "completed", "partial", "failed", "expired", "cancelled"]
UserStatus = Literal["init", "commit", "cancelled"]
TERMINAL: frozenset[SessionStatus] = frozenset({"completed", "partial", "failed"})

PENDING, GOOD, FAILED, PARTIAL_SUCCESS = "in-progress", "success", "failure", "partial_success"
# Any other status is undecided to the vendor as well: a filtered answer says 202 for ever.
DECIDED = frozenset({GOOD, FAILED, PARTIAL_SUCCESS})

LLM_FAILURE = {
    "msg": "Something went wrong while generating the response. Please try again.",
    "code": "llm_structring_failure",
    "type": "error",
}
POOR_AUDIO = {
    "msg": "Parts of the recording could not be understood.",
    "code": "audio_quality_poor",
    "type": "warning",
}


@dataclass(frozen=True)
class Recording:
    """The bytes of one upload, kept in a file."""

    path: Path
    size: int
    sha256: str
    seconds: float | None


@dataclass
class Chunk:
    """One stored audio file; the transcript keeps the `first` copy, storage the `latest`.

    Only the first is ever transcribed (docs/vendor.md#first-copy). A chunk that came `by_form` is not counted
    before the end (docs/vendor.md#form-upload).
    """

    number: int
    extension: str
    content_type: str
    original_name: str
    first: Recording
    latest: Recording
    uploads: int = 1
    by_form: bool = False

    @property
    def name(self) -> str:
        """`<number>.<extension>`, whatever base name it was sent under."""
        return f"{self.number}.{self.extension}"


@dataclass
class Document:
    """One result of one template, or the transcript; `status` is the vendor's own word.

    `current` is false once processing ran again, `runs` counts re-runs too. Content is shown only with
    `has_path` (the server of August forgets the path of documents that it created itself), and not before
    `shown_at`. `by_address` leaves `data` empty and gives a `presigned_url`. `requested` ones were named by
    the create call; End Session makes these and no others.
    """

    template_id: str
    document_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = PENDING
    content: str | None = None
    name: str = ""
    kind: str = "custom"
    errors: list[Any] = field(default_factory=list)
    warnings: list[Any] = field(default_factory=list)
    current: bool = True
    runs: int = 1
    has_path: bool = True
    shown_at: float = 0.0
    by_address: bool = False
    requested: bool = False
    deleted: bool = False
    created_at: float = field(default_factory=time.time)
    updated_at: float = field(default_factory=time.time)

    def read(self) -> Any:
        """Say what `data` holds now: an object if the content is JSON, else the text, else nothing."""
        if self.content is None or not self.has_path or time.time() < self.shown_at:
            return None
        try:
            return msgspec.json.decode(self.content, type=dict[str, Any])
        except msgspec.MsgspecError:
            return self.content

    def write(self, content: Any, status: str = GOOD) -> None:
        """Keep a result; None stays no content."""
        is_text = content is None or isinstance(content, str)
        self.content = content if is_text else msgspec.json.encode(content).decode()
        self.status, self.updated_at, self.has_path = status, time.time(), True

    def fail(self, *errors: Any) -> None:
        """Turn it to a failure with these reasons; content of before stays, as at the vendor."""
        self.status, self.errors, self.updated_at = FAILED, list(errors), time.time()


@dataclass
class StreamLog:
    """The audio that arrived over WebSocket for one session; `size` counts decoded PCM bytes."""

    stream_id: str
    sample_rate: int = 16_000
    mode: str | None = None
    frames: int = 0
    size: int = 0
    late_bytes: int = 0
    connections: int = 0
    open_connections: int = 0
    stops: int = 0
    close_codes: list[int] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)

    def view(self) -> dict[str, Any]:
        """Return what arrived on the stream, for control calls."""
        return {
            "stream_id": self.stream_id,
            "sample_rate": self.sample_rate,
            "mode": self.mode,
            "frames": self.frames,
            "bytes": self.size,
            "sha256": self.digest.hexdigest(),
            "seconds": pcm_seconds(self.size, self.sample_rate),
            "late_bytes": self.late_bytes,
            "connections": self.connections,
            "open_connections": self.open_connections,
            "stops": self.stops,
            "close_codes": self.close_codes,
        }


@dataclass
class Session:
    """One scribing session as the vendor holds it; times are Unix seconds.

    `ended_at` is set by End Session alone: a transcript that was uploaded commits a session without it, and
    its pending documents then count as failed at once. `endless` pending documents never count as failed.
    """

    session_id: str
    upload_type: str
    base_url: str
    upload_url: str
    templates: list[str]
    model: str
    session_mode: str
    languages: list[str]
    patient: dict[str, Any] | None
    additional_data: dict[str, Any]
    created_at: float
    expires_at: float
    transcript: Document
    stream: StreamLog | None = None
    account: str = FIRST_ACCOUNT
    owner: str = FIRST_ACCOUNT
    flavour: str = ""
    status: SessionStatus = "initialized"
    user_status: UserStatus = "init"
    processing_status: str = "in-progress"
    processing_error: dict[str, Any] | None = None
    committed: bool = False
    ended_at: float | None = None
    endless: bool = False
    damaged: bool = False
    broken: bool = False
    cancelled_at_end: bool = False
    templates_patched: bool = False
    deleted: bool = False
    expired_by_force: bool = False
    completed_at: float | None = None
    completed_shown: bool = False
    updated_at: float = field(default_factory=time.time)
    context: dict[str, Any] = field(default_factory=dict)
    chunks: dict[tuple[int, str], Chunk] = field(default_factory=dict)
    documents: list[Document] = field(default_factory=list)
    end_bodies: list[Any] = field(default_factory=list)
    creates: int = 1
    runs: int = 0
    gets: Counter[str] = field(default_factory=Counter)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def folder(self) -> str:
        """Day and session, as the vendor's object store names its folders."""
        return f"{timestamp(self.created_at)[2:10].replace('-', '')}/{self.session_id}"

    def ordered_chunks(self) -> list[Chunk]:
        """Chunks by sequence number, then by extension."""
        return [self.chunks[key] for key in sorted(self.chunks)]

    def every_document(self) -> list[Document]:
        """All documents, the transcript's own among them, deleted and outdated ones too."""
        return [self.transcript, *self.documents]

    def announce_change(self) -> None:
        """Wake everyone who polls this session."""
        self.updated_at = time.time()
        self.changed.set()
        self.changed = asyncio.Event()

    def is_expired(self) -> bool:
        """Whether it was declared expired, or was never ended in time."""
        late = not self.committed and time.time() >= self.expires_at
        return self.status == "expired" or (late and self.status != "cancelled")


def measure_chunk(data: bytes, extension: str) -> float | None:
    """Seconds of one chunk by itself; None for formats that are not read, and for a later slice of a WebM."""
    if extension.lower() == "wav":
        return wav_seconds(data)
    return webm_seconds(data) if extension == "webm" else None


def timestamp(unix_seconds: float) -> str:
    """RFC 3339 in UTC with whole seconds, as the vendor writes times."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
