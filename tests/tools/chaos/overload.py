"""Offers the service twice what it can sustain, and writes docs/capacity.md: `make overload`.

First as many clients as keep the service busy, each waiting for its answers, find what is sustained. Then
twice as many dictations and webhooks begin each second as were sustained, whatever becomes of those before.
"""

import asyncio
import json
import platform
import random
import secrets
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import psutil
import uvloop

from service.sandbox.embedded.api import start_embedded
from service.sandbox.stack import free_port
from service.store.migrate import migrate
from tests.support.api_calls import signature, v2_event
from tests.support.bridge import add_tenant, make_settings
from tests.support.rig import Rig, Running, open_rig, until
from tests.tools.chaos.resident_memory import ResidentMemory

TENANTS = 8
CLIENTS = 48
FIND_SECONDS = 10.0
OFFER_SECONDS = 30.0
TIMES = 2.0
WEBHOOKS_FOR_A_DICTATION = 2
MAX_PENDING = 4000
CALM_SECONDS = 30.0
GROWTH_LIMIT_MB = 150
P99_LIMIT_SECONDS = 5.0
AUDIO = secrets.token_bytes(50_000)
REPORT = Path(__file__).parents[3] / "docs" / "capacity.md"


@dataclass
class Tally:
    """What became of the calls: of each kind the statuses, and how long each took, in seconds."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    kinds: Counter[tuple[str, int]] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    unhinted: int = 0
    broken: int = 0
    late: int = 0

    def add(self, kind: str, status: int, seconds: float, headers: dict[str, str]) -> None:
        self.kinds[kind, status] += 1
        self.seconds.setdefault(status, []).append(seconds)
        if status == 503 and "retry-after" not in headers:
            self.unhinted += 1

    @property
    def accepted(self) -> list[float]:
        return sorted(each for status, found in self.seconds.items() if status < 300 for each in found)

    @property
    def refused(self) -> list[float]:
        return sorted(self.seconds.get(503, []))

    @property
    def others(self) -> dict[int, int]:
        return {
            status: len(found) for status, found in self.seconds.items() if status >= 300 and status != 503
        }


class Caller:
    """The thinnest client that keeps its connections: it must not be what is measured."""

    def __init__(self, port: int, tally: Tally) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.tally = tally

    async def call(self, kind: str, method: str, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
        """Make one call; 0 stands for an answer that never came."""
        started = monotonic()
        try:
            status, told, content = await self._exchange(method, path, body, headers)
        except (OSError, asyncio.IncompleteReadError):
            self.tally.broken += 1
            return 0, None
        self.tally.add(kind, status, monotonic() - started, told)
        answer = json.loads(content)
        if status >= 300:
            self.tally.codes[answer["code"]] += 1
        return status, answer

    async def _exchange(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        reader, writer = (
            self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        )
        lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        told = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:] if line)
        }
        content = await reader.readexactly(int(told["content-length"]))
        if told.get("connection") == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head[0].split()[1]), told, content

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


async def dictate(caller: Caller, key: str) -> bool:
    """Create, send and end; stops at the first call that is not taken."""
    bearer = f"Bearer {key}"
    status, session = await caller.call("create", "POST", "/v1/sessions", b"{}", Authorization=bearer)
    if status != 201:
        return False
    path = f"/v1/sessions/{session['id']}"
    status, _ = await caller.call(
        "upload", "PUT", f"{path}/audio/0", AUDIO, Authorization=bearer, Content_Type="audio/wav"
    )
    if status != 200:
        return False
    status, _ = await caller.call("end", "POST", f"{path}/end", b'{"chunks": 1}', Authorization=bearer)
    return status == 202


async def notify(caller: Caller) -> bool:
    """Send a webhook of a session that is none of ours: it is recorded, and that is all."""
    body = json.dumps(v2_event(f"ses_{secrets.token_hex(12)}")).encode()
    status, _ = await caller.call(
        "webhook", "POST", "/webhooks/eka", body, Eka_Webhook_Signature=signature(body)
    )
    return status == 200


async def sustained(caller: Caller, keys: list[str]) -> float:
    """Return the dictations a second that clients get through who wait for their answers."""
    deadline, done = monotonic() + FIND_SECONDS, 0

    async def client(key: str) -> None:
        nonlocal done
        while monotonic() < deadline:
            is_done = await dictate(caller, key)
            done += is_done
            for _ in range(WEBHOOKS_FOR_A_DICTATION):
                await notify(caller)

    await asyncio.gather(*(client(keys[number % len(keys)]) for number in range(CLIENTS)))
    return done / FIND_SECONDS


async def offer(caller: Caller, keys: list[str], rate: float) -> int:
    """Begin so many dictations a second, and webhooks with them; return how many were carried through."""
    pending: set[asyncio.Task[bool]] = set()
    done = 0

    def begin(work: Callable[[], Coroutine[Any, Any, bool]], *, counts: bool) -> None:
        nonlocal done
        if len(pending) >= MAX_PENDING:
            caller.tally.late += 1  # this machine's own limit: it is told, not hidden
            return

        def ended(task: asyncio.Task[bool]) -> None:
            nonlocal done
            pending.discard(task)
            done += counts and task.result()

        task = asyncio.create_task(work())
        pending.add(task)
        task.add_done_callback(ended)

    started, begun = monotonic(), 0
    while (passed := monotonic() - started) < OFFER_SECONDS:
        while begun < passed * rate:
            begun += 1
            key = random.choice(keys)
            begin(lambda key=key: dictate(caller, key), counts=True)  # type: ignore[misc]
            for _ in range(WEBHOOKS_FOR_A_DICTATION):
                begin(lambda: notify(caller), counts=False)
        await asyncio.sleep(0.005)
    if pending:
        await asyncio.wait(pending)
    return done


async def recovered(caller: Caller, key: str, usual: float) -> float:
    """Return the seconds until a dictation is carried through in no more than twice its usual time."""
    started = monotonic()
    while monotonic() - started < CALM_SECONDS:
        began = monotonic()
        if await dictate(caller, key) and monotonic() - began < 2 * usual:
            break
        await asyncio.sleep(0.05)
    return monotonic() - started


async def measure(rig: Rig, keys: list[str]) -> str:
    """Find what is sustained, offer twice that, and return the page's table."""
    port = free_port()
    vendor = Running(await rig.run("sandbox", "--port", str(port)), f"http://127.0.0.1:{port}")
    rig.running.append(vendor)
    service = await rig.serve(eka_base_url=vendor.url, rate_limit_per_second="0")
    own_port = int(service.url.rpartition(":")[2])
    calm = Caller(own_port, Tally())

    async def answers() -> bool:
        return await dictate(calm, keys[0])

    await until(answers)
    usual = []
    for _ in range(20):
        began = monotonic()
        await dictate(calm, keys[0])
        usual.append(monotonic() - began)
    rate = await sustained(calm, keys)
    memory = ResidentMemory(service, look_seconds=0.1)
    before, watching = memory.now(), asyncio.create_task(memory.watch())
    crowd = Caller(own_port, Tally())
    done = await offer(crowd, keys, TIMES * rate)
    back = await recovered(calm, keys[0], statistics.median(usual))
    watching.cancel()
    crowd.close()
    calm.close()
    after = memory.now()
    assert service.process.returncode is None
    await service.stop()
    return _table(crowd.tally, done, rate, back, (before, memory.peak, after))


def _table(tally: Tally, done: int, rate: float, back: float, memory: tuple[float, float, float]) -> str:
    before, peak, after = memory
    accepted, refused = tally.accepted, tally.refused
    total = len(accepted) + len(refused) + sum(tally.others.values())
    kinds = {kind: (tally.kinds[kind, ok], tally.kinds[kind, 503]) for kind, ok in _OK.items()}
    rows = [
        ("dictations a second, sustained", f"{rate:.0f}", ""),
        ("begun a second, with twice as many webhooks", f"{TIMES * rate:.0f}", ""),
        ("calls that were made", f"{total:,}", ""),
        ("of these answered 2xx", f"{len(accepted):,}", "more than none"),
        ("refused (503 with Retry-After)", f"{len(refused):,}", "all others"),
        ("their codes", ", ".join(f"`{code}` {count:,}" for code, count in tally.codes.most_common()), ""),
        *((f"{kind}: answered 2xx, refused", f"{ok:,}, {no:,}", "") for kind, (ok, no) in kinds.items()),
        ("other statuses, 503 without Retry-After, broken connections", _faults(tally), "0, 0, 0"),
        ("not begun, because the measuring side was full", f"{tally.late:,}", ""),
        ("dictations finished, a second", f"{done / OFFER_SECONDS:.0f}", ""),
        (
            "an answer 2xx: median, 99th percentile",
            _seconds(accepted),
            f"99 %: {P99_LIMIT_SECONDS:g} s",
        ),
        ("a refusal: median, 99th percentile", _seconds(refused), ""),
        ("seconds until answers are as fast as before", f"{back:.1f} s", f"{CALM_SECONDS:g} s"),
        (
            "memory before, at the peak, afterwards",
            f"{before:.0f}, {peak:.0f}, {after:.0f} MB",
            f"{GROWTH_LIMIT_MB} MB more",
        ),
    ]
    is_well = (
        not tally.others
        and not tally.unhinted
        and not tally.broken
        and len(accepted) > 0
        and _percentile(accepted, 0.99) <= P99_LIMIT_SECONDS
        and back < CALM_SECONDS
        and peak - before <= GROWTH_LIMIT_MB
    )
    lines = [f"| {what} | {found} | {limit} |" for what, found, limit in rows]
    verdict = "Every limit held." if is_well else "**A limit was broken.**"
    return "\n".join(["| what | measured | limit |", "|---|---|---|", *lines, "", verdict])


_OK = {"create": 201, "upload": 200, "end": 202, "webhook": 200}


def _faults(tally: Tally) -> str:
    return f"{sum(tally.others.values())}{tally.others or ''}, {tally.unhinted}, {tally.broken}"


def _percentile(values: list[float], share: float) -> float:
    return values[int(len(values) * share)] if values else 0.0


def _seconds(values: list[float]) -> str:
    return f"{_percentile(values, 0.5) * 1000:.0f} ms, {_percentile(values, 0.99) * 1000:.0f} ms"


async def main() -> int:
    """Measure, write the page, and return 1 if a limit is broken."""
    async with AsyncExitStack() as stack:
        urls = stack.enter_context(start_embedded(temporary=True)).urls
        await migrate(urls.database_url)
        rig = await stack.enter_async_context(open_rig(urls.database_url, urls.redis_url))
        settings = make_settings(urls.database_url, urls.redis_url)
        keys = [(await add_tenant(settings, f"tenant {number}", "emr"))[1] for number in range(TENANTS)]
        table = await measure(rig, keys)
    where = f"{platform.system()}, {psutil.cpu_count()} cores, Python {platform.python_version()}"
    page = PAGE.format(date=f"{datetime.now(UTC):%Y-%m-%d}", where=where, seconds=OFFER_SECONDS, table=table)
    # The section that `make attacks` writes stays.
    _, heading, attacks = (await asyncio.to_thread(REPORT.read_text)).partition("\n## Attacks\n")
    await asyncio.to_thread(REPORT.write_text, page + heading + attacks)
    sys.stdout.write(page)
    return 0 if "**" not in table else 1


PAGE = """# Capacity

This page shows how a process of `serve` behaves when it gets more calls than it can answer. Its limits, and
the settings that change them: [operations](operations.md#limits).

## Overload

Made by `make overload` on {date}: {where}.
Service, PostgreSQL, the stand-in EkaScribe and the clients share that one machine, so the rate itself means
little. The result is that nothing breaks beyond that rate. A dictation is create, one
chunk of 50 KB, end. For {seconds:.0f} seconds dictations begin at twice the sustained rate, whether or
not earlier ones have finished.

{table}

ekabridge refuses a call with 503 before it does any of its work. One process uses one core: with `--workers`,
or more pods, an installation does more, until PostgreSQL is the limit.
"""


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
