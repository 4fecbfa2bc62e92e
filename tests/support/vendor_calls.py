"""The vendor's client over answers that a test scripts; what it sent is kept."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2

from service.domain.ids import Account
from service.domain.vendor_accounts import Credentials
from service.eka.audio_client import AudioClient
from service.eka.call_limiter import CallLimiters
from service.eka.client import EkaClient
from service.eka.http_exchange import VendorHttp
from service.eka.tokens import TokenKeeper
from tests.support.fakes import MemoryDownloads, MemoryTokens
from tests.support.makers import TurnedClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from service.concurrency.memory_budget import MemoryBudget

BASE = "https://eka.example"


@asynccontextmanager
async def open_client(
    answer: Callable[[httpx2.Request], Any],
    *,
    call_limiters: CallLimiters,
    base_url: str = BASE,
    token: str = "static",
    memory: MemoryBudget | None = None,
    downloads: MemoryDownloads | None = None,
) -> AsyncIterator[EkaClient]:
    """A client whose calls `answer` gets, but for audio, which goes over real connections to `base_url`."""

    async def credentials(account: Account, *, fresh: bool = False) -> Credentials:
        return Credentials(token=token)

    async with AsyncExitStack() as stack:
        script = httpx2.MockTransport(answer)
        http = httpx2.AsyncClient(transport=script)
        if memory is not None:
            http = VendorHttp(memory, max_answer_bytes=10_000_000)
            http._transport = script
        await stack.enter_async_context(http)
        audio = await stack.enter_async_context(AudioClient(base_url))
        tokens = TokenKeeper(
            http=http,
            store=MemoryTokens(),
            clock=TurnedClock(),
            base_url=base_url,
            credentials=credentials,
        )
        yield EkaClient(
            http=http,
            audio=audio,
            tokens=tokens,
            call_limiters=call_limiters,
            downloads=downloads or MemoryDownloads(),
            base_url=base_url,
        )


@dataclass
class Sent:
    """One call without audio."""

    method: str
    path: str
    body: Any


class ScriptedEka:
    """Answers each call with the next step of the script, (status, JSON); the last one stays."""

    def __init__(self, *answers: tuple[int, Any]) -> None:
        self.answers = list(answers)
        self.sent: list[Sent] = []
        self.downloads = MemoryDownloads()

    def take(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content) if request.content else None
        self.sent.append(Sent(request.method, request.url.path, body))
        status, answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return httpx2.Response(status, json=answer, headers={"retry-after": "0"})

    def bodies(self, method: str) -> list[Any]:
        return [each.body for each in self.sent if each.method == method]

    @asynccontextmanager
    async def client(
        self, base_url: str = BASE, memory: MemoryBudget | None = None
    ) -> AsyncIterator[EkaClient]:
        """A client; audio goes over real connections to `base_url`, all else to the script.

        With `memory` its large answers are counted.
        """

        async with open_client(
            self.take,
            call_limiters=CallLimiters(max_calls=2),
            base_url=base_url,
            memory=memory,
            downloads=self.downloads,
        ) as client:
            yield client
