"""The receivers that the page shows take our own posts, and nobody else's."""

from __future__ import annotations

import asyncio
import json
import shutil
import time

import pytest

from tests.support.bridge import Bridge
from tests.support.page_commands import python_of
from tests.support.pages import ROOT, blocks

PAGE = ROOT / "docs" / "receiving.md"
RUN = """
const { secret, headers, body, now } = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
console.log(isOurs(secret, headers, Buffer.from(body, "utf8"), now));
"""


async def test_the_ten_lines_take_our_post_and_their_answer_files_it(bridge: Bridge) -> None:
    destination = await bridge.add_destination()
    await bridge.start_worker()
    await bridge.dictate()
    (post,) = await bridge.received(1)
    page: dict = {}
    exec(python_of(PAGE), page)
    notes: dict = {}
    raw, headers = post["raw"].encode(), post["headers"]
    status, answer = page["receive"](destination["secret"], headers, raw, notes)
    assert (status, answer) == (201, {"id": headers["webhook-id"]})
    assert page["receive"](destination["secret"], headers, raw, notes) == (status, answer)
    assert [each["type"] for each in notes.values()] == ["document.ready"]
    for wrong in ((headers, raw + b" "), ({}, raw), (headers | {"webhook-timestamp": "1"}, raw)):
        assert page["receive"](destination["secret"], *wrong, notes) == (401, {})
    assert len(notes) == 1


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
async def test_node_without_a_library_takes_our_post(bridge: Bridge) -> None:
    destination = await bridge.add_destination()
    await bridge.start_worker()
    await bridge.dictate()
    (post,) = await bridge.received(1)
    (program,) = [block.text for block in blocks(PAGE) if "isOurs" in block.text]

    async def says(**changes: object) -> str:
        given = {
            "secret": destination["secret"],
            "headers": post["headers"],
            "body": post["raw"],
            "now": time.time(),
        }
        process = await asyncio.create_subprocess_exec(
            "node",
            "-e",
            program + RUN,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(process.communicate(json.dumps(given | changes).encode()), 30)
        return said.decode().strip()

    other = f"v1,{'A' * 43}="
    ours = post["headers"]["webhook-signature"]
    assert await says() == "true"
    assert await says(headers=post["headers"] | {"webhook-signature": f"{other} {ours}"}) == "true"
    assert await says(body=post["raw"] + " ") == "false"
    assert await says(now=time.time() + 301) == "false"
    assert await says(headers={}) == "false"
    assert await says(headers=post["headers"] | {"webhook-signature": other}) == "false"
    assert await says(secret="whsec_" + "A" * 43 + "=") == "false"
