"""What a browser is told: headers of every answer, and the one page, in a real browser where there is one."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import httpx2
import pytest

from tests.support.bridge import Bridge
from tests.support.routes import routes

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PAGES = ["/schema/swagger", "/schema"]
PAGE_HEADERS = {
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def policy(answer: httpx2.Response) -> dict[str, str]:
    """The Content-Security-Policy, taken apart."""
    (header,) = answer.headers.get_list("content-security-policy")
    return {name: value for name, _, value in (part.strip().partition(" ") for part in header.split(";"))}


@pytest.mark.parametrize("path", [*PAGES, "/schema/nothing"])
async def test_a_page_may_do_no_more_than_it_needs(house: Bridge, path: str) -> None:
    answer = await house.api.get(path)
    assert answer.headers["content-type"].startswith("text/html")
    assert {name: answer.headers.get(name) for name in PAGE_HEADERS} == PAGE_HEADERS
    assert "microphone=()" in answer.headers["permissions-policy"]
    told = policy(answer)
    assert (
        told["default-src"] == told["base-uri"] == told["frame-ancestors"] == told["form-action"] == "'none'"
    )
    # Nothing that stands in the page runs, and nothing from elsewhere.
    assert told["script-src"] == told["style-src"] == told["connect-src"] == "'self'"
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", answer.text)
    assert "strict-transport-security" not in answer.headers, "the ingress decides on it"


async def test_every_other_answer_lets_a_browser_do_nothing(house: Bridge) -> None:
    nobody = await house.client(None)
    asked = sorted((method, path) for method, path in routes() if method != "WS" and path not in PAGES)
    for client in (nobody, house.api):
        for method, path in [*asked, ("GET", "/nothing"), ("OPTIONS", "/v1/sessions"), ("PUT", "/metrics")]:
            answer = await client.request(method, re.sub(r"\{\w+\}", "x", path))
            if answer.headers.get("content-type", "").startswith("text/html"):
                assert path == "/schema/{path}"
                continue
            assert policy(answer) == {"default-src": "'none'", "frame-ancestors": "'none'"}, path
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            if path.startswith("/v1/"):
                assert answer.headers["cache-control"] == "no-store", path
                assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("host", ["evil.example", "evil.example:1234", "localhost", "a" * 300])
async def test_the_host_header_is_never_believed(house: Bridge, host: str) -> None:
    headers = {
        "host": host,
        "x-forwarded-host": host,
        "x-forwarded-proto": "https",
        "forwarded": f"host={host}",
    }
    made = await house.api.post("/v1/sessions", json={}, headers=headers)
    assert made.json()["audio_url"].startswith(f"{house.url}/")
    streamed = await house.api.post("/v1/sessions", json={"upload": "stream"}, headers=headers)
    assert streamed.json()["stream_url"].startswith(house.url.replace("http", "ws"))
    form = await house.api.post(
        "/voice/v1/sessions?version=v2", json={"upload_type": "chunked"}, headers=headers
    )
    found = await house.api.get("/.well-known/medscribealliance", headers=headers)
    moved = await house.api.get("/docs", headers=headers)
    for answer in (made, streamed, form, found, moved):
        assert host not in answer.text + str(answer.headers)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: chromium)")
async def test_the_page_works_in_a_browser_under_its_policy(house: Bridge, tmp_path: Path) -> None:
    """Rendered from our own files alone; a policy that forbids what it needs would leave it empty."""
    browser = await asyncio.create_subprocess_exec(
        str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--disable-background-networking", "--no-first-run", "--no-proxy-server",
        f"--user-data-dir={tmp_path}",
        # Nobody but us is found.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--enable-logging=stderr", "--v=0", "--virtual-time-budget=15000", "--dump-dom", f"{house.url}/docs",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        shown, said = await asyncio.wait_for(browser.communicate(), 90)
    finally:
        if browser.returncode is None:
            browser.kill()
            await browser.wait()
    page, console = shown.decode(), [line for line in said.decode().splitlines() if "CONSOLE" in line]
    assert console == []
    for words in ("Start a dictation", "Say where documents shall go", "Authorize"):
        assert words in page, page[:2000]
