"""Every command and program that the documentation shows works, against a running bridge.

The blocks of a page run in order, as a reader would: all of `sh` in one shell, all of `python` as one
program. Only the addresses and the key come from outside. What stands in a block of `console` is for other
machines and is not run.
"""

import asyncio
import re
import shutil
import sys
from pathlib import Path
from time import monotonic

import click
import pytest

from service.cli.main import cli
from tests.support.bridge import Bridge, open_bridge
from tests.support.page_commands import python_of
from tests.support.pages import PAGES, ROOT, blocks

DOCS = ROOT / "docs"


KEY = re.compile(r"^Bearer ")


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def shell_of(page: Path) -> str:
    """A page's `sh` blocks as one script: `make` is left out, and so are addresses that the test gives."""
    text = "".join(block.text for block in blocks(page) if block.language == "sh")
    return re.sub(r"^(make .*|export (URL|KEY|VENDOR|TENANT)=.*)$", "", text, flags=re.MULTILINE)


async def run(*command: str, **environment: str) -> str:
    """Run a command in the checkout and return what it prints; fails the test unless it succeeds."""
    tools = {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin", "no_proxy": "*"}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=tools | environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(30):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode()
    return said.decode()


async def run_shell(page: Path, folder: Path, **environment: str) -> str:
    """Run a page's commands; one that fails, or an HTTP error, fails the test."""
    (folder / ".curlrc").write_text("fail\nshow-error\n")
    script = f"set -euo pipefail\n{shell_of(page)}"
    return await run("bash", "-c", script, CURL_HOME=str(folder), **environment)


def access(bridge: Bridge) -> dict[str, str]:
    return {"URL": bridge.url, "KEY": KEY.sub("", bridge.api.headers["authorization"])}


@needs_curl
async def test_the_readme_with_curl(bridge: Bridge, tmp_path: Path) -> None:
    await bridge.start_worker()
    said = await run_shell(ROOT / "README.md", tmp_path, **access(bridge))
    assert '"status":"completed"' in said
    assert '"template_id":"eka_emr_template"' in said
    assert '"type":"document.received"' in said


async def test_the_readme_with_python_and_a_signed_webhook(bridge: Bridge) -> None:
    await bridge.start_worker()
    said = await run(sys.executable, "-c", python_of(ROOT / "README.md"), **access(bridge))
    assert "\ndocument.ready ENC-2 {'chief_complaint'" in said  # after the line that its server logs


@needs_curl
async def test_the_integrators_page_with_curl(bridge: Bridge, tmp_path: Path) -> None:
    await bridge.start_worker()
    said = await run_shell(DOCS / "integrators.md", tmp_path, **access(bridge))
    assert "idempotency-replayed: true" in said.lower()
    assert '"file_name":"audio_1.webm"' in said
    assert '"reference":"ENC-4711"' in said
    assert '"type":"session.completed"' in said


async def test_the_integrators_page_with_python(bridge: Bridge) -> None:
    await bridge.start_worker()
    said = (
        await run(sys.executable, "-c", python_of(DOCS / "integrators.md"), **access(bridge))
    ).splitlines()
    assert said[0].startswith("eka_emr_template success {'chief_complaint'")
    assert said[-1] == "1"


async def test_the_python_client_repeats_what_may_be_repeated(database_url: str, redis_url: str) -> None:
    async with open_bridge(database_url, redis_url, rate_limit_per_second=2, rate_limit_burst=2) as bridge:
        await bridge.start_worker()
        told = 'print("waits", wait); time.sleep(wait)'
        program = python_of(DOCS / "integrators.md").replace("time.sleep(wait)", told)
        said = (await run(sys.executable, "-c", program, **access(bridge))).splitlines()
    assert "waits 1" in said
    assert said[-1] == "1"


@needs_curl
async def test_the_webhooks_page(bridge: Bridge, tmp_path: Path) -> None:
    destination = await bridge.add_destination()
    rotated = await bridge.add_destination(events=["session.failed"])
    await bridge.emr.post("/_control/behaviour", json={"sequence": [{"status": 422}]})
    await bridge.start_worker()
    await bridge.dictate()
    (refused,) = await bridge.received(1)
    delivery = refused["headers"]["webhook-id"]
    await dead(bridge, delivery)

    said = await run_shell(
        DOCS / "webhooks.md",
        tmp_path,
        **access(bridge),
        AUTH=bearer(bridge),
        DELIVERY=delivery,
        DESTINATION=rotated["id"],
    )
    assert '"secret":"whsec_' in said
    assert '"error_class":"http_422"' in said
    _, again = await bridge.received(2)
    assert again["headers"]["webhook-id"] == delivery

    page: dict = {}
    exec(python_of(DOCS / "webhooks.md"), page)
    assert page["receive"](destination["secret"], again["headers"], again["raw"].encode()) == 204
    assert page["receive"](destination["secret"], again["headers"], again["raw"].encode() + b" ") == 401
    assert page["receive"](destination["secret"], {}, b"\xff") == 401


async def dead(bridge: Bridge, delivery: str) -> None:
    """Wait until the service has recorded that the delivery is dead; each look takes a round trip."""
    deadline = monotonic() + 10
    while monotonic() < deadline:
        answer = await bridge.api.get(f"/v1/deliveries/{delivery}")
        if answer.json()["status"] == "dead":
            return
    raise AssertionError(answer.text)


def bearer(bridge: Bridge) -> str:
    return f"Authorization: {bridge.api.headers['authorization']}"


@needs_curl
async def test_the_protocol_page(bridge: Bridge, tmp_path: Path) -> None:
    await bridge.start_worker()
    said = await run_shell(DOCS / "protocol.md", tmp_path, **access(bridge), TENANT=bridge.tenant_id)
    assert f'"base_url":"{bridge.url}/voice/v1"' in said
    assert '"original_filename":"audio_0.webm"' in said
    assert '"status":"completed"' in said
    assert said.count('"template_id":"clinical_notes_template"') == 1


async def test_the_streaming_page(bridge: Bridge) -> None:
    await bridge.start_worker()
    said = await run(sys.executable, "-c", python_of(DOCS / "streaming.md"), **access(bridge))
    assert said.startswith("completed Received ")


@needs_curl
async def test_the_sandbox_page(bridge: Bridge, tmp_path: Path) -> None:
    said = await run_shell(DOCS / "sandbox.md", tmp_path, VENDOR=bridge.vendor_url)
    assert '"webhook_copies":5' in said
    assert '"mode":"reset"' in said
    said = await run(sys.executable, "-c", python_of(DOCS / "sandbox.md"))
    assert said.startswith("register http://127.0.0.1:")


def test_every_make_target_exists() -> None:
    targets = re.findall(r"^([a-z0-9 ]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    known = {name for names in targets for name in names.split()}
    for page in PAGES:
        for target in re.findall(r"^make ([a-z]+)", "\n".join(spans(page)), re.MULTILINE):
            assert target in known, f"{page.name}: make {target}"


def test_every_command_of_ours_exists() -> None:
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue
        for words in re.findall(r"\bekabridge ((?:[a-z][a-z-]*[a-z] ?)+)", "\n".join(spans(page))):
            command: click.Command = cli
            for word in words.split():
                assert isinstance(command, click.Group), f"{page.name}: ekabridge {words}"
                assert word in command.commands, f"{page.name}: ekabridge {words}"
                command = command.commands[word]
                if not isinstance(command, click.Group):
                    break


def spans(page: Path) -> list[str]:
    """What a page shows as code: its blocks of commands and its `spans`."""
    shown = [block.text for block in blocks(page) if block.language in {"sh", "console"}]
    return [*shown, *re.findall(r"(?<!`)`([^`\n]+)`(?!`)", page.read_text())]
