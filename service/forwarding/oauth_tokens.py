"""Fetches bearer tokens for destinations with OAuth 2.0 client credentials (RFC 6749, 4.4).

A token is fetched through the same SSRF guard as the delivery, kept in memory until shortly before it
expires, and fetched once for all deliveries that wait for it.
"""

import asyncio
import base64
import re
from urllib.parse import quote_plus, urlencode

import httpx2
import msgspec
from msgspec import Struct

from schemas.destinations import OAuth2
from service.domain.clock import Clock
from service.domain.ids import DestinationId
from service.forwarding.name_resolution import NameUnresolvedError
from service.http_client.response_limits import ContentEncodingError, content_pieces

_FETCH_SECONDS = 10.0
_MAX_ANSWER_BYTES = 64 * 1024
# A token is renewed this long before it expires, so that it does not expire during a call; a short-lived one
# is renewed after half its life.
_RENEW_BEFORE_EXPIRY_SECONDS = 60.0
_DEFAULT_LIFE_SECONDS = 300.0
_LONGEST_LIFE_SECONDS = 86_400.0
_RETRIED = frozenset({408, 425, 429})
# RFC 6750, 2.1, widened to all characters that a header can hold.
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")


class TokenUnavailableError(Exception):
    """The token endpoint gave no token; a later try may succeed."""


class TokenRefusedError(Exception):
    """The token endpoint refuses our credentials; another try will not succeed."""


class _Answer(Struct, frozen=True):
    """RFC 6749, 5.1; `expires_in` is in seconds, and some send it as text."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105 - a kind of token, not one
    expires_in: float | str | None = None


class _Held(Struct, frozen=True):
    auth: OAuth2
    token: str
    usable_until: float


class _Fetch(Struct, frozen=True):
    auth: OAuth2
    task: asyncio.Task[str]


class DestinationTokens:
    """Holds and fetches the tokens of destinations."""

    def __init__(self, http: httpx2.AsyncClient, clock: Clock) -> None:
        self._http = http
        self._clock = clock
        self._held: dict[DestinationId, _Held] = {}
        self._fetches: dict[DestinationId, _Fetch] = {}

    async def token(self, destination_id: DestinationId, auth: OAuth2) -> str:
        """Return a token that is valid now.

        Raises TokenUnavailableError, TokenRefusedError, or AddressForbiddenError for the token endpoint.
        """
        held = self._held.get(destination_id)
        if held is not None and held.auth == auth and self._now() < held.usable_until:
            return held.token
        fetch = self._fetches.get(destination_id)
        if fetch is None or fetch.auth != auth:
            fetch = _Fetch(auth, asyncio.create_task(self._fetch(destination_id, auth)))
            self._fetches[destination_id] = fetch
            fetch.task.add_done_callback(lambda _: self._on_done(destination_id, fetch))
        # Shielded, because a caller that gives up must not cancel the fetch for the others.
        return await asyncio.shield(fetch.task)

    def forget(self, destination_id: DestinationId, refused: str) -> None:
        """Drop a token that its destination refused; a newer token stays."""
        held = self._held.get(destination_id)
        if held is not None and held.token == refused:
            del self._held[destination_id]

    async def close(self) -> None:
        """Stop fetching."""
        tasks = [fetch.task for fetch in self._fetches.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _on_done(self, destination_id: DestinationId, fetch: _Fetch) -> None:
        if self._fetches.get(destination_id) is fetch:
            del self._fetches[destination_id]
        if not fetch.task.cancelled():
            fetch.task.exception()  # retrieved, so that asyncio logs nothing if every caller gave up

    async def _fetch(self, destination_id: DestinationId, auth: OAuth2) -> str:
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                status, body = await self._ask(auth)
        except (
            httpx2.HTTPError,
            httpx2.InvalidURL,
            ContentEncodingError,
            NameUnresolvedError,
            OSError,
            ValueError,
        ) as error:
            raise TokenUnavailableError(type(error).__name__) from error
        answer = _read(status, body)
        life = _life_seconds(answer.expires_in)
        now = self._now()
        self._held = {name: held for name, held in self._held.items() if now < held.usable_until}
        self._held[destination_id] = _Held(
            auth, answer.access_token, now + max(life - _RENEW_BEFORE_EXPIRY_SECONDS, life / 2)
        )
        return answer.access_token

    async def _ask(self, auth: OAuth2) -> tuple[int, bytes]:
        form = {"grant_type": "client_credentials"} | ({"scope": auth.scope} if auth.scope else {})
        # RFC 6749, 2.3.1: every server must accept Basic; both halves are form-encoded first.
        pair = f"{quote_plus(auth.client_id)}:{quote_plus(auth.client_secret)}"
        headers = {
            "authorization": f"Basic {base64.b64encode(pair.encode()).decode()}",
            "content-type": "application/x-www-form-urlencoded",
            "accept": "application/json",
        }
        content = urlencode(form).encode()
        async with self._http.stream("POST", auth.token_url, content=content, headers=headers) as answer:
            read = bytearray()
            async for piece in content_pieces(answer):
                read += piece
                if len(read) > _MAX_ANSWER_BYTES:
                    raise ValueError("the token endpoint's answer is too long")
            return answer.status_code, bytes(read)

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _read(status: int, body: bytes) -> _Answer:
    if 400 <= status < 500 and status not in _RETRIED:  # noqa: PLR2004
        raise TokenRefusedError(str(status))
    if not 200 <= status < 300:  # noqa: PLR2004
        raise TokenUnavailableError(str(status))
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TokenUnavailableError("the answer cannot be read") from error
    if answer.token_type.lower() != "bearer" or not _TOKEN.fullmatch(answer.access_token):
        raise TokenUnavailableError("the answer holds no bearer token")
    return answer


def _life_seconds(given: float | str | None) -> float:
    try:
        life = float(given or _DEFAULT_LIFE_SECONDS)
    except ValueError:
        life = _DEFAULT_LIFE_SECONDS
    # NaN compares false with both bounds.
    return life if 0 < life < _LONGEST_LIFE_SECONDS else _DEFAULT_LIFE_SECONDS
