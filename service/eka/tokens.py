"""Access tokens: one login or refresh at a time across all replicas.

A refresh token is single-use, and two refreshes that race end in a forced logout (facts.md, Accounts and
tokens). So the right to get new tokens is a lease in PostgreSQL, tied to the generation they replace.
"""

import asyncio
from uuid import uuid4

import httpx2
import msgspec
import structlog
from msgspec import Struct

from schemas.eka import Tokens
from service.domain.errors import VendorError, VendorFailure, VendorRefused, VendorTimeout, VendorUnreachable
from service.domain.ids import Account, Lease
from service.domain.ports import Clock, TokenStore
from service.eka.wire import WireAnswer, check, exchange

log = structlog.get_logger()

_LOGIN_PATH = "/connect-auth/v1/account/login"
_REFRESH_PATH = "/connect-auth/v1/account/refresh-token"
_LEASE_SECONDS = 30.0
_WAIT_SECONDS = 20.0
_POLL_SECONDS = 0.1
# Stop using a token before it ends, so that it does not end under way.
_LEEWAY_SECONDS = 60.0
_DEFAULT_LIFE_SECONDS = 1800.0
_JSON = {"content-type": "application/json"}


class _Secret:
    """What must not be shown by accident: its fields are never printed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class Credentials(_Secret, Struct, frozen=True, kw_only=True):
    """How we are known at the vendor: a long-lived token, or what to log in with; neither is no account."""

    base_url: str
    token: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    sharing_key: str | None = None


class HeldToken(_Secret, Struct, frozen=True, kw_only=True):
    """An access token, which generation it is, and until when it serves, in seconds since 1970."""

    access_token: str
    generation: int
    usable_until: float


class _Kept(_Secret, Struct, kw_only=True):
    """How tokens are kept in the database; times in seconds since 1970."""

    access_token: str
    usable_until: float
    refresh_token: str | None = None
    refresh_until: float | None = None


class TokenKeeper:
    """Hands out the access token of an account and renews it."""

    def __init__(
        self, *, http: httpx2.AsyncClient, store: TokenStore, clock: Clock, credentials: Credentials
    ) -> None:
        self._http = http
        self._store = store
        self._clock = clock
        self._credentials = credentials
        self._held: dict[Account, HeldToken] = {}
        self._lock = asyncio.Lock()

    async def token(self, account: Account) -> HeldToken:
        """Return a token that serves now. Raises VendorError when none can be had."""
        if self._credentials.token is not None:
            return HeldToken(access_token=self._credentials.token, generation=0, usable_until=float("inf"))
        held = self._held.get(account)
        if held is not None and self._now() < held.usable_until:
            return held
        return await self._obtain(account, after_generation=-1)

    async def renew(self, account: Account, refused: HeldToken) -> HeldToken | None:
        """Return a newer token than the one that was refused; None for one that cannot be renewed."""
        if self._credentials.token is not None:
            return None
        return await self._obtain(account, after_generation=refused.generation)

    async def _obtain(self, account: Account, *, after_generation: int) -> HeldToken:
        async with self._lock:
            held = self._held.get(account)
            if held is not None and held.generation > after_generation and self._now() < held.usable_until:
                return held
            try:
                async with asyncio.timeout(_WAIT_SECONDS):
                    return await self._obtain_shared(account, after_generation)
            except TimeoutError:
                raise VendorTimeout("no login at EkaScribe in time", sent=False) from None

    async def _obtain_shared(self, account: Account, after_generation: int) -> HeldToken:
        while True:
            state = await self._store.read(account)
            kept = msgspec.json.decode(state.tokens, type=_Kept) if state.tokens else None
            if kept and state.generation > after_generation and self._now() < kept.usable_until:
                return self._hold(account, kept, state.generation)
            lease = Lease(uuid4())
            if not state.is_leased and await self._store.lease(
                account, lease, seconds=_LEASE_SECONDS, generation=state.generation
            ):
                return await self._replace(account, lease, kept, state.generation)
            await self._clock.sleep(_POLL_SECONDS)

    async def _replace(
        self, account: Account, lease: Lease, kept: _Kept | None, generation: int
    ) -> HeldToken:
        try:
            fresh = await self._refresh_or_login(kept)
        except BaseException:
            await asyncio.shield(self._store.release(account, lease))
            raise
        await self._store.store(account, lease, msgspec.json.encode(fresh))
        log.info("vendor_token_renewed", account=account, generation=generation + 1)
        return self._hold(account, fresh, generation + 1)

    async def _refresh_or_login(self, kept: _Kept | None) -> _Kept:
        if kept and kept.refresh_token and self._now() < (kept.refresh_until or 0):
            try:
                return await self._refresh(kept)
            except VendorError as error:
                # Refused, or away: a login needs no refresh token, and may find what a refresh does not.
                log.info("vendor_refresh_failed", error=error.code, **error.extra)
        return await self._login()

    async def _refresh(self, kept: _Kept) -> _Kept:
        headers = _JSON | {
            "authorization": f"Bearer {kept.access_token}",
            "client-id": self._credentials.client_id or "",
        }
        body = {"refresh_token": kept.refresh_token, "access_token": kept.access_token}
        return self._kept(await self._post(_REFRESH_PATH, headers, body))

    async def _login(self) -> _Kept:
        own = self._credentials
        if own.client_id is None:
            raise VendorRefused(
                "no EkaScribe account is configured: set EKABRIDGE_EKA_TOKEN, or EKABRIDGE_EKA_CLIENT_ID and "
                "EKABRIDGE_EKA_CLIENT_SECRET",
                status=401,
                vendor_code=None,
            )
        body = {"client_id": own.client_id, "client_secret": own.client_secret}
        if own.sharing_key is not None:
            body["sharing_key"] = own.sharing_key
        return self._kept(await self._post(_LOGIN_PATH, _JSON, body))

    async def _post(self, path: str, headers: dict[str, str], body: dict[str, str | None]) -> WireAnswer:
        try:
            answer = await exchange(
                self._http,
                "POST",
                self._credentials.base_url + path,
                headers=headers,
                content=msgspec.json.encode(body),
            )
            return check(answer, 200, 201)
        except VendorUnreachable as error:
            # Whatever became of the login, the call that needed it was not sent.
            error.sent = False
            raise

    def _kept(self, answer: WireAnswer) -> _Kept:
        try:
            tokens = msgspec.json.decode(answer.body, type=Tokens)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise VendorFailure("EkaScribe's login answer cannot be read", sent=False) from error
        now = self._now()
        life = tokens.expires_in or _DEFAULT_LIFE_SECONDS
        return _Kept(
            access_token=tokens.access_token,
            usable_until=now + max(life - _LEEWAY_SECONDS, life / 2),
            refresh_token=tokens.refresh_token,
            refresh_until=now + tokens.refresh_expires_in if tokens.refresh_expires_in else None,
        )

    def _hold(self, account: Account, kept: _Kept, generation: int) -> HeldToken:
        held = HeldToken(
            access_token=kept.access_token, generation=generation, usable_until=kept.usable_until
        )
        self._held[account] = held
        return held

    def _now(self) -> float:
        return self._clock.now().timestamp()
