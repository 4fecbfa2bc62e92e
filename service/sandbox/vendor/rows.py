"""The session record and the transaction row: what the vendor stores of a session, shown as it is stored."""

from __future__ import annotations

from typing import Any

import msgspec

from service.sandbox.vendor.errors import BUSINESS_ID
from service.sandbox.vendor.logins import describe_user
from service.sandbox.vendor.records import GOOD, PENDING, Document, Session, timestamp
from service.sandbox.vendor.response_parts import BUCKET, describe_document, list_audio, presign
from service.sandbox.vendor.settings import VendorSettings
from service.sandbox.vendor.state import VendorState


def view_record(vendor: VendorState, session: Session, *, presigned: bool) -> tuple[int, dict[str, Any]]:
    """Write the session record; 202 while any document is in progress (docs/vendor.md#session-record)."""
    settings = vendor.settings
    shown = [each for each in session.every_document() if each.current and not each.deleted]
    shown.sort(key=lambda each: each.created_at, reverse=True)
    record = {
        "schema_version": "2026-04-30",
        "session_id": session.session_id,
        "uuid": describe_user(vendor, session.owner)["uuid"],
        "wid": BUSINESS_ID,
        "created_at": int(session.created_at),
        "expires_at": int(session.expires_at),
        "upload_url": session.upload_url,
        "user_status": session.user_status,
        # The same word for a failed, a pending and a finished session (docs/vendor.md#session-record).
        "status": "processed" if session.committed else "initialized",
        "transfer": "vaded",
        "flavour": session.flavour,
        settings.traits.patient_field: session.patient or {},
        "audio_matrix": {},
        "client_generated_files": list_audio(settings, session) if session.ended_at else [],
        "encounter_id": "",
        "documents": [_view_document(settings, session, each, presigned=presigned) for each in shown],
        "context": session.context,
        "input_language": session.languages,
        "request_templates": view_requested(settings, session),
        "consultation_mode": session.session_mode,
        "model_type": session.model,
        "additional_data": session.additional_data,
    }
    is_pending = any(each.status == PENDING for each in shown)
    return (202 if is_pending else 200), {"data": record}


def _view_document(
    settings: VendorSettings, session: Session, document: Document, *, presigned: bool
) -> dict[str, Any]:
    has_address = presigned and document.has_path and document.content is not None
    url, expires = presign(session, document) if has_address else (None, None)
    view: dict[str, Any] = {
        **describe_document(session, document),
        "publish": {},
        "presigned_url": url,
        "presigned_url_expires_at": expires,
    }
    if settings.is_july:
        view["vault_doc_id"] = None
    if document.kind == "transcript":
        view["lang"] = "raw"
    return view


def view_requested(settings: VendorSettings, session: Session) -> dict[str, Any]:
    """List the requested templates; a PATCH loses the documents' ids (docs/vendor.md#patch-templates)."""
    if session.templates_patched:
        return {"visual": [{"template_id": each} for each in session.templates]}
    more = {"codification_needed": False} if settings.is_july else {}
    visual = [
        {
            "document_id": each.document_id,
            "template_id": each.template_id,
            "template_type": "custom",
            "language_output": "en-IN",
            **more,
        }
        for each in session.documents
        if each.requested
    ]
    return {"visual": visual, "integration": []}


def view_row(vendor: VendorState, session: Session) -> dict[str, Any]:
    """Write the whole internal row, as history and PATCH answer it (docs/vendor.md#internal-row)."""
    settings = vendor.settings
    user, client = describe_user(vendor, session.owner), settings.traits.client_id
    row: dict[str, Any] = {
        "oid": user["oid"],
        "b_id": BUSINESS_ID,
        "c_id": client,
        "mode": session.session_mode,
        "uuid": user["uuid"],
        "s3_url": f"s3://{BUCKET}/{session.folder}",
        "txn_id": session.session_id,
        "flavour": session.flavour,
        "version": "",
        "transfer": "vaded",
        "sqs_files": [],
        "created_at": timestamp(session.created_at),
        "model_type": session.model,
        "updated_at": timestamp(session.updated_at),
        "jwt-payload": {"idp": "", "b-id": BUSINESS_ID, "c-id": client},
        "sdk_version": "",
        "user_status": session.user_status,
        "batch_s3_url": None,
        "error_details": [],
        "input_language": session.languages,
        "output_language": None,
        "processing_status": session.processing_status,
        "request_templates": view_requested(settings, session),
        "model_training_consent": True,
        "additional_data": msgspec.json.encode(session.additional_data).decode(),
    }
    files = list_audio(settings, session)
    optional = {
        "commit_at": session.ended_at and timestamp(session.ended_at),
        "processed_at": session.completed_at and timestamp(session.completed_at),
        "patient_oid": (session.patient or {}).get("oid"),
        settings.traits.patient_field: session.patient,
        "transcript_status": GOOD if session.transcript.status == GOOD else None,
        "client_uploaded_files": files,
        "client_generated_files": files if session.ended_at else None,
        "processing_error": session.processing_error,
    }
    return row | {name: value for name, value in optional.items() if value}
