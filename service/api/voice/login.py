"""The door where clients of the protocol log in: a tenant's id and an API key for a token."""

from litestar import Response, post
from litestar.di import NamedDependency
from litestar.params import RawBody

from schemas.voice import LoggedIn, Login, LoginRefused
from service.api.bodies import MOST_JSON_BYTES, read_json
from service.api.services import Services
from service.store.voice_tokens import ACCESS_SECONDS


@post(
    "/connect-auth/v1/account/login",
    status_code=200,
    include_in_schema=False,
    request_max_body_size=MOST_JSON_BYTES,
)
async def log_in(
    services: NamedDependency[Services], body: RawBody
) -> Response[LoggedIn] | Response[LoginRefused]:
    """Answer a token of half an hour, without a refresh token (facts.md, What official clients demand)."""
    login = read_json(body, Login)
    who = await services.access.principal(login.client_secret)
    if who is None or who.tenant_id != login.client_id:
        return Response(LoginRefused(code=401, error="invalid client_id or client_secret"), status_code=401)
    token = await services.tokens.issue_access(who.key_id)
    return Response(LoggedIn(access_token=token, expires_in=ACCESS_SECONDS), status_code=200)
