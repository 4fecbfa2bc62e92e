"""Each command of the runbook does what it says, against a whole bridge with a dead delivery."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import sys
from typing import Any

from tests.support.bridge import WEBHOOK_SECRET, Bridge, encoded_key
from tests.support.pages import blocks
from tests.support.promtool import RUNBOOK
from tests.support.rig import until

COMMANDS = sorted(
    {
        line.removeprefix("$ ekabridge ")
        for block in blocks(RUNBOOK)
        if block.language == "console"
        for line in block.text.splitlines()
        if line.startswith("$ ekabridge ")
    }
)
# A stand-in's webhooks need no subscription, and this one has none: `doctor` says so.
_MAY_COMPLAIN = {"doctor"}
# In one process of their own: each sets up logs for its whole process, and starting one takes long.
_RUN_ALL = """
import json, sys
from click.testing import CliRunner
from service.cli.main import cli
done = [CliRunner().invoke(cli, arguments) for arguments in json.load(sys.stdin)]
json.dump([(each.exit_code, each.output) for each in done], sys.stdout)
"""


async def test_every_command_works(bridge: Bridge) -> None:
    destination = await bridge.add_destination()
    await bridge.emr.post("/_control/behaviour", json={"otherwise": {"status": 422}})
    await bridge.start_worker()
    session = await bridge.dictate()

    async def dead() -> Any:
        return (await bridge.api.get("/v1/deliveries", params={"status": "dead"})).json()["items"]

    (delivery,) = await until(dead)
    named = {
        "TENANT": bridge.tenant_id,
        "DESTINATION": destination["id"],
        "DELIVERY": delivery["id"],
        "SESSION": session,
        "TIME": "2026-01-01T00:00:00Z",
    }
    environment = {
        "EKABRIDGE_DATABASE_URL": bridge.settings.database_url,
        "EKABRIDGE_REDIS_URL": bridge.settings.redis_url,
        "EKABRIDGE_PUBLIC_URL": bridge.url,
        "EKABRIDGE_EKA_BASE_URL": bridge.vendor_url,
        "EKABRIDGE_EKA_CLIENT_ID": "sandbox",
        "EKABRIDGE_EKA_CLIENT_SECRET": "sandbox-secret",
        "EKABRIDGE_WEBHOOK_SECRETS": WEBHOOK_SECRET,
        "EKABRIDGE_ENCRYPTION_KEYS": encoded_key(),
        "EKABRIDGE_ALLOW_PRIVATE_DESTINATIONS": "true",
    }
    given = [
        shlex.split(re.sub(r"\b[A-Z]+\b", lambda found: named[found[0]], command)) for command in COMMANDS
    ]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("EKABRIDGE_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _RUN_ALL,
        env=inherited | environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate(json.dumps(given).encode())
    for command, (status, output) in zip(COMMANDS, json.loads(said), strict=True):
        assert status in ({0, 1} if command in _MAY_COMPLAIN else {0}), f"{command}: {output}"


def test_the_runbook_has_commands() -> None:
    assert {"doctor", "ledger", "ledger --show lost", "delivery retry TENANT DELIVERY"} <= set(COMMANDS)
