"""The route of a session's recording: the audio that ekabridge keeps while it is held, or after a failure."""

from collections.abc import AsyncGenerator

from litestar import get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.response import Stream

from service.api.dependencies import Services
from service.api.middleware.response_memory import response_progressed
from service.api.problem_responses import documented
from service.api.v1.sessions import SessionPath
from service.domain.api_keys.models import Principal
from service.domain.audio.kept import KeptRecording
from service.domain.ids import SessionId


@get(
    "/sessions/{session_id:str}/recording",
    operation_id="getRecording",
    summary="The audio of a session that ekabridge keeps",
    tags=["Sessions"],
    responses={
        200: ResponseSpec(
            bytes,
            description="A ZIP archive with `manifest.json` and one file for each chunk, not compressed. If "
            "exactly one chunk is kept, that chunk alone, with its own media type.",
            media_type="application/zip",
            generate_examples=False,
        ),
        **documented(400, 401, 404, 410, 503),
    },
)
async def get_recording(
    services: NamedDependency[Services], principal: NamedDependency[Principal], session_id: SessionPath
) -> Stream:
    """Send the audio that is held, or that is kept for seven days after the session ended badly."""
    recording = await services.audio.kept.open(principal, SessionId(session_id), services.sessions.read_audit)
    headers = {"Content-Disposition": f'attachment; filename="{recording.file_name}"'}
    if recording.size is not None:
        headers["Content-Length"] = str(recording.size)
    return Stream(_pieces(services, recording), media_type=recording.media_type, headers=headers)


async def _pieces(services: Services, recording: KeptRecording) -> AsyncGenerator[bytes, None]:
    async for piece in services.audio.kept.read(recording):
        yield piece
        response_progressed()
