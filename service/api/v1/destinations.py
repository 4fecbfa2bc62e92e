"""The doors of /v1/destinations and /v1/deliveries."""

from litestar import Router, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, RawBody

from schemas.destinations import Destination, DestinationChange, DestinationCreate, SecretRotation
from schemas.emr import Delivery, DeliveryStatus, Page
from service.api import openapi_examples as examples
from service.api.dependencies import Services
from service.api.json_body import MAX_JSON_BYTES, json_operation, read_json
from service.api.openapi_examples import answer
from service.api.problems import documented
from service.api.v1.sessions import Cursor, Limit
from service.domain.ids import DeliveryId, DestinationId
from service.domain.models import Principal
from service.store.paging import after_cursor


@post(
    "/destinations",
    operation_id="createDestination",
    operation_class=json_operation(DestinationCreate, examples.NEW_DESTINATION, required=True),
    summary="Say where documents shall go",
    request_max_body_size=MAX_JSON_BYTES,
    responses={
        201: answer(examples.NEW_DESTINATION_ANSWER, "The destination, with its secret this once"),
        **documented(400, 401, 409, 413, 503),
    },
    tags=["Destinations"],
)
async def create_destination(
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    body: RawBody,
) -> Destination:
    """Register an endpoint; `secret` is shown this once."""
    request = read_json(body, DestinationCreate)
    await services.check_call(request)
    destination = await services.destinations.add(principal.tenant_id, request)
    await services.audit.record(principal.tenant_id, principal.key_id, "destination.created", destination.id)
    return destination


@get(
    "/destinations",
    operation_id="listDestinations",
    summary="List destinations, newest first",
    responses={
        200: answer(Page(items=[examples.DESTINATION]), "One page", kind=Page[Destination]),
        **documented(400, 401, 503),
    },
    tags=["Destinations"],
)
async def list_destinations(
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[Destination]:
    """Return one page."""
    return await services.destinations.page(principal.tenant_id, after_cursor(cursor), limit)


@get(
    "/destinations/{destination_id:str}",
    operation_id="getDestination",
    summary="One destination",
    responses={200: answer(examples.DESTINATION, "The destination"), **documented(400, 401, 404, 503)},
    tags=["Destinations"],
)
async def get_destination(
    services: NamedDependency[Services], principal: NamedDependency[Principal], destination_id: FromPath[str]
) -> Destination:
    """Return a destination, without its secret."""
    return await services.destinations.one(principal.tenant_id, DestinationId(destination_id))


@patch(
    "/destinations/{destination_id:str}",
    operation_id="changeDestination",
    operation_class=json_operation(DestinationChange, examples.DESTINATION_CHANGE, required=True),
    summary="Change a destination, or turn it on or off",
    request_max_body_size=MAX_JSON_BYTES,
    responses={
        200: answer(examples.DESTINATION, "The destination"),
        **documented(400, 401, 404, 413, 503),
    },
    tags=["Destinations"],
)
async def change_destination(
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    destination_id: FromPath[str],
    body: RawBody,
) -> Destination:
    """Change it; `enabled: true` sends what waited for it."""
    change = read_json(body, DestinationChange)
    await services.check_call(change)
    changed = await services.destinations.change(principal.tenant_id, DestinationId(destination_id), change)
    await services.audit.record(principal.tenant_id, principal.key_id, "destination.changed", destination_id)
    return changed


@post(
    "/destinations/{destination_id:str}/rotate-secret",
    status_code=200,
    operation_id="rotateDestinationSecret",
    operation_class=json_operation(SecretRotation, examples.ROTATION, required=False),
    summary="Replace a destination's signing secret",
    request_max_body_size=MAX_JSON_BYTES,
    responses={
        200: answer(examples.ROTATED_DESTINATION, "The destination, with its new secret this once"),
        **documented(400, 401, 404, 413, 503),
    },
    tags=["Destinations"],
)
async def rotate_secret(
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    destination_id: FromPath[str],
    body: RawBody,
) -> Destination:
    """Make a new secret, shown this once; the old one signs too for `overlap_seconds`, by default a day."""
    overlap = read_json(body, SecretRotation).overlap_seconds
    rotated = await services.destinations.rotate_secret(
        principal.tenant_id, DestinationId(destination_id), overlap
    )
    await services.audit.record(
        principal.tenant_id,
        principal.key_id,
        "destination.secret_rotated",
        destination_id,
        overlap_seconds=overlap,
    )
    return rotated


@delete(
    "/destinations/{destination_id:str}",
    operation_id="removeDestination",
    summary="Take a destination out of use",
    responses=documented(400, 401, 404, 503),
    tags=["Destinations"],
)
async def remove_destination(
    services: NamedDependency[Services], principal: NamedDependency[Principal], destination_id: FromPath[str]
) -> None:
    """Remove it; what still waits for it is given up."""
    await services.destinations.remove(principal.tenant_id, DestinationId(destination_id))
    await services.audit.record(principal.tenant_id, principal.key_id, "destination.removed", destination_id)


@get(
    "/deliveries",
    operation_id="listDeliveries",
    summary="List deliveries, newest first",
    responses={
        200: answer(Page(items=[examples.DELIVERY]), "One page", kind=Page[Delivery]),
        **documented(400, 401, 503),
    },
    tags=["Deliveries"],
)
async def list_deliveries(
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    status: FromQuery[DeliveryStatus | None] = None,
    destination_id: FromQuery[str | None] = None,
    session_id: FromQuery[str | None] = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[Delivery]:
    """Return one page; `attempts` is their number."""
    return await services.deliveries.page(
        principal.tenant_id,
        status=status,
        destination_id=destination_id,
        session_id=session_id,
        after=after_cursor(cursor),
        limit=limit,
    )


@get(
    "/deliveries/{delivery_id:str}",
    operation_id="getDelivery",
    summary="One delivery with its attempts",
    responses={
        200: answer(examples.DELIVERY_WITH_ATTEMPTS, "The delivery"),
        **documented(400, 401, 404, 503),
    },
    tags=["Deliveries"],
)
async def get_delivery(
    services: NamedDependency[Services], principal: NamedDependency[Principal], delivery_id: FromPath[str]
) -> Delivery:
    """Return a delivery; `attempts` lists them."""
    return await services.deliveries.one(principal.tenant_id, DeliveryId(delivery_id))


@post(
    "/deliveries/{delivery_id:str}/retry",
    status_code=202,
    operation_id="retryDelivery",
    summary="Send a dead delivery again",
    responses={
        202: answer(examples.DELIVERY, "It is due now"),
        **documented(400, 401, 404, 409, 503),
    },
    tags=["Deliveries"],
)
async def retry_delivery(
    services: NamedDependency[Services], principal: NamedDependency[Principal], delivery_id: FromPath[str]
) -> Delivery:
    """Make it due now, with the same webhook-id."""
    delivery = await services.deliveries.retry(principal.tenant_id, DeliveryId(delivery_id))
    await services.audit.record(principal.tenant_id, principal.key_id, "delivery.retried", delivery_id)
    return delivery


deliveries_router = Router(
    "",
    route_handlers=[
        create_destination,
        list_destinations,
        get_destination,
        change_destination,
        rotate_secret,
        remove_destination,
        list_deliveries,
        get_delivery,
        retry_delivery,
    ],
)
