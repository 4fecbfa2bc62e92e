"""The vendor's servers on premises as they were recorded at their doors: raw, on loopback, with cookies."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

from tests.support.raw_peer import Line, header, open_peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Version = Literal["2026-07", "2026-08"]
Answer = tuple[int, dict[str, Any]]

LOGIN, REFRESH = "/connect-auth/v1/login", "/connect-auth/v1/refresh"
CLIENT_LOGIN = "/connect-auth/v1/account/login"
DISCOVERY = "/voice/v1/.well-known/medscribealliance"
JULYS_TOKEN = "julys-only-token"
USERS = {"lab": "pässword one", "ward": "password two"}

UNAUTHORIZED: Answer = (401, {"detail": "unauthorized"})
MISSING_TOKEN: Answer = (403, {"detail": "missing_token"})
INVALID_TOKEN: Answer = (403, {"detail": "invalid_token"})
TOKEN_EXPIRED: Answer = (401, {"detail": "token_expired"})
NO_UUID: Answer = (401, {"detail": "JWT missing uuid claim"})
NOT_FOUND: Answer = (404, {"detail": "Not Found"})


def failed(status: int, code: str, message: str) -> Answer:
    """One of the three shapes of an error, which puts no name into it."""
    error = {"code": code, "message": message, "display_message": message}
    return status, {"status": "failed", "error": error, "txn_id": "", "b_id": ""}


def bad_request(message: str) -> Answer:
    return 400, {"error": {"code": "BAD_REQUEST", "message": message}}


BAD_CREDENTIALS = failed(401, "invalid_credentials", "Invalid username or password")
BAD_REFRESH = failed(
    401, "invalid_refresh_token", "Refresh token is invalid, expired, or revoked — log in again"
)


class OnPrem:
    """One server; a test turns `now`, and says what a call to a path is answered instead."""

    def __init__(self, version: Version) -> None:
        self.version = version
        self.url = ""
        self.now = 0.0
        self.calls: list[tuple[str, str, dict[str, str | None], dict[str, Any]]] = []
        self.instead: dict[str, list[Answer]] = {}
        self.before_login: asyncio.Event | None = None
        self.webhooks: Answer = NOT_FOUND
        self._tokens: dict[str, tuple[str, float]] = {}
        self._refresh: dict[str, tuple[str, float | None]] = {}

    @property
    def paths(self) -> list[str]:
        return [path for _, path, _, _ in self.calls]

    def count(self, path: str) -> int:
        return self.paths.count(path)

    async def talk(self, line: Line) -> None:
        while (request := await line.request())[0]:
            head, body = request
            method, target, _ = head.decode("latin-1").split(" ", 2)
            path = target.partition("?")[0]
            names = ("authorization", "cookie", "client-id")
            headers = {name: header(head, name) for name in names}
            known = json.loads(body) if header(head, "content-type") == "application/json" else {}
            self.calls.append((method, path, headers, known))
            if path == LOGIN and self.before_login is not None:
                await self.before_login.wait()
            status, answer = self.answer(method, path, headers["authorization"], known)
            await line.say(self._written(status, answer))

    def _written(self, status: int, answer: dict[str, Any]) -> bytes:
        content = json.dumps(answer).encode()
        cookies = ""
        if "access_token" in answer:
            rest = "HttpOnly; Max-Age=2592000; Path=/; SameSite=lax"
            cookies = (
                f"set-cookie: scribe_session={answer['access_token']}; {rest}\r\n"
                f"set-cookie: scribe_refresh={answer['refresh_token']}; {rest}\r\n"
            )
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{cookies}"
        return head.encode() + b"content-length: %d\r\n\r\n" % len(content) + content

    def answer(self, method: str, path: str, authorization: str | None, body: dict[str, Any]) -> Answer:
        if self.instead.get(path):
            return self.instead[path].pop(0)
        if path == DISCOVERY:
            return 200, self.discovery()
        if self.version == "2026-08" and path in {LOGIN, REFRESH}:
            return self._log_in(body) if path == LOGIN else self._renew(body)
        refusal = self._refusal(authorization)
        if refusal is not None:
            return refusal
        if "/process/template" in path and self.version == "2026-08":
            return NO_UUID
        if path == "/voice/v1/webhooks":
            return self.webhooks
        if path.startswith("/voice/v1/sessions/"):
            if method == "POST":
                session_id, _, name = path.removeprefix("/voice/v1/sessions/").partition("/audio/")
                return 200, {"session_id": session_id, "success": True, "original_filename": name}
            return failed(404, "transaction_not_found", "Transaction not found")
        return NOT_FOUND

    def _refusal(self, authorization: str | None) -> Answer | None:
        token = (authorization or "").removeprefix("Bearer ")
        if self.version == "2026-07":
            return None if token == JULYS_TOKEN else UNAUTHORIZED
        if not token:
            return MISSING_TOKEN
        if token not in self._tokens:
            return INVALID_TOKEN
        return None if self.now < self._tokens[token][1] else TOKEN_EXPIRED

    def _log_in(self, body: dict[str, Any]) -> Answer:
        for name in ("username", "password"):
            if name not in body:
                return bad_request(f"Field 'body -> {name}': Field required")
        if USERS.get(body["username"]) != body["password"]:
            return BAD_CREDENTIALS
        return 200, self._issue(body["username"], None)

    def _renew(self, body: dict[str, Any]) -> Answer:
        token = str(body.get("refresh_token"))
        if token not in self._refresh:
            return BAD_REFRESH
        user, used_at = self._refresh[token]
        if used_at is None:
            self._refresh[token] = (user, self.now)
            return 200, self._issue(user, None)
        # A used one works for 60 s, and is given back as the refresh token.
        return (200, self._issue(user, token)) if self.now < used_at + 60 else BAD_REFRESH

    def _issue(self, user: str, refresh_token: str | None) -> dict[str, Any]:
        access = f"access-{len(self._tokens) + 1}-{user}"
        self._tokens[access] = (user, self.now + 900)
        refresh = refresh_token or f"refresh-{len(self._refresh) + 1}-{user}"
        self._refresh.setdefault(refresh, (user, None))
        return {
            "status": "success",
            "user": {"username": user, "display_name": user, "uuid": "u-1", "oid": "oid-1", "b_id": "b-1"},
            "access_token": access,
            "expires_in": 900,
            "refresh_token": refresh,
            "refresh_expires_in": 2592000,
        }

    def use_refresh_tokens(self) -> None:
        """Let somebody else have used them all just now."""
        self._refresh = {token: (user, self.now) for token, (user, _) in self._refresh.items()}

    def discovery(self) -> dict[str, Any]:
        detects = self.version == "2026-07"
        return {
            "protocol": "medscribealliance",
            "protocol_version": "0.1",
            "service": {"name": "EkaScribe OSS Medical Scribe Service" if detects else "Scribe Service"},
            "endpoints": {
                "base_url": f"{self.url}/voice/v1",
                "webhooks_url": f"{self.url}/voice/v1/webhooks",
            },
            "capabilities": {
                "audio_formats": ["audio/webm;codecs=opus", "audio/wav"],
                "max_chunk_duration_seconds": 20,
                "upload_methods": ["chunked", "single"],
                "webhook_delivery": True,
            },
            "languages": {
                "supported": ["en", "hi", *(["auto_detect"] if detects else [])],
                "auto_detection": detects,
            },
        }


@asynccontextmanager
async def open_onprem(version: Version) -> AsyncIterator[OnPrem]:
    """A server that runs until the block ends."""
    server = OnPrem(version)
    async with open_peer(server.talk) as peer:
        server.url = peer.url
        yield server
