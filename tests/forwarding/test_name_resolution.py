"""Names whose nameserver never answers must not keep other names from being looked up."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from service.forwarding.name_resolution import (
    LOOKUP_OWNER,
    MAX_THREADS,
    NameResolver,
    NameUnresolvedError,
    ResolverBusyError,
)


class Nameserver:
    """Answers every name but those of one domain, and those for as long as it is silent."""

    def __init__(self) -> None:
        self.silent_over = threading.Event()
        self.asked: list[str] = []
        self.ended = threading.Semaphore(0)

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host.endswith(".silent.example"):
            self.silent_over.wait(30)
            self.ended.release()
        return [] if host == "none.example" else ["192.0.2.1"]


@pytest.fixture
def nameserver() -> Iterator[Nameserver]:
    made = Nameserver()
    yield made
    made.silent_over.set()


async def hang(lookups: NameResolver, count: int) -> None:
    async def ask(number: int) -> None:
        LOOKUP_OWNER.set(f"ten_{number % 4}")
        with suppress(NameUnresolvedError):
            await lookups.resolve(f"{number}.silent.example", 443)

    for start in range(0, count, 8):
        await asyncio.gather(*(ask(number) for number in range(start, start + 8)))


async def test_a_name_that_was_answered_before_is_answered_beside_any_number_of_silent_ones(
    nameserver,
) -> None:
    lookups = NameResolver(nameserver, wait_seconds=0.2)
    assert await lookups.resolve("emr.example", 443) == ["192.0.2.1"]
    await hang(lookups, 3 * MAX_THREADS)
    assert await lookups.resolve("emr.example", 443) == ["192.0.2.1"]
    assert sum(host.endswith(".silent.example") for host in nameserver.asked) < MAX_THREADS
    with pytest.raises(NameUnresolvedError):
        await lookups.resolve("new.example", 443)


async def test_names_that_were_silent_before_keep_no_new_name_away(nameserver) -> None:
    lookups = NameResolver(nameserver, wait_seconds=0.2)
    await hang(lookups, 16)
    nameserver.silent_over.set()
    for _ in range(16):
        await asyncio.to_thread(nameserver.ended.acquire)
    nameserver.silent_over.clear()
    await hang(lookups, 16)
    assert len(nameserver.asked) < 32
    assert await lookups.resolve("new.example", 443) == ["192.0.2.1"]


async def test_a_name_is_looked_up_once_however_many_wait(nameserver) -> None:
    lookups = NameResolver(nameserver, wait_seconds=0.2)
    waiting = [lookups.resolve("one.silent.example", 443) for _ in range(MAX_THREADS + 1)]
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(end) for end in ends} == {NameUnresolvedError}
    assert nameserver.asked == ["one.silent.example"]


async def test_a_name_without_addresses_is_told(nameserver) -> None:
    with pytest.raises(NameUnresolvedError):
        await NameResolver(nameserver).resolve("none.example", 443)


async def test_a_burst_of_one_tenant_s_silent_names_keeps_no_other_tenant_s_name_away(nameserver) -> None:
    lookups = NameResolver(nameserver)

    async def ask(number: int) -> None:
        LOOKUP_OWNER.set("ten_mallory")
        with suppress(NameUnresolvedError):
            await lookups.resolve(f"{number}.silent.example", 443)

    burst = [asyncio.create_task(ask(number)) for number in range(128)]
    await asyncio.sleep(0)  # every task of the burst has asked before the next line does
    try:
        LOOKUP_OWNER.set("ten_hospital")
        async with asyncio.timeout(2):
            assert await lookups.resolve("emr.example", 443) == ["192.0.2.1"]
        assert sum(host.endswith(".silent.example") for host in nameserver.asked) == MAX_THREADS // 4
    finally:
        for each in burst:
            each.cancel()
        await asyncio.gather(*burst, return_exceptions=True)


async def test_a_name_that_waited_for_a_thread_is_not_taken_for_silent(nameserver) -> None:
    lookups = NameResolver(nameserver, wait_seconds=0.2)
    await hang(lookups, 3 * MAX_THREADS)
    with pytest.raises(ResolverBusyError):
        await lookups.resolve("new.example", 443)
    assert "new.example" not in nameserver.asked
    nameserver.silent_over.set()
    for _ in range(sum(host.endswith(".silent.example") for host in nameserver.asked)):
        await asyncio.to_thread(nameserver.ended.acquire)
    nameserver.silent_over.clear()
    await hang(lookups, 16)  # as many as keep names away that were silent, and no others
    assert await lookups.resolve("new.example", 443) == ["192.0.2.1"]
