"""Identifies the kind of server at EKA_BASE_URL and its limitations, for `ekabridge doctor` alone.

The evidence is the discovery document and three calls without a token, which create nothing: Get Session for
a session that does not exist, and two logins without a name.
"""

from collections.abc import Iterator
from typing import Any, Literal, assert_never

import httpx2
from msgspec import Struct

from service.domain.ids import new_vendor_session_id
from service.eka.discovery import Discovery
from service.eka.http_exchange import VendorAnswer, exchange
from service.eka.token_errors import is_behind_login

ServerKind = Literal["hosted", "onprem-2026-07", "onprem-2026-08", "unknown"]

_SESSIONS = "/voice/v1/sessions"
_CLIENT_LOGIN = "/connect-auth/v1/account/login"
_USER_LOGIN = "/connect-auth/v1/login"
_NOT_THERE = frozenset({404, 405, 429})
_SERVER_ERRORS = 500


class Evidence(Struct, frozen=True, kw_only=True):
    """The observations about a server. `document` is its discovery document, None when it has none."""

    document: dict[str, Any] | None
    has_client_login: bool
    has_user_login: bool
    # Whether the server refuses a call without a token with the word that only the server of July uses.
    says_unauthorized: bool


class Server(Struct, frozen=True):
    """The kind of a server, and its limitations, one sentence each."""

    kind: ServerKind
    lacks: tuple[str, ...]


async def identify_server(http: httpx2.AsyncClient, base_url: str, discovery: Discovery) -> Server:
    """Find out the kind of the server. Raises VendorUnreachable."""

    async def ask(method: str, path: str) -> VendorAnswer:
        content = b"{}" if method == "POST" else None
        headers = {"content-type": "application/json"} if content else {}
        return await exchange(
            http, method, base_url + path, operation="discovery", headers=headers, content=content
        )

    session = await ask("GET", f"{_SESSIONS}/{new_vendor_session_id()}")
    evidence = Evidence(
        document=await discovery.document(),
        has_client_login=_has_login(await ask("POST", _CLIENT_LOGIN)),
        has_user_login=_has_login(await ask("POST", _USER_LOGIN)),
        says_unauthorized=session.status == 401 and is_behind_login(session.status, session.body),  # noqa: PLR2004
    )
    kind = classify(evidence)
    return Server(kind, tuple(_limitations(kind, evidence.document)))


def _has_login(answer: VendorAnswer) -> bool:
    """Whether the address accepts logins; elsewhere the call is not found, or needs a token itself."""
    is_there = answer.status not in _NOT_THERE and answer.status < _SERVER_ERRORS
    return is_there and not is_behind_login(answer.status, answer.body)


def classify(evidence: Evidence) -> ServerKind:
    """Return the kind of a server; a pure function.

    A server on premises has never offered streams (docs/vendor.md#discovery-no-stream).
    """
    if evidence.has_client_login:
        return "hosted"
    if "stream" in _listed(evidence.document, "capabilities", "upload_methods"):
        return "unknown"
    if evidence.has_user_login:
        return "onprem-2026-08"
    return "onprem-2026-07" if evidence.says_unauthorized else "unknown"


def describe(kind: ServerKind) -> str:
    """Describe a kind in words."""
    match kind:
        case "hosted":
            return "hosted by EkaScribe"
        case "onprem-2026-07":
            return (
                "on premises, like the version of July 2026: it takes one token (EKA_TOKEN) and has no login"
            )
        case "onprem-2026-08":
            return (
                "on premises, like the version of August 2026: it logs in with EKA_USERNAME and EKA_PASSWORD"
            )
        case "unknown":
            return "of no known kind: neither hosted, nor on premises as of July or August 2026"
        case _:
            assert_never(kind)


def _limitations(kind: ServerKind, document: dict[str, Any] | None) -> Iterator[str]:
    if document is None:
        yield "has no discovery document that can be read: what it takes is assumed, not known"
    else:
        methods = _listed(document, "capabilities", "upload_methods")
        if methods and "stream" not in methods:
            yield "takes no live streams (upload `stream`)"
        if methods and "single" not in methods:
            yield "takes no recording in one piece (upload `single`)"
        languages = _listed(document, "languages", "supported")
        if languages and "auto_detect" not in languages:
            yield "does not detect languages (`auto_detect`): a session has to name them"
    if kind == "onprem-2026-08":
        yield "makes no further documents: it refuses process/template to everybody"
        yield (
            "makes no documents by itself: unless something of yours fills them, a session ends with its"
            " transcript"
        )


def _listed(document: dict[str, Any] | None, section: str, field: str) -> list[Any]:
    found = (document or {}).get(section)
    listed = found.get(field) if isinstance(found, dict) else None
    return listed if isinstance(listed, list) else []
