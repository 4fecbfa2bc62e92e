"""Real neighbours for the tests: one PostgreSQL and one Redis for a run, a fresh database for a test.

`EKABRIDGE_TEST_DATABASE_URL` and `EKABRIDGE_TEST_REDIS_URL` name servers to use; otherwise the embedded ones
are started: with pytest-xdist by the controller, for all its workers, else by the first test that asks.
"""

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import hypothesis
import pytest
from redis.asyncio import Redis

from service.sandbox.embedded.api import (
    Embedded,
    EmbeddedFailed,
    EmbeddedUnavailable,
    EmbeddedUrls,
    start_embedded,
)
from service.store.migrate import migrate
from tests.support.bridge import Bridge, open_bridge

# Two shared cores: an example that took long says nothing about the code.
hypothesis.settings.register_profile(
    "default-of-ours",
    deadline=None,
    max_examples=80,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    print_blob=True,
)
hypothesis.settings.load_profile("default-of-ours")
_embedded = pytest.StashKey[Embedded]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Gives a worker of pytest-xdist the URLs of the servers, started with the first worker."""
    try:
        node.workerinput["servers"] = vars(_servers_of(node.config))
    except (EmbeddedUnavailable, EmbeddedFailed) as failure:
        node.workerinput["servers_failure"] = str(failure)  # tests that need no server still run


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Makes a skipped test a failure in CI, which installs all that a test may need."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    if embedded := config.stash.get(_embedded, None):
        embedded.stop()


def _servers_of(config: pytest.Config) -> EmbeddedUrls:
    given = (os.environ.get("EKABRIDGE_TEST_DATABASE_URL"), os.environ.get("EKABRIDGE_TEST_REDIS_URL"))
    if given[0] and given[1]:
        return EmbeddedUrls(given[0], given[1])
    if _embedded not in config.stash:
        config.stash[_embedded] = start_embedded(temporary=True)
    urls = config.stash[_embedded].urls
    return EmbeddedUrls(given[0] or urls.database_url, given[1] or urls.redis_url)


def with_path(url: str, path: str) -> str:
    """The URL with another database, or another number of a Redis database, for its path."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{path}"))


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> EmbeddedUrls:
    """Where PostgreSQL and Redis of this run answer; shared by all workers."""
    worker = getattr(request.config, "workerinput", None)
    if worker is None:
        return _servers_of(request.config)
    if "servers_failure" in worker:
        pytest.fail(worker["servers_failure"], pytrace=False)
    return EmbeddedUrls(**worker["servers"])


@pytest.fixture(scope="session")
def database_names(worker_id: str) -> Iterator[str]:
    """Names for databases that no other worker and no other run uses."""

    def names() -> Iterator[str]:
        prefix = f"ekabridge_test_{secrets.token_hex(4)}_{worker_id}"
        number = 0
        while True:
            yield f"{prefix}_{number}"
            number += 1

    return names()


@pytest.fixture(scope="session")
async def database_template(servers: EmbeddedUrls, database_names: Iterator[str]) -> AsyncIterator[str]:
    """The name of this worker's migrated database, which is cloned and never written to."""
    name = next(database_names)
    await _run(servers, f'CREATE DATABASE "{name}"')
    await migrate(with_path(servers.database_url, name))
    yield name
    await _run(servers, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def database_url(
    servers: EmbeddedUrls, database_template: str, database_names: Iterator[str]
) -> AsyncIterator[str]:
    """A fresh, migrated database of the test's own."""
    name = next(database_names)
    # FILE_COPY takes 9 ms where WAL_LOG takes 15.
    await _run(servers, f'CREATE DATABASE "{name}" TEMPLATE "{database_template}" STRATEGY FILE_COPY')
    yield with_path(servers.database_url, name)
    await _run(servers, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def empty_database_url(servers: EmbeddedUrls, database_names: Iterator[str]) -> AsyncIterator[str]:
    """A fresh database without any table, for tests of the migrations themselves."""
    name = next(database_names)
    await _run(servers, f'CREATE DATABASE "{name}"')
    yield with_path(servers.database_url, name)
    await _run(servers, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def redis_url(servers: EmbeddedUrls, worker_id: str) -> str:
    """This worker's logical Redis database, empty. A published message still reaches every worker."""
    number = 0 if worker_id == "master" else int(worker_id.removeprefix("gw"))
    url = with_path(servers.redis_url, str(number))
    async with Redis.from_url(url) as client:
        await client.flushdb()
    return url


@pytest.fixture
async def bridge(database_url: str, redis_url: str) -> AsyncIterator[Bridge]:
    """A whole bridge without a worker; `await bridge.start_worker()` adds one."""
    async with open_bridge(database_url, redis_url) as opened:
        yield opened


async def _run(servers: EmbeddedUrls, statement: str) -> None:
    connection = await asyncpg.connect(servers.database_url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
