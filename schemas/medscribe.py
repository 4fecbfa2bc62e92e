"""Requests and responses of the MedScribeAlliance protocol v0.1 under /voice/v1.

Requests are decoded leniently: unknown fields are ignored (docs/vendor.md#unknown-fields), and null means the
same as an absent field. Responses never hold null, because official clients refuse it: a field without a
value is absent (docs/vendor.md#client-nulls).
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from schemas.sessions import Language, Languages, Mode, Model
from schemas.templates import TemplateName

PROTOCOL_VERSION = "0.1"
SUPPORTED_VERSIONS = (PROTOCOL_VERSION,)

UploadType = Literal["chunked", "single", "stream"]
CommunicationProtocol = Literal["http", "websocket", "rpc"]
ClientSessionId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{16,32}$(?!\n)")]
TemplateList = Annotated[list[TemplateName], Meta(max_length=2)]


class Login(Struct, kw_only=True, frozen=True):
    """Body of `POST /connect-auth/v1/account/login`: a tenant's id and one of its API keys."""

    client_id: str
    client_secret: str


class LoggedIn(Struct, kw_only=True, frozen=True):
    """Response to login; `expires_in` is in seconds. There is no refresh token: clients log in again."""

    access_token: str
    expires_in: int


class LoginRefused(Struct, kw_only=True, frozen=True):
    """The vendor's response to a refused login."""

    code: int
    error: str


class CreateVoiceSession(Struct, kw_only=True, frozen=True):
    """Body of `POST /voice/v1/sessions` (docs/vendor.md#create). An empty list asks for no template."""

    upload_type: UploadType
    communication_protocol: CommunicationProtocol | None = None
    session_id: ClientSessionId | None = None
    session_mode: Mode | None = None
    templates: TemplateList | None = None
    model: Model | None = None
    language_hint: Languages | None = None
    transcript_language: Language | None = None
    additional_data: dict[str, Any] | None = None
    patient_details: dict[str, Any] | None = None
    session_details: dict[str, Any] | None = None


class UploadData(Struct, kw_only=True, frozen=True):
    """The URL that a form is posted to, and the fields that stand before its file."""

    url: str
    fields: dict[str, str]


class FormUpload(
    Struct, kw_only=True, frozen=True, rename={"upload_data": "uploadData", "folder": "folderPath"}
):
    """`upload_url` for clients that post forms (`?version=v2`, or a `flavour` header)."""

    upload_data: UploadData
    folder: str
    txn_id: str


class VoiceSessionCreated(Struct, kw_only=True, frozen=True):
    """Response to create, with the patient under both names in use (docs/vendor.md#patient-names)."""

    session_id: str
    status: Literal["created"] = "created"
    created_at: str
    expires_at: str
    upload_url: str | FormUpload
    storage_provider: str | UnsetType = UNSET
    patient_details: dict[str, Any] | UnsetType = UNSET
    session_details: dict[str, Any] | UnsetType = UNSET


class AudioUploaded(Struct, kw_only=True, frozen=True):
    """Response to an upload (docs/vendor.md#upload)."""

    session_id: str
    success: Literal[True] = True
    original_filename: str


class EndVoiceSession(Struct, kw_only=True, frozen=True):
    """Body of `POST …/end` (docs/vendor.md#end)."""

    audio_files_sent: Annotated[int, Meta(ge=0, le=100_000)]


class VoiceSessionEnded(Struct, kw_only=True, frozen=True):
    """Response to end (docs/vendor.md#end)."""

    session_id: str
    status: Literal["processing"] = "processing"
    message: str = "Session ended. Processing started."
    audio_files_received: int
    audio_files: list[str]


class VoiceError(Struct, kw_only=True, frozen=True):
    """An error in the protocol's own envelope."""

    code: str
    message: str
    details: dict[str, Any] | UnsetType = UNSET


class VoiceErrorAnswer(Struct, kw_only=True, frozen=True):
    """The error envelope; `detail` repeats the code where the vendor does (docs/vendor.md#refusal-words)."""

    error: VoiceError
    detail: str | UnsetType = UNSET


class TemplateResult(Struct, kw_only=True, frozen=True):
    """One document of a session's result."""

    status: Literal["success", "failed"]
    document_id: str | UnsetType = UNSET
    document_type: str | UnsetType = UNSET
    data: Any = UNSET
    error: VoiceError | UnsetType = UNSET
    publish: dict[str, Any] = field(default_factory=dict)


class ProcessingError(Struct, kw_only=True, frozen=True):
    """The reason for which a template of a partial result has no document."""

    type: str
    message: str
    template_id: str


class VoiceSession(Struct, kw_only=True, frozen=True):
    """Response to Get Session; the HTTP status depends on the state (docs/vendor.md#status-codes)."""

    session_id: str
    status: Literal["initialized", "processing", "completed", "partial", "failed", "cancelled", "expired"]
    created_at: str
    expires_at: str
    upload_url: str | FormUpload
    storage_provider: str | UnsetType = UNSET
    audio_files_received: int
    audio_files: list[str]
    additional_data: dict[str, Any]
    patient_details: dict[str, Any] | UnsetType = UNSET
    session_details: dict[str, Any] | UnsetType = UNSET
    transcript: str | UnsetType = UNSET
    completed_at: str | UnsetType = UNSET
    expired_at: str | UnsetType = UNSET
    message: str | UnsetType = UNSET
    model_used: str | UnsetType = UNSET
    language_detected: str | UnsetType = UNSET
    audio_files_processed: int | UnsetType = UNSET
    processing_errors: list[ProcessingError] | UnsetType = UNSET
    templates: list[dict[str, TemplateResult]] | UnsetType = UNSET
    error: VoiceError | UnsetType = UNSET


class PatchVoiceSession(Struct, kw_only=True, frozen=True):
    """Body of `PATCH …/sessions/{id}`: changes before the end, or a cancellation.

    `additional_data` is not decoded: only its presence matters.
    """

    user_status: str | None = None
    processing_status: str | None = None
    session_mode: Mode | None = None
    templates: TemplateList | None = None
    model: Model | None = None
    language_hint: Languages | None = None
    patient_details: dict[str, Any] | None = None
    session_details: dict[str, Any] | None = None
    additional_data: Raw | UnsetType = UNSET


class VoiceSessionPatched(Struct, kw_only=True, frozen=True):
    """Response to a PATCH."""

    session_id: str
    status: Literal["success"] = "success"
    message: str = "Session updated successfully"


class TemplateAsked(Struct, kw_only=True, frozen=True):
    """Response to the request for an additional document of a finished session."""

    session_id: str
    template_id: str
    status: Literal["processing"] = "processing"
    message: str = "Template processing started"
    document_id: str | UnsetType = UNSET
    poll_url: str | UnsetType = UNSET


class VoiceTemplate(Struct, kw_only=True, frozen=True):
    """One template that a session may ask for, as the protocol describes it (specification, 8.2)."""

    id: str
    name: str
    description: str


class VoiceTemplates(Struct, kw_only=True, frozen=True):
    """Response to `GET /voice/v1/templates`."""

    templates: list[VoiceTemplate]


class DiscoveryService(Struct, kw_only=True, frozen=True):
    """The service's name; `support_email` is the operator's address."""

    name: str
    documentation_url: str | UnsetType = UNSET
    support_email: str | UnsetType = UNSET


class DiscoveryEndpoints(Struct, kw_only=True, frozen=True):
    """URLs of the protocol; `webhooks_url` is absent, because clients cannot register webhooks."""

    base_url: str
    templates_url: str


class DiscoveryAuthentication(Struct, kw_only=True, frozen=True):
    """The ways in which clients authenticate."""

    supported_methods: list[str]


class DiscoveryCapabilities(Struct, kw_only=True, frozen=True):
    """Audio formats, ways of upload and ways in which results reach a client.

    `webhook_delivery` is false, because the protocol's own webhooks are not sent. `client_sdk_delivery` is
    true: an official client reads its results by Get Session and hands them to its page or program.
    """

    audio_formats: list[str]
    max_chunk_duration_seconds: int
    upload_methods: list[UploadType]
    webhook_delivery: bool = False
    client_sdk_delivery: bool = True


class DiscoveryModel(Struct, kw_only=True, frozen=True):
    """One of the vendor's models."""

    id: str
    display_name: str
    languages: list[str]
    max_session_duration_seconds: int
    response_speed: str | UnsetType = UNSET


class DiscoveryLanguages(Struct, kw_only=True, frozen=True):
    """The languages that EkaScribe understands, and whether it detects them by itself."""

    supported: list[str]
    auto_detection: bool


class Discovery(Struct, kw_only=True, frozen=True):
    """The discovery document, with URLs of this installation."""

    protocol: str = "medscribealliance"
    protocol_version: str = PROTOCOL_VERSION
    supported_versions: list[str] = field(default_factory=lambda: list(SUPPORTED_VERSIONS))
    service: DiscoveryService
    endpoints: DiscoveryEndpoints
    authentication: DiscoveryAuthentication
    capabilities: DiscoveryCapabilities
    models: list[DiscoveryModel]
    languages: DiscoveryLanguages
