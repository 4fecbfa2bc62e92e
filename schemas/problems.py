"""Errors as clients receive them: RFC 9457, application/problem+json."""

from msgspec import Struct

MEDIA_TYPE = "application/problem+json"


class FieldError(Struct, frozen=True):
    """A refused field, as a dotted path, and the reason."""

    field: str
    message: str


class Problem(Struct, kw_only=True, omit_defaults=True):
    """A problem. `code` is stable; `request_id` finds the log line; `errors` comes with validation."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[FieldError] | None = None
    missing: list[int] | None = None
    supported: list[str] | None = None
    vendor_status: int | None = None
    vendor_code: str | None = None
