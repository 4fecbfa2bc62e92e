"""The route that uploads one chunk of audio: PUT /v1/sessions/{id}/audio/{sequence}.

The uploads of the MedScribe protocol use `store_chunk`, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from litestar import Request, put
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType
from litestar.params import FromPath, PathParameter
from prometheus_client import Counter

from schemas.audio import ChunkStored
from service.api import openapi_examples as examples
from service.api.authentication import provide_principal, provide_services
from service.api.dependencies import Services
from service.api.openapi_examples import answer
from service.api.problem_responses import documented
from service.api.request_classes import REQUEST_CLASS
from service.api.upload_buffer import buffer_body
from service.domain.api_keys.models import Principal
from service.domain.audio.models import Audio, AudioFormat
from service.domain.errors import (
    AudioFormatInvalid,
    BridgeError,
    InvalidRequest,
    StoreUnavailable,
    VendorUnreachable,
)
from service.domain.ids import SessionId
from service.domain.vendor_limits import Limits
from service.eka.audio_formats import PUBLISHED_FORMATS, normalise_audio_format

MAX_SEQUENCE = 99_999

CHUNKS = Counter(
    "ekabridge_audio_chunks", "Whole chunks by what became of them; repeated ones, too.", ("outcome",)
)
BYTES = Counter("ekabridge_audio_bytes", "Bytes of audio in chunks that were stored, repeated ones too.")


@dataclass
class AudioOperation(Operation):
    """Describes the raw audio body in the OpenAPI document."""

    def __post_init__(self) -> None:
        binary = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
        self.request_body = RequestBody(
            content={media_type: OpenAPIMediaType(schema=binary) for media_type in PUBLISHED_FORMATS},
            description="The chunk's bytes, raw: no form, no JSON.",
            required=True,
        )


@put(
    "/sessions/{session_id:str}/audio/{sequence:str}",
    operation_id="putAudio",
    opt={REQUEST_CLASS: "uploads"},
    operation_class=AudioOperation,
    summary="Send one chunk of audio",
    tags=["Sessions"],
    request_max_body_size=None,
    responses={
        200: answer(examples.CHUNK, "EkaScribe has the chunk"),
        **documented(400, 401, 404, 408, 409, 410, 413, 415, 502, 503, 504),
    },
)
async def put_audio(
    request: Request[Any, Any, Any],
    session_id: FromPath[str],
    sequence: Annotated[
        str, PathParameter(description="The chunk's sequence number, counted from 0, up to 99999")
    ],
) -> ChunkStored:
    """Store one chunk; repeating the call with the same bytes is safe."""
    # Read directly, because Litestar's dependency injection took a tenth of the time of an upload.
    services, principal = provide_services(request.app.state), provide_principal(request.scope)
    number = _parse_sequence(sequence)
    limits = await services.medscribe.discovery.limits()
    check_whole_and_plain(request.headers, limits)
    audio_format = _parse_audio_format(request.headers.get("content-type", ""), limits)
    audio = await buffer_body(request, limits.chunk_bytes(services.settings.chunk_max_bytes))
    try:
        return await store_chunk(services, principal, SessionId(session_id), number, audio_format, audio)
    finally:
        audio.close()


async def store_chunk(
    services: Services,
    principal: Principal,
    session_id: SessionId,
    sequence: int,
    audio_format: AudioFormat,
    audio: Audio,
) -> ChunkStored:
    """Store one chunk and count the outcome; raises as AudioUploads.accept_chunk does."""
    outcome = "failed"
    try:
        stored = await services.audio.uploads.accept_chunk(
            principal, session_id, sequence, audio_format, audio
        )
        outcome = "stored"
        BYTES.inc(audio.size)
    except (VendorUnreachable, StoreUnavailable):
        raise
    except BridgeError:
        outcome = "refused"
        raise
    finally:
        CHUNKS.labels(outcome).inc()
    return stored


def _parse_sequence(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(MAX_SEQUENCE)):
        raise InvalidRequest(f"must be a whole number from 0 to {MAX_SEQUENCE}", field="sequence")
    return int(text)


def check_whole_and_plain(headers: Mapping[str, str], limits: Limits) -> None:
    """Refuse a compressed body, or a part of a chunk: EkaScribe would store either as the chunk."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise AudioFormatInvalid(
            "audio must be sent as it is, without Content-Encoding", supported=list(limits.audio_formats)
        )
    if "content-range" in headers:
        raise InvalidRequest("must not be sent: a chunk comes whole", field="Content-Range")


def _parse_audio_format(content_type: str, limits: Limits) -> AudioFormat:
    audio_format = normalise_audio_format(content_type, limits.audio_formats)
    if audio_format is None:
        raise AudioFormatInvalid(
            "Content-Type must name one of EkaScribe's audio formats; see `supported`",
            supported=list(limits.audio_formats),
        )
    return audio_format
