"""The parent survives whatever the child process does, and leaves nothing of it behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import sys
from collections.abc import AsyncGenerator, AsyncIterator

import psutil
import pytest

from service.domain.errors import Overloaded, RecordingUnreadable
from service.domain.recordings.models import CutChunk
from service.media.child_process import ChildProcesses, ProcessFailed, ProcessKilled, ProcessLimits
from service.media.messages import Reason, Request
from service.media.reader import CUT_LIMITS, INSPECT_LIMITS, FFmpegReader
from tests.media.conftest import Encrypt
from tests.support.media_files import limits
from tests.support.rig import until

HERE = psutil.Process()
MEBIBYTE = 1 << 20


def silence(size: int) -> bytes:
    """A WAV file of 16 kHz."""
    form = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
    return b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + form + b"data" + struct.pack("<I", size) + bytes(size)


# Much more than fits into the pipe, so that the child is still at work when the first chunks are read.
RECORDING = silence(2 * MEBIBYTE)


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """No process, not even a dead one that nobody waited for, and no descriptor."""
    processes, descriptors = set(HERE.children()), HERE.num_fds()
    yield

    async def is_clean() -> bool:
        return set(HERE.children()) <= processes and HERE.num_fds() <= descriptors

    # A second cancellation leaves the end of the process to a task in the background.
    await until(is_clean)


@contextlib.asynccontextmanager
async def being_cut(
    encrypted: Encrypt, reader: FFmpegReader | None = None
) -> AsyncGenerator[tuple[psutil.Process, AsyncGenerator[CutChunk, None]], None]:
    """A recording of which one chunk was read."""
    before = set(HERE.children())
    chunks = (reader or FFmpegReader()).cut(encrypted(RECORDING), limits(2.0))
    async with contextlib.aclosing(chunks):
        await anext(chunks)
        (child,) = set(HERE.children()) - before
        yield child, chunks


async def test_the_child_gets_no_setting_and_no_other_file(
    encrypted: Encrypt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EKABRIDGE_ENCRYPTION_KEYS", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    async with being_cut(encrypted) as (child, _):
        assert "secret" not in child.environ().values()
        assert not [name for name in child.environ() if name.startswith(("EKABRIDGE", "AWS"))]
        assert child.cmdline()[1:] == ["-P", "-m", "service.media.child"]
        assert child.num_fds() == 4


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows another process's limits")
async def test_the_child_has_limits(encrypted: Encrypt) -> None:
    async with being_cut(encrypted) as (child, _):
        for kind, most in (
            (psutil.RLIMIT_AS, CUT_LIMITS.memory_bytes),
            (psutil.RLIMIT_DATA, CUT_LIMITS.memory_bytes),
            (psutil.RLIMIT_CPU, CUT_LIMITS.cpu_seconds + 1),
            (psutil.RLIMIT_NOFILE, 16),
            (psutil.RLIMIT_FSIZE, 0),
            (psutil.RLIMIT_CORE, 0),
        ):
            assert 0 <= child.rlimit(kind)[1] <= most


async def test_a_child_that_is_killed_is_no_fault_of_the_file(encrypted: Encrypt) -> None:
    async with being_cut(encrypted) as (child, chunks):
        child.kill()
        with pytest.raises(Overloaded, match="was killed"):
            async for _ in chunks:
                pass


async def test_a_reader_that_gives_up_ends_the_child(encrypted: Encrypt) -> None:
    async with being_cut(encrypted) as (child, _):
        child.suspend()
    assert not child.is_running()


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancelled_task_ends_the_child(times: int, encrypted: Encrypt) -> None:
    suspended: list[psutil.Process] = []
    is_suspended = asyncio.Event()

    async def cut() -> None:
        async with being_cut(encrypted) as (child, chunks):
            child.suspend()
            suspended.append(child)
            is_suspended.set()
            async for _ in chunks:
                pass

    task = asyncio.create_task(cut())
    await asyncio.wait(
        [task, waiting := asyncio.create_task(is_suspended.wait())], return_when="FIRST_COMPLETED"
    )
    waiting.cancel()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert psutil.wait_procs(suspended, timeout=10)[1] == []


async def test_a_child_that_takes_too_long_is_ended(encrypted: Encrypt) -> None:
    short = ProcessLimits(memory_bytes=INSPECT_LIMITS.memory_bytes, cpu_seconds=5, wait_seconds=0.01)
    with pytest.raises(RecordingUnreadable, match="too much time"):
        await FFmpegReader(inspect_limits=short).inspect(encrypted(RECORDING))


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("endless zeros", Reason.CRASHED),
        ("giant document", Reason.CRASHED),
        ("giant chunk", Reason.CRASHED),
        ("no json", Reason.CRASHED),
        ("half an answer", Reason.CRASHED),
        ("nothing", Reason.CRASHED),
        ("segmentation fault", Reason.CRASHED),
        ("hang", Reason.TIME),
    ],
)
async def test_a_child_that_misbehaves_is_a_failure(deed: str, reason: Reason, encrypted: Encrypt) -> None:
    answers = misbehaving(deed, encrypted, wait_seconds=1.0 if deed == "hang" else 30.0)
    with pytest.raises(ProcessFailed) as failure:
        async for _ in answers:
            pass
    assert failure.value.reason is reason


async def test_a_child_that_cannot_start_is_no_fault_of_the_file(encrypted: Encrypt) -> None:
    with pytest.raises(ProcessKilled):
        await anext(misbehaving("failure", encrypted, wait_seconds=30.0))


async def test_a_child_that_never_stops_is_ended_with_its_reader(encrypted: Encrypt) -> None:
    answers = misbehaving("endless chunks", encrypted, wait_seconds=30.0)
    async with contextlib.aclosing(answers):
        for _ in range(20):
            assert len((await anext(answers))[1]) == 100_000


def misbehaving(
    deed: str, encrypted: Encrypt, wait_seconds: float
) -> AsyncGenerator[tuple[object, bytes], None]:
    file = encrypted(b"")
    request = Request(
        descriptor=file.fileno(), key=deed.encode(), nonce=b"", size=0, memory_bytes=0, cpu_seconds=0
    )
    processes = ChildProcesses("tests.support.misbehaving_child")
    return processes.answers(request, max_bytes=MEBIBYTE, wait_seconds=wait_seconds)


async def test_too_many_recordings_at_once_are_held_back(encrypted: Encrypt) -> None:
    reader = FFmpegReader(max_processes=1, patience_seconds=0.05)
    async with being_cut(encrypted, reader):
        with pytest.raises(Overloaded, match="at once"):
            await reader.inspect(encrypted(RECORDING))
    assert (await reader.inspect(encrypted(RECORDING))).seconds == pytest.approx(65.5, abs=0.1)


async def test_a_large_recording_needs_little_memory(encrypted: Encrypt) -> None:
    """32 MB in chunks of 4 MB: neither process holds more than a few."""
    recording = encrypted(silence(32 * MEBIBYTE))
    before, peak = HERE.memory_info().rss, 0
    chunks = FFmpegReader().cut(recording, limits(120.0))
    children = set(HERE.children())
    async with contextlib.aclosing(chunks):
        async for chunk in chunks:
            (child,) = set(HERE.children()) - children
            peak = max(peak, child.memory_info().rss)
            assert HERE.memory_info().rss - before < 24 * MEBIBYTE
            assert len(chunk.data) > MEBIBYTE
    assert peak < 75 * MEBIBYTE
    assert os.fstat(recording.fileno()).st_size == recording.size
