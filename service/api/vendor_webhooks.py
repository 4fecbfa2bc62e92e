"""Receives EkaScribe's webhooks at /webhooks/eka, or /webhooks/eka/{tenant} for a tenant's own account."""

from dataclasses import dataclass
from typing import Annotated, Any, get_args

import msgspec
from litestar import Request, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, Operation, Parameter, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import PathParameter
from litestar.response.base import ASGIResponse
from msgspec import Struct

from service.api.authentication import provide_services
from service.api.dependencies import Services
from service.api.middleware.admission_control import acquire_permit
from service.api.middleware.load_monitor import WEBHOOKS
from service.api.problem_responses import documented
from service.api.request_classes import REQUEST_CLASS
from service.domain.errors import CallerMistake, InvalidRequest, SignatureInvalid
from service.domain.ids import DEFAULT_ACCOUNT, Account, SessionId
from service.domain.webhooks import Outcome
from service.eka.webhook_events import parse_event
from service.eka.webhook_signature import is_signed
from service.observability.tracing import note, span_of

_MAX_BYTES = 65_536
_MAX_SHOWN_CHARACTERS = 64
_SIGNATURE_HEADERS = ("eka-webhook-signature", "x-msa-signature")

# All series start at 0: Prometheus' rate() misses the first event of a series that starts with it.
_COUNTERS = {
    outcome: WEBHOOKS.labels(outcome) for outcome in ("accepted", "duplicate", "ignored", "refused", "failed")
}


class WebhookReceived(Struct, frozen=True):
    """The response to a webhook; its event is committed by then."""

    status: Outcome


# There are only three different responses, so each is encoded once.
_RESPONSES: dict[Outcome, ASGIResponse] = {
    status: ASGIResponse(body=msgspec.json.encode(WebhookReceived(status))) for status in get_args(Outcome)
}
_DOCUMENTED_RESPONSE = {
    200: ResponseSpec(
        data_container=WebhookReceived,
        description="Request fulfilled, document follows",
        generate_examples=False,
    )
}


@dataclass
class WebhookOperation(Operation):
    """Describes the raw body and the signature header, which Litestar cannot derive from the handlers."""

    def __post_init__(self) -> None:
        self.request_body = RequestBody(
            content={"application/json": OpenAPIMediaType(schema=Schema())},
            description="An event in any of EkaScribe's shapes; an unknown kind is recorded and ignored.",
            required=True,
        )
        signature = Parameter(
            name="Eka-Webhook-Signature",
            param_in="header",
            description="`t=<unix>,v1=<hex>`, HMAC-SHA256 over `{t}.{raw body}`; or as `X-MSA-Signature`",
            schema=Schema(type=OpenAPIType.STRING),
        )
        self.parameters = [*(self.parameters or []), signature]


@post(
    "/webhooks/eka",
    status_code=200,
    operation_id="receiveWebhook",
    opt={REQUEST_CLASS: "webhooks"},
    operation_class=WebhookOperation,
    summary="Receive an event from EkaScribe",
    tags=["Vendor"],
    request_max_body_size=_MAX_BYTES,
    responses=_DOCUMENTED_RESPONSE | documented(400, 401, 413, 503, by_key=False),
)
async def receive_webhook(request: Request[Any, Any, Any]) -> ASGIResponse:
    """Receive an event of the default account; it can only affect sessions of this account."""
    return await _receive(request, DEFAULT_ACCOUNT)


@post(
    "/webhooks/eka/{tenant:str}",
    status_code=200,
    operation_id="receiveTenantWebhook",
    opt={REQUEST_CLASS: "webhooks"},
    operation_class=WebhookOperation,
    summary="Receive an event from a tenant's own EkaScribe account",
    tags=["Vendor"],
    request_max_body_size=_MAX_BYTES,
    responses=_DOCUMENTED_RESPONSE | documented(400, 401, 413, 503, by_key=False),
)
async def receive_tenant_webhook(
    request: Request[Any, Any, Any],
    tenant: Annotated[str, PathParameter(description="The tenant's id")],
) -> ASGIResponse:
    """Receive an event of a tenant's own account: verified with its secrets, limited to its sessions."""
    # "default" is not a tenant: that account has a route of its own.
    return await _receive(request, Account("" if tenant == DEFAULT_ACCOUNT else tenant))


async def _receive(request: Request[Any, Any, Any], account: Account) -> ASGIResponse:
    # Read directly, because Litestar's dependency injection took longer than verifying the signature.
    services = provide_services(request.app.state)
    counter = "failed"
    try:
        outcome = await _verify_and_record(request, services, account)
        counter = outcome
    except CallerMistake:
        counter = "refused"
        raise
    finally:
        _COUNTERS[counter].inc()
    return _RESPONSES[outcome]


async def _verify_and_record(
    request: Request[Any, Any, Any], services: Services, account: Account
) -> Outcome:
    """Verify the signature of the raw bytes, then decode the event and commit it."""
    body = await services.access.unauthenticated_limits.webhooks.read(request)
    secrets = await services.webhooks.secrets(account)
    # An unknown account (None) gets the same error as a wrong signature, so that nobody can find out tenant
    # ids.
    if secrets is None or secrets or not services.settings.webhook_allow_unsigned:
        headers = [value for name in _SIGNATURE_HEADERS for value in request.headers.getall(name, [])]
        tolerance, now = services.settings.webhook_tolerance_seconds, services.clock.now().timestamp()
        if not is_signed(headers, body, secrets or (), now=now, tolerance_seconds=tolerance):
            raise SignatureInvalid("the webhook carries no signature that is both right and fresh")
    acquire_permit(request.scope, None)
    event = parse_event(body)
    if event is None:
        raise InvalidRequest("the body is not JSON")
    parent = await services.traces.traceparent_of(SessionId(event.session_id))
    with span_of(
        parent,
        "webhook",
        "server",
        {
            "ekabridge.session_id": event.session_id[:_MAX_SHOWN_CHARACTERS],
            "ekabridge.kind": event.kind[:_MAX_SHOWN_CHARACTERS],
        },
        link=request.headers.get("traceparent"),
    ):
        outcome = await services.webhooks.receiver.receive(account, event, body)
        note("ekabridge.outcome", outcome)
    return outcome
