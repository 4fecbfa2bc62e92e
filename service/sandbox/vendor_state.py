from __future__ import annotations

import asyncio
import hashlib
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from service.sandbox.answers import session_not_found
from service.sandbox.audio import pcm_seconds, wav_seconds, webm_seconds
from service.sandbox.faults import FaultBook
from service.sandbox.journal import Journal
from service.sandbox.settings import FIRST_ACCOUNT, VendorSettings, copy_settings
from service.sandbox.tokens import TokenDesk

SessionStatus = Literal["initialized", "processing", "completed", "partial", "failed", "expired", "cancelled"]
TERMINAL: frozenset[SessionStatus] = frozenset({"completed", "partial", "failed"})


@dataclass(frozen=True)
class Recording:
    """The bytes of one upload, kept in a file."""

    path: Path
    size: int
    sha256: str
    seconds: float | None


@dataclass
class Chunk:
    """One stored audio file; the transcript keeps the `first` copy, storage the `latest` (facts, Audio)."""

    number: int
    extension: str
    content_type: str
    original_name: str
    first: Recording
    latest: Recording
    uploads: int = 1

    @property
    def name(self) -> str:
        """`<number>.<extension>`, whatever base name it was sent under."""
        return f"{self.number}.{self.extension}"


@dataclass
class Document:
    """One result of one template; `current` is false once processing ran again, `runs` counts re-runs too."""

    template_id: str
    document_id: str
    status: Literal["pending", "success", "failed"]
    data: dict[str, Any] | None = None
    current: bool = True
    runs: int = 1


@dataclass
class StreamLog:
    """What arrived over WebSocket for one session; `size` counts decoded PCM bytes."""

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
        """Give the witness's account of the stream."""
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
    """One scribing session as the vendor holds it; times are Unix seconds."""

    session_id: str
    upload_type: str
    upload_url: str
    templates: list[str]
    model: str
    session_mode: str
    languages: list[str]
    patient: dict[str, Any] | None
    additional_data: dict[str, Any]
    created_at: float
    expires_at: float
    stream: StreamLog | None = None
    account: str = FIRST_ACCOUNT
    status: SessionStatus = "initialized"
    committed: bool = False
    damaged: bool = False
    broken: bool = False
    completed_at: float | None = None
    completed_shown: bool = False
    transcript: str = ""
    chunks: dict[tuple[int, str], Chunk] = field(default_factory=dict)
    documents: list[Document] = field(default_factory=list)
    end_bodies: list[Any] = field(default_factory=list)
    creates: int = 1
    runs: int = 0
    gets: Counter[str] = field(default_factory=Counter)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def ordered_chunks(self) -> list[Chunk]:
        """Chunks by sequence number, then by extension."""
        return [self.chunks[key] for key in sorted(self.chunks)]

    def announce_change(self) -> None:
        """Wake everyone who polls this session."""
        self.changed.set()
        self.changed = asyncio.Event()

    def is_expired(self) -> bool:
        """Whether it was declared expired, or was never ended in time."""
        late = not self.committed and time.time() >= self.expires_at
        return self.status == "expired" or (late and self.status != "cancelled")


@dataclass
class VendorState:
    """Everything the stand-in vendor remembers; nothing outlives the process."""

    settings: VendorSettings
    initial: VendorSettings = field(init=False)
    sessions: dict[str, Session] = field(default_factory=dict)
    streams: dict[str, str] = field(default_factory=dict)
    sockets: dict[str, set[Any]] = field(default_factory=dict)
    connect_subscriptions: dict[str, dict[str, Any]] = field(default_factory=dict)
    protocol_webhooks: dict[str, dict[str, Any]] = field(default_factory=dict)
    deliveries: list[dict[str, Any]] = field(default_factory=list)
    journal: Journal = field(default_factory=Journal)
    faults: FaultBook = field(default_factory=FaultBook)
    tokens: TokenDesk = field(init=False)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _folder: Path | None = None

    def __post_init__(self) -> None:
        self.initial = copy_settings(self.settings)
        self.tokens = TokenDesk(self.settings)

    def session(self, session_id: str) -> Session:
        """Find the session, or `VendorError` 404."""
        found = self.sessions.get(session_id)
        if found is None:
            raise session_not_found(session_id)
        return found

    def new_audio_path(self) -> Path:
        """Choose an unused path for one upload, in a folder that `close` removes."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="eka-sandbox-"))
        return self._folder / secrets.token_hex(16)

    def spawn(self, work: Coroutine[Any, Any, None], session: Session | None = None) -> None:
        """Run `work` in the background until it ends or the vendor closes."""
        task = asyncio.get_running_loop().create_task(work)
        for group in (self.tasks, *([session.tasks] if session else [])):
            group.add(task)
            task.add_done_callback(group.discard)

    async def close(self) -> None:
        """Cancel background work and remove the audio."""
        self.faults.clear()
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
            self._folder = None

    async def reset(self) -> None:
        """Forget everything and return to the settings of the start."""
        await self.close()
        for memory in (self.sessions, self.streams, self.connect_subscriptions, self.protocol_webhooks):
            memory.clear()
        self.deliveries.clear()
        self.journal.clear()
        for name in VendorSettings.__struct_fields__:
            setattr(self.settings, name, getattr(copy_settings(self.initial), name))
        self.tokens = TokenDesk(self.settings)


def measure_chunk(data: bytes, extension: str) -> float | None:
    """Seconds of one chunk by itself; None for formats that are not read, and for a later slice of a WebM."""
    if extension == "wav":
        return wav_seconds(data)
    return webm_seconds(data) if extension == "webm" else None


def timestamp(unix_seconds: float) -> str:
    """RFC 3339 in UTC with whole seconds, as the vendor writes times."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
