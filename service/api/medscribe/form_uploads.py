"""Uploads as HTML forms with signed fields, as official browser clients post them to object storage.

Such a client gets a form as the `upload_url` of a session and then posts it once for each file, without any
other credential.
"""

from collections.abc import Mapping
from typing import Any

from litestar import Request, Response, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from schemas.medscribe import FormUpload, UploadData
from service.api.authentication import admit_principal
from service.api.dependencies import Services
from service.api.medscribe.audio import store_file
from service.api.medscribe.error_envelope import as_medscribe_error
from service.api.medscribe.upload_parser import read_upload
from service.api.request_classes import REQUEST_CLASS
from service.domain.api_keys.models import Principal
from service.domain.errors import Forbidden
from service.domain.ids import SessionId
from service.store.medscribe_queries import MedscribeState

_TOKEN_FIELD = "x-scribe-token"  # noqa: S105 - the name of a field, not a secret
_FILE_NAME = "${filename}"


def wants_form(request: Request[Any, Any, Any]) -> bool:
    """Return whether a client posts forms: by `?version=v2` or `flavour` (docs/vendor.md#upload-url)."""
    return request.query_params.get("version") == "v2" or "flavour" in request.headers


async def make_form(services: Services, principal: Principal, state: MedscribeState) -> FormUpload:
    """Make the signed form with which a client may post files to one session until the session expires."""
    token = await services.medscribe.tokens.issue_form(principal.key_id, state.id, state.expires_at)
    folder = f"{state.id}/"
    return FormUpload(
        upload_data=UploadData(
            url=f"{services.settings.public_url or ''}/voice/v1/uploads/{state.id}",
            fields={"key": folder + _FILE_NAME, _TOKEN_FIELD: token, "x-amz-meta-txnid": state.id},
        ),
        folder=folder,
        txn_id=state.id,
    )


@post(
    "/uploads/{session_id:str}",
    status_code=204,
    request_max_body_size=None,
    opt={REQUEST_CLASS: "uploads"},
)
async def post_form(
    request: Request[Any, Any, Any], services: NamedDependency[Services], session_id: FromPath[str]
) -> Response[None]:
    """Store the file of a form; its signed field is verified before any byte of the file is stored."""
    allowed: list[Principal] = []

    with services.access.unauthenticated_limits.forms.wait(request.scope) as wait:

        async def authorise(fields: Mapping[str, str]) -> None:
            token = await services.medscribe.tokens.read(fields.get(_TOKEN_FIELD, ""), SessionId(session_id))
            principal = await services.medscribe.tokens.principal(token) if token else None
            if principal is None:
                raise as_medscribe_error(
                    Forbidden("the form's signature is wrong or too old"), 403, "access_denied"
                )
            await admit_principal(request.scope, services, principal)
            wait.release()
            allowed.append(principal)

        limits = await services.medscribe.discovery.limits()
        max_bytes = limits.chunk_bytes(services.settings.chunk_max_bytes)
        upload = await read_upload(request, max_bytes, authorise, wait.count)
    try:
        fields = {name.lower(): value for name, value in upload.fields.items()}
        key = fields.get("key", "").rpartition("/")[2]
        name = (upload.file_name or "") if _FILE_NAME in key or not key else key
        types = [fields.get("content-type", ""), upload.file_type or ""]
        await store_file(services, allowed[0], SessionId(session_id), name, types, upload)
        return Response(None, status_code=204, headers={"ETag": f'"{upload.buffer.sha256}"'})
    finally:
        upload.close()
