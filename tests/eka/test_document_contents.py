"""Content by address: fetched without credentials, within bounds, and never from an address inside."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from service.concurrency.memory_budget import MemoryBudget
from service.domain.errors import VendorTimeout
from service.domain.ids import DEFAULT_ACCOUNT, UNFILTERED
from service.eka.document_contents import MAX_CONTENT_BYTES
from service.forwarding.downloads import GuardedDownloads
from tests.support.makers import NOTE, SESSION
from tests.support.raw_peer import Line, header, open_peer
from tests.support.vendor_calls import BASE, ScriptedEka


def answer(url: str | None, data: Any = None) -> dict[str, Any]:
    entry = {"status": "success", "document_id": "d", "data": data, "presigned_url": url}
    return {"status": "completed", "transcript": "words", "templates": [{NOTE: entry}]}


class Eka(ScriptedEka):
    """Answers Get Session by script, and keeps the headers of what else is fetched from the same host."""

    def __init__(self, url: str | None, content: bytes | int, data: Any = None) -> None:
        super().__init__((200, answer(url, data)))
        self.content = content
        self.fetched: list[httpx2.Headers] = []

    def take(self, request: httpx2.Request) -> httpx2.Response:
        if not request.url.path.startswith("/blob/"):
            return super().take(request)
        self.fetched.append(request.headers)
        if isinstance(self.content, int):
            return httpx2.Response(self.content)
        return httpx2.Response(200, content=self.content)


async def document_of(eka: Eka) -> tuple[str, Any]:
    async with eka.client() as client:
        (document,) = (await client.get_session(DEFAULT_ACCOUNT, SESSION, NOTE)).documents
    return document.status, document.data


@pytest.mark.parametrize(
    ("content", "data"),
    [(b"## Note\n\nFever", "## Note\n\nFever"), (b'{"note": "fever"}', {"note": "fever"})],
)
async def test_content_on_the_vendor_s_own_host_is_fetched_without_the_token(
    content: bytes, data: Any
) -> None:
    eka = Eka(f"{BASE}/blob/d.txt?token=t", content)
    assert await document_of(eka) == ("success", data)
    (headers,) = eka.fetched
    assert "authorization" not in headers
    assert eka.downloads.urls == []


@pytest.mark.parametrize("content", [b"", b"  ", b"{}", 403, 500, b"x" * (MAX_CONTENT_BYTES + 1)])
async def test_content_that_cannot_be_had_leaves_the_document_empty(content: bytes | int) -> None:
    assert await document_of(Eka(f"{BASE}/blob/d.txt", content)) == ("empty", None)


async def test_addresses_beyond_the_bound_of_one_answer_are_asked_for_another_time() -> None:
    entries = [
        {f"t{number}": {"status": "success", "data": None, "presigned_url": f"{BASE}/{number}"}}
        for number in range(8)
    ]
    content = {"text": "a" * (MAX_CONTENT_BYTES // 4 - 20)}
    eka = ScriptedEka((200, {"status": "completed", "templates": entries}), (200, content))
    async with eka.client() as client:
        found = await client.get_session(DEFAULT_ACCOUNT, SESSION, UNFILTERED)
    assert [each.status for each in found.documents] == ["success"] * 4 + ["empty"] * 4


async def test_content_that_is_there_already_is_not_fetched() -> None:
    eka = Eka(f"{BASE}/blob/d.txt", b"other", data="text")
    assert await document_of(eka) == ("success", "text")
    assert eka.fetched == []


async def test_another_host_s_content_is_downloaded_by_the_guarded_client() -> None:
    eka = Eka("https://storage.example/d.txt", b"")
    eka.downloads.contents = {"https://storage.example/d.txt": b"note"}
    assert await document_of(eka) == ("success", "note")
    assert eka.downloads.urls == ["https://storage.example/d.txt"]
    assert eka.fetched == []


@pytest.mark.parametrize("host", [BASE, "https://storage.example"])
async def test_contents_and_their_values_are_counted_until_the_result_is_forgotten(host: str) -> None:
    memory = MemoryBudget(6 * MAX_CONTENT_BYTES, patience_seconds=0.01)
    content = b"a" * 500_000
    eka = Eka(f"{host}/blob/d.txt", content)
    eka.downloads.contents = {f"{host}/blob/d.txt": content}
    async with eka.client(memory=memory) as client:
        found = await client.get_session(DEFAULT_ACCOUNT, SESSION, NOTE)
        assert found.documents[0].data == content.decode()
        assert memory.used_bytes == 5 * len(content)
        del found
        assert memory.used_bytes == 0
        # Taken for an empty document it would be given up after ten minutes.
        assert await memory.acquire(memory.max_bytes)
        with pytest.raises(VendorTimeout):
            await client.get_session(DEFAULT_ACCOUNT, SESSION, NOTE)


async def test_a_result_s_values_are_counted_until_it_is_forgotten() -> None:
    memory = MemoryBudget(6 * MAX_CONTENT_BYTES, patience_seconds=0.01)
    eka = ScriptedEka((200, {"status": "completed", "transcript": "a" * 100_000}))
    async with eka.client(memory=memory) as client:
        found = await client.get_session(DEFAULT_ACCOUNT, SESSION, UNFILTERED)
        assert memory.used_bytes > 5 * 100_000
        del found
        assert memory.used_bytes == 0


def saying(*answer: bytes) -> Any:
    async def talk(line: Line) -> None:
        head, _ = await line.request()
        assert header(head, "authorization") is None
        await line.say(*answer)

    return talk


async def nothing_large(size: int) -> None:
    raise AssertionError(size)


async def test_a_large_download_is_counted_as_it_is_announced_and_else_as_the_longest() -> None:
    reserved: list[int] = []

    async def reserve(size: int) -> None:
        reserved.append(size)

    head, body = b"HTTP/1.1 200 OK\r\n", b"a" * 100_000
    for sized in (head + b"Content-Length: 100000\r\n\r\n", head + b"Connection: close\r\n\r\n"):
        async with open_peer(saying(sized, body)) as peer, GuardedDownloads(allow_private=True) as downloads:
            assert await downloads.get(f"{peer.url}/d.txt", 200_000, reserve) == body
    assert reserved == [100_000, 200_000]


OK_TEXT = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnote"


async def test_a_download_is_bounded_and_follows_no_redirect() -> None:
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    for sent, expected in ((OK_TEXT, b"note"), (large, None), (moved, None), (b"", None)):
        async with open_peer(saying(sent)) as peer, GuardedDownloads(allow_private=True) as downloads:
            assert await downloads.get(f"{peer.url}/d.txt", 50, nothing_large) == expected


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_download_reaches_nothing_inside(scheme: str) -> None:
    reached: list[bytes] = []

    async def talk(line: Line) -> None:
        reached.append(await line.head())

    async with open_peer(talk) as peer, GuardedDownloads(allow_private=False) as downloads:
        assert await downloads.get(f"{scheme}://127.0.0.1:{peer.port}/d.txt", 50, nothing_large) is None
        assert await downloads.get(f"{scheme}://localhost:{peer.port}/d.txt", 50, nothing_large) is None
    assert reached == []
