"""The stand-in of the vendor's API: one ASGI app, all of its memory in `app.state.vendor`."""

from __future__ import annotations

from typing import Any

from litestar import Litestar, Response, Router
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.types import ControllerRouterHandler

from service.sandbox.vendor import (
    documents,
    logins,
    registrations,
    templates,
    transactions,
    transcripts,
)
from service.sandbox.vendor.access import require_token
from service.sandbox.vendor.audio import upload_audio
from service.sandbox.vendor.blobs import read_blob, upload_form, write_blob
from service.sandbox.vendor.control import create_control_router
from service.sandbox.vendor.discovery import discover
from service.sandbox.vendor.errors import StandInError
from service.sandbox.vendor.journal_middleware import JournalMiddleware
from service.sandbox.vendor.requests import VendorRequest
from service.sandbox.vendor.session_updates import end_session, process_template, update_session
from service.sandbox.vendor.sessions import create_session, get_session
from service.sandbox.vendor.settings import Endpoint, VendorSettings
from service.sandbox.vendor.state import VendorState
from service.sandbox.vendor.streams import stream_audio

__all__ = ["Endpoint", "VendorSettings", "create_vendor"]

_GUARDED: tuple[ControllerRouterHandler, ...] = (
    create_session,
    get_session,
    update_session,
    end_session,
    process_template,
    upload_audio,
    documents.write_document,
    documents.read_document,
    documents.delete_document,
    documents.publish_document,
    templates.list_templates,
    templates.list_protocol_templates,
    templates.create_template,
    templates.update_template,
    templates.archive_template,
    transactions.read_record,
    transactions.change_context,
    transactions.list_history,
    transactions.read_transaction,
    transactions.report_processing,
    transactions.delete_transaction,
    transcripts.convert_to_template,
    transcripts.convert_stored,
    transcripts.read_audio_address,
    transcripts.read_chunk_transcript,
)
_OPEN: tuple[ControllerRouterHandler, ...] = (
    discover,
    stream_audio,
    read_blob,
    write_blob,
    upload_form,
    logins.log_in,
    logins.refresh_token,
    logins.log_in_user,
    logins.sign_up,
    logins.refresh_user,
    logins.log_out,
    logins.who_am_i,
    logins.tell_auth_mode,
    logins.start_device,
    registrations.subscribe,
    registrations.list_subscriptions,
    registrations.unsubscribe,
    registrations.register_webhook,
    registrations.list_webhooks,
    registrations.remove_webhook,
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
        exception_handlers={StandInError: _answer_vendor_error, HTTPException: _answer_http_error},
        on_shutdown=[vendor.close],
    )
    app.asgi_handler = JournalMiddleware(app.asgi_handler, vendor)
    return app


def _answer_vendor_error(_: VendorRequest, error: StandInError) -> Response[dict[str, Any]]:
    return Response(error.body, status_code=error.status)


def _answer_http_error(_: VendorRequest, error: HTTPException) -> Response[dict[str, Any]]:
    return Response({"detail": error.detail}, status_code=error.status_code)
