"""The routes of /v1/destinations: where a tenant's documents go."""

from typing import Any

from litestar import Response, Router, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, RawBody

from schemas.deliveries import Delivery, Recovered, RecoverRequest
from schemas.destinations import Destination, DestinationChange, DestinationCreate, SecretRotation
from schemas.pages import Page
from service.api import openapi_examples as examples
from service.api.dependencies import Services
from service.api.idempotency import IdempotencyKey, keyed_response
from service.api.json_body import MAX_JSON_BYTES, json_operation, read_json
from service.api.openapi_examples import answer
from service.api.paging import DEFAULT_PAGE_SIZE, PageCursor, PageSize
from service.api.problem_responses import documented
from service.api.timestamps import utc
from service.domain.api_keys.models import Principal
from service.domain.audit import Actor
from service.domain.ids import DestinationId
from service.store.paging import after_cursor


@post(
    "/destinations",
    operation_id="createDestination",
    operation_class=json_operation(DestinationCreate, examples.NEW_DESTINATION, required=True),
    summary="Say where documents shall go",
    request_max_body_size=MAX_JSON_BYTES,
    responses={
        201: answer(examples.NEW_DESTINATION_ANSWER, "The destination, with its secret this once"),
        **documented(400, 401, 404, 409, 413, 422, 503),
    },
    tags=["Destinations"],
)
async def create_destination(
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    body: RawBody,
    idempotency_key: IdempotencyKey = None,
) -> Response[Any]:
    """Register an endpoint; `secret` is shown this once, and again only to a repeat with the same key."""
    request = read_json(body, DestinationCreate)
    created = await services.destinations.changes.add_once(Actor.key(principal), request, idempotency_key)
    return keyed_response(created, status_code=201)


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
    limit: PageSize = DEFAULT_PAGE_SIZE,
    cursor: PageCursor = None,
) -> Page[Destination]:
    """Return one page."""
    return await services.destinations.queries.page(principal.tenant_id, after_cursor(cursor), limit)


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
    return await services.destinations.queries.one(principal.tenant_id, DestinationId(destination_id))


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
    return await services.destinations.changes.change(
        Actor.key(principal), DestinationId(destination_id), change
    )


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
    return await services.destinations.changes.rotate_secret(
        Actor.key(principal), DestinationId(destination_id), overlap
    )


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
    """Remove it; deliveries that still wait for it are given up."""
    await services.destinations.changes.remove(Actor.key(principal), DestinationId(destination_id))


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
    return await services.deliveries.changes.test(
        Actor.key(principal), DestinationId(destination_id), services.clock.now()
    )


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
    return await services.deliveries.changes.recover(
        Actor.key(principal), DestinationId(destination_id), since
    )


destinations_router = Router(
    "",
    route_handlers=[
        create_destination,
        list_destinations,
        get_destination,
        change_destination,
        rotate_secret,
        remove_destination,
        test_destination,
        recover_destination,
    ],
)
