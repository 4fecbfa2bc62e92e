"""Validates a destination that is registered or changed, before any of it is stored.

ssrf_guard.py decides which addresses a URL may lead to.
"""

import asyncio
import re
from typing import assert_never

from msgspec import Struct, UnsetType

from schemas.destinations import DestinationChange, DestinationCreate, MutualTls, OAuth2
from service.domain.errors import InvalidRequest
from service.forwarding.client_certificates import check_certificate
from service.forwarding.ssrf_guard import check_destination_url

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
# The characters of a field's value (RFC 9110, 5.5), without the bytes above ASCII: servers read them
# differently.
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]{0,4094}[\x21-\x7e])?")
_SET_BY_EKABRIDGE = frozenset({"content-type", "content-length", "content-encoding", "idempotency-key"})
# These headers govern the connection and not the message (RFC 9110, 7.6.1), or the request's framing.
_CONNECTION_HEADERS = frozenset(
    {
        "connection", "expect", "host", "http2-settings", "keep-alive", "proxy-authenticate",
        "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip


class DestinationLimits(Struct, frozen=True, kw_only=True):
    """The operator's limits for the destinations of all tenants."""

    allow_private: bool
    max_templates: int
    max_headers: int


async def check_destination_request(
    request: DestinationCreate | DestinationChange, *, limits: DestinationLimits
) -> None:
    """Check the URL, headers, credentials and templates of a destination against rules and limits.

    Raises DestinationForbidden, or InvalidRequest that names the field. No error quotes a value: they are
    secrets.
    """
    allow_private = limits.allow_private
    if len(request.templates or ()) > limits.max_templates:
        raise InvalidRequest(f"must not name more than {limits.max_templates}", field="templates")
    if isinstance(request.headers, dict) and len(request.headers) > limits.max_headers:
        raise InvalidRequest(f"must not be more than {limits.max_headers}", field="headers")
    if request.url:
        await check_destination_url(request.url, allow_private=allow_private)
    if request.headers:
        _check_headers(request.headers)
    match request.auth:
        case OAuth2(token_url=token_url):
            await check_destination_url(token_url, allow_private=allow_private, field="auth.token_url")
        case MutualTls() as auth:
            await asyncio.to_thread(check_certificate, auth)
        case None | UnsetType():
            pass
        case _:
            assert_never(request.auth)


def _check_headers(headers: dict[str, str]) -> None:
    seen = set()
    for name, value in headers.items():
        if not _NAME.fullmatch(name):
            raise InvalidRequest("holds a name that no header can have", field="headers")
        lowered, field = name.lower(), f"headers.{name}"
        if lowered in seen:
            raise InvalidRequest("is given twice: names of headers have no case", field=field)
        seen.add(lowered)
        if lowered in _SET_BY_EKABRIDGE | _CONNECTION_HEADERS or lowered.startswith("webhook-"):
            raise InvalidRequest("is a header that only ekabridge itself sets", field=field)
        if not _VALUE.fullmatch(value):
            raise InvalidRequest("must be 1 to 4096 printable ASCII characters", field=field)
