"""The vendor's door: POST /webhooks/eka."""

import time
from typing import Any, Literal

from litestar import Request, post
from litestar.di import NamedDependency
from msgspec import Struct

from service.api.problems import documented
from service.api.services import Services
from service.domain.errors import InvalidRequest, SignatureInvalid
from service.domain.ids import DEFAULT_ACCOUNT
from service.eka.events import parse_event
from service.eka.signature import is_signed

_MOST_BYTES = 65_536
_SIGNATURE_HEADERS = ("eka-webhook-signature", "x-msa-signature")


class WebhookReceived(Struct, frozen=True):
    """What became of the event; it is committed."""

    status: Literal["accepted", "duplicate", "ignored"]


@post(
    "/webhooks/eka",
    status_code=200,
    operation_id="receiveWebhook",
    summary="EkaScribe tells us that results are there",
    tags=["Vendor"],
    request_max_body_size=_MOST_BYTES,
    responses=documented(400, 401, 413, 503),
)
async def receive_webhook(
    request: Request[Any, Any, Any], services: NamedDependency[Services]
) -> WebhookReceived:
    """Verify the raw bytes, then read them, record, commit, answer."""
    body = await request.body()
    secrets = await services.webhook_secrets(DEFAULT_ACCOUNT)
    if secrets or not services.settings.webhook_allow_unsigned:
        headers = [value for name in _SIGNATURE_HEADERS for value in request.headers.getall(name, [])]
        tolerance = services.settings.webhook_tolerance_seconds
        if not is_signed(headers, body, secrets, now=time.time(), tolerance_seconds=tolerance):
            raise SignatureInvalid("the webhook carries no signature that is both right and fresh")
    event = parse_event(body)
    if event is None:
        raise InvalidRequest("the body is not JSON")
    return WebhookReceived(await services.webhooks.receive(DEFAULT_ACCOUNT, event, body))
