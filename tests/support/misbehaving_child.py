"""A child process that does in the place of service/media/child.py what the request's key names."""

from __future__ import annotations

import os
import signal
import sys

import msgspec

from service.media.messages import ANSWER_HEADER, Chunk, Kind, Request

_CHUNK = msgspec.json.encode(Chunk(kind=Kind.OGG, start_seconds=0, seconds=0))
OUTPUTS = {
    b"endless zeros": bytes(65_536),
    b"endless chunks": ANSWER_HEADER.pack(len(_CHUNK), 100_000) + _CHUNK + bytes(100_000),
    b"giant document": ANSWER_HEADER.pack(0xFFFFFFFF, 0),
    b"giant chunk": ANSWER_HEADER.pack(10, 0xFFFFFFFF) + b"{}",
    b"no json": ANSWER_HEADER.pack(4, 0) + b"\xff\xfe{]",
    b"half an answer": ANSWER_HEADER.pack(100, 0) + b"{",
}


def main() -> None:
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    if request.key == b"hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        signal.pause()
    if request.key == b"failure":
        sys.exit(1)
    if request.key == b"segmentation fault":
        os.kill(os.getpid(), signal.SIGSEGV)
    while output := OUTPUTS.get(request.key):
        os.write(1, output)
        if request.key.startswith(b"giant"):
            signal.pause()
        if not request.key.startswith(b"endless"):
            break


if __name__ == "__main__":
    main()
