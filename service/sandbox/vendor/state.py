"""The state of one stand-in vendor: sessions, templates, tokens, faults, journal."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.sandbox.vendor.errors import session_not_found
from service.sandbox.vendor.faults import FaultBook
from service.sandbox.vendor.journal import Journal
from service.sandbox.vendor.records import Document, Session
from service.sandbox.vendor.settings import VendorSettings, copy_settings
from service.sandbox.vendor.tokens import TokenIssuer


@dataclass
class Template:
    """A template that was made through the templates API."""

    template_id: str
    title: str
    desc: str = ""
    section_ids: list[str] = field(default_factory=list)
    is_default: bool = False
    archived: bool = False


def _first_templates() -> dict[str, Template]:
    soap = Template("soap_notes_default", "SOAP Notes", "Subjective, objective, assessment, plan.", [], True)
    return {soap.template_id: soap}


@dataclass
class VendorState:
    """Everything the stand-in vendor remembers; nothing outlives the process."""

    settings: VendorSettings
    initial: VendorSettings = field(init=False)
    sessions: dict[str, Session] = field(default_factory=dict)
    templates: dict[str, Template] = field(default_factory=_first_templates)
    streams: dict[str, str] = field(default_factory=dict)
    sockets: dict[str, set[Any]] = field(default_factory=dict)
    connect_subscriptions: dict[str, dict[str, Any]] = field(default_factory=dict)
    protocol_webhooks: dict[str, dict[str, Any]] = field(default_factory=dict)
    deliveries: list[dict[str, Any]] = field(default_factory=list)
    journal: Journal = field(default_factory=Journal)
    faults: FaultBook = field(default_factory=FaultBook)
    tokens: TokenIssuer = field(init=False)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _folder: Path | None = None

    def __post_init__(self) -> None:
        self.initial = copy_settings(self.settings)
        self.tokens = TokenIssuer(self.settings)

    def session(self, session_id: str) -> Session:
        """Find the session, or `StandInError` 404 when it is unknown or was deleted."""
        found = self.sessions.get(session_id)
        if found is None or found.deleted:
            raise session_not_found(session_id)
        return found

    def find_document(self, document_id: str) -> tuple[Session, Document] | None:
        """Find a document and its session, whether deleted or not."""
        for session in self.sessions.values():
            for document in session.every_document():
                if document.document_id == document_id:
                    return session, document
        return None

    def name_of(self, template_id: str) -> str:
        """Say the title of a template, or its id when it was not made here."""
        known = self.templates.get(template_id)
        return known.title if known else template_id

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
        self.templates = _first_templates()
        self.deliveries.clear()
        self.journal.clear()
        for name in VendorSettings.__struct_fields__:
            setattr(self.settings, name, getattr(copy_settings(self.initial), name))
        self.tokens = TokenIssuer(self.settings)
