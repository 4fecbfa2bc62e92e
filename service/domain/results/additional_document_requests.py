"""A further document of a finished session: asked for at the vendor once, then fetched like any result.

The session's first result stays as it is: a further document changes the vendor's own answer
(docs/vendor.md#further-moves-session).
"""

import asyncio
import re
from contextlib import AbstractAsyncContextManager
from typing import Protocol
from uuid import uuid4

from service.domain.errors import (
    InvalidRequest,
    NotFound,
    SessionErased,
    SessionNotFinished,
    VendorRefused,
    VendorTimeout,
)
from service.domain.ids import Lease, SessionId, TemplateId, TenantId
from service.domain.models import AdditionalDocumentState, Principal
from service.domain.ports import Clock, Vendor
from service.domain.results.additional_documents import Made, find_made
from service.domain.sessions.lifecycle import CALL_DEADLINE_SECONDS
from service.domain.vendor_calls import call_once_or_probe

# Longer than the deadline of the vendor's call, so that a lease ends only when its holder is gone.
_LEASE_SECONDS = 60.0
# It takes the vendor some seconds to make a document.
_FIRST_LOOK_SECONDS = 1.0
# After an unclear call a worker finds out what became of it.
_UNCLEAR_SECONDS = 5.0
_TEMPLATE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class AdditionalDocumentUnit(Protocol):
    """A session's row, locked, while it is decided whether the vendor is asked for a document."""

    state: AdditionalDocumentState

    async def begin(self, lease: Lease, lease_seconds: float) -> None:
        """The document is ours to ask for: its row is there before the call is made."""
        ...


class AdditionalDocumentStore(Protocol):
    """Rows of documents that are asked for."""

    def opening(
        self, tenant_id: TenantId, session_id: SessionId, template_id: TemplateId
    ) -> AbstractAsyncContextManager[AdditionalDocumentUnit | None]:
        """Lock a session; None when the tenant has no such session."""
        ...

    async def record_asked(
        self,
        session_id: SessionId,
        template_id: TemplateId,
        lease: Lease,
        document_id: str | None,
        wait_seconds: float,
    ) -> None:
        """The vendor makes it; look for it after the wait."""
        ...

    async def leave(
        self, session_id: SessionId, template_id: TemplateId, lease: Lease, wait_seconds: float
    ) -> None:
        """It is not known whether the vendor heard: the next caller, or later a worker, finds out."""
        ...

    async def withdraw(self, session_id: SessionId, template_id: TemplateId, lease: Lease) -> None:
        """The vendor refused: there is nothing to wait for."""
        ...


class AdditionalDocumentRequests:
    """Asks the vendor for documents of finished sessions."""

    def __init__(self, *, store: AdditionalDocumentStore, vendor: Vendor, clock: Clock) -> None:
        self._store = store
        self._vendor = vendor
        self._clock = clock

    async def ask(self, principal: Principal, session_id: SessionId, template_id: TemplateId) -> str | None:
        """Have a document made of another template, or of the same one anew; return the vendor's id of it.

        While it is on its way, asking again calls nobody. Raises InvalidRequest, NotFound, SessionErased,
        SessionNotFinished, or VendorError; after one that is unreachable the same call may be made again.
        """
        if not _TEMPLATE.fullmatch(template_id):
            raise InvalidRequest("is not the id of a template", field="template_id")
        lease = Lease(uuid4())
        async with self._store.opening(principal.tenant_id, session_id, template_id) as unit:
            if unit is None:
                raise NotFound("no such session")
            state = unit.state
            _check_finished(state)
            if state.is_asking or (state.is_pending and not state.is_unclear):
                return state.document_id
            await unit.begin(lease, _LEASE_SECONDS)
        return await self._ask_vendor(state, session_id, template_id, lease)

    async def _ask_vendor(
        self, state: AdditionalDocumentState, session_id: SessionId, template_id: TemplateId, lease: Lease
    ) -> str | None:
        async def call() -> Made:
            return Made(await self._vendor.make_document(state.account, session_id, template_id))

        async def look() -> Made | None:
            result = await self._vendor.get_session(state.account, session_id, template_id)
            return find_made(result, template_id, state.known)

        try:
            async with asyncio.timeout(CALL_DEADLINE_SECONDS):
                made = await call_once_or_probe(call, look, maybe_sent=state.is_unclear, clock=self._clock)
        except VendorRefused:
            await self._store.withdraw(session_id, template_id, lease)
            raise
        except BaseException as error:
            await asyncio.shield(self._store.leave(session_id, template_id, lease, _UNCLEAR_SECONDS))
            if isinstance(error, TimeoutError):
                raise VendorTimeout("EkaScribe did not answer in time", sent=True) from None
            raise
        await self._store.record_asked(session_id, template_id, lease, made.document_id, _FIRST_LOOK_SECONDS)
        return made.document_id


def _check_finished(state: AdditionalDocumentState) -> None:
    if state.is_erased:
        raise SessionErased("the session was erased")
    if state.status not in {"completed", "partial"}:
        raise SessionNotFinished(
            f"the session is {state.status}; further documents need a completed or partial one"
        )
