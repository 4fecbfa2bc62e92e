"""The route of /v1/ledger: the fate of every session that was ended or expired."""

from litestar import Router, get
from litestar.di import NamedDependency

from schemas.ledger import Ledger
from service.api import openapi_examples as examples
from service.api.dependencies import Services
from service.api.openapi_examples import answer
from service.api.problem_responses import documented
from service.api.timestamps import From, To, interval
from service.domain.api_keys.models import Principal


@get(
    "/ledger",
    operation_id="getLedger",
    summary="What became of the sessions that were ended or expired",
    tags=["Deliveries"],
    responses={
        200: answer(examples.LEDGER, "Counts of one moment: `ended` = `delivered` + `in_flight` + `dead`"),
        **documented(400, 401, 503),
    },
)
async def get_ledger(
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    since: From = None,
    before: To = None,
) -> Ledger:
    """Count from rows, in one statement."""
    return await services.operations.ledger.count(principal.tenant_id, *interval(since, before))


ledger_router = Router("", route_handlers=[get_ledger])
