"""Whole recordings, which ekabridge cuts into chunks itself. Sizes are in bytes, times in seconds."""

from msgspec import Struct


class RecordingState(Struct, kw_only=True, frozen=True):
    """How far a recording has come: `bytes` were received, and EkaScribe has `chunks_done` of its chunks.

    `seconds` is null until the recording was inspected, and `chunks_total` until it is cut.
    """

    bytes: int
    seconds: float | None
    chunks_done: int
    chunks_total: int | None
