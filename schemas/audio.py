"""Responses to audio uploads."""

from typing import Literal

from msgspec import Struct

ChunkState = Literal["stored", "held"]


class ChunkStored(Struct, kw_only=True, frozen=True):
    """A chunk that is safe: `stored` by EkaScribe, or `held` by ekabridge, which hands it over later."""

    sequence: int
    bytes: int
    sha256: str
    file_name: str
    state: ChunkState
