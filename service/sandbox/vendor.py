"""The stand-in of the vendor's API: one ASGI app, all of its memory in `app.state.vendor`."""

from __future__ import annotations

from typing import Any

from litestar import Litestar, Response, Router
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.types import ControllerRouterHandler

from service.sandbox import (
    vendor_documents,
    vendor_logins,
    vendor_registrations,
    vendor_templates,
    vendor_transactions,
    vendor_transcripts,
)
from service.sandbox.access import require_token
from service.sandbox.answers import VendorError
from service.sandbox.door import VendorDoor
from service.sandbox.requests import VendorRequest
from service.sandbox.settings import Endpoint, VendorSettings
from service.sandbox.vendor_audio import upload_audio
from service.sandbox.vendor_blobs import read_blob, upload_form, write_blob
from service.sandbox.vendor_changes import end_session, process_template, update_session
from service.sandbox.vendor_control import create_control_router
from service.sandbox.vendor_discovery import discover
from service.sandbox.vendor_sessions import create_session, get_session
from service.sandbox.vendor_state import VendorState
from service.sandbox.vendor_stream import stream_audio

__all__ = ["Endpoint", "VendorSettings", "create_vendor"]

_GUARDED: tuple[ControllerRouterHandler, ...] = (
    create_session,
    get_session,
    update_session,
    end_session,
    process_template,
    upload_audio,
    vendor_documents.write_document,
    vendor_documents.read_document,
    vendor_documents.delete_document,
    vendor_documents.publish_document,
    vendor_templates.list_templates,
    vendor_templates.list_protocol_templates,
    vendor_templates.create_template,
    vendor_templates.update_template,
    vendor_templates.archive_template,
    vendor_transactions.read_record,
    vendor_transactions.change_context,
    vendor_transactions.list_history,
    vendor_transactions.read_transaction,
    vendor_transactions.report_processing,
    vendor_transactions.delete_transaction,
    vendor_transcripts.convert_to_template,
    vendor_transcripts.convert_stored,
    vendor_transcripts.read_audio_address,
    vendor_transcripts.read_chunk_transcript,
)
_OPEN: tuple[ControllerRouterHandler, ...] = (
    discover,
    stream_audio,
    read_blob,
    write_blob,
    upload_form,
    vendor_logins.log_in,
    vendor_logins.refresh_token,
    vendor_logins.log_in_user,
    vendor_logins.sign_up,
    vendor_logins.refresh_user,
    vendor_logins.log_out,
    vendor_logins.who_am_i,
    vendor_logins.tell_auth_mode,
    vendor_logins.start_device,
    vendor_registrations.subscribe,
    vendor_registrations.list_subscriptions,
    vendor_registrations.unsubscribe,
    vendor_registrations.register_webhook,
    vendor_registrations.list_webhooks,
    vendor_registrations.remove_webhook,
)


def create_vendor(settings: VendorSettings | None = None) -> Litestar:
    """Make the stand-in EkaScribe with its control API under `/_control`; bind it to loopback only.

    The app's `state.vendor` is its `VendorState`; `settings` may be changed while it runs.
    """
    vendor = VendorState(settings or VendorSettings())
    guarded = Router("/", route_handlers=_GUARDED, guards=[require_token])
    app = Litestar(
        route_handlers=[guarded, *_OPEN, create_control_router()],
        state=State({"vendor": vendor}, deep_copy=False),
        openapi_config=None,
        logging_config=None,
        exception_handlers={VendorError: _answer_vendor_error, HTTPException: _answer_http_error},
        on_shutdown=[vendor.close],
    )
    app.asgi_handler = VendorDoor(app.asgi_handler, vendor)
    return app


def _answer_vendor_error(_: VendorRequest, error: VendorError) -> Response[dict[str, Any]]:
    return Response(error.body, status_code=error.status)


def _answer_http_error(_: VendorRequest, error: HTTPException) -> Response[dict[str, Any]]:
    return Response({"detail": error.detail}, status_code=error.status_code)
