"""Chunks of audio through ekabridge, nginx and fastapi-proxy-lib, in turns, to one sink.

Ours asks whose the key is, hashes, writes two rows and keeps the whole chunk before it sends it; the others
pass bytes on. Each is one process. Alone: `python -m tests.tools.bench.uploads`.
"""

import asyncio
import os
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx2
import psutil
from msgspec import Struct

from service.sandbox.stack import free_port
from tests.support.rig import Rig
from tests.tools.bench.installation import open_durable_installation
from tests.tools.bench.load import Load
from tests.tools.bench.peers import UNBUFFERED, cpu_seconds, nginx, open_listening, open_nginx, send, started

PEERS_PYTHON = Path(__file__).parents[3] / "build" / "peers" / "bin" / "python"
CONNECTIONS = 16
ROUNDS = 3
SECONDS = 3.0
_WARM_SECONDS = 0.7
OURS, COUNTED = "ekabridge", "ekabridge, calls counted"
NGINX, LIBRARY = "nginx", "fastapi-proxy-lib"
# Bytes of a chunk: how it is called, and how many times as many we are to pass on as each of the others.
SIZES: dict[int, tuple[str, dict[str, float]]] = {
    131_072: ("128 KB", {LIBRARY: 1.5, NGINX: 0.5}),
    655_360: ("640 KB", {LIBRARY: 1.5, NGINX: 0.8}),
    8_388_608: ("8 MB", {LIBRARY: 1.5, NGINX: 1.0}),
}
_COUNTED_SIZE = 131_072


class Target(Struct, kw_only=True):
    """Something that takes uploads and hands them on."""

    name: str
    port: int
    process: psutil.Process
    paths: Callable[[], Awaitable[list[str]]]
    headers: dict[str, str] = {}


class UploadRound(Struct, frozen=True, kw_only=True):
    """One run of one of them."""

    rate: float
    """Chunks a second."""
    cpu_ms: float
    """Of its own process, for each chunk."""
    resident_mb: float
    median_ms: float
    p99_ms: float


class UploadFigures(Struct, frozen=True, kw_only=True):
    """Every run, by the bytes of a chunk and by who passed it on; those who were not there are left out."""

    rounds: dict[int, dict[str, list[UploadRound]]]

    def median(self, size: int, name: str, of: Callable[[UploadRound], float]) -> float:
        """The middle one of its runs."""
        return statistics.median(of(each) for each in self.rounds[size][name])

    def ratio(self, size: int, peer: str, name: str = OURS) -> float | None:
        """How many times the peer's chunks a second: the middle one of the rounds; None without the peer."""
        ours, theirs = self.rounds[size][name], self.rounds[size].get(peer)
        if theirs is None:
            return None
        return statistics.median(a.rate / b.rate for a, b in zip(ours, theirs, strict=True))

    @property
    def is_well(self) -> bool:
        """Whether every goal is met, of the peers that were there."""
        return all(
            (ratio := self.ratio(size, peer)) is None or ratio >= goal
            for size, (_, goals) in SIZES.items()
            for peer, goal in goals.items()
        )


async def measure_uploads(
    rig: Rig, *, sizes: tuple[int, ...] = tuple(SIZES), rounds: int = ROUNDS, seconds: float = SECONDS
) -> UploadFigures:
    """Send chunks of each size through everybody who can take part, in turns."""
    found: dict[int, dict[str, list[UploadRound]]] = {}
    async with _open_targets(rig) as targets:
        for size in sizes:
            for _ in range(rounds):
                for target in targets:
                    if target.name != COUNTED or size == _COUNTED_SIZE:
                        run = await _measure(target, size, seconds)
                        found.setdefault(size, {}).setdefault(target.name, []).append(run)
    return UploadFigures(rounds=found)


async def _measure(target: Target, size: int, seconds: float) -> UploadRound:
    load = Load(
        port=target.port,
        paths=await target.paths(),
        headers=target.headers | {"Content-Type": "audio/wav"},
        body_bytes=size,
        connections=CONNECTIONS,
        warm_seconds=_WARM_SECONDS,
        seconds=seconds,
    )
    before = cpu_seconds([target.process])
    loaded = await send(load)
    used = cpu_seconds([target.process]) - before
    assert set(loaded.statuses) == {200}, f"{target.name}: {loaded.statuses}"
    return UploadRound(
        rate=loaded.rate,
        cpu_ms=used / loaded.statuses[200] * 1000,
        resident_mb=target.process.memory_info().rss / 1e6,
        median_ms=loaded.latencies_ms[0],
        p99_ms=loaded.latencies_ms[2],
    )


@asynccontextmanager
async def _open_targets(rig: Rig) -> AsyncIterator[list[Target]]:
    async def plain() -> list[str]:
        return ["/upload/{n}"]

    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(open_listening("tests.tools.bench.sink"))
        targets = []
        if nginx() is not None:
            for name, more in ((NGINX, ""), (f"{NGINX}, unbuffered", UNBUFFERED)):
                process, port = await stack.enter_async_context(open_nginx(upstream, more))
                (worker,) = process.children()
                targets.append(Target(name=name, port=port, process=worker, paths=plain))
        if PEERS_PYTHON.exists():
            process, port = await stack.enter_async_context(_library_proxy(upstream))
            targets.append(Target(name=LIBRARY, port=port, process=process, paths=plain))
        # The usual limit of calls would refuse most of them; one that no call meets costs as much.
        targets.append(await _ours(rig, upstream, OURS, "0"))
        targets.append(await _ours(rig, upstream, COUNTED, "100000"))
        yield targets


@asynccontextmanager
async def _library_proxy(upstream: int) -> AsyncIterator[tuple[psutil.Process, int]]:
    port = free_port()
    options = f"--port {port} --loop uvloop --http httptools --no-access-log --log-level error"
    command = (str(PEERS_PYTHON), "-m", "uvicorn", "tests.tools.bench.lib_proxy:app", *options.split())
    async with started(*command, port=port, env=os.environ | {"BENCH_UPSTREAM": str(upstream)}) as process:
        yield process, port


async def _ours(rig: Rig, upstream: int, name: str, calls_per_second: str) -> Target:
    service = await rig.serve(
        eka_base_url=f"http://127.0.0.1:{upstream}",
        eka_token="bench",
        rate_limit_per_second=calls_per_second,
        rate_limit_burst=calls_per_second if calls_per_second != "0" else "1",
    )
    api = await rig.client(service)

    async def sessions() -> list[str]:
        made = [(await api.post("/v1/sessions", json={})).json()["id"] for _ in range(CONNECTIONS)]
        return [f"/v1/sessions/{session_id}/audio/{{n}}" for session_id in made]

    return Target(
        name=name,
        port=httpx2.URL(service.url).port or 0,
        process=psutil.Process(service.process.pid),
        paths=sessions,
        headers={"Authorization": f"Bearer {rig.key}"},
    )


def upload_rows(figures: UploadFigures) -> str:
    """Return a table of the ratios, with their goals, and one of everything that was measured."""
    lines = ["| chunk | beside | ours | theirs | times | goal |", "|---|---|---|---|---|---|"]
    for size, (called, goals) in SIZES.items():
        for peer, goal in goals.items():
            ratio = figures.ratio(size, peer)
            if ratio is None:
                lines.append(f"| {called} | {peer} | | not there | | {goal:g} |")
                continue
            ours = figures.median(size, OURS, lambda run: run.rate)
            theirs = figures.median(size, peer, lambda run: run.rate)
            verdict = f"{goal:g}: {'met' if ratio >= goal else 'missed'}"
            lines.append(f"| {called} | {peer} | {ours:.0f}/s | {theirs:.0f}/s | {ratio:.2f} | {verdict} |")
    lines += ["", "| chunk | who | chunks a second | CPU a chunk | median | 99th | resident |"]
    lines.append("|---|---|---|---|---|---|---|")
    for size, by_name in figures.rounds.items():
        for name in by_name:
            rate, cpu, median, p99, resident = (
                figures.median(size, name, of)
                for of in (
                    lambda run: run.rate,
                    lambda run: run.cpu_ms,
                    lambda run: run.median_ms,
                    lambda run: run.p99_ms,
                    lambda run: run.resident_mb,
                )
            )
            lines.append(
                f"| {SIZES[size][0]} | {name} | {rate:.0f} | {cpu:.2f} ms | {median:.0f} ms | {p99:.0f} ms "
                f"| {resident:.0f} MB |"
            )
    return "\n".join(lines)


async def _alone() -> None:
    async with open_durable_installation() as rig:
        sys.stdout.write(f"{upload_rows(await measure_uploads(rig))}\n")


if __name__ == "__main__":
    asyncio.run(_alone())
