from __future__ import annotations

import hmac
import secrets
import time
from dataclasses import dataclass, field

from service.sandbox.answers import VendorError
from service.sandbox.settings import FIRST_ACCOUNT, VendorSettings


@dataclass
class _Refresh:
    client_id: str
    expires_at: float
    used: bool = False


@dataclass
class TokenDesk:
    """Issues and checks tokens; a refresh token spent twice logs its client out (facts, Accounts)."""

    settings: VendorSettings
    _access: dict[str, tuple[str, float]] = field(default_factory=dict)
    _refresh: dict[str, _Refresh] = field(default_factory=dict)
    _expired_static: set[str] = field(default_factory=set)

    def login(self, client_id: object, client_secret: object) -> dict[str, object]:
        """Issue a fresh pair of tokens; raises `VendorError` 401 for wrong credentials."""
        expected = self.settings.clients.get(str(client_id))
        given = str(client_secret).encode()
        if expected is None or not hmac.compare_digest(given, expected.encode()):
            raise VendorError(401, {"code": 401, "error": "invalid client credentials"})
        return self._issue(str(client_id))

    def refresh(self, refresh_token: object, client_id: str | None) -> dict[str, object]:
        """Issue the next pair; raises `VendorError` 401 for an unknown token, 403 for one already spent."""
        known = self._refresh.get(str(refresh_token))
        if known is None or known.expires_at <= time.time() or client_id not in {None, known.client_id}:
            raise VendorError(401, {"code": 401, "error": "invalid refresh token"})
        if known.used:
            self._log_out(known.client_id)
            raise VendorError(403, {"code": 403, "error": "refresh token already used; logged out"})
        known.used = True
        return self._issue(known.client_id)

    def check(self, authorization: str | None) -> str:
        """Say whose token it is; `VendorError` 403 without one, 401 for an old one (recordings)."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise VendorError(403, {"detail": "missing_token"})
        token = token.strip()
        if token in self.settings.static_tokens and token not in self._expired_static:
            return self.settings.token_accounts.get(token, FIRST_ACCOUNT)
        client_id, expires_at = self._access.get(token, ("", 0.0))
        if expires_at <= time.time():
            raise VendorError(401, {"detail": "token_expired"})
        return client_id

    def expire(self, *, static: bool) -> int:
        """End every access token, the static ones only when asked; refresh tokens stay good."""
        count = len(self._access)
        self._access.clear()
        if static:
            self._expired_static.update(self.settings.static_tokens)
        return count

    def _issue(self, client_id: str) -> dict[str, object]:
        access, refresh = f"at_{secrets.token_urlsafe(24)}", f"rt_{secrets.token_urlsafe(24)}"
        now = time.time()
        self._access[access] = (client_id, now + self.settings.access_token_seconds)
        self._refresh[refresh] = _Refresh(client_id, now + self.settings.refresh_token_seconds)
        return {
            "access_token": access,
            "expires_in": self.settings.access_token_seconds,
            "refresh_token": refresh,
            "refresh_expires_in": self.settings.refresh_token_seconds,
        }

    def _log_out(self, client_id: str) -> None:
        self._access = {token: held for token, held in self._access.items() if held[0] != client_id}
        for refresh in self._refresh.values():
            refresh.used = refresh.used or refresh.client_id == client_id
