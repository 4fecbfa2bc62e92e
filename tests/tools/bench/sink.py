"""An EkaScribe that costs next to nothing: takes any body and answers with as little as is understood."""

import asyncio
from typing import cast

from tests.tools.bench.raw import serve_raw


def _answer(status: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body)) + body


_CREATED = _answer(b"201 Created", b'{"session_id":"ses_any","status":"created","message":"ok"}')
# What EkaScribe answers to an upload: it counts only with the id of the session that is in the path.
_STORED = b'{"session_id":"%s","success":true,"original_filename":"%s"}'
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"


class _Sink(asyncio.Protocol):
    """One connection; bodies have a length, or come in chunks that are not read but for their end."""

    def __init__(self) -> None:
        self._head = b""
        self._missing = 0
        self._is_chunked = False
        self._tail = b""
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
            if self._missing <= 0:
                self._missing = 0
                self._transport.write(self._answer)
            return
        if self._is_chunked:
            self._read_chunks(data)
            return
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            return
        head, rest = self._head[:end], self._head[end + 4 :]
        self._head = b""
        self._begin(head, rest)

    def _begin(self, head: bytes, rest: bytes) -> None:
        method, path, _ = head.split(b" ", 2)
        fields = head.lower()
        if method == b"GET":
            self._answer = _NOT_FOUND
        elif path.endswith(b"/sessions"):
            self._answer = _CREATED
        else:
            *_, session_id, _, file_name = (b"///%s" % path).split(b"/")
            self._answer = _answer(b"200 OK", _STORED % (session_id, file_name))
        if b"\r\nexpect: 100" in fields:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if b"\r\ntransfer-encoding: chunked" in fields:
            self._is_chunked = True
            self._read_chunks(rest)
            return
        length = int(fields.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0] or 0)
        self._missing = length - len(rest)
        if self._missing <= 0:
            self._missing = 0
            self._transport.write(self._answer)

    def _read_chunks(self, data: bytes) -> None:
        self._tail = (self._tail + data[-5:])[-5:]
        if self._tail == _LAST_CHUNK:
            self._is_chunked, self._tail = False, b""
            self._transport.write(self._answer)


if __name__ == "__main__":
    serve_raw(_Sink)
