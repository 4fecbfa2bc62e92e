"""Requests and responses of EkaScribe, as documented and as recorded (docs/vendor.md#create).

Get Session's responses are decoded field by field (service/eka/response_parsing.py), since their types vary.
"""

from typing import Any

from msgspec import UNSET, Struct


class CreateSession(Struct, kw_only=True, omit_defaults=True):
    """Body of `POST /voice/v1/sessions`.

    The patient is sent under both names: servers of July 2026 read `patient_details`, those of August
    `session_details`, and each drops the other name without an error (docs/vendor.md#patient-names).
    """

    session_id: str
    session_mode: str
    templates: list[str]
    model: str
    language_hint: list[str]
    upload_type: str
    communication_protocol: str
    transcript_language: str | None = None
    additional_data: dict[str, Any] | None = None
    patient_details: dict[str, Any] | None = None
    session_details: dict[str, Any] | None = None


class SessionCreated(Struct, kw_only=True):
    """Response to create; `upload_url` is a string unless a client asks for form uploads."""

    session_id: str
    upload_url: Any = None
    expires_at: Any = None
    patient_details: Any = UNSET
    session_details: Any = UNSET


class AudioStored(Struct, kw_only=True):
    """Response to an upload (docs/vendor.md#upload)."""

    session_id: Any = None
    success: Any = None


class ChangeSession(Struct, kw_only=True, omit_defaults=True):
    """Body of `PATCH /voice/v1/sessions/{id}`, without `additional_data`.

    `additional_data` would break the session (docs/vendor.md#patch-metadata). Only one of the patient's two
    names may be set: each server refuses the other name (docs/vendor.md#patch-unknown-fields).
    """

    patient_details: dict[str, Any] | None = None
    session_details: dict[str, Any] | None = None
    templates: list[str] | None = None
    language_hint: list[str] | None = None
    session_mode: str | None = None
    model: str | None = None


class CancelSession(Struct, kw_only=True):
    """Body of the same call for a cancellation (docs/vendor.md#cancel)."""

    user_status: str = "cancelled"
    processing_status: str = "cancelled"


class DocumentAsked(Struct, kw_only=True):
    """Response to the request for an additional document (docs/vendor.md#process-template)."""

    document_id: str | None = None


class EndSession(Struct, kw_only=True):
    """Body of `POST …/end` (docs/vendor.md#end)."""

    audio_files_sent: int


class EndAnswer(Struct, kw_only=True):
    """Response to end: the audio that the vendor holds."""

    audio_files_received: Any = None
    audio_files: Any = None


class SessionFacts(Struct, kw_only=True):
    """Fields of Get Session beside the result: the audio held, and the patient under one of two names."""

    audio_files_received: Any = None
    audio_files: Any = None
    patient_details: Any = UNSET
    session_details: Any = UNSET


class Tokens(Struct, kw_only=True):
    """Response to login and refresh; lifetimes are in seconds from the response."""

    access_token: str
    expires_in: float | None = None
    refresh_token: str | None = None
    refresh_expires_in: float | None = None
