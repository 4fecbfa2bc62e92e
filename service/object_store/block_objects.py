"""Blocks of audio in an object store: S3 and what speaks its protocol, or a folder on this machine.

The blocks come encrypted. Credentials of S3 come from the usual variables of AWS, which obstore reads itself.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, S3Store

from service.domain.errors import StoreUnavailable

log = structlog.get_logger()

# A chunk of ten blocks must be stored while its uploader waits.
_TIMEOUT_SECONDS = 10.0
_CONNECT_SECONDS = 3.0
_MAX_RETRIES = 2
_PAGE = 500


class ObjectStoreBlocks:
    """The domain's BlockObjects over obstore."""

    def __init__(self, url: str) -> None:
        """`url` is `s3://bucket/prefix`, or `file:///folder`."""
        self._store = _open(url)

    async def put(self, name: str, content: bytes) -> None:
        """Store an object."""
        with _translated("put"):
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await obstore.put_async(self._store, name, content, use_multipart=False)

    async def get(self, name: str) -> bytes:
        """Return an object's bytes."""
        with _translated("get"):
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                found = await obstore.get_async(self._store, name)
                return bytes(await found.bytes_async())

    async def delete(self, names: Sequence[str]) -> None:
        """Delete objects, whether they exist or not."""
        with _translated("delete"):
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                for name in names:
                    try:
                        await obstore.delete_async(self._store, name)
                    except FileNotFoundError:  # S3 says nothing of an object that does not exist
                        continue

    async def older_than(self, folder: str, seconds: float) -> AsyncIterator[list[str]]:
        """List the objects of a folder that are older, page by page."""
        before = datetime.now(UTC) - timedelta(seconds=seconds)
        pages = obstore.list(self._store, folder, chunk_size=_PAGE)
        while True:
            with _translated("list"):
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    page = await anext(pages, None)
            if page is None:
                return
            yield [each["path"] for each in page if each["last_modified"] < before]


def _open(url: str) -> ObjectStore:
    if url.startswith("file://"):
        return LocalStore.from_url(url, mkdir=True)
    return S3Store.from_url(
        url,
        client_options={"timeout": f"{_TIMEOUT_SECONDS:g}s", "connect_timeout": f"{_CONNECT_SECONDS:g}s"},
        retry_config={"max_retries": _MAX_RETRIES, "retry_timeout": timedelta(seconds=_TIMEOUT_SECONDS)},
    )


@contextmanager
def _translated(operation: str) -> Iterator[None]:
    """Raise StoreUnavailable instead of errors of the object store, whose messages may name anything."""
    try:
        yield
    except (BaseError, OSError) as error:  # TimeoutError and FileNotFoundError are OSErrors
        log.warning("audio_store_failed", operation=operation, error_class=type(error).__name__)
        raise StoreUnavailable("the audio store does not answer, or lacks a block") from None
