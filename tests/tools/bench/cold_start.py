"""How soon `ekabridge serve` answers, beside the import of its main libraries and the barest service on them.

Alone: `python -m tests.tools.bench.cold_start`.
"""

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from time import monotonic, sleep

import psutil
from msgspec import Struct

from service.sandbox.stack import free_port
from tests.support.rig import Rig
from tests.tools.bench.installation import open_installation

ROUNDS = 7
START_GOAL = 2.5
_START_SECONDS = 30.0
_LOOK_AGAIN_SECONDS = 0.002
# Tests bring pydantic, which Litestar loads where it finds it; what runs in production has none.
_AS_INSTALLED = "import sys; sys.modules['pydantic'] = None"
_LIBRARIES = f"{_AS_INSTALLED}; import litestar, asyncpg, httpx2"
_OUR_IMPORTS = f"{_AS_INSTALLED}; import service.cli.main, service.http_server, service.app, uvloop"
_OURS = f"{_AS_INSTALLED}; from service.__main__ import main; main()"
_BARE = (
    f"{_AS_INSTALLED}; import runpy; runpy.run_module('tests.tools.bench.bare_service', run_name='__main__')"
)


class Start(Struct, frozen=True, kw_only=True):
    """One start, in seconds."""

    wall: float
    cpu: float
    """Of the process until it answered, or until it ended."""


class ColdStartFigures(Struct, frozen=True, kw_only=True):
    """Starts of each, round by round."""

    libraries: list[Start]
    imports: list[Start]
    ours: list[Start]
    bare: list[Start]

    @property
    def ratio(self) -> float:
        """Our start beside the import of the libraries."""
        return _ratio(self.ours, self.libraries)

    @property
    def ratio_to_bare(self) -> float:
        """Our start beside the barest service's."""
        return _ratio(self.ours, self.bare)

    @property
    def is_well(self) -> bool:
        """Whether the goal is met."""
        return self.ratio < START_GOAL


async def measure_cold_start(rig: Rig) -> ColdStartFigures:
    """Start each so many times, in turns; every file that is read was read before."""
    with tempfile.TemporaryDirectory() as folder:
        # Byte code as an installation has it, made by the first round, which does not count.
        environment = {
            name: value
            for name, value in rig.environment.items()
            if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith("OTEL_")
        } | {
            "PYTHONPYCACHEPREFIX": folder,
            "BENCH_DATABASE_URL": rig.environment["EKABRIDGE_DATABASE_URL"],
        }
        makers: dict[str, Callable[[], Start]] = {
            "libraries": lambda: _ran(_LIBRARIES, environment),
            "imports": lambda: _ran(_OUR_IMPORTS, environment),
            "ours": lambda: _answered(_OURS, _serve, environment),
            "bare": lambda: _answered(_BARE, lambda port: [str(port)], environment),
        }
        rounds = [
            {name: await asyncio.to_thread(make) for name, make in makers.items()} for _ in range(1 + ROUNDS)
        ]
    return ColdStartFigures(**{name: [each[name] for each in rounds[1:]] for name in makers})


def _ran(code: str, environment: dict[str, str]) -> Start:
    began = monotonic()
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    wall = monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{code} failed"
    return Start(wall=wall, cpu=usage.ru_utime + usage.ru_stime)


def _serve(port: int) -> list[str]:
    return ["serve", "--port", str(port)]


def _answered(code: str, arguments: Callable[[int], list[str]], environment: dict[str, str]) -> Start:
    """Start a service, ask as soon as its port is open, and stop it when it has answered."""
    port = free_port()
    began = monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments(port)], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        with _connected(port, process) as connection:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            answer = connection.recv(4096)
        wall = monotonic() - began
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        times = psutil.Process(process.pid).cpu_times()
    finally:
        process.terminate()
        process.wait()
    return Start(wall=wall, cpu=times.user + times.system)


def _connected(port: int, process: subprocess.Popen[bytes]) -> socket.socket:
    deadline = monotonic() + _START_SECONDS
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=_START_SECONDS)
        except ConnectionRefusedError:
            assert process.poll() is None, f"a service ended: {process.returncode}"
            assert monotonic() < deadline, "a service does not start"
            sleep(_LOOK_AGAIN_SECONDS)


def _ratio(ours: list[Start], theirs: list[Start]) -> float:
    return statistics.median(a.wall / b.wall for a, b in zip(ours, theirs, strict=True))


def cold_start_rows(figures: ColdStartFigures) -> str:
    """Write the figures as rows of the report's table: what, measured, goal."""
    return f"""\
| `python -c "import litestar, asyncpg, httpx2"`, median of {ROUNDS} | {_times(figures.libraries)} | |
| the same for all that `ekabridge serve` imports | {_times(figures.imports)} | |
| `ekabridge serve` until it answers, beside the import of those three libraries \
| {_times(figures.ours)}: {figures.ratio:.2f} times | {START_GOAL:g} times |
| the same beside the barest Litestar service under uvicorn until it answers \
| {_times(figures.bare)}: {figures.ratio_to_bare:.2f} times | |
"""


def _times(starts: list[Start]) -> str:
    wall, cpu = (statistics.median(getattr(each, name) for each in starts) * 1000 for name in ("wall", "cpu"))
    return f"{wall:.0f} ms ({cpu:.0f} ms of CPU)"


async def main() -> int:
    """Measure on an installation of its own; 1 if the goal is missed."""
    async with open_installation() as rig:
        figures = await measure_cold_start(rig)
    sys.stdout.write(cold_start_rows(figures))
    return 0 if figures.is_well else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
