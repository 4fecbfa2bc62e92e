from __future__ import annotations

import secrets
import time
from typing import Any

from litestar import Response, delete, get, post
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath

from service.sandbox.answers import AUDIO_FORMATS, VendorError, plain_error, session_not_found
from service.sandbox.requests import VendorRequest, account_of, base_url, read_object, vendor_of
from service.sandbox.vendor_records import timestamp
from service.sandbox.vendor_state import VendorState

_CONNECT_PATH = "/notification/v1/connect/webhook/subscriptions"
_PROTOCOL_PATH = "/voice/v1/webhooks"


def require_token(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Guard: 403 without a bearer token, 401 for an expired or unknown one (recordings).

    A session of another account is 404, as one that does not exist.
    """
    vendor: VendorState = connection.app.state.vendor
    account = vendor.tokens.check(connection.headers.get("authorization"))
    connection.scope["state"]["sandbox_account"] = account
    session_id = connection.path_params.get("session_id")
    session = vendor.sessions.get(session_id) if session_id else None
    if session is not None and session.account != account:
        raise session_not_found(session.session_id)


@get("/voice/v1/.well-known/medscribealliance")
async def discover(request: VendorRequest) -> Response[dict[str, Any]]:
    """Answer the discovery document, with URLs on the host that was asked (recordings)."""
    base, settings = base_url(request), vendor_of(request).settings
    traits = settings.traits
    methods = ["chunked", "single", *(["stream"] if settings.is_hosted else [])]
    document = {
        "protocol": "medscribealliance",
        "protocol_version": "0.1",
        "supported_versions": ["0.1"],
        "service": {
            "name": traits.service_name,
            "documentation_url": f"{base}/voice/docs",
            "support_email": "admin@example.com",
        },
        "endpoints": {
            "base_url": f"{base}/voice/v1",
            "webhooks_url": f"{base}{_PROTOCOL_PATH}",
            "templates_url": f"{base}/voice/api/v1/template",
        },
        "authentication": {
            "supported_methods": ["api_key", "oidc"],
            "oidc": {
                "issuer": base,
                "authorization_endpoint": f"{base}/oauth2/authorize",
                "token_endpoint": f"{base}/oauth2/token",
                "scopes_supported": ["openid", "profile"],
            },
        },
        "capabilities": {
            "audio_formats": list(AUDIO_FORMATS),
            "max_chunk_duration_seconds": 20,
            "upload_methods": methods,
            "webhook_delivery": True,
            "client_sdk_delivery": True,
            "storage_providers": ["aws"],
        },
        "models": [
            _describe_model("lite", "Lite", 600, "fast", traits.lite_languages),
            _describe_model("pro", "Professional", 3600, "standard", traits.languages),
        ],
        "languages": {"supported": list(traits.languages), "auto_detection": traits.auto_detection},
    }
    return Response(document, status_code=200, headers={"cache-control": "max-age=10800"})


def _describe_model(
    model_id: str, name: str, seconds: int, speed: str, languages: tuple[str, ...]
) -> dict[str, Any]:
    features = ("realtime_transcription", "speaker_diarization", "custom_templates")
    return {
        "id": model_id,
        "display_name": name,
        "languages": list(languages),
        "max_session_duration_seconds": seconds,
        "response_speed": speed,
        "features": dict.fromkeys(features, model_id == "pro"),
    }


@post("/connect-auth/v1/account/login")
async def log_in(request: VendorRequest) -> Response[dict[str, Any]]:
    """Login with `client_id` and `client_secret` (facts, Accounts); a `sharing_key` is accepted unchecked."""
    body = await read_object(request)
    tokens = vendor_of(request).tokens.login(body.get("client_id"), body.get("client_secret"))
    return Response(tokens, status_code=200)


@post("/connect-auth/v1/account/refresh-token")
async def refresh_token(request: VendorRequest) -> Response[dict[str, Any]]:
    """Issue the next pair of tokens for a single-use `refresh_token` (facts, Accounts)."""
    body = await read_object(request)
    client_id = request.headers.get("client-id")
    return Response(vendor_of(request).tokens.refresh(body.get("refresh_token"), client_id), status_code=200)


@post(_CONNECT_PATH, guards=[require_token])
async def subscribe(request: VendorRequest) -> Response[dict[str, Any]]:
    """Register a Connect webhook; an endpoint already registered is 400 (facts, Webhooks)."""
    known, body = vendor_of(request).connect_subscriptions, await read_object(request)
    endpoint = body.get("endpoint")
    if not isinstance(endpoint, str) or not endpoint:
        raise VendorError(400, {"code": 400, "error": "endpoint is required"})
    account = account_of(request)
    if any((each["endpoint"], each["account"]) == (endpoint, account) for each in known.values()):
        raise VendorError(400, {"code": 400, "error": "endpoint already registered"})
    subscription_id = f"sub_{secrets.token_hex(8)}"
    known[subscription_id] = {**body, "id": subscription_id, "status": "active", "account": account}
    return Response({"id": subscription_id, "status": "active"}, status_code=201)


@get(_CONNECT_PATH, guards=[require_token])
async def list_subscriptions(request: VendorRequest) -> Response[list[dict[str, Any]]]:
    """List the account's Connect subscriptions, without their keys."""
    known = _of_account(request, vendor_of(request).connect_subscriptions)
    return Response([_without(each, "signing_key") for each in known], status_code=200)


@delete(f"{_CONNECT_PATH}/{{subscription_id:str}}", status_code=200, guards=[require_token])
async def unsubscribe(request: VendorRequest, subscription_id: FromPath[str]) -> Response[dict[str, Any]]:
    """Remove a Connect subscription."""
    known = vendor_of(request).connect_subscriptions
    if known.get(subscription_id) not in _of_account(request, known):
        raise VendorError(404, {"code": 404, "error": "subscription not found"})
    del known[subscription_id]
    return Response({"id": subscription_id, "status": "deleted"}, status_code=200)


@post(_PROTOCOL_PATH, guards=[require_token])
async def register_webhook(request: VendorRequest) -> Response[dict[str, Any]]:
    """Register a webhook of protocol v0.1: `{url, events, secret}`; a url already registered is 400."""
    known, body = vendor_of(request).protocol_webhooks, await read_object(request)
    url = body.get("url")
    if not isinstance(url, str) or not url:
        raise plain_error(400, "BAD_REQUEST", "Field 'body -> url': Field required")
    account = account_of(request)
    if any((each["url"], each["account"]) == (url, account) for each in known.values()):
        raise plain_error(400, "webhook_already_registered", "Webhook URL is already registered")
    webhook_id = f"wh_{secrets.token_hex(8)}"
    created_at = timestamp(time.time())
    known[webhook_id] = {
        **body,
        "id": webhook_id,
        "created_at": created_at,
        "status": "active",
        "account": account,
    }
    return Response(_without(known[webhook_id], "secret"), status_code=201)


@get(_PROTOCOL_PATH, guards=[require_token])
async def list_webhooks(request: VendorRequest) -> Response[dict[str, Any]]:
    """List the account's protocol webhooks, without their secrets."""
    known = _of_account(request, vendor_of(request).protocol_webhooks)
    return Response({"webhooks": [_without(each, "secret") for each in known]}, status_code=200)


@delete(f"{_PROTOCOL_PATH}/{{webhook_id:str}}", status_code=200, guards=[require_token])
async def remove_webhook(request: VendorRequest, webhook_id: FromPath[str]) -> Response[None]:
    """Remove a protocol webhook."""
    known = vendor_of(request).protocol_webhooks
    if known.get(webhook_id) not in _of_account(request, known):
        raise plain_error(404, "webhook_not_found", "Webhook not found")
    del known[webhook_id]
    return Response(None, status_code=204)


def _of_account(request: VendorRequest, known: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in known.values() if each["account"] == account_of(request)]


def _without(item: dict[str, Any], secret: str) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in {secret, "account"}}
