"""The route of /v1/audit: who read, changed or erased what, for admin keys."""

from litestar import Router, get
from litestar.di import NamedDependency
from litestar.params import FromQuery

from schemas.audit import AuditEntry
from schemas.pages import Page
from service.api import openapi_examples as examples
from service.api.dependencies import Services
from service.api.openapi_examples import answer
from service.api.paging import DEFAULT_PAGE_SIZE, PageCursor, PageSize
from service.api.problem_responses import documented
from service.api.timestamps import From, To, interval
from service.domain.api_keys.models import Principal
from service.store.audit import AuditFilter
from service.store.paging import after_cursor


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
    limit: PageSize = DEFAULT_PAGE_SIZE,
    cursor: PageCursor = None,
) -> Page[AuditEntry]:
    """Return one page."""
    start, end = interval(since, before)
    wanted = AuditFilter(action=action, object_id=object_id, since=start, before=end)
    return await services.operations.audit.page(principal.tenant_id, wanted, after_cursor(cursor), limit)


audit_router = Router("", route_handlers=[list_audit])
