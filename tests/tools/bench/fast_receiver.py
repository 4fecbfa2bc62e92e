"""An endpoint that costs next to nothing: counts posts, answers 204, and never answers below /hang."""

import asyncio
import json
from functools import partial
from time import monotonic
from typing import cast

from tests.tools.bench.raw import serve_raw

ACCEPTED = b"HTTP/1.1 204 No Content\r\n\r\n"


class Counts:
    """How many posts came, and when the first and the last of them did."""

    def __init__(self) -> None:
        self.posts = 0
        self.counted = 0  # of those below /well
        self.first = 0.0
        self.last = 0.0

    def take(self, path: bytes) -> None:
        """Count a post."""
        self.posts += 1
        if path.startswith(b"/well"):
            self.counted += 1
            self.last = monotonic()
            self.first = self.first or self.last


class Receiver(asyncio.Protocol):
    """One connection; a post may come in any number of pieces."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is no subclass of it

    def data_received(self, data: bytes) -> None:
        """Answer each whole request."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            whole = end + 4 + int(length or 0)
            if len(self._buffer) < whole:
                return
            self._buffer = self._buffer[whole:]
            self._answer(head.split(b" ", 2)[1])

    def _answer(self, path: bytes) -> None:
        if path == b"/_counts":
            body = json.dumps(vars(self._counts)).encode()
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        elif path == b"/_reset":
            vars(self._counts).update(vars(Counts()))
            self._transport.write(ACCEPTED)
        else:
            self._counts.take(path)
            if not path.startswith(b"/hang"):
                self._transport.write(ACCEPTED)


if __name__ == "__main__":
    serve_raw(partial(Receiver, Counts()))
