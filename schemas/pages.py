"""Pages of lists."""

from typing import Generic, TypeVar

from msgspec import Struct

T = TypeVar("T")


class Page(Struct, Generic[T], kw_only=True, frozen=True):
    """One page of a list, newest first; `next_cursor` is null on the last one."""

    items: list[T]
    next_cursor: str | None = None
