"""Reads one piece of a recording that comes in pieces, with or without a checksum."""

import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from typing import Any

from litestar import Request

from service.api.middleware.admission_control import permit_of
from service.api.recording_form import RecordingBody, too_large
from service.api.upload_buffer import RECORDING_PACE, read_body
from service.domain.errors import BridgeError, ChecksumWrong, InvalidRequest
from service.domain.recordings.uploads import UploadPiece

CHECKSUMS = {"sha1": hashlib.sha1, "sha256": hashlib.sha256}
_BLOCK_BYTES = 1024 * 1024


def read_checksum(header: str) -> tuple[str, bytes]:
    """Return the algorithm and the value of an Upload-Checksum. Raises InvalidRequest."""
    algorithm, _, encoded = header.strip().partition(" ")
    try:
        expected = base64.b64decode(encoded.strip(), validate=True)
    except ValueError:
        expected = b""
    if algorithm not in CHECKSUMS or not expected:
        raise InvalidRequest("must be `sha1` or `sha256`, and its value in base64", field="Upload-Checksum")
    return algorithm, expected


async def receive_directly(request: Request[Any, Any, Any], piece: UploadPiece, max_bytes: int) -> None:
    """Store the bytes as they come; those that came before a break stay."""
    pending = bytearray()
    is_certain = True

    async def store(size: int) -> None:
        nonlocal is_certain
        block, is_certain = bytes(pending[:size]), False
        await piece.append(_once(block), len(block))
        is_certain = True
        del pending[:size]

    async def consume(received: bytes) -> None:
        pending.extend(received)
        while len(pending) >= _BLOCK_BYTES:
            await store(_BLOCK_BYTES)

    try:
        await read_body(request, max_bytes, consume, RECORDING_PACE, too_large)
    except BridgeError:
        # After a block of which nobody knows whether it is stored, what follows has no certain place.
        if pending and is_certain:
            await store(len(pending))
        raise
    await store(len(pending))


async def receive_checked(
    request: Request[Any, Any, Any], piece: UploadPiece, max_bytes: int, checksum: tuple[str, bytes]
) -> None:
    """Store the bytes only after all of them came and their checksum is right."""
    algorithm, expected = checksum
    digest = CHECKSUMS[algorithm](usedforsecurity=False)
    body = RecordingBody(permit_of(request.scope))

    async def consume(received: bytes) -> None:
        digest.update(received)
        body.write(received)

    try:
        await read_body(request, max_bytes, consume, RECORDING_PACE, too_large)
        if not hmac.compare_digest(digest.digest(), expected):
            raise ChecksumWrong("the bytes have another checksum than Upload-Checksum says; send them again")
        body.finish()
        await piece.append(body.read(), body.size)
    finally:
        body.close()


async def _once(block: bytes) -> AsyncIterator[bytes]:
    if block:
        yield block
