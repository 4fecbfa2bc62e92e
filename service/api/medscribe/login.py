"""The login route of the MedScribe protocol: exchanges a tenant's id and an API key for an access token."""

from typing import Any

from litestar import Request, Response, post
from litestar.di import NamedDependency

from schemas.medscribe import LoggedIn, Login, LoginRefused
from service.api.authentication import admit_principal, principal_of_key
from service.api.dependencies import Services
from service.api.json_body import MAX_JSON_BYTES, read_json
from service.api.rate_limit import check
from service.store.medscribe_tokens import ACCESS_SECONDS

_MAX_ID_CHARACTERS = 64


@post(
    "/connect-auth/v1/account/login",
    status_code=200,
    include_in_schema=False,
    request_max_body_size=MAX_JSON_BYTES,
)
async def log_in(
    request: Request[Any, Any, Any], services: NamedDependency[Services]
) -> Response[LoggedIn] | Response[LoginRefused]:
    """Return a token that is valid for half an hour, without a refresh token (docs/vendor.md#client-python).

    Failed logins are limited for each `client_id`. The limit never refuses the right secret: otherwise
    anybody who knows a tenant's id could lock it out, and secrets of 256 random bits cannot be guessed
    anyway.
    """
    login = read_json(await services.access.unauthenticated_limits.logins.read(request), Login)
    principal = await principal_of_key(services, login.client_secret)
    if principal is None or principal.tenant_id != login.client_id:
        check(services.medscribe.login_failures.count(login.client_id[:_MAX_ID_CHARACTERS]), "failed logins")
        return Response(LoginRefused(code=401, error="invalid client_id or client_secret"), status_code=401)
    await admit_principal(request.scope, services, principal)
    token = await services.medscribe.tokens.issue_access(principal.key_id)
    return Response(LoggedIn(access_token=token, expires_in=ACCESS_SECONDS), status_code=200)
