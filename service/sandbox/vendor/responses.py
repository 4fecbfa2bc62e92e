"""Get Session: a filtered answer speaks of its document, an unfiltered one of the session.

See docs/vendor.md#filtered-document.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from service.sandbox.vendor.errors import transaction_error
from service.sandbox.vendor.records import (
    DECIDED,
    FAILED,
    GOOD,
    PENDING,
    Document,
    Session,
    timestamp,
)
from service.sandbox.vendor.response_parts import (
    list_audio,
    view_entry,
    view_patient,
    view_times,
    view_upload_url,
)
from service.sandbox.vendor.settings import VendorSettings

TRANSCRIPT_FILTER = "transcript"


@dataclass(frozen=True)
class View:
    """One answer; `waits` says that the long poll goes on, and this is what it ends with."""

    status: int
    body: dict[str, Any]
    waits: bool = False


@dataclass(frozen=True)
class Viewer:
    """Writes the answers about one session; `form` when the caller wants the upload address as an object."""

    settings: VendorSettings
    session: Session
    form: bool = False

    def view(self, template_id: str | None, document_id: str | None) -> View:
        """Answer Get Session; raises `StandInError` 404 for a filter that hits nothing."""
        if self._is_gone():
            return View(410, self.view_expired())
        if self.settings.is_hosted and self.session.status == "cancelled":
            return View(200, self._failed("cancelled"))
        if template_id is not None or document_id is not None:
            return self._view_filtered(self._choose(template_id, document_id))
        return self._view_all()

    def view_expired(self) -> dict[str, Any]:
        """Write the body of a 410."""
        expired_at = timestamp(self.session.expires_at)
        return {
            **self._common(),
            "status": "expired",
            "upload_url": view_upload_url(self.session, form=self.form),
            "expired_at": expired_at if self.settings.is_hosted else expired_at.replace("Z", "+00:00"),
            "message": "Session expired before processing was initiated",
            "templates": {},
            "transcript": "",
        }

    def _is_gone(self) -> bool:
        # Neither on-prem server ever says 410 by itself (docs/vendor.md#never-410); a forced ending does.
        if self.session.status == "expired":
            return self.settings.answer_410
        return self.settings.is_hosted and self.settings.answer_410 and self.session.is_expired()

    def _choose(self, template_id: str | None, document_id: str | None) -> list[Document]:
        session = self.session
        if document_id is not None:
            found = [each for each in session.every_document() if each.document_id == document_id]
            missing = f"Document '{document_id}' not found for session '{session.session_id}'"
        elif template_id == TRANSCRIPT_FILTER:
            return [session.transcript]
        else:
            found = [
                each
                for each in session.documents
                if each.current and not each.deleted and each.template_id == template_id
            ]
            if not self.settings.is_hosted:
                decided = [each for each in found if each.status != PENDING]
                found = (decided or found)[:1]
            missing = f"No document found for template '{template_id}'"
        if not found:
            raise transaction_error(404, "resource_not_found", missing, session.session_id)
        return found

    def _view_filtered(self, documents: list[Document]) -> View:
        statuses = {each.status for each in documents}
        if not statuses <= DECIDED:
            return View(202, self._pending("processing", ""), waits=True)
        if statuses == {FAILED}:
            return View(200, self._failed("failed"))
        if any(each.kind == TRANSCRIPT_FILTER for each in documents):
            return View(200, self._completed([], documents[-1].content or ""))
        text = self.session.transcript.content or ""
        shown = text if self.settings.filtered_answers_carry_transcript else ""
        entries = [view_entry(self.settings, self.session, each) for each in documents]
        # A wish of some tests, not the vendor: the whole session's status under a filter, too.
        is_partial_for_now = self.settings.partial_while_pending and self.session.status == "partial"
        if statuses == {GOOD} and not is_partial_for_now:
            return View(200, self._completed(entries, shown))
        return View(206, self._partial(entries, shown))

    def _view_all(self) -> View:
        session, settings = self.session, self.settings
        if session.cancelled_at_end:
            about = {"txn_id": session.session_id, "b_id": "onprem-workspace"}
            error = {"code": "system_failure", "message": about, "display_message": {}}
            return View(500, {"status": "failed", "error": error, **about})
        if session.user_status != "commit":
            return View(202, self._pending("initialized", ""))
        documents = self._current()
        pending = [each for each in (session.transcript, *documents) if each.status == PENDING]
        if any(self._still_waits(each) for each in pending):
            text = self._transcript()
            if not (settings.partial_while_pending and session.transcript.status != PENDING):
                return View(202, self._pending("processing", text), waits=True)
            documents = [each for each in documents if each.status != PENDING]
        return self._view_outcome(documents)

    def _view_outcome(self, documents: list[Document]) -> View:
        session, settings = self.session, self.settings
        own = {each.document_id: FAILED if each.status == PENDING else each.status for each in documents}
        transcript = FAILED if session.transcript.status == PENDING else session.transcript.status
        statuses = {transcript, *own.values()}
        if statuses == {FAILED} and not session.damaged:
            return View(200, self._failed("failed"))
        if not settings.is_hosted:
            documents = sorted(documents, key=lambda each: each.created_at, reverse=True)
        entries = [view_entry(settings, session, each, own[each.document_id]) for each in documents]
        hides = settings.partial_while_pending and len(documents) < len(self._current())
        if statuses == {GOOD} and not hides:
            return View(200, self._completed(entries, self._transcript()))
        odd = any(status not in DECIDED for status in statuses)
        return View(206, self._partial(entries, self._transcript()), waits=odd)

    def _still_waits(self, document: Document) -> bool:
        session = self.session
        if session.endless:
            return True
        if session.ended_at is None:
            return False
        seconds = self.settings.damage_seconds if session.damaged else self.settings.stt_fail_seconds
        return time.time() < max(session.ended_at, document.created_at) + seconds

    def _current(self) -> list[Document]:
        return [
            each
            for each in self.session.documents
            if each.current and not each.deleted and each.kind != TRANSCRIPT_FILTER
        ]

    def _transcript(self) -> str:
        """Give the newest transcript: a translation replaces the original (docs/vendor.md#translation)."""
        made = [each for each in self.session.documents if each.kind == TRANSCRIPT_FILTER]
        ready = [each for each in (self.session.transcript, *made) if each.status == GOOD]
        newest = ready[-1] if ready else self.session.transcript
        return newest.content or ""

    def _common(self) -> dict[str, Any]:
        session, settings = self.session, self.settings
        files = list_audio(settings, session)
        view: dict[str, Any] = {
            "session_id": session.session_id,
            "created_at": timestamp(session.created_at),
            "audio_files_received": len(files),
            "audio_files": files,
            "additional_data": session.additional_data,
            **view_patient(settings, session),
        }
        if settings.is_hosted:
            view |= {"expires_at": timestamp(session.expires_at), "upload_url": session.upload_url}
        return view

    def _pending(self, status: str, transcript: str) -> dict[str, Any]:
        expires_at = timestamp(self.session.expires_at)
        return {
            **self._common(),
            "status": status,
            "upload_url": view_upload_url(self.session, form=self.form),
            "expires_at": expires_at if self.settings.is_hosted else expires_at.replace("Z", "+00:00"),
            "transcript": transcript,
        }

    def _failed(self, status: str) -> dict[str, Any]:
        return {
            **self._common(),
            "status": status,
            "upload_url": view_upload_url(self.session, form=self.form),
        }

    def _results(self, status: str, entries: list[Any], transcript: str) -> dict[str, Any]:
        return {
            **self._common(),
            "status": status,
            **view_times(self.settings, self.session),
            "model_used": self.session.model,
            "transcript": transcript,
            "templates": entries,
        }

    def _completed(self, entries: list[Any], transcript: str) -> dict[str, Any]:
        # No detection: the first two letters of the first hint (docs/vendor.md#language-detected).
        language = self.session.languages[0][:2] if self.session.languages else "en"
        return {**self._results("completed", entries, transcript), "language_detected": language}

    def _partial(self, entries: list[Any], transcript: str) -> dict[str, Any]:
        body = self._results("partial", entries, transcript)
        if self.settings.is_hosted:
            body["language_detected"] = self.session.languages[0] if self.session.languages else "en"
        return {
            **body,
            "upload_url": view_upload_url(self.session, form=self.form),
            "audio_files_processed": len(self.session.chunks),
            "processing_errors": self._processing_errors(entries),
        }

    def _processing_errors(self, entries: list[dict[str, dict[str, Any]]]) -> list[dict[str, str]]:
        if not self.settings.is_hosted:
            error = (self.session.processing_error or {}).get("error")
            return [{"type": error.get("type", ""), "message": error.get("msg", "")}] if error else []
        return [
            {
                "code": "template_failed",
                "template_id": template_id,
                "message": f"Template '{template_id}' could not be extracted",
            }
            for each in entries
            for template_id, entry in each.items()
            if entry["status"] == self.settings.traits.failure_word
        ]
