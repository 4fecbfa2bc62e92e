"""The stand-in of the vendor's API: one ASGI app, all of its memory in `app.state.vendor`."""

from __future__ import annotations

from typing import Any

from litestar import Litestar, Response, Router
from litestar.datastructures import State
from litestar.exceptions import HTTPException

from service.sandbox.answers import VendorError
from service.sandbox.door import VendorDoor
from service.sandbox.requests import VendorRequest
from service.sandbox.settings import Endpoint, VendorSettings
from service.sandbox.vendor_accounts import (
    discover,
    list_subscriptions,
    list_webhooks,
    log_in,
    refresh_token,
    register_webhook,
    remove_webhook,
    require_token,
    subscribe,
    unsubscribe,
)
from service.sandbox.vendor_audio import upload_audio
from service.sandbox.vendor_blobs import read_blob, upload_form, write_blob
from service.sandbox.vendor_changes import end_session, process_template, update_session
from service.sandbox.vendor_control import create_control_router
from service.sandbox.vendor_sessions import create_session, get_session
from service.sandbox.vendor_state import VendorState
from service.sandbox.vendor_stream import stream_audio

__all__ = ["Endpoint", "VendorSettings", "create_vendor"]


def create_vendor(settings: VendorSettings | None = None) -> Litestar:
    """Make the stand-in EkaScribe with its control API under `/_control`; bind it to loopback only.

    The app's `state.vendor` is its `VendorState`; `settings` may be changed while it runs.
    """
    vendor = VendorState(settings or VendorSettings())
    guarded = Router(
        "/",
        route_handlers=[
            create_session,
            get_session,
            update_session,
            end_session,
            process_template,
            upload_audio,
        ],
        guards=[require_token],
    )
    storage = [read_blob, write_blob, upload_form]
    open_handlers = [discover, log_in, refresh_token, stream_audio, *storage]
    webhooks = [
        subscribe,
        list_subscriptions,
        unsubscribe,
        register_webhook,
        list_webhooks,
        remove_webhook,
    ]
    app = Litestar(
        route_handlers=[guarded, *open_handlers, *webhooks, create_control_router()],
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
