"""The ids of server-sent events: each names exactly the timeline entries that a client has received.

A count or a time would lose entries, because a row may be committed after another row with a later time. An
id therefore lists the sent chunks as ranges of their sequence numbers, and every other entry by a short hash.
The id is short enough for a header, and every pod can continue from it without stored state.
"""

import base64
import hashlib
import re
from bisect import bisect_right

from schemas.emr import TimelineEntry

_CURSOR = re.compile(r"((?:[0-9]{1,6}-[0-9]{1,6})(?:_[0-9]{1,6}-[0-9]{1,6})*)?\.((?:[A-Za-z0-9_-]{6})*)")
_HASH_CHARACTERS = 6
# These fields distinguish entries of one type and time. Counts are left out, because they change in an entry
# that was already sent.
_IDENTIFYING_FIELDS = ("delivery_id", "document_id", "template_id", "event", "before_end")


class EventCursor:
    """The entries that a client has received, on this connection and on those before it."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._hashes: dict[str, None] = {}

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

    def __str__(self) -> str:
        ranges = "_".join(f"{start}-{end}" for start, end in zip(self._starts, self._ends, strict=True))
        return f"{ranges}.{''.join(self._hashes)}"

    def add(self, entry: TimelineEntry) -> bool:
        """Record an entry as sent; return False if it was sent before."""
        if entry.type == "chunk.stored":
            return self._add_chunk(int(entry.data["sequence"]))
        identity = (
            entry.type,
            entry.at.isoformat(),
            *(str(entry.data.get(name)) for name in _IDENTIFYING_FIELDS),
        )
        digest = hashlib.sha256("\0".join(identity).encode()).digest()
        short_hash = base64.urlsafe_b64encode(digest).decode()[:_HASH_CHARACTERS]
        if short_hash in self._hashes:
            return False
        self._hashes[short_hash] = None
        return True

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
