"""The query parameters `limit` and `cursor` of every list."""

from typing import Annotated

from litestar.params import QueryParameter

_MAX_PAGE_SIZE = 100
DEFAULT_PAGE_SIZE = 20

PageSize = Annotated[int, QueryParameter(ge=1, le=_MAX_PAGE_SIZE, description="How many to a page")]
PageCursor = Annotated[str | None, QueryParameter(description="`next_cursor` of the page before")]
