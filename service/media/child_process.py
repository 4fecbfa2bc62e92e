"""Starts the process that reads a recording, passes its answers on, and ends it whatever happens.

The process decodes bytes from strangers. It may crash, hang, be killed or write without end, and this process
must survive all of that: each answer is limited in size and time, and the child is killed and waited for on
every way out.
"""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator

import msgspec
import structlog
from msgspec import Struct

from service.media.messages import ANSWER_HEADER, MAX_DOCUMENT_BYTES, Answer, Reason, Request

log = structlog.get_logger()

CHILD = "service.media.child"
_PIPE_BYTES = 64 * 1024
# The settings of the service hold secrets, so the child gets no variable but these.
_PASSED_ON = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    # One arena for all memory: each further one reserves 64 MB of the limit.
    "MALLOC_ARENA_MAX": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONNOUSERSITE": "1",
}


class ProcessLimits(Struct, frozen=True, kw_only=True):
    """The costs that one recording may have; `wait_seconds` is the whole time of waiting for its answers."""

    memory_bytes: int
    cpu_seconds: int
    wait_seconds: float


class ProcessFailed(Exception):
    """The child process ended without an answer, or was ended for its answers."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class ProcessKilled(Exception):
    """The child process was killed from outside, or could not be started: the recording may be fine."""


class ChildProcesses:
    """Starts child processes, and keeps those that are being ended."""

    def __init__(self, module: str = CHILD) -> None:
        """`module` is run with `python -m`."""
        self._module = module
        self._ending: set[asyncio.Task[None]] = set()

    async def answers(
        self, request: Request, *, max_bytes: int, wait_seconds: float
    ) -> AsyncGenerator[tuple[Answer, bytes], None]:
        """Yield each answer with its bytes, `max_bytes` at most; the caller closes the generator.

        Raises ProcessFailed or ProcessKilled.
        """
        process = await _start(self._module, request)
        loop, waited = asyncio.get_running_loop(), 0.0
        try:
            while True:
                started = loop.time()
                try:
                    async with asyncio.timeout(wait_seconds - waited):
                        answer, data = await _read(process, max_bytes)
                except TimeoutError:
                    raise ProcessFailed(Reason.TIME) from None
                # The time that the caller needs for an answer is no time of the child.
                waited += loop.time() - started
                yield answer, data
        finally:
            await self._end(process)

    async def _end(self, process: Process) -> None:
        task = asyncio.get_running_loop().create_task(_kill_and_wait(process))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        # A second cancellation leaves the task alone, which waits for the process: no zombie stays.
        await asyncio.shield(task)


async def _start(module: str, request: Request) -> Process:
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    # The child finds the same modules in the same order, even if this process runs from a checkout.
    environment |= _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", module),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env=environment,
            pass_fds=(request.descriptor,),
            start_new_session=True,
        )
    except OSError as error:
        log.warning("recording_process_failed", error=type(error).__name__)
        raise ProcessKilled("the process cannot be started") from error
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    process.stdin.write(msgspec.json.encode(request))
    process.stdin.close()
    return process


async def _read(process: Process, max_bytes: int) -> tuple[Answer, bytes]:
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    try:
        header = await process.stdout.readexactly(ANSWER_HEADER.size)
        document_bytes, data_bytes = ANSWER_HEADER.unpack(header)
        if document_bytes > MAX_DOCUMENT_BYTES or data_bytes > max_bytes:
            raise ProcessFailed(Reason.CRASHED)
        document = await process.stdout.readexactly(document_bytes)
        data = await process.stdout.readexactly(data_bytes) if data_bytes else b""
        return msgspec.json.decode(document, type=Answer), data
    except asyncio.IncompleteReadError:
        raise _failure(await process.wait()) from None
    except msgspec.DecodeError as error:
        raise ProcessFailed(Reason.CRASHED) from error


def _failure(status: int) -> ProcessFailed | ProcessKilled:
    """Return the error for a child that ended without an answer; a negative status is a signal."""
    log.warning("recording_process_failed", status=status)
    if status == -signal.SIGXCPU:
        return ProcessFailed(Reason.TIME)
    if status in {-signal.SIGKILL, -signal.SIGTERM}:
        return ProcessKilled("the process was killed")
    if status > 0:
        # The child answers even if it fails at a file, so this failure is one of the installation.
        return ProcessKilled("the process cannot be started")
    return ProcessFailed(Reason.CRASHED)


async def _kill_and_wait(process: Process) -> None:
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    # The pipe is closed only after its end was read.
    while await process.stdout.read(_PIPE_BYTES):
        pass
    await process.wait()
