"""Registering for webhooks: Connect subscriptions and the protocol's own; on premises both are 404."""

from __future__ import annotations

import secrets
import time
from typing import Any

from litestar import Response, delete, get, post
from litestar.params import FromPath

from service.sandbox.vendor.access import only_hosted, require_token
from service.sandbox.vendor.errors import StandInError, plain_error
from service.sandbox.vendor.records import timestamp
from service.sandbox.vendor.requests import VendorRequest, account_of, read_object, vendor_of

_CONNECT_PATH = "/notification/v1/connect/webhook/subscriptions"
_PROTOCOL_PATH = "/voice/v1/webhooks"


@post(_CONNECT_PATH, guards=[only_hosted, require_token])
async def subscribe(request: VendorRequest) -> Response[dict[str, Any]]:
    """Register a Connect webhook; an endpoint already registered is 400 (docs/vendor.md#subscriptions)."""
    known, body = vendor_of(request).connect_subscriptions, await read_object(request)
    endpoint = body.get("endpoint")
    if not isinstance(endpoint, str) or not endpoint:
        raise StandInError(400, {"code": 400, "error": "endpoint is required"})
    account = account_of(request)
    if any((each["endpoint"], each["account"]) == (endpoint, account) for each in known.values()):
        raise StandInError(400, {"code": 400, "error": "endpoint already registered"})
    subscription_id = f"sub_{secrets.token_hex(8)}"
    known[subscription_id] = {**body, "id": subscription_id, "status": "active", "account": account}
    return Response({"id": subscription_id, "status": "active"}, status_code=201)


@get(_CONNECT_PATH, guards=[only_hosted, require_token])
async def list_subscriptions(request: VendorRequest) -> Response[list[dict[str, Any]]]:
    """List the account's Connect subscriptions, without their keys."""
    known = _of_account(request, vendor_of(request).connect_subscriptions)
    return Response([_without(each, "signing_key") for each in known], status_code=200)


@delete(f"{_CONNECT_PATH}/{{subscription_id:str}}", status_code=200, guards=[only_hosted, require_token])
async def unsubscribe(request: VendorRequest, subscription_id: FromPath[str]) -> Response[dict[str, Any]]:
    """Remove a Connect subscription."""
    known = vendor_of(request).connect_subscriptions
    if known.get(subscription_id) not in _of_account(request, known):
        raise StandInError(404, {"code": 404, "error": "subscription not found"})
    del known[subscription_id]
    return Response({"id": subscription_id, "status": "deleted"}, status_code=200)


@post(_PROTOCOL_PATH, guards=[only_hosted, require_token])
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


@get(_PROTOCOL_PATH, guards=[only_hosted, require_token])
async def list_webhooks(request: VendorRequest) -> Response[dict[str, Any]]:
    """List the account's protocol webhooks, without their secrets."""
    known = _of_account(request, vendor_of(request).protocol_webhooks)
    return Response({"webhooks": [_without(each, "secret") for each in known]}, status_code=200)


@delete(f"{_PROTOCOL_PATH}/{{webhook_id:str}}", status_code=200, guards=[only_hosted, require_token])
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
