"""TLS with a client certificate of a destination's own."""

import asyncio
import os
import ssl
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx2

from schemas.destinations import MutualTls

# Each holds the list of authorities, some hundred kilobytes.
_MAX_KEPT = 64


class ClientCertificates:
    """Makes TLS contexts out of client certificates, and keeps those that were used last."""

    def __init__(self) -> None:
        self._kept: dict[MutualTls, ssl.SSLContext] = {}

    async def context(self, auth: MutualTls) -> ssl.SSLContext:
        """Return the context that shows this certificate. Raises ssl.SSLError if OpenSSL refuses it."""
        context = self._kept.pop(auth, None)
        if context is None:
            # In a thread: reading the authorities takes some ten milliseconds.
            context = await asyncio.to_thread(_make_context, auth)
        while len(self._kept) >= _MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[auth] = context
        return context


def _make_context(auth: MutualTls) -> ssl.SSLContext:
    context = httpx2.create_ssl_context()
    with _as_file(f"{auth.private_key}\n{auth.certificate}\n".encode()) as path:
        context.load_cert_chain(path)
    return context


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Give content a path for a moment, as OpenSSL reads keys from files only; on Linux no disk sees it."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("client-certificate")
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        descriptor, path = tempfile.mkstemp()  # readable by its owner alone
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            yield path
        finally:
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108 - a path as text is all there is
