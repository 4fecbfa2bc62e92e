"""Authentication of the stand-in's paths, and the paths that only some characters have."""

from __future__ import annotations

from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from service.sandbox.vendor.errors import not_found, session_not_found
from service.sandbox.vendor.state import VendorState

Connection = ASGIConnection[Any, Any, Any, Any]


def require_token(connection: Connection, _: BaseRouteHandler) -> None:
    """Guard: refuse a call without a good token in the character's words (docs/vendor.md#refusal-words).

    A session of another account is 404, as one that does not exist.
    """
    vendor: VendorState = connection.app.state.vendor
    caller = vendor.tokens.check(connection.headers.get("authorization"))
    connection.scope["state"]["sandbox_account"] = caller.account
    connection.scope["state"]["sandbox_user"] = caller.user
    session_id = connection.path_params.get("session_id")
    session = vendor.sessions.get(session_id) if session_id else None
    if session is not None and session.account != caller.account:
        raise session_not_found(session.session_id)


def only_hosted(connection: Connection, _: BaseRouteHandler) -> None:
    """Guard: 404 on premises, where these paths are only advertised (docs/vendor.md#discovery-webhooks)."""
    if not connection.app.state.vendor.settings.is_hosted:
        raise not_found()


def only_july(connection: Connection, _: BaseRouteHandler) -> None:
    """Guard: 404 for what the newest on-prem server no longer has, and hosted never showed us."""
    if not connection.app.state.vendor.settings.is_july:
        raise not_found()


def only_august(connection: Connection, handler: BaseRouteHandler) -> None:
    """Guard: only August has the users' login; July asks for its token (docs/vendor.md#fixed-token)."""
    vendor: VendorState = connection.app.state.vendor
    if vendor.settings.is_july:
        require_token(connection, handler)
    if not vendor.settings.is_august:
        raise not_found()
