"""The doors that put deliveries right: test a destination, recover what it missed, confirm a filing."""

from litestar import Router, post
from litestar.di import NamedDependency
from litestar.params import FromPath, RawBody

from schemas.emr import Delivery, DeliveryConfirm, Recovered, RecoverRequest
from service.api import openapi_examples as examples
from service.api.dependencies import Services
from service.api.json_body import MAX_JSON_BYTES, json_operation, read_json
from service.api.openapi_examples import answer
from service.api.problems import documented
from service.api.timestamps import utc
from service.domain.ids import DeliveryId, DestinationId
from service.domain.models import Principal


@post(
    "/destinations/{destination_id:str}/test",
    status_code=202,
    operation_id="testDestination",
    summary="Send a ping to a destination",
    responses={
        202: answer(examples.PING, "The ping's delivery: watch it as any other"),
        **documented(400, 401, 404, 409, 503),
    },
    tags=["Destinations"],
)
async def test_destination(
    services: NamedDependency[Services], principal: NamedDependency[Principal], destination_id: FromPath[str]
) -> Delivery:
    """Put a `ping` into its outbox, whatever its filters; it goes the way that documents go."""
    delivery = await services.recovery.ping(
        principal.tenant_id, DestinationId(destination_id), services.clock.now()
    )
    await services.audit.record(principal.tenant_id, principal.key_id, "destination.tested", destination_id)
    return delivery


@post(
    "/destinations/{destination_id:str}/recover",
    status_code=202,
    operation_id="recoverDestination",
    operation_class=json_operation(RecoverRequest, examples.RECOVER, required=True),
    summary="Send again what a destination missed",
    request_max_body_size=MAX_JSON_BYTES,
    responses={
        202: answer(examples.RECOVERED, "How many deliveries are due now"),
        **documented(400, 401, 404, 409, 413, 503),
    },
    tags=["Destinations"],
)
async def recover_destination(
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    destination_id: FromPath[str],
    body: RawBody,
) -> Recovered:
    """Make due what died there since then, and what it wants of then and never got; twice does no harm."""
    since = utc(read_json(body, RecoverRequest).since, "since")
    found = await services.recovery.recover(principal.tenant_id, DestinationId(destination_id), since)
    await services.audit.record(
        principal.tenant_id,
        principal.key_id,
        "destination.recovered",
        destination_id,
        since=since.isoformat(),
        recovered=found.recovered,
        replayed=found.replayed,
    )
    return found


@post(
    "/deliveries/{delivery_id:str}/confirm",
    status_code=200,
    operation_id="confirmDelivery",
    operation_class=json_operation(DeliveryConfirm, examples.CONFIRM, required=True),
    summary="Say under which id a delivery was filed",
    request_max_body_size=MAX_JSON_BYTES,
    responses={
        200: answer(examples.FILED, "The delivery, filed"),
        **documented(400, 401, 404, 409, 410, 413, 503),
    },
    tags=["Deliveries"],
)
async def confirm_delivery(
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    delivery_id: FromPath[str],
    body: RawBody,
) -> Delivery:
    """Record the EMR's own id of the note; the same again is the same answer."""
    record_id = read_json(body, DeliveryConfirm).record_id
    delivery = await services.recovery.confirm(principal.tenant_id, DeliveryId(delivery_id), record_id)
    await services.audit.record(principal.tenant_id, principal.key_id, "delivery.confirmed", delivery_id)
    return delivery


recovery_router = Router("", route_handlers=[test_destination, recover_destination, confirm_delivery])
