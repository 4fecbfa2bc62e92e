"""Responses to audio uploads."""

from msgspec import Struct


class ChunkStored(Struct, kw_only=True, frozen=True):
    """A chunk that EkaScribe holds and that is recorded."""

    sequence: int
    bytes: int
    sha256: str
    file_name: str
