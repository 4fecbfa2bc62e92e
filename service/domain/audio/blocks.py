"""The port of an object store that keeps encrypted blocks of audio instead of PostgreSQL."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol


class BlockObjects(Protocol):
    """Objects by their names. Every method raises StoreUnavailable if the object store fails."""

    async def put(self, name: str, content: bytes) -> None:
        """Store an object; when this returns, it is durable."""
        ...

    async def get(self, name: str) -> bytes:
        """Return an object's bytes."""
        ...

    async def delete(self, names: Sequence[str]) -> None:
        """Delete objects; those that do not exist count as deleted."""
        ...

    def older_than(self, folder: str, seconds: float) -> AsyncIterator[list[str]]:
        """List the objects of a folder that are older, page by page."""
        ...
