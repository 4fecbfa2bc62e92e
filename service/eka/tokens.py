"""Keeps access tokens; all replicas together make one login or refresh of an account at a time.

A refresh token is single-use, and two refreshes that race end in a forced logout
(docs/vendor.md#refresh-once). So the right to get new tokens is a lease in PostgreSQL, tied to the generation
that they replace. Each token names the credentials that it belongs to, and after a change of credentials the
old tokens are neither used nor refreshed.
"""

import asyncio
import re
from collections import defaultdict
from typing import Protocol
from uuid import uuid4

import httpx2
import msgspec
import structlog
from msgspec import Struct

from schemas.eka import Tokens
from service.domain.clock import Clock
from service.domain.errors import VendorError, VendorFailure, VendorRefused, VendorTimeout, VendorUnreachable
from service.domain.ids import Account, Lease
from service.domain.vendor_accounts import Credentials, Secret, TokenStore
from service.eka.http_exchange import VendorAnswer, check, exchange
from service.eka.metrics import Operation

log = structlog.get_logger()

_CLIENT_PATHS: dict[Operation, str] = {
    "login": "/connect-auth/v1/account/login",
    "refresh": "/connect-auth/v1/account/refresh-token",
}
# A server on premises, since August 2026 (docs/vendor.md#login-user). A refresh there may give the same
# refresh token back, which is refused soon (docs/vendor.md#refresh-window): then a login follows, as after
# any refresh that fails.
_USER_PATHS: dict[Operation, str] = {
    "login": "/connect-auth/v1/login",
    "refresh": "/connect-auth/v1/refresh",
}
_REFUSED_CLIENT = (
    " to our login: check the client's id and secret; a server on premises has users with passwords instead,"
    " or one token"
)
_REFUSED_USER = (
    " to our login: check username and password; only a server on premises has this login, and some have one"
    " token instead"
)
_LEASE_SECONDS = 30.0
_WAIT_SECONDS = 20.0
_POLL_SECONDS = 0.1
# A token is renewed this long before it expires, so that it does not expire during a call; one that lives
# less than two minutes is renewed after half its life.
_RENEW_BEFORE_EXPIRY_SECONDS = 60.0
_DEFAULT_LIFE_SECONDS = 1800.0
_JSON = {"content-type": "application/json"}


class CredentialsSource(Protocol):
    """Finds the credentials of an account."""

    async def __call__(self, account: Account, *, fresh: bool = False) -> Credentials:
        """Return an account's credentials, past any cache if `fresh`. Raises VendorRefused if it has none."""
        ...


class HeldToken(Secret, Struct, frozen=True, kw_only=True):
    """An access token with its owner, its generation, and the end of its use in seconds since 1970."""

    access_token: str
    owner: str
    generation: int
    usable_until: float


class _StoredTokens(Secret, Struct, kw_only=True):
    """Tokens as they are stored in the database; times in seconds since 1970."""

    access_token: str
    usable_until: float
    owner: str = ""
    refresh_token: str | None = None
    refresh_until: float | None = None


# A token goes into a header: printable ASCII, so that no library fails at it.
_HEADER_VALUE = re.compile(r"[\x21-\x7e]+")


class TokenKeeper:
    """Provides the access tokens of accounts and renews them."""

    def __init__(
        self,
        *,
        http: httpx2.AsyncClient,
        store: TokenStore,
        clock: Clock,
        base_url: str,
        credentials: CredentialsSource,
    ) -> None:
        self._http = http
        self._store = store
        self._clock = clock
        self._base_url = base_url
        self._credentials = credentials
        self._held: dict[Account, HeldToken] = {}
        # One for each account, so that a login that hangs delays only its own account's calls.
        self._locks: defaultdict[Account, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def token(self, account: Account) -> HeldToken:
        """Return a token that is valid now. Raises VendorError if there is none."""
        credentials = await self._credentials(account)
        if credentials.token is not None:
            return self._static(credentials)
        held = self._held.get(account)
        if held is not None and self._is_valid(held, credentials):
            return held
        # Past the cache, so that all replicas replace tokens with the same credentials.
        return await self._obtain(account, await self._credentials(account, fresh=True), after_generation=-1)

    async def renew(self, account: Account, refused: HeldToken) -> HeldToken | None:
        """Return a newer token than the refused one; None if the refused one cannot be renewed."""
        # The account may just have been changed; then its refused token is not renewed but replaced.
        credentials = await self._credentials(account, fresh=True)
        is_ours = self._owner(credentials) == refused.owner
        if is_ours and credentials.token is not None:
            return None
        return await self._obtain(
            account, credentials, after_generation=refused.generation if is_ours else -1
        )

    async def _obtain(
        self, account: Account, credentials: Credentials, *, after_generation: int
    ) -> HeldToken:
        if credentials.token is not None:
            return self._static(credentials)
        async with self._locks[account]:
            held = self._held.get(account)
            if held is not None and held.generation > after_generation and self._is_valid(held, credentials):
                return held
            try:
                async with asyncio.timeout(_WAIT_SECONDS):
                    return await self._obtain_shared(account, credentials, after_generation)
            except TimeoutError:
                raise VendorTimeout("no login at EkaScribe in time", sent=False) from None

    async def _obtain_shared(
        self, account: Account, credentials: Credentials, after_generation: int
    ) -> HeldToken:
        while True:
            state = await self._store.read(account)
            stored = msgspec.json.decode(state.tokens, type=_StoredTokens) if state.tokens else None
            if stored is not None and stored.owner != self._owner(credentials):
                stored = None
            if stored and state.generation > after_generation and self._now() < stored.usable_until:
                return self._hold(account, stored, state.generation)
            lease = Lease(uuid4())
            if not state.is_leased and await self._store.lease(
                account, lease, seconds=_LEASE_SECONDS, generation=state.generation
            ):
                return await self._replace(account, credentials, lease, stored, state.generation)
            await self._clock.sleep(_POLL_SECONDS)

    async def _replace(
        self,
        account: Account,
        credentials: Credentials,
        lease: Lease,
        stored: _StoredTokens | None,
        generation: int,
    ) -> HeldToken:
        try:
            fresh = await self._refresh_or_login(credentials, stored)
        except BaseException:
            await asyncio.shield(self._store.release(account, lease))
            raise
        await self._store.store(account, lease, msgspec.json.encode(fresh))
        log.info("vendor_token_renewed", account=account, generation=generation + 1)
        return self._hold(account, fresh, generation + 1)

    async def _refresh_or_login(
        self, credentials: Credentials, stored: _StoredTokens | None
    ) -> _StoredTokens:
        if stored and stored.refresh_token and self._now() < (stored.refresh_until or 0):
            try:
                return await self._refresh(credentials, stored)
            except VendorError as error:
                # The refresh was refused or got no answer. A login needs no refresh token and may succeed.
                log.info("vendor_refresh_failed", error=error.code, **error.extra)
        return await self._login(credentials)

    async def _refresh(self, credentials: Credentials, stored: _StoredTokens) -> _StoredTokens:
        if credentials.username is not None:
            body = {"refresh_token": stored.refresh_token}
            return self._parse_tokens(credentials, await self._post("refresh", _USER_PATHS, _JSON, body))
        headers = _JSON | {
            "authorization": f"Bearer {stored.access_token}",
            "client-id": credentials.client_id or "",
        }
        body = {"refresh_token": stored.refresh_token, "access_token": stored.access_token}
        return self._parse_tokens(credentials, await self._post("refresh", _CLIENT_PATHS, headers, body))

    async def _login(self, own: Credentials) -> _StoredTokens:
        if own.identity is None:
            raise VendorRefused(
                "no EkaScribe account is configured: set EKABRIDGE_EKA_TOKEN, or EKABRIDGE_EKA_CLIENT_ID and "
                "EKABRIDGE_EKA_CLIENT_SECRET, or on premises EKABRIDGE_EKA_USERNAME and "
                "EKABRIDGE_EKA_PASSWORD",
                status=401,
                vendor_code=None,
            )
        if own.username is not None:
            paths, body = _USER_PATHS, {"username": own.username, "password": own.password}
        else:
            paths, body = _CLIENT_PATHS, {"client_id": own.client_id, "client_secret": own.client_secret}
            if own.sharing_key is not None:
                body["sharing_key"] = own.sharing_key
        try:
            return self._parse_tokens(own, await self._post("login", paths, _JSON, body))
        except VendorRefused as refused:
            refused.detail += _REFUSED_USER if own.username is not None else _REFUSED_CLIENT
            raise

    async def _post(
        self,
        operation: Operation,
        paths: dict[Operation, str],
        headers: dict[str, str],
        body: dict[str, str | None],
    ) -> VendorAnswer:
        try:
            answer = await exchange(
                self._http,
                "POST",
                self._base_url + paths[operation],
                operation=operation,
                headers=headers,
                content=msgspec.json.encode(body),
            )
            return check(answer, 200, 201)
        except VendorUnreachable as error:
            # Even if the login was sent, the call that needed it was not.
            error.sent = False
            raise

    def _parse_tokens(self, credentials: Credentials, answer: VendorAnswer) -> _StoredTokens:
        try:
            tokens = msgspec.json.decode(answer.body, type=Tokens)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise VendorFailure("EkaScribe's login answer cannot be read", sent=False) from error
        if not _HEADER_VALUE.fullmatch(tokens.access_token):
            raise VendorFailure("EkaScribe's login answer holds a token that no header can carry", sent=False)
        now = self._now()
        life = tokens.expires_in or _DEFAULT_LIFE_SECONDS
        return _StoredTokens(
            access_token=tokens.access_token,
            usable_until=now + max(life - _RENEW_BEFORE_EXPIRY_SECONDS, life / 2),
            owner=self._owner(credentials),
            refresh_token=tokens.refresh_token,
            refresh_until=now + tokens.refresh_expires_in if tokens.refresh_expires_in else None,
        )

    def _hold(self, account: Account, stored: _StoredTokens, generation: int) -> HeldToken:
        held = HeldToken(
            access_token=stored.access_token,
            owner=stored.owner,
            generation=generation,
            usable_until=stored.usable_until,
        )
        self._held[account] = held
        return held

    def _static(self, credentials: Credentials) -> HeldToken:
        return HeldToken(
            access_token=credentials.token or "",
            owner=self._owner(credentials),
            generation=0,
            usable_until=float("inf"),
        )

    def _is_valid(self, held: HeldToken, credentials: Credentials) -> bool:
        return held.owner == self._owner(credentials) and self._now() < held.usable_until

    def _owner(self, credentials: Credentials) -> str:
        # Tokens of another server must not be used either.
        return f"{credentials.fingerprint} {self._base_url}"

    def _now(self) -> float:
        return self._clock.now().timestamp()
