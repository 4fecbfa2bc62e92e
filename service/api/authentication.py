"""Authenticates calls to /v1 by API key, checks the role a route needs, and applies the rate limit."""

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
from service.domain.api_keys.models import Principal
from service.domain.errors import Forbidden, InvalidRequest, NotFound, Unauthenticated
from service.domain.vendor_calls import CALLING_TENANT

_BEARER_SCHEME = "bearer "
_MAX_KEY_CHARACTERS = 256
_MAX_ERRORS = 20


async def authenticate(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Check a call's key, rate limit, role and query parameters; a guard that runs before the handler.

    Raises Unauthenticated, RateLimited, Overloaded, Forbidden or InvalidRequest.
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
    """Return the principal of an API key, or None; a text that cannot be a key causes no lookup.

    Raises RateLimited.
    """
    if not key or len(key) > _MAX_KEY_CHARACTERS:
        return None
    return await services.access.lookup.principal(key)


async def admit_principal(scope: Scope, services: Services, principal: Principal) -> None:
    """Store the principal in the scope, count the call, and acquire the request's permit.

    Raises RateLimited, or Overloaded if the request's class or the tenant is at its limit.
    """
    scope["state"]["principal"] = principal
    CALLING_TENANT.set(principal.tenant_id)
    count_call(scope, services, principal.key_id)
    acquire_permit(scope, principal.tenant_id)


async def check_not_revoked(services: Services, principal: Principal) -> None:
    """Raise Unauthenticated if the key was revoked since authentication; for calls that waited."""
    if principal.key_id not in await services.access.api_keys.active_keys([principal.key_id]):
        raise Unauthenticated("the API key was revoked")


def bearer_token_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Return the token of `Authorization: Bearer <token>`, or an empty string."""
    header = connection.headers.get("authorization", "")
    return (
        header[len(_BEARER_SCHEME) :].strip()
        if header[: len(_BEARER_SCHEME)].lower() == _BEARER_SCHEME
        else ""
    )


def reject_nul_characters(connection: ASGIConnection[Any, Any, Any, Any]) -> None:
    """Refuse NUL characters in ids and query parameters; a query with one would fail in PostgreSQL."""
    if any("\0" in str(value) for name, value in connection.path_params.items() if name.endswith("_id")):
        raise NotFound("there is nothing of that name")
    for name, value in connection.query_params.multi_items():
        if "\0" in value:
            raise InvalidRequest("holds a character that cannot be stored", field=name)


def reject_unknown_parameters(
    connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler
) -> None:
    """Raise InvalidRequest for unknown query parameters; a filter with a typo would list everything."""
    if not connection.scope["query_string"]:
        return
    known = _query_parameters(handler)
    unknown = list(dict.fromkeys(name for name in connection.query_params if name not in known))
    if unknown:
        errors = [unknown_parameter(name) for name in unknown[:_MAX_ERRORS]]
        raise InvalidRequest("the call has parameters that it does not know; see `errors`", errors=errors)


@cache
def _query_parameters(handler: BaseRouteHandler) -> frozenset[str]:
    """Return the names of a handler's query parameters, as callers write them."""
    return frozenset(
        field.kwarg_definition.name or name
        for name, field in handler.parsed_fn_signature.parameters.items()
        if isinstance(field.kwarg_definition, QueryParameter)
    )


def provide_principal(scope: Scope) -> Principal:
    """Return the principal that the guard has authenticated."""
    principal = scope["state"]["principal"]
    assert isinstance(principal, Principal)  # noqa: S101 - every route with this dependency has a guard
    return principal


def provide_services(state: State) -> Services:
    """Return the services that the composition root has built."""
    services = state.services
    assert isinstance(services, Services)  # noqa: S101 - set before the server accepts requests
    return services
