"""Logins: by client id and secret as documented, and by user name on the on-prem server of August."""

from __future__ import annotations

import secrets
import uuid
from typing import Any

from litestar import Response, get, post
from litestar.datastructures import Cookie

from service.sandbox.vendor.access import only_august, require_token
from service.sandbox.vendor.errors import BUSINESS_ID, field_error, not_found, transaction_error
from service.sandbox.vendor.requests import VendorRequest, base_url, read_object, user_of, vendor_of
from service.sandbox.vendor.settings import FIRST_ACCOUNT
from service.sandbox.vendor.state import VendorState

_SHORTEST_PASSWORD = 8
_COOKIE_SECONDS = 2_592_000


@post("/connect-auth/v1/account/login")
async def log_in(request: VendorRequest) -> Response[dict[str, Any]]:
    """Login with `client_id` and `client_secret` (docs/vendor.md#login-client).

    A `sharing_key` is accepted unchecked. On premises this path asks for a token first, and is then not
    there.
    """
    vendor = vendor_of(request)
    if not vendor.settings.is_hosted:
        vendor.tokens.check(request.headers.get("authorization"))
        raise not_found()
    body = await read_object(request)
    tokens = vendor.tokens.login(body.get("client_id"), body.get("client_secret"))
    return Response(tokens, status_code=200)


@post("/connect-auth/v1/account/refresh-token")
async def refresh_token(request: VendorRequest) -> Response[dict[str, Any]]:
    """Issue the next pair of tokens; in August as the users' own path does (docs/vendor.md#login-user)."""
    vendor = vendor_of(request)
    body = await read_object(request)
    if vendor.settings.is_august:
        return _answer_user(vendor, *vendor.tokens.refresh_user(body.get("refresh_token")))
    if vendor.settings.is_july:
        vendor.tokens.check(request.headers.get("authorization"))
        raise not_found()
    client_id = request.headers.get("client-id")
    return Response(vendor.tokens.refresh(body.get("refresh_token"), client_id), status_code=200)


@post("/connect-auth/v1/login", guards=[only_august])
async def log_in_user(request: VendorRequest) -> Response[dict[str, Any]]:
    """Login with user name and password: 15 minutes, and cookies too (docs/vendor.md#login-user)."""
    vendor = vendor_of(request)
    username, password = await _read_user(request)
    return _answer_user(vendor, username, vendor.tokens.login_user(username, password))


@post("/connect-auth/v1/signup", guards=[only_august])
async def sign_up(request: VendorRequest) -> Response[dict[str, Any]]:
    """Make a user and log in."""
    vendor = vendor_of(request)
    username, password = await _read_user(request)
    if len(password) < _SHORTEST_PASSWORD:
        message = f"Password must be at least {_SHORTEST_PASSWORD} characters"
        raise transaction_error(400, "weak_password", message, "", business_id="")
    vendor.settings.users[username] = password
    return _answer_user(vendor, username, vendor.tokens.login_user(username, password))


@post("/connect-auth/v1/refresh", guards=[only_august])
async def refresh_user(request: VendorRequest) -> Response[dict[str, Any]]:
    """Issue the next pair to a user."""
    vendor = vendor_of(request)
    body = await read_object(request)
    return _answer_user(vendor, *vendor.tokens.refresh_user(body.get("refresh_token")))


@post("/connect-auth/v1/logout", guards=[only_august])
async def log_out(request: VendorRequest) -> Response[dict[str, Any]]:
    """Log out; the refresh token still works for a minute (docs/vendor.md#refresh-window)."""
    body = await read_object(request)
    vendor_of(request).tokens.log_out_user(body.get("refresh_token"))
    return Response({"status": "success"}, status_code=200, cookies=_cookies("", "", 0))


@get("/connect-auth/v1/account/whoami", guards=[require_token])
async def who_am_i(request: VendorRequest) -> Response[dict[str, Any]]:
    """Say whose token it is."""
    vendor = vendor_of(request)
    if vendor.settings.is_hosted:
        raise not_found()
    user = describe_user(vendor, user_of(request))
    answer = {
        "uuid": user["uuid"],
        "primary_oid": user["oid"],
        "workspace_id": BUSINESS_ID,
        "oid": [user["oid"]],
        "is-paid": True,
    }
    if vendor.settings.is_august:
        answer["username"] = user["username"]
    return Response(answer, status_code=200)


@get("/connect-auth/v1/auth-mode", guards=[only_august])
async def tell_auth_mode() -> Response[dict[str, Any]]:
    """Say which logins there are."""
    mode: dict[str, Any] = {
        "oidc_enabled": False,
        "oidc_login_url": None,
        "oidc_display_name": "Single sign-on",
        "providers": [],
        "allow_signup": True,
        "login_url": "/auth/login",
    }
    return Response(mode, status_code=200)


@post("/connect-auth/v1/device/code", guards=[only_august])
async def start_device(request: VendorRequest) -> Response[dict[str, Any]]:
    """Give out a device code; nothing here redeems it."""
    code = secrets.token_hex(4).upper()
    address = f"{base_url(request)}/auth/activate"
    answer = {
        "device_code": secrets.token_urlsafe(24),
        "user_code": code,
        "verification_uri": address,
        "verification_uri_complete": f"{address}?user_code={code}",
        "expires_in": 600,
        "interval": 5,
    }
    return Response(answer, status_code=200)


def describe_user(vendor: VendorState, username: str) -> dict[str, str]:
    """Give a user's ids; those of the first account are the character's own."""
    traits = vendor.settings.traits
    is_first = username == FIRST_ACCOUNT
    return {
        "username": username,
        "display_name": username,
        "uuid": traits.user_uuid if is_first else str(uuid.uuid5(uuid.NAMESPACE_OID, username)),
        "oid": traits.user_oid if is_first else f"oid-{username}",
        "b_id": BUSINESS_ID,
    }


async def _read_user(request: VendorRequest) -> tuple[str, str]:
    body = await read_object(request)
    for name in ("username", "password"):
        if not isinstance(body.get(name), str):
            raise field_error(name, "Field required")
    return body["username"], body["password"]


def _answer_user(vendor: VendorState, username: str, tokens: dict[str, object]) -> Response[dict[str, Any]]:
    answer = {"status": "success", "user": describe_user(vendor, username), **tokens}
    cookies = _cookies(str(tokens["access_token"]), str(tokens["refresh_token"]), _COOKIE_SECONDS)
    return Response(answer, status_code=200, cookies=cookies)


def _cookies(access: str, refresh: str, seconds: int) -> list[Cookie]:
    pairs = (("scribe_session", access), ("scribe_refresh", refresh))
    return [
        Cookie(key=key, value=value, max_age=seconds, httponly=True, samesite="lax") for key, value in pairs
    ]
