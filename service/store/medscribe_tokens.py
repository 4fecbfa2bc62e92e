"""Signed tokens for clients of the vendor's protocol (/voice). They need no row, and end with their key.

A token is `ekt_<key id without its prefix>.<end in Unix seconds>.<keyed hash>`. The hash covers the scope, so
a token for the forms of one session authorises nothing else.
"""

import base64
import hmac
import re
from datetime import datetime
from typing import Literal

from msgspec import Struct

from service.domain.api_keys.models import Principal
from service.domain.ids import KeyId, SessionId
from service.store.api_keys import principal_of
from service.store.database import Database
from service.store.encryption import Hasher
from service.store.queries import sql

ACCESS_SECONDS = 1800

_PURPOSE = "voice_token"
_KEY_PREFIX = "key_"
_TOKEN = re.compile(r"ekt_([0-9a-f]{24})\.([0-9]{1,12})\.([A-Za-z0-9_-]{43})")


class SignedToken(Struct, frozen=True):
    """A token with a valid signature: its key and its end in Unix seconds, both still to be checked."""

    key_id: KeyId
    expires: int


class MedscribeTokens:
    """Makes and checks tokens."""

    def __init__(self, database: Database, hasher: Hasher) -> None:
        self._database = database
        self._hasher = hasher

    async def issue_access(self, key_id: KeyId, *, seconds: float = ACCESS_SECONDS) -> str:
        """Make a token that authenticates its key under /voice/v1 for so many seconds."""
        row = await self._database.fetchrow(sql("medscribe.token_expiry"), float(seconds))
        assert row is not None  # noqa: S101 - a SELECT without FROM has one row
        return await self._sign(key_id, row["expires"], "access")

    async def issue_form(self, key_id: KeyId, session_id: SessionId, expires_at: datetime) -> str:
        """Make a token that authorises forms for one session until the session expires."""
        return await self._sign(key_id, int(expires_at.timestamp()), f"form:{session_id}")

    async def read(self, token: str, scope: Literal["access"] | SessionId) -> SignedToken | None:
        """Return the content of a token that we signed for this scope: `access`, or a session's forms."""
        parts = _TOKEN.fullmatch(token)
        if parts is None:
            return None
        key_id, expires = KeyId(_KEY_PREFIX + parts[1]), int(parts[2])
        expected = await self._sign(key_id, expires, scope if scope == "access" else f"form:{scope}")
        return SignedToken(key_id, expires) if hmac.compare_digest(token, expected) else None

    async def principal(self, token: SignedToken) -> Principal | None:
        """Return the principal of the token's key; None if the token has expired or the key was revoked."""
        row = await self._database.fetchrow(sql("api_keys.principal_by_id"), token.key_id, token.expires)
        return principal_of(row) if row else None

    async def _sign(self, key_id: KeyId, expires: int, scope: str) -> str:
        words = f"{key_id.removeprefix(_KEY_PREFIX)}.{expires}"
        hashed = await self._hasher.hash(_PURPOSE, f"{scope}\0{words}".encode())
        return f"ekt_{words}.{base64.urlsafe_b64encode(hashed).rstrip(b'=').decode()}"
