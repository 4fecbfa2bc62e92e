"""The route that takes a whole recording in one call: POST /v1/recordings."""

from dataclasses import dataclass
from typing import Any

from litestar import Request, Response, post
from litestar.di import NamedDependency
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType

from schemas.sessions import RecordingCreate
from service.api import openapi_examples as examples
from service.api.dependencies import Services
from service.api.idempotency import IdempotencyKey, keyed_response
from service.api.json_body import inlined_schema, read_json
from service.api.middleware.disk_budget import max_recording_bytes
from service.api.openapi_examples import answer
from service.api.problem_responses import documented
from service.api.recording_form import read_recording
from service.api.request_classes import REQUEST_CLASS, TAKES_RECORDINGS
from service.api.v1.audio import check_whole_and_plain
from service.domain.api_keys.models import Principal
from service.domain.sessions.models import SessionPlan


@dataclass
class RecordingOperation(Operation):
    """Describes the form in the OpenAPI document."""

    def __post_init__(self) -> None:
        audio = Schema(
            type=OpenAPIType.STRING,
            format=OpenAPIFormat.BINARY,
            description="A file of any common audio or video format; its content decides, not its name",
        )
        form = Schema(
            type=OpenAPIType.OBJECT,
            properties={"session": inlined_schema(RecordingCreate), "audio": audio},
            required=["session", "audio"],
        )
        self.request_body = RequestBody(
            content={"multipart/form-data": OpenAPIMediaType(schema=form)},
            description="The part `session` (JSON) first, then the part `audio`.",
            required=True,
        )


@post(
    "/recordings",
    status_code=202,
    operation_id="createRecording",
    opt={REQUEST_CLASS: "uploads", TAKES_RECORDINGS: True},
    operation_class=RecordingOperation,
    summary="Send a whole recording",
    tags=["Sessions"],
    request_max_body_size=None,
    responses={
        202: answer(examples.RECORDED, "The recording is kept; a worker cuts it and EkaScribe gets it"),
        **documented(400, 401, 408, 409, 410, 413, 415, 422, 503),
    },
)
async def create_recording(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    idempotency_key: IdempotencyKey = None,
) -> Response[Any]:
    """Keep a recording with its session; cutting, sending and ending follow without further calls."""
    intake = services.audio.recordings
    check_whole_and_plain(request.headers, await services.medscribe.discovery.limits())
    planned: list[tuple[RecordingCreate, SessionPlan]] = []

    async def check_session(body: bytes) -> None:
        session = read_json(body, RecordingCreate)
        planned.append((session, await intake.plan(principal, session, idempotency_key)))

    recording = await read_recording(request, max_recording_bytes(services.settings), check_session)
    try:
        session, plan = planned[0]
        received = await intake.receive(plan, session, recording, idempotency_key)
    finally:
        recording.close()
    if received.is_replayed:
        await services.sessions.read_audit.replayed(principal, received.body)
    return keyed_response(received, status_code=202)
