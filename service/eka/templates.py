"""Reads the vendor's two lists of templates: the protocol's own, and that of its template API.

Both on-prem servers answer 500 to the protocol's list and serve the other (docs/vendor.md#template-lists).
The list that answered comes first from then on, so that each process meets a permanent 500 only once.
"""

import re
from typing import Any

import msgspec

from service.domain.errors import VendorFailure, VendorRefused
from service.domain.ids import Account
from service.domain.templates import VendorTemplate
from service.eka.client import EkaClient
from service.eka.http_exchange import check

_PATHS = ("/voice/v1/templates", "/voice/api/v1/template")
_NO_SUCH_LIST = frozenset({404, 405, 410})
_ID = re.compile(r"[\x21-\x7e]{1,128}")
_MAX_BYTES = 2 * 1024 * 1024
_MAX_TEMPLATES = 500
_MAX_TITLE_CHARACTERS = 200
_MAX_DESCRIPTION_CHARACTERS = 2000


class EkaTemplates:
    """Lists templates; implements the domain's TemplateSource."""

    def __init__(self, client: EkaClient) -> None:
        self._client = client
        self._answering: dict[Account, str] = {}

    async def list_templates(self, account: Account) -> list[VendorTemplate] | None:
        """Return the first list that the server has, None if it has neither. Raises VendorError."""
        known = self._answering.get(account)
        for path in sorted(_PATHS, key=lambda path: path != known):
            try:
                answer = await self._client.ask(
                    account, "GET", path, operation="templates", max_bytes=_MAX_BYTES
                )
                found = read_templates(check(answer, 200).body)
            except VendorRefused as error:
                if error.status not in _NO_SUCH_LIST:
                    raise
            except VendorFailure:
                continue
            else:
                self._answering[account] = path
                return found
        return None


def read_templates(body: bytes) -> list[VendorTemplate]:
    """Read either list without its invalid entries. Raises VendorFailure if there is no list."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise VendorFailure("EkaScribe's list of templates cannot be read", sent=True) from error
    listed = decoded.get("templates", decoded.get("items")) if isinstance(decoded, dict) else None
    if not isinstance(listed, list):
        raise VendorFailure("EkaScribe's answer holds no list of templates", sent=True)
    found: dict[str, VendorTemplate] = {}
    for entry in listed:
        template = _template(entry) if isinstance(entry, dict) else None
        if template is not None:
            found.setdefault(template.id, template)
        if len(found) == _MAX_TEMPLATES:
            break
    return list(found.values())


def _template(entry: dict[str, Any]) -> VendorTemplate | None:
    template_id = entry.get("id")
    if not isinstance(template_id, str) or not _ID.fullmatch(template_id):
        return None
    title = _text(entry, _MAX_TITLE_CHARACTERS, "name", "title")
    return VendorTemplate(
        id=template_id,
        title=title or template_id,
        description=_text(entry, _MAX_DESCRIPTION_CHARACTERS, "description", "desc"),
        is_default=entry.get("default") is True,
    )


def _text(entry: dict[str, Any], max_characters: int, *names: str) -> str:
    texts = (entry.get(name) for name in names)
    return next((each.strip() for each in texts if isinstance(each, str)), "")[:max_characters]
