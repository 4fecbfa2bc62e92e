"""Points at which a process can be killed: before and after everything it does to the world outside.

A process's effects are its writing statements, its commits and its calls, so a kill between two of them is a
kill at the edge of one. The proxies and the stand-ins tell of each; nobody lists them by hand.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

When = Literal["before", "after"]


@dataclass(frozen=True, order=True)
class Point:
    """A crash point, such as worker, `after`, `commit after deliveries.insert`.

    `before`: the statement or the call does not leave the process. `after`: it took effect, and the process
    is killed before it hears so.
    """

    role: str
    step: str
    when: When

    def __str__(self) -> str:
        return f"{self.role} {self.when} {self.step}"


@dataclass
class Watch:
    """Records the steps that the processes pass, and kills one at the point that is armed for its role."""

    kill: Callable[[str], None]
    role_of: Callable[[str], str]
    seen: dict[tuple[str, str, bool], None] = field(default_factory=dict)
    armed: dict[str, Point] = field(default_factory=dict)
    hits: list[tuple[Point, str]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def arm(self, point: Point) -> None:
        """Kill the next process of the role that comes to this point."""
        self.armed[point.role] = point

    def disarm(self) -> None:
        """Kill nobody any more."""
        self.armed.clear()

    def is_armed(self, slot: str, step: str | None, when: When) -> bool:
        """Whether that process would be killed here."""
        return step is not None and self.armed.get(self.role_of(slot)) == Point(
            self.role_of(slot), step, when
        )

    def passes(self, slot: str, step: str | None, when: When, *, in_transaction: bool = False) -> bool:
        """Tell of a step; true when the process was killed for it."""
        if step is None:
            return False
        role = self.role_of(slot)
        if when == "after":  # only what truly took effect is a step
            self.seen.setdefault((role, step, in_transaction))
        if not self.is_armed(slot, step, when):
            return False
        self.hits.append((self.armed.pop(role), slot))
        self.kill(slot)
        self.changed.set()
        return True

    def points(self) -> list[Point]:
        """Every point of the steps seen so far, in their order.

        Within a transaction a kill after a statement is one before the next, or before the commit.
        """
        return [
            Point(role, step, when)
            for role, step, in_transaction in self.seen
            for when in (("before",) if in_transaction else ("before", "after"))
        ]
