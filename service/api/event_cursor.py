"""The ids of server-sent events: each names exactly the timeline entries that a client has received.

A count or a time would lose entries, because a row may be committed after another row with a later time. An
id therefore lists the sent chunks as ranges of their sequence numbers, and every other entry by a short hash.
The id is short enough for a header, and every pod can continue from it without stored state.

An id must not grow with the timeline, or a session with many gaps would cost the square of its entries.
Beyond a bound an id is coarse: the time of the latest entry, a checksum of the entries before that time, and
one of the entries at it. If the timeline still has these checksums, the client has all of it. Otherwise a row
was committed late, or the connection broke between entries of one time, and these entries are sent again.
"""

import base64
import hashlib
import re
from array import array
from bisect import bisect_right
from collections.abc import AsyncIterable, Sequence
from datetime import UTC, datetime, timedelta

from schemas.sessions import TimelineEntry

_CURSOR = re.compile(r"((?:[0-9]{1,6}-[0-9]{1,6})(?:_[0-9]{1,6}-[0-9]{1,6})*)?\.((?:[A-Za-z0-9_-]{6})*)")
_COARSE_CURSOR = re.compile(r"~([0-9]{1,17})\.([0-9a-f]{16})\.([0-9a-f]{16})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HASH_CHARACTERS = 6
# An exact id names so many ranges and hashes at most: some 900 characters.
_MAX_RANGES = 32
_MAX_HASHES = 96
# These fields distinguish entries of one type and time. Counts are left out, because they change in an entry
# that was already sent.
_IDENTIFYING_FIELDS = ("delivery_id", "document_id", "template_id", "event", "before_end")


class EventCursor:
    """The entries that a client has received, on this connection and on those before it."""

    def __init__(self) -> None:
        # Compact, because a stream of a session with many gaps keeps them for as long as it is open.
        self._starts = array("I")
        self._ends = array("I")
        self._hashes: dict[str, None] = {}
        self._latest_at = 0
        self._checksum_before = self._checksum_at = 0

    @classmethod
    def parse(cls, text: str) -> "EventCursor":
        """Parse the id of the last event that a client received; an id in another format means the start."""
        cursor = cls()
        match = _CURSOR.fullmatch(text)
        if match is None:
            return cursor
        ranges, hashes = match.groups()
        for each in ranges.split("_") if ranges else ():
            start, end = (int(number) for number in each.split("-"))
            if start > end or (cursor._ends and start <= cursor._ends[-1]):
                return cls()
            cursor._starts.append(start)
            cursor._ends.append(end)
        for start in range(0, len(hashes), _HASH_CHARACTERS):
            cursor._hashes[hashes[start : start + _HASH_CHARACTERS]] = None
        return cursor

    @classmethod
    async def resume(cls, text: str, timeline: AsyncIterable[Sequence[TimelineEntry]]) -> "EventCursor":
        """Return the cursor of a client that received this id, by the pages of the timeline as it is now."""
        coarse = _COARSE_CURSOR.fullmatch(text)
        if coarse is not None:
            at, before, tied = int(coarse[1]), int(coarse[2], 16), int(coarse[3], 16)
            return await cls._resume_coarse(at, before, tied, timeline)
        received, cursor = cls.parse(text), cls()
        async for page in timeline:
            for entry in page:
                if received.has(entry):
                    cursor.add(entry)
        return cursor

    @classmethod
    async def _resume_coarse(
        cls, at: int, before: int, tied: int, timeline: AsyncIterable[Sequence[TimelineEntry]]
    ) -> "EventCursor":
        cursor, entries_at = cls(), list[TimelineEntry]()
        async for page in timeline:
            for entry in page:
                entry_at = _microseconds(entry.at)
                if entry_at < at:
                    cursor.add(entry)
                elif entry_at == at:
                    entries_at.append(entry)
        if cursor._checksum_before ^ cursor._checksum_at != before:
            return cls()
        latest = cls()
        for entry in entries_at:
            latest.add(entry)
        if latest._checksum_at == tied:
            for entry in entries_at:
                cursor.add(entry)
        return cursor

    def __str__(self) -> str:
        if len(self._starts) > _MAX_RANGES or len(self._hashes) > _MAX_HASHES:
            return f"~{self._latest_at}.{self._checksum_before:016x}.{self._checksum_at:016x}"
        ranges = "_".join(f"{start}-{end}" for start, end in zip(self._starts, self._ends, strict=True))
        return f"{ranges}.{''.join(self._hashes)}"

    def add(self, entry: TimelineEntry) -> bool:
        """Record an entry as sent; return False if it was sent before."""
        if entry.type == "chunk.stored":
            # Before the hash: each look reads all chunks again, and nearly all of them were sent before.
            if not self._add_chunk(int(entry.data["sequence"])):
                return False
            digest = _digest(entry)
        else:
            digest = _digest(entry)
            short_hash = _short_hash(digest)
            if short_hash in self._hashes:
                return False
            self._hashes[short_hash] = None
        self._add_to_checksums(_microseconds(entry.at), int.from_bytes(digest[:8], "big"))
        return True

    @property
    def is_empty(self) -> bool:
        """Whether nothing was sent yet."""
        return not self._starts and not self._hashes

    def has(self, entry: TimelineEntry) -> bool:
        """Return whether an entry was sent before."""
        if entry.type == "chunk.stored":
            number = int(entry.data["sequence"])
            index = bisect_right(self._starts, number)
            return index > 0 and number <= self._ends[index - 1]
        return _short_hash(_digest(entry)) in self._hashes

    def _add_to_checksums(self, at: int, checksum: int) -> None:
        if at > self._latest_at:
            self._checksum_before ^= self._checksum_at
            self._latest_at, self._checksum_at = at, checksum
        elif at == self._latest_at:
            self._checksum_at ^= checksum
        else:
            self._checksum_before ^= checksum

    def _add_chunk(self, number: int) -> bool:
        index = bisect_right(self._starts, number)
        if index and number <= self._ends[index - 1]:
            return False
        joins_left = index > 0 and self._ends[index - 1] == number - 1
        joins_right = index < len(self._starts) and self._starts[index] == number + 1
        if joins_left and joins_right:
            self._ends[index - 1] = self._ends.pop(index)
            self._starts.pop(index)
        elif joins_left:
            self._ends[index - 1] = number
        elif joins_right:
            self._starts[index] = number
        else:
            self._starts.insert(index, number)
            self._ends.insert(index, number)
        return True


def _microseconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)


def _digest(entry: TimelineEntry) -> bytes:
    fields = ("sequence",) if entry.type == "chunk.stored" else _IDENTIFYING_FIELDS
    identity = (entry.type, entry.at.isoformat(), *(str(entry.data.get(name)) for name in fields))
    return hashlib.sha256("\0".join(identity).encode()).digest()


def _short_hash(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).decode()[:_HASH_CHARACTERS]
