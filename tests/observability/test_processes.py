"""Several processes behind one port tell one story."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.support.rig import START_SECONDS, Rig, Running, open_rig, until


@pytest.fixture
async def rig(database_url: str, redis_url: str) -> AsyncIterator[Rig]:
    async with open_rig(database_url, redis_url) as opened:
        yield opened


def figures(text: str) -> dict[str, float]:
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("ekabridge_")
    }


def service_processes(service: Running) -> set[int]:
    """The pids of the service's own processes, not that of the helper that multiprocessing starts."""
    found = set()
    for each in psutil.Process(service.process.pid).children():
        with contextlib.suppress(psutil.Error):
            if "spawn_main" in " ".join(each.cmdline()):
                found.add(each.pid)
    return found


def pids_in(folder: Path) -> set[int]:
    """The pids of the processes whose levels are in the folder that they share."""
    return {int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_livesum_*.db")}


async def test_each_of_several_processes_shows_what_all_of_them_counted(rig: Rig) -> None:
    service = await rig.serve(workers=2)
    children = service_processes(service)
    assert len(children) == 2

    async def once(method: str, path: str) -> httpx2.Response:
        # A connection of its own: the system gives it to either process.
        headers = {"authorization": f"Bearer {rig.key}"}
        async with httpx2.AsyncClient(base_url=service.url, headers=headers, trust_env=False) as http:
            return await http.request(method, path, json={} if method == "POST" else None)

    async def both_are_up() -> bool:
        text = (await once("GET", "/metrics")).text
        return figures(text).get("ekabridge_spool_limit_bytes") == 2 * 2_147_483_648

    await until(both_are_up, START_SECONDS)
    for _ in range(12):
        assert (await once("POST", "/v1/sessions")).status_code == 201
    for _ in range(8):
        text = (await once("GET", "/metrics")).text
        found = figures(text)
        assert found['ekabridge_sessions_total{upload="chunked"}'] == 12
        assert found["ekabridge_redis_up"] in {0, 1}
        build = [value for name, value in found.items() if name.startswith("ekabridge_build_info")]
        assert build == [1]
        assert not re.search(r"\bpid=", text)

    async def is_at_rest() -> bool:
        return figures((await once("GET", "/metrics")).text)['ekabridge_requests_in_work{kind="calls"}'] == 0

    await until(is_at_rest)
    folder = Path(psutil.Process(min(children)).environ()["PROMETHEUS_MULTIPROC_DIR"])
    killed = children.pop()
    psutil.Process(killed).kill()

    async def is_replaced() -> bool:
        # What it held went with it and came with the next one; what it had counted stayed.
        try:
            found = figures((await once("GET", "/metrics")).text)
        except httpx2.HTTPError:
            return False
        assert found['ekabridge_sessions_total{upload="chunked"}'] == 12
        is_well = pids_in(folder) == service_processes(service) > children
        return is_well and found["ekabridge_spool_limit_bytes"] == 2 * 2_147_483_648

    await until(is_replaced, START_SECONDS)
    assert await service.stop() == 0
    assert pids_in(folder) == set()
