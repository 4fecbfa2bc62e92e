"""Blocks of audio in an object store: S3 and what speaks its protocol, or a folder on this machine.

The blocks come encrypted. Credentials of S3 come from the usual variables of AWS, which obstore reads itself.
obstore's calls run in threads of ours: its own asyncio calls can abort a process that ends
(docs/libraries.md#obstore-abort).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, S3Store

from service.domain.errors import StoreUnavailable

T = TypeVar("T")

log = structlog.get_logger()

# A chunk of ten blocks must be stored while its uploader waits.
_TIMEOUT_SECONDS = 10
_CONNECT_SECONDS = 3
_MAX_RETRIES = 2
_THREADS = 8
_PAGE = 500


class ObjectStoreBlocks:
    """The domain's BlockObjects over obstore."""

    def __init__(self, url: str) -> None:
        """`url` is `s3://bucket/prefix`, or `file:///folder`."""
        self._store = _open(url)
        self._threads = ThreadPoolExecutor(_THREADS, "audio-store")

    async def put(self, name: str, content: bytes) -> None:
        """Store an object."""
        await self._run("put", partial(obstore.put, self._store, name, content, use_multipart=False))

    async def get(self, name: str) -> bytes:
        """Return an object's bytes."""
        return await self._run("get", lambda: bytes(obstore.get(self._store, name).bytes()))

    async def delete(self, names: Sequence[str]) -> None:
        """Delete objects, whether they exist or not."""
        for name in names:
            await self._run("delete", partial(self._delete, name))

    async def older_than(self, folder: str, seconds: float) -> AsyncIterator[list[str]]:
        """List the objects of a folder that are older, page by page."""
        before = datetime.now(UTC) - timedelta(seconds=seconds)
        pages = obstore.list(self._store, folder, chunk_size=_PAGE)
        while (page := await self._run("list", lambda: next(pages, None))) is not None:
            yield [each["path"] for each in page if each["last_modified"] < before]

    def _delete(self, name: str) -> None:
        try:
            obstore.delete(self._store, name)
        except FileNotFoundError:  # a folder says so; S3 says nothing of an object that does not exist
            return

    async def _run(self, operation: str, call: Callable[[], T]) -> T:
        """Run a call in a thread; its errors, whose messages may name anything, become StoreUnavailable."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except (BaseError, OSError) as error:
            log.warning("audio_store_failed", operation=operation, error_class=type(error).__name__)
        raise StoreUnavailable("the audio store does not answer, or lacks a block")


def _open(url: str) -> ObjectStore:
    if url.startswith("file://"):
        return LocalStore.from_url(url, mkdir=True)
    return S3Store.from_url(
        url,
        client_options={
            "timeout": f"{_TIMEOUT_SECONDS}s",
            "connect_timeout": f"{_CONNECT_SECONDS}s",
            # Only where AWS_ENDPOINT_URL says so; the blocks are encrypted, and S3's secret is never sent.
            "allow_http": True,
        },
        retry_config={"max_retries": _MAX_RETRIES, "retry_timeout": timedelta(seconds=_TIMEOUT_SECONDS)},
    )
