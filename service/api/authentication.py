"""Who may come in: API keys, roles where a route names one, and how often."""

from functools import cache
from typing import Any

from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.handlers import BaseRouteHandler
from litestar.params import QueryParameter
from litestar.types import Scope

from service.api.dependencies import Services
from service.api.field_errors import unknown_parameter
from service.api.middleware.admission_control import acquire_permit
from service.api.rate_limit import count_call
from service.domain.errors import Forbidden, InvalidRequest, NotFound, Unauthenticated
from service.domain.models import Principal

_BEARER_SCHEME = "bearer "
_MAX_KEY_CHARACTERS = 256
_MAX_ERRORS = 20


async def authenticate(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Let in whoever shows a good key of a sufficient role, and not too often.

    Raises Unauthenticated, RateLimited or Forbidden, or InvalidRequest for parameters that the call has not.
    """
    reject_nul_characters(connection)
    services: Services = connection.app.state.services
    principal = await principal_of_key(services, bearer_token_of(connection))
    if principal is None:
        raise Unauthenticated("an API key is needed, one that was not revoked: Authorization: Bearer <key>")
    await admit_principal(connection.scope, services, principal)
    if handler.opt.get("role") == "admin" and principal.role != "admin":
        raise Forbidden("this needs an admin key")
    reject_unknown_parameters(connection, handler)


async def principal_of_key(services: Services, key: str) -> Principal | None:
    """Return whose an API key is; nothing is looked up for what cannot be one. Raises RateLimited."""
    if not key or len(key) > _MAX_KEY_CHARACTERS:
        return None
    return await services.authentication.principal(key)


async def admit_principal(scope: Scope, services: Services, principal: Principal) -> None:
    """Note who calls, count the call, and take its place.

    Raises RateLimited, or Overloaded when there is no place, or none for the tenant.
    """
    scope["state"]["principal"] = principal
    count_call(scope, services, principal.key_id)
    acquire_permit(scope, principal.tenant_id)


async def check_not_revoked(services: Services, principal: Principal) -> None:
    """Refuse a call whose key was revoked while it waited. Raises Unauthenticated."""
    if principal.key_id not in await services.api_keys.active_keys([principal.key_id]):
        raise Unauthenticated("the API key was revoked")


def bearer_token_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Return what follows `Authorization: Bearer`, or nothing."""
    header = connection.headers.get("authorization", "")
    return (
        header[len(_BEARER_SCHEME) :].strip()
        if header[: len(_BEARER_SCHEME)].lower() == _BEARER_SCHEME
        else ""
    )


def reject_nul_characters(connection: ASGIConnection[Any, Any, Any, Any]) -> None:
    """Refuse NUL, which no text of PostgreSQL can hold: no id has one, no filter finds one."""
    if any("\0" in str(value) for name, value in connection.path_params.items() if name.endswith("_id")):
        raise NotFound("there is nothing of that name")
    for name, value in connection.query_params.multi_items():
        if "\0" in value:
            raise InvalidRequest("holds a character that cannot be stored", field=name)


def reject_unknown_parameters(
    connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler
) -> None:
    """Refuse query parameters that a call does not have: a filter with a typo would list everything.

    Raises InvalidRequest.
    """
    if not connection.scope["query_string"]:
        return
    known = _query_parameters(handler)
    unknown = list(dict.fromkeys(name for name in connection.query_params if name not in known))
    if unknown:
        errors = [unknown_parameter(name) for name in unknown[:_MAX_ERRORS]]
        raise InvalidRequest("the call has parameters that it does not know; see `errors`", errors=errors)


@cache
def _query_parameters(handler: BaseRouteHandler) -> frozenset[str]:
    """Return the query parameters of a handler, by the names that callers write."""
    return frozenset(
        field.kwarg_definition.name or name
        for name, field in handler.parsed_fn_signature.parameters.items()
        if isinstance(field.kwarg_definition, QueryParameter)
    )


def provide_principal(scope: Scope) -> Principal:
    """Return who the guard let in."""
    principal = scope["state"]["principal"]
    assert isinstance(principal, Principal)  # noqa: S101 - every route of /v1 stands behind the guard
    return principal


def provide_services(state: State) -> Services:
    """Return what the composition root wired."""
    services = state.services
    assert isinstance(services, Services)  # noqa: S101 - set before the first request is taken
    return services
