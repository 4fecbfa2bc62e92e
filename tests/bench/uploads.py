"""Chunks of audio through ekabridge, nginx and fastapi-proxy-lib, in turns, to one sink."""

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
from tests.bench.load import Load, Loaded
from tests.bench.peers import UNBUFFERED, cpu_seconds, nginx, open_nginx, open_sink, send, started
from tests.e2e.rig import Rig

PEERS_PYTHON = Path(__file__).parents[2] / "build" / "peers" / "bin" / "python"
SIZES = (131_072, 655_360, 8_388_608)
CONNECTIONS = 16
ROUNDS = 3


class Target(Struct, kw_only=True):
    """Something that takes uploads and hands them on."""

    name: str
    port: int
    processes: list[psutil.Process]
    paths: Callable[[], Awaitable[list[str]]]
    headers: dict[str, str] = {}


class Measured(Struct, kw_only=True):
    """One run."""

    rate: float
    cpu_ms: float
    """Of the target's own processes, per request."""
    peak_mb: float
    loaded: Loaded


async def measure(target: Target, size: int, seconds: float) -> Measured:
    """Send chunks of a size through it."""
    load = Load(
        port=target.port,
        paths=await target.paths(),
        headers=target.headers | {"Content-Type": "audio/wav"},
        body_bytes=size,
        connections=CONNECTIONS,
        seconds=seconds,
    )
    before = cpu_seconds(target.processes)
    t0 = target.processes[0].cpu_times()
    loaded = await send(load)
    used = cpu_seconds(target.processes) - before
    t1 = target.processes[0].cpu_times()
    print("user", t1.user-t0.user, "sys", t1.system-t0.system)
    everything = sum(loaded.statuses.values())
    assert set(loaded.statuses) <= {200}, f"{target.name}: {loaded.statuses}"
    return Measured(
        rate=loaded.rate,
        cpu_ms=used / everything * 1000,
        peak_mb=sum(process.memory_info().rss for process in target.processes) / 1e6,
        loaded=loaded,
    )


@asynccontextmanager
async def open_targets(rig: Rig, wanted: set[str]) -> AsyncIterator[list[Target]]:
    """Start everybody who can take part."""

    async def plain() -> list[str]:
        return ["/upload/{n}"]

    async with AsyncExitStack() as stack:
        sink, upstream = await stack.enter_async_context(open_sink())
        targets = [Target(name="direct", port=upstream, processes=[sink], paths=plain)]
        if nginx() is not None:
            for name, more in (("nginx", ""), ("nginx, unbuffered", UNBUFFERED)):
                process, port = await stack.enter_async_context(open_nginx(upstream, more))
                targets.append(Target(name=name, port=port, processes=[process], paths=plain))
        if "fastapi-proxy-lib" in wanted:
            port = free_port()
            process = await stack.enter_async_context(
                started(
                    str(PEERS_PYTHON), "-m", "uvicorn", "tests.bench.lib_proxy:app", "--port", str(port),
                    "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "error",
                    port=port, env=os.environ | {"BENCH_UPSTREAM": str(upstream)},
                )
            )
            targets.append(Target(name="fastapi-proxy-lib", port=port, processes=[process], paths=plain))
        ours = await rig.serve(
            eka_base_url=f"http://127.0.0.1:{upstream}", eka_token="bench", rate_limit_per_second="0",
            **{name[4:]: value for name, value in os.environ.items() if name.startswith("OUR_")},
        )
        api = await rig.client(ours)
        key = {"Authorization": f"Bearer {rig.key}"}

        async def sessions() -> list[str]:
            made = [await api.post("/v1/sessions", json={}) for _ in range(CONNECTIONS)]
            return [f"/v1/sessions/{answer.json()['id']}/audio/{{n}}" for answer in made]

        targets.append(
            Target(
                name="ekabridge", port=httpx2.URL(ours.url).port or 0,
                processes=[psutil.Process(ours.process.pid)], paths=sessions, headers=key,
            )
        )
        yield [target for target in targets if target.name in wanted]


async def main() -> None:
    from tests.bench.main_job import open_installation

    wanted = set(sys.argv[1].split(",")) if len(sys.argv) > 1 else {"direct", "nginx", "nginx, unbuffered", "fastapi-proxy-lib", "ekabridge"}
    sizes = [int(x) for x in sys.argv[2].split(",")] if len(sys.argv) > 2 else SIZES
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else ROUNDS
    seconds = float(sys.argv[4]) if len(sys.argv) > 4 else 4
    async with open_installation() as rig, open_targets(rig, wanted) as targets:
        for size in sizes:
            rows: dict[str, list[Measured]] = {}
            for _ in range(rounds):
                for target in targets:
                    rows.setdefault(target.name, []).append(await measure(target, size, seconds))
            for name, found in rows.items():
                print(size, f"{name:20s}", *(f"{each.rate:7.0f}" for each in found),
                      f"median {statistics.median(e.rate for e in found):7.1f}",
                      f"cpu {statistics.median(e.cpu_ms for e in found):6.2f} ms",
                      f"rss {max(e.peak_mb for e in found):6.0f}", found[0].loaded.latencies_ms, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
