"""Whole recordings, which ekabridge cuts into chunks itself. Sizes are in bytes, times in seconds."""

from msgspec import Struct


class RecordingState(Struct, kw_only=True, frozen=True):
    """How far a recording has come; `chunks_total` is null until it is cut.

    `chunks_done` counts the chunks that EkaScribe has.
    """

    bytes: int
    seconds: float
    chunks_done: int
    chunks_total: int | None
