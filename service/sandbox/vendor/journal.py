"""The journal: every call that came to the stand-in, for tests and `GET /_control/calls`."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec

_HEADERS_OF_INTEREST = frozenset({
    b"accept",
    b"client-id",
    b"content-length",
    b"content-type",
    b"flavour",
    b"idempotency-key",
    b"traceparent",
    b"transfer-encoding",
    b"user-agent",
    b"x-request-id",
})  # fmt: skip
_SESSION_IN_PATH = re.compile(r"^/voice/v1/sessions/([^/]+)")


class Call(msgspec.Struct, kw_only=True):
    """One call to the vendor: `at` in Unix seconds, `body_bytes` as received; no body and no credential.

    `method` is "WS" for a WebSocket. `status` None means that no answer was sent (yet), `client_left` that
    the client hung up before one; `fault` names the misbehaviour that was played.
    """

    seq: int
    at: float
    method: str
    path: str
    query: str
    session_id: str | None
    headers: dict[str, str]
    authorization: bool
    status: int | None = None
    body_bytes: int = 0
    duration_ms: float | None = None
    fault: str | None = None
    client_left: bool = False
    done: bool = False


@dataclass
class Journal:
    """Every vendor call in order of arrival, listed from the moment it begins."""

    calls: list[Call] = field(default_factory=list)
    _next: int = 1

    def open(self, scope: Any) -> Call:
        """Begin the entry of one call."""
        path = scope["path"]
        in_path = _SESSION_IN_PATH.match(path)
        call = Call(
            seq=self._next,
            at=time.time(),
            method=scope["method"] if scope["type"] == "http" else "WS",
            path=path,
            query=scope["query_string"].decode("latin-1"),
            session_id=in_path.group(1) if in_path else None,
            headers={
                name.decode("latin-1"): value.decode("latin-1")
                for name, value in scope["headers"]
                if name in _HEADERS_OF_INTEREST
            },
            authorization=any(name == b"authorization" for name, _ in scope["headers"]),
        )
        self._next += 1
        self.calls.append(call)
        return call

    def find(
        self,
        *,
        method: str | None = None,
        path_regex: str | None = None,
        session_id: str | None = None,
        status: int | None = None,
        after: int = 0,
    ) -> list[Call]:
        """List the entries that match all given filters; `after` is a `seq`."""
        pattern = re.compile(path_regex or "")
        return [
            call
            for call in self.calls
            if call.seq > after
            and (method is None or call.method == method.upper())
            and (session_id is None or call.session_id == session_id)
            and (status is None or call.status == status)
            and (pattern.search(call.path) or pattern.search(f"{call.path}?{call.query}"))
        ]

    def clear(self) -> None:
        """Forget all entries; numbering goes on."""
        self.calls.clear()
