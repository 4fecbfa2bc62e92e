"""The Idempotency-Key header of calls that make something, and the answers that it brings back."""

from typing import Annotated, Any

from litestar import Response
from litestar.enums import MediaType
from litestar.params import HeaderParameter

from service.domain.idempotency import KeyedAnswer

IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        description="Up to 255 printable characters without spaces, of your own making. For a week, the same "
        "key with the same body does nothing twice: a repeated create gets the same answer, a repeated "
        "destination its secret only while that signs, a repeated document its session as it is now. Make "
        "one key per dictation, destination or document, and reuse it when you repeat the call.",
    ),
]


def keyed_response(answer: KeyedAnswer, *, status_code: int) -> Response[Any]:
    """Return an answer that is encoded already; a header marks one that was given before."""
    headers = {"Idempotency-Replayed": "true"} if answer.is_replayed else {}
    return Response(answer.body, status_code=status_code, media_type=MediaType.JSON, headers=headers)
