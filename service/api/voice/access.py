"""Who may come in to /voice/v1: a token of our login, or an API key itself."""

from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from service.api.access import bearer_of, check_texts, let_in, principal_of_key
from service.api.services import Services
from service.api.voice.errors import spoken
from service.domain.errors import Unauthenticated
from service.domain.records import Principal

_TOKEN_PREFIX = "ekt_"  # noqa: S105 - how our tokens begin, no secret


async def authenticate_client(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Let in who shows a token or a key, as `Authorization: Bearer` or `X-API-Key`, and not too often.

    Raises Unauthenticated or RateLimited.
    Without any it is 403 `missing_token`, with a bad or old one 401 `token_expired`, as at the vendor
    (facts.md, Accounts): official clients log in again after a 401.
    """
    check_texts(connection)
    shown = bearer_of(connection) or connection.headers.get("x-api-key", "").strip()
    if not shown:
        raise spoken(Unauthenticated("a token is needed: log in first"), 403, "missing_token")
    services: Services = connection.app.state.services
    who = await _who(services, shown)
    if who is None:
        raise spoken(
            Unauthenticated("the token is over, or it is none of ours, or its key was revoked"),
            401,
            "token_expired",
        )
    await let_in(connection.scope, services, who)


async def _who(services: Services, shown: str) -> Principal | None:
    if not shown.startswith(_TOKEN_PREFIX):
        return await principal_of_key(services, shown)
    token = await services.tokens.read(shown, "access")
    return await services.tokens.principal(token) if token else None
