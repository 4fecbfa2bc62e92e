"""The routes of /v1/deliveries: what was sent to a tenant's destinations, and sending it again."""

from litestar import Router, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, RawBody

from schemas.deliveries import Delivery, DeliveryConfirm, DeliveryStatus
from schemas.pages import Page
from service.api import openapi_examples as examples
from service.api.dependencies import Services
from service.api.json_body import MAX_JSON_BYTES, json_operation, read_json
from service.api.openapi_examples import answer
from service.api.paging import DEFAULT_PAGE_SIZE, PageCursor, PageSize
from service.api.problem_responses import documented
from service.domain.api_keys.models import Principal
from service.domain.audit import Actor
from service.domain.ids import DeliveryId
from service.store.paging import after_cursor


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
    limit: PageSize = DEFAULT_PAGE_SIZE,
    cursor: PageCursor = None,
) -> Page[Delivery]:
    """Return one page; `attempts` is their number."""
    return await services.deliveries.queries.page(
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
    return await services.deliveries.queries.one(principal.tenant_id, DeliveryId(delivery_id))


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
    return await services.deliveries.changes.retry(Actor.key(principal), DeliveryId(delivery_id))


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
    return await services.deliveries.changes.confirm(Actor.key(principal), DeliveryId(delivery_id), record_id)


deliveries_router = Router(
    "", route_handlers=[list_deliveries, get_delivery, retry_delivery, confirm_delivery]
)
