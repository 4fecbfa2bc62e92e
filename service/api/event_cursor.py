"""Which entries of a timeline a client has, exactly and in few characters: the ids of server-sent events.

A count or a time would not do: a row may be committed after one that bears a later time. So an id says what
was sent: the chunks as ranges of their numbers, every other entry by a short hash. Any pod can read it.
"""

import base64
import hashlib
import re
from bisect import bisect_right

from schemas.emr import TimelineEntry

_POSITION = re.compile(r"((?:[0-9]{1,6}-[0-9]{1,6})(?:_[0-9]{1,6}-[0-9]{1,6})*)?\.((?:[A-Za-z0-9_-]{6})*)")
_HASH_CHARACTERS = 6
# What tells entries of one type and moment apart; counts that grow in place are not among it.
_IDENTITY = ("delivery_id", "document_id", "template_id", "event", "before_end")


class Position:
    """The entries that were sent on a connection and on those that it goes on from."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._hashes: dict[str, None] = {}

    @classmethod
    def read(cls, text: str) -> "Position":
        """Read the id of the last event that a client got; one that is none of ours is the start."""
        position = cls()
        found = _POSITION.fullmatch(text)
        if found is None:
            return position
        ranges, hashes = found.groups()
        for each in ranges.split("_") if ranges else ():
            start, end = (int(number) for number in each.split("-"))
            if start > end or (position._ends and start <= position._ends[-1]):
                return cls()
            position._starts.append(start)
            position._ends.append(end)
        for start in range(0, len(hashes), _HASH_CHARACTERS):
            position._hashes[hashes[start : start + _HASH_CHARACTERS]] = None
        return position

    def __str__(self) -> str:
        ranges = "_".join(f"{start}-{end}" for start, end in zip(self._starts, self._ends, strict=True))
        return f"{ranges}.{''.join(self._hashes)}"

    def add(self, entry: TimelineEntry) -> bool:
        """Count an entry as sent; false when it was sent before."""
        if entry.type == "chunk.stored":
            return self._add_number(int(entry.data["sequence"]))
        marks = (entry.type, entry.at.isoformat(), *(str(entry.data.get(name)) for name in _IDENTITY))
        digest = hashlib.sha256("\0".join(marks).encode()).digest()
        word = base64.urlsafe_b64encode(digest).decode()[:_HASH_CHARACTERS]
        if word in self._hashes:
            return False
        self._hashes[word] = None
        return True

    def _add_number(self, number: int) -> bool:
        place = bisect_right(self._starts, number)
        if place and number <= self._ends[place - 1]:
            return False
        joins_left = place > 0 and self._ends[place - 1] == number - 1
        joins_right = place < len(self._starts) and self._starts[place] == number + 1
        if joins_left and joins_right:
            self._ends[place - 1] = self._ends.pop(place)
            self._starts.pop(place)
        elif joins_left:
            self._ends[place - 1] = number
        elif joins_right:
            self._starts[place] = number
        else:
            self._starts.insert(place, number)
            self._ends.insert(place, number)
        return True
