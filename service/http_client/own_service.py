"""The client of a running ekabridge, with which its command line sends recordings."""

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, BinaryIO, Self

import httpx2
import msgspec

from schemas.problems import Problem
from service.http_client.tls_and_proxy import trusted_context

# The service inspects a recording and writes it to its database before it answers.
_ANSWER_SECONDS = 300.0
_CONNECT_SECONDS = 10.0
_WAIT_SECONDS = 30

# Gets the number of bytes that were sent since the last call.
OnProgress = Callable[[int], object]


class ServiceCallFailed(Exception):
    """The service refused a call or could not be reached; the message is a sentence for people."""


class OwnService:
    """A running ekabridge, called with an API key."""

    def __init__(self, url: str, key: str) -> None:
        self._http = httpx2.Client(
            base_url=url,
            headers={"authorization": f"Bearer {key}"},
            timeout=httpx2.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            verify=trusted_context(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def send_recording(
        self, file: BinaryIO, session: bytes, *, key: str | None, on_progress: OnProgress
    ) -> dict[str, Any]:
        """Send a recording with the JSON of its session; `key` is the Idempotency-Key.

        Returns the session. Raises ServiceCallFailed.
        """
        parts: list[Any] = [
            ("session", (None, session, "application/json")),
            ("audio", ("recording", _Watched(file, on_progress), "application/octet-stream")),
        ]
        headers = {"idempotency-key": key} if key else {}
        return self._call("POST", "/v1/recordings", files=parts, headers=headers)

    def await_change(self, session_id: str) -> dict[str, Any]:
        """Return the session as soon as its status changes, after 30 seconds at the latest.

        Raises ServiceCallFailed.
        """
        return self._call("GET", f"/v1/sessions/{session_id}", params={"wait": _WAIT_SECONDS})

    def _call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        try:
            answer = self._http.request(method, path, **request)
        except httpx2.InvalidURL:
            raise ServiceCallFailed("the address of the service is no URL") from None
        except httpx2.HTTPError as error:
            # Its text may show the address, never the key.
            raise ServiceCallFailed(f"the service cannot be reached: {type(error).__name__}") from error
        if not answer.is_success:
            raise ServiceCallFailed(_told(answer))
        try:
            return msgspec.json.decode(answer.content, type=dict[str, Any])
        except msgspec.DecodeError:
            raise ServiceCallFailed("the answer is not that of an ekabridge") from None


class _Watched:
    """A file that tells how much of it was read."""

    def __init__(self, file: BinaryIO, on_progress: OnProgress) -> None:
        self._file = file
        self._on_progress = on_progress

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self._on_progress(len(piece))
        return piece

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()


def _told(answer: httpx2.Response) -> str:
    """Return the sentence of an error."""
    try:
        problem = msgspec.json.decode(answer.content, type=Problem)
    except msgspec.DecodeError:
        return f"the service answered {answer.status_code}"
    fields = "".join(f"; {error.field}: {error.message}" for error in problem.errors or ())
    return f"{problem.detail}{fields} ({problem.code})"
