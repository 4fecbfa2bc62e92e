"""Commands of ours in processes forked from one that has imported everything.

The imports are most of what a start costs: 0.2 to 0.8 seconds of CPU. A forked process has its own memory,
environment and exit status, and can be killed, but it does not test what runs before `main`: tests of how a
process starts and stops, and of its memory, start Python itself.
"""

import asyncio
import multiprocessing
import os
import signal
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path

# Everything that `serve`, `worker` and the other commands import when they run.
_PRELOADED = [
    "service.cli.main",
    "service.app",
    "service.worker",
    "service.http_server",
    "service.store.migrate",
    "service.diagnostics.doctor",
    "uvloop",
    "tests.support.forked",
]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(_PRELOADED)


def _shared_part(environment: dict[str, str]) -> dict[str, str]:
    """The variables that are not ours: the interpreter and some libraries read theirs as they start."""
    return {
        name: value for name, value in environment.items() if not name.startswith(("EKABRIDGE_", "PYTEST_"))
    }


_at_import = _shared_part(dict(os.environ))


def can_fork(environment: dict[str, str]) -> bool:
    """Whether a forked process behaves as one that starts with this environment."""
    return _shared_part(environment) == _at_import


class ForkedProcess:
    """What `asyncio.subprocess.Process` offers, of a process that was forked."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        self._ended = asyncio.Event()
        self.pid = process.pid or 0
        asyncio.get_running_loop().add_reader(process.sentinel, self._end)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        self._ended.set()

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while the process runs."""
        return self._process.exitcode

    async def wait(self) -> int:
        """Wait until the process has ended and return its status."""
        await self._ended.wait()
        status = self.returncode
        assert status is not None
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, as `kill` does."""
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9."""
        self.send_signal(signal.SIGKILL)


def start_forked(
    arguments: tuple[str, ...], environment: dict[str, str], out: Path, err: Path
) -> ForkedProcess:
    """Start `ekabridge …`; its output is appended to these files."""
    # A daemon is terminated when pytest ends; all starts are made by one thread, as multiprocessing wants it.
    process = _context.Process(target=_run, args=(arguments, environment, out, err), daemon=True)
    process.start()
    return ForkedProcess(process)


def _run(arguments: tuple[str, ...], environment: dict[str, str], out: Path, err: Path) -> None:
    from service.cli.main import main  # noqa: PLC0415 - pytest itself must not import it here

    for path, standard in ((out, 1), (err, 2)):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(opened, standard)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["ekabridge", *arguments]
    main()
