"""Who may come in: API keys, and roles where a route names one."""

from typing import Any

from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.handlers import BaseRouteHandler
from litestar.types import Scope

from service.api.services import Services
from service.domain.errors import Forbidden, InvalidRequest, NotFound, Unauthenticated
from service.domain.records import Principal

_SCHEME = "bearer "
_MOST_KEY_CHARACTERS = 256


async def authenticate(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Let in whoever shows a good key of a sufficient role. Raises Unauthenticated or Forbidden."""
    check_texts(connection)
    key = bearer_of(connection)
    if not key or len(key) > _MOST_KEY_CHARACTERS:
        raise Unauthenticated("an API key is needed: Authorization: Bearer <key>")
    services: Services = connection.app.state.services
    who = await services.access.principal(key)
    if who is None:
        raise Unauthenticated("the API key is unknown or was revoked")
    if handler.opt.get("role") == "admin" and who.role != "admin":
        raise Forbidden("this needs an admin key")
    connection.scope["state"]["who"] = who


def bearer_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Return what follows `Authorization: Bearer`, or nothing."""
    header = connection.headers.get("authorization", "")
    return header[len(_SCHEME) :].strip() if header[: len(_SCHEME)].lower() == _SCHEME else ""


def check_texts(connection: ASGIConnection[Any, Any, Any, Any]) -> None:
    """Refuse NUL, which no text of PostgreSQL can hold: no id has one, no filter finds one."""
    if any("\0" in str(value) for name, value in connection.path_params.items() if name.endswith("_id")):
        raise NotFound("there is nothing of that name")
    for name, value in connection.query_params.multi_items():
        if "\0" in value:
            raise InvalidRequest("holds a character that cannot be stored", field=name)


def provide_who(scope: Scope) -> Principal:
    """Return who the guard let in."""
    who = scope["state"]["who"]
    assert isinstance(who, Principal)  # noqa: S101 - every route of /v1 stands behind the guard
    return who


def provide_services(state: State) -> Services:
    """Return what the composition root wired."""
    services = state.services
    assert isinstance(services, Services)  # noqa: S101 - set before the first request is taken
    return services
