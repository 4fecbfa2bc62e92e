"""What is refused of a destination when it is registered or changed, before anything of it is stored."""

import re

from msgspec import Struct

from schemas.destinations import DestinationChange, DestinationCreate, MutualTls, OAuth2
from service.domain.errors import InvalidRequest
from service.forwarding.ssrf_guard import check_destination

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
# What a field's value may hold (RFC 9110, 5.5), without the bytes above ASCII that servers read differently.
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]{0,4094}[\x21-\x7e])?")
_OURS = frozenset({"content-type", "content-length", "content-encoding", "idempotency-key"})
# They govern the connection, not the message (RFC 9110, 7.6.1), or the request's own framing.
_OF_THE_CONNECTION = frozenset(
    {
        "connection", "expect", "host", "http2-settings", "keep-alive", "proxy-authenticate",
        "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip


class CallLimits(Struct, frozen=True, kw_only=True):
    """The operator's limits for the destinations of all tenants."""

    allow_private: bool
    max_templates: int
    max_headers: int


async def check_call(request: DestinationCreate | DestinationChange, *, limits: CallLimits) -> None:
    """Refuse a URL, headers or credentials that no call must be made with, and more of them than allowed.

    Raises DestinationForbidden, or InvalidRequest that names the field. No value is quoted: they are secrets.
    """
    allow_private = limits.allow_private
    if len(request.templates or ()) > limits.max_templates:
        raise InvalidRequest(f"must not name more than {limits.max_templates}", field="templates")
    if isinstance(request.headers, dict) and len(request.headers) > limits.max_headers:
        raise InvalidRequest(f"must not be more than {limits.max_headers}", field="headers")
    if request.url:
        await check_destination(request.url, allow_private=allow_private)
    if request.headers:
        _check_headers(request.headers)
    if isinstance(request.auth, OAuth2):
        await check_destination(request.auth.token_url, allow_private=allow_private, field="auth.token_url")
    elif isinstance(request.auth, MutualTls):
        from service.forwarding.certificate_checks import check_certificate  # noqa: PLC0415 - x509 is seldom needed

        check_certificate(request.auth)


def _check_headers(headers: dict[str, str]) -> None:
    seen = set()
    for name, value in headers.items():
        if not _NAME.fullmatch(name):
            raise InvalidRequest("holds a name that no header can have", field="headers")
        lowered, field = name.lower(), f"headers.{name}"
        if lowered in seen:
            raise InvalidRequest("is given twice: names of headers have no case", field=field)
        seen.add(lowered)
        if lowered in _OURS | _OF_THE_CONNECTION or lowered.startswith("webhook-"):
            raise InvalidRequest("is a header that only ekabridge itself sets", field=field)
        if not _VALUE.fullmatch(value):
            raise InvalidRequest("must be 1 to 4096 printable ASCII characters", field=field)
