"""A real Prometheus watches a hospital's worst minutes: `make dashboards`.

Two services and two workers, real servers, stand-ins for EkaScribe and the EMRs; dictations all the time, and
one fault after the other, so that every panel has something to show. Then each panel's query is asked of
Prometheus as Grafana would, and must be answered; `draw.py` makes pictures of the answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time
from typing import Any

import httpx2
import yaml
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.support.bridge import add_tenant, free_port, make_settings
from tests.support.rig import Rig, Running, until
from tests.tools.bench.installation import open_installation
from tests.tools.dashboards.boards import BOARDS
from tests.tools.dashboards.faults import FAULTS
from tests.tools.dashboards.figures import PROMETHEUS, ROOT
from tests.tools.dashboards.grafana import Panel

SECONDS = 240
STEP_SECONDS = 2
DOCTORS = 6
STREAMERS = 4
ANSWERS = ROOT / "build/dashboards.json"
_WAV = {"content-type": "audio/wav"}
_FRAME = bytes(3200)
_CHANCE = random.Random(1)


class Hospital:
    """A tenant: its key, and clients for both services."""

    def __init__(self, rig: Rig, services: list[Running], key: str) -> None:
        headers = {"authorization": f"Bearer {key}"}
        self.clients = [
            httpx2.AsyncClient(base_url=each.url, headers=headers, timeout=70, trust_env=False)
            for each in services
        ]
        self._rig = rig

    @property
    def api(self) -> httpx2.AsyncClient:
        """One of the services, as a load balancer chooses."""
        return _CHANCE.choice(self.clients)

    async def listen(self, hook: str, **fields: Any) -> str:
        """Add a destination; return its id."""
        answer = await self.api.post(
            "/v1/destinations", json={"url": f"{self._rig.emr_url}/hooks/{hook}"} | fields
        )
        answer.raise_for_status()
        return str(answer.json()["id"])


async def dictate(hospital: Hospital, stopping: asyncio.Event) -> None:
    """One doctor: dictations one after the other, some of which go wrong."""
    while not stopping.is_set():
        api = hospital.api
        templates = _CHANCE.choices(
            [["eka_emr_template"], ["fail_template", "soap"], ["no_such_template"]], weights=[12, 2, 1]
        )[0]
        with contextlib.suppress(httpx2.HTTPError):
            created = await api.post("/v1/sessions", json={"templates": templates})
            if created.status_code != 201:
                await asyncio.sleep(1)
                continue
            path = f"/v1/sessions/{created.json()['id']}"
            for sequence in range(3):
                await api.put(f"{path}/audio/{sequence}", content=_CHANCE.randbytes(40_000), headers=_WAV)
                await asyncio.sleep(0.2)
            if _CHANCE.random() < 0.05:
                await api.delete(path)
            await api.post(f"{path}/end")
            await api.get(path, params={"wait": 5})


async def stream(hospital: Hospital, stopping: asyncio.Event) -> None:
    """One doctor who dictates live, in real time."""
    while not stopping.is_set():
        api = hospital.api
        with contextlib.suppress(httpx2.HTTPError, OSError, WebSocketException):
            created = await api.post("/v1/sessions", json={"upload": "stream"})
            if created.status_code != 201:
                await asyncio.sleep(1)
                continue
            session = created.json()
            async with connect(session["stream_url"], compression=None, proxy=None) as socket:
                for _ in range(50):
                    await socket.send(_FRAME)
                    await asyncio.sleep(0.1)
                await socket.send('{"event": "stop"}')
                await socket.wait_closed()
            await api.post(f"/v1/sessions/{session['id']}/end")


@asynccontextmanager
async def prometheus(targets: dict[str, list[str]]) -> AsyncIterator[httpx2.AsyncClient]:
    """A Prometheus that scrapes these, by job, and evaluates our alerts."""
    with TemporaryDirectory() as folder:
        configuration = {
            "global": {"scrape_interval": f"{STEP_SECONDS}s", "evaluation_interval": "5s"},
            "rule_files": [str(PROMETHEUS / "rules/*.yaml")],
            "scrape_configs": [
                {
                    "job_name": job,
                    "static_configs": [{"targets": hosts, "labels": {"namespace": "ekabridge"}}],
                }
                for job, hosts in targets.items()
            ],
        }
        path = Path(folder) / "prometheus.yml"
        path.write_text(yaml.safe_dump(configuration))
        port = free_port()
        process = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={path}",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        )
        try:
            async with httpx2.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False
            ) as asked:

                async def is_ready() -> bool:
                    with contextlib.suppress(httpx2.HTTPError):
                        return (await asked.get("/-/ready")).is_success
                    return False

                await until(is_ready)
                yield asked
        finally:
            process.terminate()
            await process.wait()


async def play(rig: Rig, services: list[Running], seconds: float) -> None:
    """Dictations and faults for so long."""
    settings = make_settings(
        rig.environment["EKABRIDGE_DATABASE_URL"], rig.environment["EKABRIDGE_REDIS_URL"]
    )
    hospitals = [Hospital(rig, services, rig.key)]
    for name in ("second", "third"):
        _, key = await add_tenant(settings, name, "admin", templates=["eka_emr_template"])
        hospitals.append(Hospital(rig, services, key))
    await hospitals[0].listen("well")
    await hospitals[1].listen("filing")
    await hospitals[2].listen("troubled")
    await rig.vendor.patch(
        "/_control/settings",
        json={"processing_seconds": 1.5, "webhook_all_outcomes": True, "webhook_copies": 2},
    )
    stopping = asyncio.Event()
    began = time()
    async with asyncio.TaskGroup() as doing:
        for number in range(DOCTORS):
            doing.create_task(dictate(hospitals[number % 3], stopping))
        for _ in range(STREAMERS):
            doing.create_task(stream(hospitals[0], stopping))
        for at, fault in FAULTS:
            await asyncio.sleep(max(0.0, began + at * seconds - time()))
            sys.stdout.write(f"{time() - began:4.0f} s  {fault.__doc__}\n")
            doing.create_task(fault(rig, services, hospitals[2]))
        await asyncio.sleep(max(0.0, began + seconds - time()))
        stopping.set()
    for hospital in hospitals:
        for client in hospital.clients:
            await client.aclose()


async def ask(asked: httpx2.AsyncClient, panel: Panel, began: float, ended: float) -> list[dict[str, Any]]:
    """Return the series of a panel: a legend, and points of a time and a value each."""
    found = []
    for legend, query in panel.expressions().items():
        concrete = query.replace("$__rate_interval", f"{10 * STEP_SECONDS}s").replace("$namespace", ".*")
        answer = await asked.get(
            "/api/v1/query_range",
            params={"query": concrete, "start": began, "end": ended, "step": STEP_SECONDS},
        )
        assert answer.json()["status"] == "success", answer.text
        for series in answer.json()["data"]["result"]:
            name = legend
            for label, value in series["metric"].items():
                name = name.replace(f"{{{{{label}}}}}", value)
            points = [
                [at - began, float(value)] for at, value in series["values"] if value not in {"NaN", "+Inf"}
            ]
            if points:
                found.append({"query": legend, "legend": name, "points": points})
    return found


async def main(seconds: float) -> int:
    """Play, ask, write the answers; return 1 if a query has none."""
    async with open_installation() as rig:
        services = [
            await rig.serve(max_uploads="32", rate_limit_per_second="30", rate_limit_burst="60")
            for _ in range(2)
        ]
        workers = [await rig.worker(database_pool_size="5") for _ in range(2)]
        targets = {
            "ekabridge-service": [each.url.removeprefix("http://") for each in services],
            "ekabridge-worker": [each.url.removeprefix("http://") for each in workers],
        }
        async with prometheus(targets) as asked:
            began = time()
            await play(rig, services, seconds)
            ended = time()
            boards, empty = {}, []
            for board in BOARDS:
                boards[board.name] = {"title": board.title, "rows": {}}
                for title, row in board.rows.items():
                    boards[board.name]["rows"][title] = shown = []
                    for panel in row:
                        series = await ask(asked, panel, began, ended)
                        answered = {each["query"] for each in series}
                        empty += [
                            f"{board.name}: {panel.title}: {legend}"
                            for legend in panel.queries
                            if legend not in answered
                        ]
                        shown.append(
                            {
                                "title": panel.title,
                                "unit": panel.unit,
                                "width": panel.width,
                                "is_stat": panel.is_stat,
                                "is_stacked": panel.is_stacked,
                                "red_from": panel.red_from,
                                "top": panel.top,
                                "series": series,
                            }
                        )
            alerts = (await asked.get("/api/v1/rules")).json()["data"]["groups"]
    fired = sorted(
        f"{rule['name']} ({rule['state']})"
        for group in alerts
        for rule in group["rules"]
        if rule["state"] != "inactive"
    )
    ANSWERS.parent.mkdir(exist_ok=True)
    ANSWERS.write_text(json.dumps({"seconds": ended - began, "boards": boards}))
    sys.stdout.write(f"Alerts at the end: {', '.join(fired) or 'none'}\n")
    for each in empty:
        sys.stdout.write(f"No data: {each}\n")
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)))
