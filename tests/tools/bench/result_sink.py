"""An EkaScribe that costs next to nothing: any session that is asked for is completed, with one document."""

import asyncio
import json
from typing import cast

from tests.tools.bench.raw import serve_raw

TEMPLATE = "eka_emr_template"
_BODY = json.dumps(
    {
        "session_id": "ses_any",
        "status": "completed",
        "transcript": "Fever and cough for three days. " * 10,
        "templates": [
            {
                TEMPLATE: {
                    "status": "success",
                    "document_id": "doc_any",
                    "document_type": "json",
                    "data": {"symptoms": [{"name": "fever", "since_days": 3}] * 10},
                }
            }
        ],
    }
).encode()
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(_BODY),
    _BODY,
)


class _Sink(asyncio.Protocol):
    """One connection; what is asked has no body."""

    def __init__(self) -> None:
        self._asked = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._asked += data
        while (end := self._asked.find(b"\r\n\r\n")) >= 0:
            self._asked = self._asked[end + 4 :]
            self._transport.write(_ANSWER)


if __name__ == "__main__":
    serve_raw(_Sink)
