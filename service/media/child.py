"""The process that reads one recording: `python -m service.media.child`, started by child_process.py.

Recordings come from strangers, and decoders have flaws. So this process has limits, no settings and no
network, and gets no more than the descriptor of one encrypted file and its key.
"""

import os
import sys
from collections.abc import Iterator
from typing import IO, cast

import av.logging
import msgspec

from service.media.copying import copied, is_copyable, writer_of
from service.media.cutting import Piece
from service.media.messages import (
    ANSWER_HEADER,
    Answer,
    Chunk,
    Cut,
    Done,
    Facts,
    Failed,
    Kind,
    Reason,
    Request,
    Unreadable,
)
from service.media.process_limits import limit_process
from service.media.source import Source, open_source
from service.media.survey import Survey
from service.media.transcoding import kind_of_transcoded, transcoded
from service.temporary_files.decryption import DecryptedReader

_OUTPUT = 1


def main() -> None:
    """Answer the request on standard input, on standard output."""
    # FFmpeg's messages quote file contents, which are patient data.
    av.logging.set_level(None)
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    limit_process(memory_bytes=request.memory_bytes, cpu_seconds=request.cpu_seconds)
    try:
        _answer(request)
    except BrokenPipeError:
        return
    except Unreadable as error:
        _send(Failed(error.reason))
    except MemoryError:
        _send(Failed(Reason.MEMORY))
    except Exception:  # noqa: BLE001 - a file that finds a flaw of ours is refused, and not read for ever
        _send(Failed(Reason.CRASHED))


def _answer(request: Request) -> None:
    reader = DecryptedReader(request.descriptor, key=request.key, nonce=request.nonce, size=request.size)
    file = cast("IO[bytes]", reader)
    with open_source(file) as source:
        survey = Survey(source)
        survey.read()
        if request.cut is None:
            _send(_facts(source, survey))
            return
    with open_source(file) as source:
        for kind, piece in _pieces(source, survey, request.cut):
            _send(Chunk(kind=kind, start_seconds=piece.start_seconds, seconds=piece.seconds), piece.data)
    _send(Done())


def _facts(source: Source, survey: Survey) -> Facts:
    context = source.stream.codec_context
    return Facts(
        seconds=survey.seconds,
        container=source.format,
        codec=source.codec,
        sample_rate=context.sample_rate,
        channels=context.channels,
        is_copyable=is_copyable(source, survey),
    )


def _pieces(source: Source, survey: Survey, cut: Cut) -> Iterator[tuple[Kind, Piece]]:
    writer = writer_of(source, survey, cut)
    if writer is not None:
        for piece in copied(source, survey, writer, cut):
            yield writer.kind, piece
    else:
        for piece in transcoded(source, cut):
            yield kind_of_transcoded(cut), piece


def _send(answer: Answer, data: bytes = b"") -> None:
    document = msgspec.json.encode(answer)
    _write(ANSWER_HEADER.pack(len(document), len(data)) + document)
    _write(data)


def _write(data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(_OUTPUT, left) :]


if __name__ == "__main__":
    main()
