"""Request helpers of every handler of the stand-in vendor."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request
from litestar.datastructures import State

from service.sandbox.vendor.errors import field_error, plain_error, transaction_error, unexpected_error
from service.sandbox.vendor.records import Session
from service.sandbox.vendor.settings import FIRST_ACCOUNT
from service.sandbox.vendor.state import VendorState

VendorRequest = Request[Any, Any, State]


def vendor_of(request: VendorRequest) -> VendorState:
    """Find the state behind this request's app."""
    vendor: VendorState = request.app.state.vendor
    return vendor


def base_url(request: VendorRequest) -> str:
    """Scheme and host as the client spelled them, without a trailing slash."""
    return str(request.base_url).rstrip("/")


def account_of(request: VendorRequest) -> str:
    """Say whose token was sent."""
    account: str = request.scope["state"]["sandbox_account"]
    return account


def user_of(request: VendorRequest) -> str:
    """Say which user of the account it was; the account itself where tokens have no user."""
    user: str = request.scope["state"].get("sandbox_user", FIRST_ACCOUNT)
    return user


def wants_form(request: VendorRequest) -> bool:
    """Whether the caller wants the upload address as an object (docs/vendor.md#upload-url)."""
    return request.query_params.get("version") == "v2" or "flavour" in request.headers


async def read_object(request: VendorRequest, *, required: bool = False) -> dict[str, Any]:
    """Decode the request's JSON object; raises `StandInError` 400 for anything else.

    An empty body is {}, and an error where it is `required`.
    """
    body = await request.body()
    if not body and required:
        raise plain_error(400, "BAD_REQUEST", "Field 'body': Field required")
    try:
        return msgspec.json.decode(body, type=dict[str, Any]) if body else {}
    except msgspec.ValidationError as error:
        raise plain_error(400, "BAD_REQUEST", "Field 'body': Input should be a valid JSON object") from error
    except msgspec.DecodeError as error:
        raise plain_error(400, "BAD_REQUEST", f"Field 'body -> {len(body)}': JSON decode error") from error


def usable_session(vendor: VendorState, session_id: str) -> Session:
    """Find the session; `StandInError` 404 when unknown, 500 if broken (docs/vendor.md#patch-metadata)."""
    session = vendor.session(session_id)
    if session.broken:
        raise unexpected_error(session_id)
    return session


def check_choice(body: dict[str, Any], name: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of these; a missing one is fine."""
    if name not in body or body[name] in choices or (body[name] is None and name != "upload_type"):
        return
    quoted = [f"'{each}'" for each in choices]
    raise field_error(name, f"Input should be {', '.join(quoted[:-1])} or {quoted[-1]}")


def check_strings(body: dict[str, Any], name: str, most: int | None = None) -> None:
    """Refuse what is not a list of strings, and one with more than `most`."""
    value = body.get(name)
    if value is None:
        return
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise field_error(name, "Input should be a valid list")
    if most is not None and len(value) > most:
        raise field_error(name, f"List should have at most {most} items after validation, not {len(value)}")


def check_template_exists(vendor: VendorState, template_id: str) -> None:
    """Refuse template ids that start with "no_such", and in August deleted ones."""
    known = vendor.templates.get(template_id)
    gone = known is not None and known.archived and not vendor.settings.is_july
    if gone or template_id.startswith(("no_such", "no-such")):
        raise transaction_error(400, "bad_request", f"Template '{template_id}' is not available", "")
