"""The object storage: contents of documents behind signed addresses, and uploads by form."""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import Any

from litestar import Response, get, post, put
from litestar.datastructures import UploadFile
from litestar.params import FromPath, FromQuery

from service.sandbox.vendor.audio import keep_recording
from service.sandbox.vendor.errors import StandInError
from service.sandbox.vendor.records import Document, Recording, Session, measure_chunk
from service.sandbox.vendor.requests import VendorRequest, vendor_of
from service.sandbox.vendor.response_parts import BUCKET, is_address_good
from service.sandbox.vendor.state import VendorState

_BLOB_PATH = f"/voice/v1/blob/{BUCKET}/{{day:str}}/{{session_id:str}}/documents/{{file_name:str}}"
_FORM_FILE = re.compile(r"^(\d+)\.([A-Za-z0-9]+)$")


@get(_BLOB_PATH)
async def read_blob(
    request: VendorRequest,
    day: FromPath[str],
    session_id: FromPath[str],
    file_name: FromPath[str],
    expires: FromQuery[str] = "",
    token: FromQuery[str] = "",
) -> Response[str]:
    """Answer the plain text of a document; the address is the permission (docs/vendor.md#presigned)."""
    path = f"{day}/{session_id}/documents/{file_name}"
    _, document = _find(vendor_of(request), path, expires, token)
    if document.content is None:
        raise StandInError(404, {"detail": "object not found"})
    return Response(document.content, media_type="text/plain")


@put(_BLOB_PATH)
async def write_blob(
    request: VendorRequest,
    day: FromPath[str],
    session_id: FromPath[str],
    file_name: FromPath[str],
    expires: FromQuery[str] = "",
    token: FromQuery[str] = "",
) -> Response[str]:
    """Store a document's content; its status and path stay as they are (docs/vendor.md#documents-api)."""
    path = f"{day}/{session_id}/documents/{file_name}"
    session, document = _find(vendor_of(request), path, expires, token)
    document.content = (await request.body()).decode("utf-8", "replace")
    session.announce_change()
    return Response("", status_code=200, media_type="text/plain")


def _find(vendor: VendorState, path: str, expires: str, token: str) -> tuple[Session, Document]:
    if not is_address_good(path, expires, token):
        raise StandInError(403, {"detail": "invalid or expired storage token"})
    found = vendor.find_document(path.rpartition("/")[2].removesuffix(".txt"))
    if found is None:
        raise StandInError(404, {"detail": "object not found"})
    return found


@post(f"/voice/v1/blob-upload/{BUCKET}", request_max_body_size=None)
async def upload_form(request: VendorRequest) -> Response[None]:
    """Take an upload by form: fields first, then the file `1.mp3` and so on (docs/vendor.md#form-upload)."""
    vendor = vendor_of(request)
    form = await request.form()
    prefix, expires, token = (
        str(form.get(f"x-scribe-{name}", "")) for name in ("prefix", "expires", "token")
    )
    if not is_address_good(prefix, expires, token):
        raise StandInError(403, {"detail": "invalid or expired storage token"})
    session = vendor.session(prefix.rpartition("/")[2])
    file: Any = form.get("file")
    if not isinstance(file, UploadFile):
        raise StandInError(400, {"detail": "file is required"})
    named = str(form.get("key", "")).rpartition("/")[2].replace("${filename}", file.filename)
    parsed = _FORM_FILE.match(named)
    if parsed is None:
        raise StandInError(400, {"detail": "unexpected file name"})
    data = await file.read()
    path = vendor.new_audio_path()
    await asyncio.to_thread(path.write_bytes, data)
    number, extension = int(parsed.group(1)), parsed.group(2)
    seconds = measure_chunk(data, extension)
    recording = Recording(path, len(data), hashlib.sha256(data).hexdigest(), seconds)
    keep_recording(session, number, extension, file.content_type, named, recording)
    session.chunks[number, extension].by_form = True
    return Response(None, status_code=204)
