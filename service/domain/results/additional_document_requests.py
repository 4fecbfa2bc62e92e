"""Requests additional documents of finished sessions: one call to the vendor, then a fetch like any other.

The session's first result stays unchanged here, although an additional document changes the vendor's own
answer (docs/vendor.md#further-moves-session).
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol
from uuid import uuid4

import msgspec

from schemas.sessions import Session
from service.domain.api_keys.models import Principal
from service.domain.clock import Clock
from service.domain.errors import (
    BridgeError,
    InvalidRequest,
    NotFound,
    SessionErased,
    SessionNotFinished,
    VendorRefused,
    VendorTimeout,
)
from service.domain.idempotency import KeyedAnswer, KeyedCall, Reservation, check_reservation, keyed_call
from service.domain.ids import Lease, SessionId, TemplateId, TenantId
from service.domain.results.additional_documents import Made, find_made
from service.domain.results.models import AdditionalDocumentState
from service.domain.sessions.lifecycle import CALL_DEADLINE_SECONDS
from service.domain.vendor import Vendor
from service.domain.vendor_calls import call_once_or_probe

# Longer than the deadline of the vendor's call, so that a lease expires only after its holder has stopped.
_LEASE_SECONDS = 60.0
# The vendor needs some seconds to make a document.
_FIRST_LOOK_SECONDS = 1.0
# So long after a call without an answer, a worker asks the vendor about its outcome.
_UNCLEAR_SECONDS = 5.0
_TEMPLATE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class AdditionalDocumentUnit(Protocol):
    """A session's locked row, for checking the request and recording it in one transaction."""

    state: AdditionalDocumentState

    async def begin(self, lease: Lease, lease_seconds: float) -> None:
        """Lease the call for the document: its row exists before the call."""
        ...


class AdditionalDocumentStore(Protocol):
    """Rows of requested documents."""

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
        """Record that the vendor makes the document, and schedule a fetch after the wait."""
        ...

    async def leave(
        self, session_id: SessionId, template_id: TemplateId, lease: Lease, wait_seconds: float
    ) -> None:
        """Release a call with an unclear outcome: the next caller, or later a worker, asks the vendor."""
        ...

    async def withdraw(self, session_id: SessionId, template_id: TemplateId, lease: Lease) -> None:
        """Delete a request that the vendor refused."""
        ...


class DocumentKeyStore(Protocol):
    """Rows of Idempotency-Keys."""

    async def reserve(
        self, call: KeyedCall, session_id: SessionId, lease: Lease, *, lease_seconds: float
    ) -> Reservation:
        """Reserve the key for a call about a session, or return what the key stands for already."""
        ...

    async def finish(self, call: KeyedCall, session_id: SessionId, answer: bytes) -> None:
        """Record that the call was answered: a repeat then calls nobody."""
        ...

    async def abandon(self, call: KeyedCall, lease: Lease) -> None:
        """End the lease of a call that failed: the same key may try again at once."""
        ...


class AdditionalDocumentRequests:
    """Requests additional documents of finished sessions from the vendor."""

    def __init__(
        self,
        *,
        store: AdditionalDocumentStore,
        idempotency: DocumentKeyStore,
        vendor: Vendor,
        clock: Clock,
        read: Callable[[TenantId, SessionId], Awaitable[Session]],
    ) -> None:
        self._store = store
        self._idempotency = idempotency
        self._vendor = vendor
        self._clock = clock
        self._read = read

    async def request(
        self, principal: Principal, session_id: SessionId, template_id: TemplateId, key: str | None
    ) -> KeyedAnswer:
        """Request a document as `ask` does; a repeat of the call with its Idempotency-Key requests nothing.

        The answer is always the current session. A stored copy would hold its transcript once more for each
        key, and the API would read the copy without a reservation of memory. Raises as `ask`,
        IdempotencyKeyReused or IdempotencyInProgress.
        """
        if key is None:
            await self.ask(principal, session_id, template_id)
            return KeyedAnswer(await self._answer(principal, session_id), is_replayed=False)
        _check_template(template_id)
        call = keyed_call(principal.tenant_id, "makeDocument", key, [session_id, template_id])
        lease = Lease(uuid4())
        await self._check_exists(principal, session_id, template_id)
        reserved = await self._idempotency.reserve(call, session_id, lease, lease_seconds=_LEASE_SECONDS)
        if reserved.kind == "erased":
            raise SessionErased("the session of this Idempotency-Key was erased")
        check_reservation(reserved)
        if reserved.kind == "replayed":
            return KeyedAnswer(await self._answer(principal, session_id), is_replayed=True)
        try:
            await self.ask(principal, session_id, template_id, since=reserved.since)
            await self._idempotency.finish(call, session_id, msgspec.json.encode({"id": session_id}))
        except (BridgeError, asyncio.CancelledError):
            await asyncio.shield(self._idempotency.abandon(call, lease))
            raise
        return KeyedAnswer(await self._answer(principal, session_id), is_replayed=False)

    async def _check_exists(
        self, principal: Principal, session_id: SessionId, template_id: TemplateId
    ) -> None:
        """Refuse an erased session, or another tenant's, whose erasure would not find the row of a key."""
        async with self._store.opening(principal.tenant_id, session_id, template_id) as unit:
            if unit is None:
                raise NotFound("no such session")
            if unit.state.is_erased:
                raise SessionErased("the session was erased")

    async def _answer(self, principal: Principal, session_id: SessionId) -> bytes:
        return msgspec.json.encode(await self._read(principal.tenant_id, session_id))

    async def ask(
        self,
        principal: Principal,
        session_id: SessionId,
        template_id: TemplateId,
        *,
        since: datetime | None = None,
    ) -> str | None:
        """Request a document of another template, or a new version of the same one; return the vendor's id.

        While the document is on its way, a further request calls nobody. The repeat of a call that was first
        made at `since` calls nobody either, if its document has come after that. Raises InvalidRequest,
        NotFound, SessionErased, SessionNotFinished, or VendorError; after VendorUnreachable the caller may
        repeat the call.
        """
        _check_template(template_id)
        lease = Lease(uuid4())
        async with self._store.opening(principal.tenant_id, session_id, template_id) as unit:
            if unit is None:
                raise NotFound("no such session")
            state = unit.state
            _check_finished(state)
            if state.is_asking or (state.is_pending and not state.is_unclear):
                return state.document_id
            if since is not None and state.asked_until is not None and state.asked_until >= since:
                return state.document_id
            await unit.begin(lease, _LEASE_SECONDS)
        return await self._ask_vendor(principal, state, session_id, template_id, lease)

    async def _ask_vendor(
        self,
        principal: Principal,
        state: AdditionalDocumentState,
        session_id: SessionId,
        template_id: TemplateId,
        lease: Lease,
    ) -> str | None:
        async def call() -> Made:
            return Made(await self._vendor.make_document(state.account, state.vendor_id, template_id))

        async def look() -> Made | None:
            result = await self._vendor.get_session(state.account, state.vendor_id, template_id)
            return find_made(result, template_id, state.known)

        try:
            async with asyncio.timeout(CALL_DEADLINE_SECONDS):
                made = await call_once_or_probe(
                    call,
                    look,
                    maybe_sent=state.is_unclear,
                    clock=self._clock,
                    before_repeat=lambda: self._check_exists(principal, session_id, template_id),
                )
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


def _check_template(template_id: TemplateId) -> None:
    if not _TEMPLATE.fullmatch(template_id):
        raise InvalidRequest("is not the id of a template", field="template_id")


def _check_finished(state: AdditionalDocumentState) -> None:
    if state.is_erased:
        raise SessionErased("the session was erased")
    if state.status not in {"completed", "partial"}:
        raise SessionNotFinished(
            f"the session is {state.status}; further documents need a completed or partial one"
        )
