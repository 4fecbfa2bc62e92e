"""Timestamps in requests: RFC 3339, with a zone, within the calendar."""

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from litestar.params import QueryParameter

from service.domain.errors import InvalidRequest

# The format of such a parameter in the OpenAPI document.
MOMENT = {"format": "date-time"}

From = Annotated[
    str | None,
    QueryParameter(name="from", description="From this moment on, RFC 3339 with a zone", schema_extra=MOMENT),
]
To = Annotated[
    str | None,
    QueryParameter(name="to", description="Before this moment, RFC 3339 with a zone", schema_extra=MOMENT),
]


def utc(moment: datetime, field: str) -> datetime:
    """Return the moment in UTC. Raises InvalidRequest without a zone, or beyond the calendar."""
    if moment.tzinfo is None:
        raise InvalidRequest("needs a time zone, such as a Z at its end", field=field)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidRequest("lies outside of the calendar", field=field) from None


def interval(since: str | None, before: str | None) -> tuple[datetime | None, datetime | None]:
    """Return the half-open interval of `from` and `to`. Raises InvalidRequest if it ends before it begins."""
    start, end = read_moment(since, "from"), read_moment(before, "to")
    if start is not None and end is not None and start > end:
        raise InvalidRequest("lies after `to`", field="from")
    return start, end


def read_moment(text: str | None, field: str) -> datetime | None:
    """Read a parameter's moment, or None if it was not given. Raises InvalidRequest.

    Here rather than in the framework, which would name it by our variable and take a bare number for one.
    """
    if text is None:
        return None
    try:
        return utc(msgspec.convert(text, datetime), field)
    except msgspec.ValidationError:
        raise InvalidRequest("needs a time such as 2026-11-21T09:30:00Z", field=field) from None
