"""What is loaded while a process already answers: waited for, never left to be missed, and not needed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.concurrency.lazy_imports import Libraries
from service.eka.lazy_audio_client import AudioWay

# What loads when a library of the test's own does: it waits to be let go.
GATE = threading.Event()


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A library that can be found, and loads once the gate is open."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "the_gate", sys.modules[__name__])
    GATE.clear()
    path = tmp_path / "slow_library.py"
    path.write_text("import the_gate\nthe_gate.GATE.wait(30)\n")
    yield path
    GATE.set()
    sys.modules.pop("slow_library", None)


def unexpected(error: BaseException) -> None:
    raise AssertionError(error)


async def test_who_needs_it_waits_and_who_gives_up_takes_it_from_nobody(library: Path) -> None:
    libraries = Libraries("slow_library")
    libraries.start(unexpected)
    impatient, patient = (asyncio.create_task(libraries.loaded()) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    assert not patient.done()
    GATE.set()
    await patient
    assert "slow_library" in sys.modules
    await libraries.loaded()


async def test_what_is_not_installed_is_told_at_once() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        Libraries("asyncio", "no_such_library.part")


@pytest.fixture
def broken_library(library: Path) -> None:
    library.write_text("raise ImportError('broken')\n")


async def test_what_is_broken_is_told_although_nobody_waits(broken_library: None) -> None:
    told: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    libraries = Libraries("slow_library")
    libraries.start(told.set_result)
    assert isinstance(await told, ImportError)
    with pytest.raises(ImportError, match="broken"):
        await libraries.loaded()


async def test_an_upload_waits_for_its_library_and_fails_if_that_does() -> None:
    async def broken() -> None:
        raise ImportError("broken")

    async with AudioWay("http://127.0.0.1:9", broken) as way:
        with pytest.raises(ImportError, match="broken"):
            await way.send("http://127.0.0.1:9/", {}, None)  # type: ignore[arg-type]


def test_the_service_is_imported_without_what_comes_later() -> None:
    later = "{'aiohttp', 'rich', 'sqlalchemy', 'alembic', 'service.sandbox'}"
    modules = "sys, service.cli.main, service.http_server.server, service.app"
    code = f"import {modules}; print(sorted({later} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
