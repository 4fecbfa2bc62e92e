"""Fetches a document's content from the address that EkaScribe gives in the place of it.

The address carries its own permission (docs/vendor.md#presigned), so no credentials are sent along. It may
lead anywhere: only the
vendor's own host is called directly, every other one by downloads that refuse private addresses.
"""

from typing import Any, Protocol

from service.eka.lenient_json import decode_object

MAX_CONTENT_BYTES = 8 * 1024 * 1024


class Downloads(Protocol):
    """Downloads from any public host."""

    async def get(self, url: str, max_bytes: int) -> bytes | None:
        """Return a body of at most so many bytes; None when there is none, whatever the reason."""
        ...


def read_content(body: bytes) -> Any:
    """Return the object that a content is, or its text (docs/vendor.md#content-types)."""
    try:
        return decode_object(body)[0]
    except (ValueError, RecursionError):
        return body.decode(errors="replace")
