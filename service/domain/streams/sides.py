"""The two sides of a relayed stream: what the relay needs of the client and of the vendor."""

from collections.abc import Callable, Sequence
from typing import Protocol

from service.domain.streams.frames import Frame

# The vendor may take so long to flush its buffers (contract, Streaming).
FLUSH_SECONDS = 10.0
# The close code of our process's restart (RFC 6455's registry).
RESTART = 1012


class SideGone(Exception):
    """One side closed its connection or vanished.

    It carries the close code (1005: the side gave none, 1006: it vanished) and the reason.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.reason = reason


class ClientGone(SideGone):
    """The client closed its connection or vanished."""


class Restarting(ClientGone):
    """Our process stops; the client is still connected and shall continue on another process."""

    def __init__(self) -> None:
        super().__init__(RESTART)


class VendorGone(SideGone):
    """The vendor closed its connection or vanished."""


class Client(Protocol):
    """The connection of the client that streams to us."""

    async def receive(self) -> Frame:
        """Return the next frame. Raises ClientGone."""
        ...

    def give_frames(self, relay: Callable[[bytes], bool]) -> None:
        """Have the server pass audio to `relay` directly, if it can; `receive` returns refused frames."""
        ...

    async def send(self, frame: Frame) -> None:
        """Send a frame to the client. Raises ClientGone."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Close the connection, if it is still open."""
        ...


class VendorStream(Protocol):
    """The vendor's side of a stream."""

    async def receive(self) -> Frame:
        """Return the next frame. Raises VendorGone."""
        ...

    def send_now(self, frame: bytes) -> bool:
        """Send a frame if that needs no waiting; return False if the frame was not sent."""
        ...

    async def send(self, frame: Frame) -> None:
        """Send a frame, waiting while the vendor is slow. Raises VendorGone."""
        ...

    async def close(self, code: int, seconds: float = FLUSH_SECONDS) -> None:
        """Close the connection and wait at most `seconds` until the vendor has closed it, too."""
        ...

    def abort(self) -> None:
        """Close the connection at once and drop the frames that are not sent yet."""
        ...


class VendorConnection(VendorStream, Protocol):
    """One connection to the vendor's stream, which may break."""

    def report_confirmed(self, report: Callable[[int], None]) -> None:
        """Have `report` called with the number of frames that the vendor has now received for certain."""
        ...

    def unconfirmed_frames(self, sizes: Sequence[int]) -> int:
        """Return how many of the latest frames the vendor may lack, after the connection ended.

        `sizes` are those of the latest frames, in order.
        """
        ...
