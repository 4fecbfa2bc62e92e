"""The routes of documents: list a session's documents, read one, and request another."""

from typing import Any

from litestar import Response, Router, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, RawBody

from schemas.pages import Page
from schemas.results import Document, DocumentRequest
from service.api import openapi_examples as examples
from service.api.dependencies import Services
from service.api.idempotency import IdempotencyKey, keyed_response
from service.api.json_body import MAX_JSON_BYTES, json_operation, read_json
from service.api.openapi_examples import answer
from service.api.problem_responses import documented
from service.api.v1.sessions import SessionPath
from service.domain.api_keys.models import Principal
from service.domain.ids import DocumentId, SessionId, TemplateId


@get(
    "/sessions/{session_id:str}/documents",
    operation_id="listDocuments",
    summary="The documents of a session, with their data",
    responses={
        200: answer(
            Page(items=[examples.DOCUMENT]), "The newest version of each document", kind=Page[Document]
        ),
        **documented(400, 401, 404, 410, 503),
    },
)
async def list_documents(
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    session_id: SessionPath,
    template_id: FromQuery[str | None] = None,
) -> Page[Document]:
    """Return the newest version of each document."""
    template = TemplateId(template_id) if template_id is not None else None
    documents = await services.sessions.queries.documents(
        principal.tenant_id, SessionId(session_id), template
    )
    await services.sessions.read_audit.documents(principal, documents)
    return Page(items=documents)


@get(
    "/documents/{document_id:str}",
    operation_id="getDocument",
    summary="One document, with its data",
    responses={200: answer(examples.DOCUMENT, "The document"), **documented(400, 401, 404, 410, 503)},
)
async def get_document(
    services: NamedDependency[Services], principal: NamedDependency[Principal], document_id: FromPath[str]
) -> Document:
    """Return a document; older versions are found, too."""
    document = await services.sessions.queries.document(principal.tenant_id, DocumentId(document_id))
    await services.sessions.read_audit.documents(principal, [document])
    return document


@post(
    "/sessions/{session_id:str}/documents",
    status_code=202,
    operation_id="makeDocument",
    operation_class=json_operation(DocumentRequest, examples.ADDITIONAL_DOCUMENT, required=True),
    summary="Request a document from another template",
    request_max_body_size=MAX_JSON_BYTES,
    responses={
        202: answer(examples.COMPLETED, "EkaScribe makes the document; it arrives like any other"),
        **documented(400, 401, 404, 409, 410, 413, 422, 502, 503, 504),
    },
)
async def make_document(
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    session_id: SessionPath,
    body: RawBody,
    idempotency_key: IdempotencyKey = None,
) -> Response[Any]:
    """Ask EkaScribe for another document of a finished session, or for a new version of an existing one."""
    template_id = TemplateId(read_json(body, DocumentRequest).template_id)
    requested = await services.sessions.additional_documents.request(
        principal, SessionId(session_id), template_id, idempotency_key
    )
    await services.sessions.read_audit.replayed(principal, requested.body)
    return keyed_response(requested, status_code=202)


documents_router = Router("", route_handlers=[list_documents, get_document, make_document], tags=["Sessions"])
