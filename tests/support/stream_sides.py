"""One side of a relayed stream."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from service.domain.streams.frames import Frame
from service.domain.streams.sides import VendorGone


class Side:
    """One side in memory: frames to hand out, frames that were taken, and what it was told at the end."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log
        self.coming: asyncio.Queue[Frame | Exception] = asyncio.Queue()
        self.taken: list[Frame] = []
        self.may_take = asyncio.Event()
        self.may_take.set()
        self.unconfirmed, self.is_broken = 0, False
        self.closed: tuple[Any, ...] | None = None
        self.take: Callable[[bytes], bool] = lambda _: False
        self.when_closed: Callable[[], None] = lambda: None
        self.confirm: Callable[[int], None] = lambda _: None

    def give_frames(self, take: Callable[[bytes], bool]) -> None:
        self.take = take

    def send_now(self, frame: bytes) -> bool:
        may_send = self.may_take.is_set() and not self.is_broken
        if may_send:
            self.taken.append(frame)
        return may_send

    async def receive(self) -> Frame:
        frame = await self.coming.get()
        if isinstance(frame, Exception):
            raise frame
        return frame

    async def send(self, frame: Frame) -> None:
        await self.may_take.wait()
        if self.is_broken:
            raise VendorGone(1006)
        self.taken.append(frame)

    def break_with(self, code: int, *, unconfirmed: int = 0) -> None:
        """End the connection as a vendor does; `unconfirmed` of its latest frames it may lack."""
        self.is_broken, self.unconfirmed = True, unconfirmed
        self.may_take.set()  # whoever waits learns of it
        self.coming.put_nowait(VendorGone(code))

    def report_confirmed(self, report: Callable[[int], None]) -> None:
        self.confirm = report

    def unconfirmed_frames(self, sizes: Sequence[int]) -> int:
        return self.unconfirmed

    def abort(self) -> None:
        self.log.append(f"{self.name} aborted")
        self.break_with(1006, unconfirmed=self.unconfirmed)

    async def close(self, code: int, *more: Any, **_: Any) -> None:
        self.log.append(f"{self.name} closed")
        self.when_closed()
        self.closed = (code, *more)
