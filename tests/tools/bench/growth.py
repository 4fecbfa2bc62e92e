"""Measures what growth costs: `python -m tests.tools.bench.growth [sessions]`, ten million by default.

Two installations stand side by side, one of ten thousand sessions and one of many, and every call of the API
and every statement that touches what grows is made to both in turns. What is compared is the median. Writes
docs/growth.md.
"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

import asyncpg
import psutil
from msgspec import Struct

from service.store.database import Database
from service.store.ledger import LedgerRows
from tests.tools.bench.growth_calls import dictations, open_bench, time_calls
from tests.tools.bench.growth_rows import PER_DAY, Filled, fill
from tests.tools.bench.growth_statements import time_statements
from tests.tools.bench.installation import open_installation

SMALL, LARGE = 10_000, 10_000_000
RATIO_LIMIT = 1.5
# A statement that takes so little longer, however many times as long, is felt by nobody.
MIN_MORE_MS = 0.5
_SHOWN_RATIO = 1.2
_PAGE = Path(__file__).parents[3] / "docs" / "growth.md"
# Why a statement takes longer at the large one, where it does.
_DAYS = "more days that are over to add up, 4,000 against 4"
WHY = {
    "deliveries.recover_dead": "planned anew each time (0.3 ms); at the small one a plan is kept",
    "reencryption.read_documents": "a hundred rows that lie further apart; while keys are rotated",
    "reencryption.read_sessions": "a hundred rows that lie further apart; while keys are rotated",
    "ledger.count (all)": _DAYS,
    "ledger.count (tenant)": _DAYS,
    "ledger.count (tenant, until)": _DAYS,
    "ledger.count (tenant, dead)": _DAYS,
    "ledger.count (tenant, window)": _DAYS,
}

Times = dict[str, tuple[float, float]]


class Growth(Struct, frozen=True, kw_only=True):
    """Median milliseconds by call and by statement, at the small and at the large one."""

    filled: Filled
    fill_seconds: float
    calls: Times
    statements: Times

    def too_slow(self) -> list[str]:
        """The calls, and the statements for which it matters, that take too many times as long."""
        calls = [name for name, (small, large) in self.calls.items() if large > RATIO_LIMIT * small]
        return calls + [
            name
            for name, (small, large) in self.statements.items()
            if large > RATIO_LIMIT * small and large - small >= MIN_MORE_MS
        ]


async def measure_growth(rows: int = LARGE) -> Growth:
    """Fill both and measure; takes ten minutes and 30 GB of disk for ten million."""
    async with AsyncExitStack() as stack:
        rigs = [await stack.enter_async_context(open_installation()) for _ in range(2)]
        real = [await dictations(rig) for rig in rigs]
        urls = [rig.environment["EKABRIDGE_DATABASE_URL"] for rig in rigs]
        await fill(urls[0], SMALL)
        began = monotonic()
        filled = await fill(urls[1], rows)
        took = monotonic() - began
        for url in urls:
            await _fold(url)
        databases = [await asyncpg.connect(url) for url in urls]
        for database in databases:
            stack.push_async_callback(database.close)
            await database.execute("VACUUM ANALYZE ledger_days")
        with _on_one_core():
            statements = await time_statements(*databases)
            benches = [await open_bench(*each) for each in zip(rigs, databases, real, strict=True)]
            calls = await time_calls(*benches)
        return Growth(filled=filled, fill_seconds=took, calls=calls, statements=statements)


async def _fold(url: str) -> None:
    """As the worker does, day by day."""
    database = Database(url, size=1, statement_cache_size=10)
    await database.open()
    try:
        ledger = LedgerRows(database)
        while await ledger.fold():
            pass
    finally:
        await database.close()


@contextmanager
def _on_one_core() -> Iterator[None]:
    """Where it can be done, we and all our processes run on one core.

    Otherwise a server may stay where waking it is dearer, and what costs nothing costs three times as much.
    """
    ours = psutil.Process()
    cores = ours.cpu_affinity() if hasattr(ours, "cpu_affinity") else None
    try:
        if cores:
            _pin(ours, cores[:1])
        yield
    finally:
        if cores:
            _pin(ours, cores)


def _pin(ours: psutil.Process, cores: list[int]) -> None:
    for process in (ours, *ours.children(recursive=True)):
        with suppress(psutil.Error):
            process.cpu_affinity(cores)


def growth_rows(growth: Growth) -> str:
    """Markdown: what was asked of both, and whatever took longer at the large one."""
    calls, statements = growth.calls, growth.statements
    shown = [
        (kind, name, small, large)
        for kind, found in (("call", calls), ("statement", statements))
        for name, (small, large) in sorted(found.items(), key=lambda each: -each[1][1] / each[1][0])
        if large / small > _SHOWN_RATIO
    ]
    lines = "\n".join(
        f"| {kind} {name} | {small:.2f} ms | {large:.2f} ms | {large / small:.2f} | {WHY.get(name, '')} |"
        for kind, name, small, large in shown
    )
    return f"""\
{len(calls)} calls of the API and {len(statements)} cases of statements, each at {SMALL:,} and at \
{growth.filled.rows:,} sessions ({growth.filled.bytes / 1e9:.1f} GB, {PER_DAY:,} a day): medians. \
The largest ratio of a call is {_largest(calls)}, of a statement {_largest(statements)}. The limit is
{RATIO_LIMIT}, for a statement only where that is {MIN_MORE_MS} ms more. Above {_SHOWN_RATIO} are:

| what | at {SMALL:,} | at {growth.filled.rows:,} | ratio | why |
|---|---|---|---|---|
{lines}
"""


def page(growth: Growth, *, seconds: float) -> str:
    """Write the page."""
    verdict = ", ".join(growth.too_slow()) or "none"
    return f"""# Growth

Made by `make growth` in {seconds:.0f} s on {datetime.now(UTC):%Y-%m-%d}, on one machine, everything on one of
its cores. The indexes that this needs, and advice for the upgrade of a large installation:
[operations](operations.md#large-databases).

{growth_rows(growth)}
Over the limit: {verdict}.
"""


def _largest(times: Times) -> str:
    return f"{max(large / small for small, large in times.values()):.2f}"


async def main() -> int:
    """Measure, write the page, and return 1 if a limit is broken."""
    began = monotonic()
    growth = await measure_growth(int(sys.argv[1]) if len(sys.argv) > 1 else LARGE)
    _PAGE.write_text(page(growth, seconds=monotonic() - began), encoding="utf-8")
    sys.stdout.write(f"filled in {growth.fill_seconds:.0f} s\n{growth_rows(growth)}")
    for name in growth.too_slow():
        sys.stdout.write(f"too slow: {name}\n")
    return 1 if growth.too_slow() else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
