"""Access tokens and refresh tokens of the stand-in: issues, checks and refreshes them."""

from __future__ import annotations

import hmac
import secrets
import time
from dataclasses import dataclass, field
from typing import NoReturn

from service.sandbox.vendor.errors import StandInError, transaction_error
from service.sandbox.vendor.settings import FIRST_ACCOUNT, VendorSettings


@dataclass(frozen=True)
class Caller:
    """The account and the user of a token; only "onprem-2026-08" has several users."""

    account: str
    user: str


@dataclass
class _Refresh:
    caller: Caller
    expires_at: float
    used_at: float | None = None


@dataclass
class TokenIssuer:
    """Issues and checks tokens.

    In `hosted` a refresh token spent twice logs its client out (docs/vendor.md#refresh-once). The user login
    of August gives a spent one back for `refresh_reuse_seconds` instead (docs/vendor.md#refresh-window).
    """

    settings: VendorSettings
    _access: dict[str, tuple[Caller, float]] = field(default_factory=dict)
    _refresh: dict[str, _Refresh] = field(default_factory=dict)
    _expired_static: set[str] = field(default_factory=set)

    def login(self, client_id: object, client_secret: object) -> dict[str, object]:
        """Issue a fresh pair of tokens; raises `StandInError` 401 for wrong credentials."""
        expected = self.settings.clients.get(str(client_id))
        if not _is_same(expected, client_secret):
            raise StandInError(401, {"code": 401, "error": "invalid client credentials"})
        return self._issue(Caller(str(client_id), str(client_id)))

    def refresh(self, refresh_token: object, client_id: str | None) -> dict[str, object]:
        """Issue the next pair; raises `StandInError` 401 for an unknown token, 403 for one already spent."""
        known = self._refresh.get(str(refresh_token))
        if known is None or known.expires_at <= time.time():
            raise StandInError(401, {"code": 401, "error": "invalid refresh token"})
        if client_id not in {None, known.caller.account}:
            raise StandInError(401, {"code": 401, "error": "invalid refresh token"})
        if known.used_at is not None:
            self._log_out(known.caller)
            raise StandInError(403, {"code": 403, "error": "refresh token already used; logged out"})
        known.used_at = time.time()
        return self._issue(known.caller)

    def login_user(self, username: str, password: object) -> dict[str, object]:
        """Issue a pair to a user of the one workspace; raises `StandInError` 401."""
        if not _is_same(self.settings.users.get(username), password):
            raise transaction_error(
                401, "invalid_credentials", "Invalid username or password", "", business_id=""
            )
        return self._issue_to_user(Caller(FIRST_ACCOUNT, username))

    def refresh_user(self, refresh_token: object) -> tuple[str, dict[str, object]]:
        """Issue the next pair, or the same refresh token once more shortly after it was spent."""
        known = self._refresh.get(str(refresh_token))
        now = time.time()
        if known is None or known.expires_at <= now:
            _refuse_refresh()
        if known.used_at is None:
            known.used_at = now
            return known.caller.user, self._issue_to_user(known.caller)
        if now >= known.used_at + self.settings.refresh_reuse_seconds:
            _refuse_refresh()
        issued = self._issue_to_user(known.caller)
        del self._refresh[str(issued["refresh_token"])]
        return known.caller.user, {**issued, "refresh_token": str(refresh_token)}

    def log_out_user(self, refresh_token: object) -> None:
        """Spend a refresh token; access tokens work on until they end."""
        known = self._refresh.get(str(refresh_token))
        if known is not None and known.used_at is None:
            known.used_at = time.time()

    def age_refresh_tokens(self, seconds: float) -> None:
        """Make as if spent refresh tokens had been spent that much earlier."""
        for known in self._refresh.values():
            if known.used_at is not None:
                known.used_at -= seconds

    def check(self, authorization: str | None) -> Caller:
        """Say whose token it is; `StandInError` in the character's words (docs/vendor.md#refusal-words)."""
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise self._refusal(403, "missing_token")
        if token in self.settings.static_tokens and token not in self._expired_static:
            account = self.settings.token_accounts.get(token, FIRST_ACCOUNT)
            return Caller(account, account)
        known = self._access.get(token)
        if known is None and token not in self._expired_static and self.settings.is_august:
            raise self._refusal(403, "invalid_token")
        if known is None or known[1] <= time.time():
            raise self._refusal(401, "token_expired")
        return known[0]

    def expire(self, *, static: bool) -> int:
        """End every access token, the static ones only when asked; refresh tokens stay good."""
        alive = [token for token, held in self._access.items() if held[1] > 0]
        for token in alive:
            self._access[token] = (self._access[token][0], 0.0)
        if static:
            self._expired_static.update(self.settings.static_tokens)
        return len(alive)

    def _refusal(self, status: int, word: str) -> StandInError:
        if self.settings.is_july:
            return StandInError(401, {"detail": "unauthorized"})
        return StandInError(status, {"detail": word})

    def _issue(self, caller: Caller, seconds: int | None = None) -> dict[str, object]:
        access, refresh = f"at_{secrets.token_urlsafe(24)}", f"rt_{secrets.token_urlsafe(24)}"
        now = time.time()
        lifetime = self.settings.access_token_seconds if seconds is None else seconds
        self._access[access] = (caller, now + lifetime)
        self._refresh[refresh] = _Refresh(caller, now + self.settings.refresh_token_seconds)
        return {
            "access_token": access,
            "expires_in": lifetime,
            "refresh_token": refresh,
            "refresh_expires_in": self.settings.refresh_token_seconds,
        }

    def _issue_to_user(self, caller: Caller) -> dict[str, object]:
        return self._issue(caller, self.settings.user_token_seconds)

    def _log_out(self, caller: Caller) -> None:
        self._access = {token: held for token, held in self._access.items() if held[0] != caller}
        for refresh in self._refresh.values():
            if refresh.caller == caller and refresh.used_at is None:
                refresh.used_at = time.time()


def _is_same(expected: str | None, given: object) -> bool:
    return expected is not None and hmac.compare_digest(str(given).encode(), expected.encode())


def _refuse_refresh() -> NoReturn:
    message = "Refresh token is invalid, expired, or revoked — log in again"
    raise transaction_error(401, "invalid_refresh_token", message, "", business_id="")
