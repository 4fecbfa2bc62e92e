"""The doors of the ledger and of the audit trail."""

from typing import Annotated

from litestar import Router, get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter

from schemas.emr import Page
from schemas.ledger import AuditEntry, Ledger
from service.api import openapi_examples as examples
from service.api.dependencies import Services
from service.api.openapi_examples import answer
from service.api.problems import documented
from service.api.timestamps import MOMENT, interval
from service.api.v1.sessions import Cursor, Limit
from service.domain.models import Principal
from service.store.audit import AuditFilter
from service.store.paging import after_cursor

From = Annotated[
    str | None,
    QueryParameter(name="from", description="From this moment on, RFC 3339 with a zone", schema_extra=MOMENT),
]
To = Annotated[
    str | None,
    QueryParameter(name="to", description="Before this moment, RFC 3339 with a zone", schema_extra=MOMENT),
]


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
    return await services.ledger.count(principal.tenant_id, *interval(since, before))


@get(
    "/audit",
    operation_id="listAudit",
    summary="Who read, changed or erased what, and when; for admin keys",
    tags=["Operators"],
    opt={"role": "admin"},
    responses={
        200: answer(Page(items=[examples.AUDIT]), "One page, newest first", kind=Page[AuditEntry]),
        **documented(400, 401, 403, 503),
    },
)
async def list_audit(
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    action: FromQuery[str | None] = None,
    object_id: FromQuery[str | None] = None,
    since: From = None,
    before: To = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[AuditEntry]:
    """Return one page."""
    start, end = interval(since, before)
    wanted = AuditFilter(action=action, object_id=object_id, since=start, before=end)
    return await services.audit.page(principal.tenant_id, wanted, after_cursor(cursor), limit)


ledger_router = Router("", route_handlers=[get_ledger, list_audit])
