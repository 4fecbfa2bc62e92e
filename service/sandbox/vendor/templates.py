"""The templates API (docs/vendor.md#template-lists)."""

from __future__ import annotations

import uuid
from typing import Any

from litestar import Response, delete, get, patch, post
from litestar.params import FromPath

from service.sandbox.vendor.errors import StandInError, field_error, not_found, plain_error
from service.sandbox.vendor.requests import VendorRequest, read_object, vendor_of
from service.sandbox.vendor.state import Template, VendorState

_PATH = "/voice/api/v1/template"


@get(_PATH)
async def list_templates(request: VendorRequest) -> Response[dict[str, Any]]:
    """List the templates that were made here, and the default one."""
    vendor = vendor_of(request)
    newest_first = reversed(vendor.templates.values())
    items = [_view(vendor, each) for each in newest_first if not each.archived]
    return Response({"items": items}, status_code=200)


@get("/voice/v1/templates")
async def list_protocol_templates(request: VendorRequest) -> Response[dict[str, Any]]:
    """Refuse the protocol's own list with 500, as both on-prem servers do (docs/vendor.md#template-lists)."""
    if vendor_of(request).settings.is_hosted:
        raise not_found()
    raise plain_error(500, "internal_error", "Failed to retrieve templates")


@post(_PATH)
async def create_template(request: VendorRequest) -> Response[dict[str, Any]]:
    """Make a template."""
    body = await read_object(request)
    for name in ("title", "section_ids"):
        if name not in body:
            raise field_error(name, "Field required")
    made = Template(
        str(uuid.uuid4()), str(body["title"]), str(body.get("desc") or ""), list(body["section_ids"])
    )
    vendor_of(request).templates[made.template_id] = made
    answer = {"msg": "created successfully", "template_id": made.template_id}
    return Response(answer, status_code=201)


@patch(f"{_PATH}/{{template_id:str}}")
async def update_template(request: VendorRequest, template_id: FromPath[str]) -> Response[dict[str, Any]]:
    """Change a template; July answers 500 for one that may be changed."""
    vendor = vendor_of(request)
    known = _find(vendor, template_id, "Template not found")
    if known.is_default:
        raise plain_error(400, "BAD_REQUEST", "Template not editable")
    _break_in_july(vendor)
    body = await read_object(request)
    known.title, known.desc = body.get("title", known.title), body.get("desc", known.desc)
    return Response({"msg": "updated successfully"}, status_code=200)


@delete(f"{_PATH}/{{template_id:str}}", status_code=200)
async def archive_template(request: VendorRequest, template_id: FromPath[str]) -> Response[dict[str, Any]]:
    """Delete a template, which archives it; July answers 500."""
    vendor = vendor_of(request)
    known = _find(vendor, template_id, "Template not found or already archived")
    _break_in_july(vendor)
    known.archived = True
    return Response({"msg": "Template archived successfully"}, status_code=200)


def _find(vendor: VendorState, template_id: str, missing: str) -> Template:
    known = vendor.templates.get(template_id)
    if known is None or known.archived:
        raise plain_error(400, "BAD_REQUEST", missing)
    return known


def _break_in_july(vendor: VendorState) -> None:
    if vendor.settings.is_july:
        error = {"code": "INTERNAL_SERVER_ERROR", "message": "An unexpected error occurred"}
        raise StandInError(500, {"error": error})


def _view(vendor: VendorState, template: Template) -> dict[str, Any]:
    view: dict[str, Any] = {
        "id": template.template_id,
        "title": template.title,
        "desc": template.desc,
        "section_ids": template.section_ids,
        "default": template.is_default,
        "is_favorite": template.is_default,
    }
    return {**view, "available_tools": None} if vendor.settings.is_july else view
