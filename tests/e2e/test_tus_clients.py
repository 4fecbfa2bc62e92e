"""Unmodified tus clients send a recording to a `recording_url`; the one for node needs it in NODE_PATH."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from tusclient.client import TusClient

from tests.support.bridge import Bridge
from tests.support.whole_recordings import speech

SCRIPT = """
const tus = require("tus-js-client");
const fs = require("fs");
const {PassThrough} = require("stream");
const [url, key, path, how] = process.argv.slice(1);
// A file's own stream with an unknown length makes this client announce bytes that it does not send.
const file = fs.createReadStream(path);
const source = how === "endpoint" ? file : file.pipe(new PassThrough());
const upload = new tus.Upload(source, {
  ...(how === "endpoint" ? {endpoint: url} : {uploadUrl: url, uploadLengthDeferred: true}),
  ...(how === "endpoint" ? {uploadSize: fs.statSync(path).size} : {}),
  headers: {Authorization: `Bearer ${key}`},
  chunkSize: 700000,
  retryDelays: [100, 500, 1000, 3000, 5000],
  onError: (error) => { console.error(error.message); process.exit(1); },
  onSuccess: () => console.log("sent"),
});
upload.start();
"""


def key_of(bridge: Bridge) -> str:
    return str(bridge.api.headers["authorization"].removeprefix("Bearer "))


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "visit.wav"
    path.write_bytes(speech(90))
    return path


async def ends_with_a_document(bridge: Bridge, session_id: str) -> None:
    await bridge.start_worker()
    completed = await bridge.reach(session_id, "completed")
    assert completed["recording"]["bytes"] == len(speech(90))
    assert completed["recording"]["seconds"] == 90.0
    assert len((await bridge.seen(session_id))["files"]) == completed["recording"]["chunks_total"] >= 4


@pytest.mark.filterwarnings("ignore")  # it leaves files open
async def test_tuspy(bridge: Bridge, recording: Path) -> None:
    session = await bridge.create(upload="recording")

    def send() -> None:
        client = TusClient(session["recording_url"], headers={"Authorization": f"Bearer {key_of(bridge)}"})
        uploader = client.uploader(str(recording), chunk_size=700_000, upload_checksum=True)
        # Half of it, then another client goes on where the first one stopped.
        uploader.upload(stop_at=1_400_000)
        again = client.uploader(str(recording), chunk_size=700_000, url=uploader.url)
        assert again.offset == 1_400_000
        again.upload()

    await asyncio.to_thread(send)
    await ends_with_a_document(bridge, session["id"])


@pytest.mark.parametrize("how", ["endpoint", "uploadUrl"])
async def test_tus_js_client(bridge: Bridge, recording: Path, how: str) -> None:
    modules = os.environ.get("NODE_PATH", "")
    if shutil.which("node") is None or not (Path(modules) / "tus-js-client").is_dir():
        pytest.skip("tus-js-client is not installed in NODE_PATH")
    session = await bridge.create(upload="recording")
    process = await asyncio.create_subprocess_exec(
        *("node", "-e", SCRIPT, "--", session["recording_url"], key_of(bridge), str(recording), how),
        env=os.environ | {"no_proxy": "*"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert said.decode() == "sent\n"
    await ends_with_a_document(bridge, session["id"])
