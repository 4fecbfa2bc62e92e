"""Authenticates calls to /voice/v1 by an access token of our login, or by an API key."""

from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from schemas.medscribe import SUPPORTED_VERSIONS
from service.api.authentication import (
    admit_principal,
    bearer_token_of,
    principal_of_key,
    reject_nul_characters,
)
from service.api.dependencies import Services
from service.api.medscribe.error_envelope import VERSION_HEADER, as_medscribe_error
from service.domain.api_keys.models import Principal
from service.domain.errors import InvalidRequest, Unauthenticated

_TOKEN_PREFIX = "ekt_"  # noqa: S105 - a prefix, not a secret
_KEY_SCHEME = "x-api-key "
_MAX_VERSION_CHARACTERS = 20


async def authenticate_client(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Check protocol version, credential and rate limit of a call; a guard that runs before the handler.

    Clients send the token or key as `Authorization: Bearer`, as `X-API-Key`, or, as in the specification's
    examples, as `Authorization: X-API-Key …`. Raises InvalidRequest, Unauthenticated, RateLimited or
    Overloaded. A missing credential is 403 `missing_token`, an invalid or expired one 401 `token_expired`, as
    at EkaScribe (docs/vendor.md#refusal-words): official clients log in again after a 401
    (docs/vendor.md#client-python).
    """
    check_version(connection)
    reject_nul_characters(connection)
    credential = _credential_of(connection)
    if not credential:
        raise as_medscribe_error(Unauthenticated("a token is needed: log in first"), 403, "missing_token")
    services: Services = connection.app.state.services
    principal = await _principal_of(services, credential)
    if principal is None:
        raise as_medscribe_error(
            Unauthenticated("the token is over, or it is none of ours, or its key was revoked"),
            401,
            "token_expired",
        )
    await admit_principal(connection.scope, services, principal)


def check_version(connection: ASGIConnection[Any, Any, Any, Any]) -> None:
    """Raise InvalidRequest if a call requests an unsupported version of the protocol.

    A call without a version is accepted. The error is that of the specification, section 3.3.
    """
    requested = connection.headers.get(VERSION_HEADER)
    if requested is None or requested.strip() in SUPPORTED_VERSIONS:
        return
    version = requested.strip()[:_MAX_VERSION_CHARACTERS]
    raise as_medscribe_error(
        InvalidRequest(f"this service speaks version {', '.join(SUPPORTED_VERSIONS)} of the protocol"),
        400,
        "unsupported_version",
        requested_version=version,
        supported_versions=list(SUPPORTED_VERSIONS),
    )


def _credential_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    header = connection.headers.get("authorization", "")
    if header[: len(_KEY_SCHEME)].lower() == _KEY_SCHEME:
        return header[len(_KEY_SCHEME) :].strip()
    return bearer_token_of(connection) or connection.headers.get("x-api-key", "").strip()


async def _principal_of(services: Services, credential: str) -> Principal | None:
    if not credential.startswith(_TOKEN_PREFIX):
        return await principal_of_key(services, credential)
    token = await services.medscribe.tokens.read(credential, "access")
    return await services.medscribe.tokens.principal(token) if token else None
