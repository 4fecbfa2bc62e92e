"""Creates sessions: one session per Idempotency-Key, even if a process dies in the middle of the call."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from uuid import uuid4

import msgspec

from schemas.sessions import Session, SessionCreate
from schemas.tenants import KeepAudio
from service.domain.api_keys.models import Principal
from service.domain.errors import (
    BridgeError,
    IdempotencyInProgress,
    InvalidRequest,
    SessionErased,
    SessionExists,
)
from service.domain.idempotency import (
    KeyedAnswer,
    KeyedCall,
    Reservation,
    check_reservation,
    keyed_call,
)
from service.domain.ids import Lease, SessionId, TenantId, new_session_id
from service.domain.sessions.lifecycle import (
    PENDING_CALL_LEASE_SECONDS,
    SESSION_LIFE_SECONDS,
    SessionLifecycle,
    plan_session,
)
from service.domain.sessions.models import ProtocolWords, SessionPlan
from service.domain.sessions.ports import SessionStore
from service.domain.vendor import VendorLimits
from service.domain.vendor_limits import check_limits, check_upload

_MAX_OBJECT_BYTES = 4096
_MAX_LEVELS = 32


class IdempotencyStore(Protocol):
    """Rows of Idempotency-Keys."""

    async def reserve_session(
        self,
        call: KeyedCall,
        plan: SessionPlan,
        lease: Lease,
        *,
        lease_seconds: float,
        life_seconds: float,
    ) -> Reservation:
        """Reserve the key and insert the session together, or return what the key stands for already."""
        ...

    async def finish(self, call: KeyedCall, session_id: SessionId, answer: bytes) -> None:
        """Keep the answer that every repeat will get."""
        ...

    async def abandon(self, call: KeyedCall, lease: Lease) -> None:
        """End the lease of a call that failed: the same key may try again at once."""
        ...


class SessionCreator:
    """Creates sessions for EMRs."""

    def __init__(
        self,
        *,
        store: SessionStore,
        idempotency: IdempotencyStore,
        lifecycle: SessionLifecycle,
        limits: VendorLimits,
        read: Callable[[TenantId, SessionId], Awaitable[Session]],
        keep_audio: KeepAudio,
    ) -> None:
        """`keep_audio` is the setting, which holds for tenants without their own choice."""
        self._store = store
        self._keep_audio = keep_audio
        self._idempotency = idempotency
        self._lifecycle = lifecycle
        self._limits = limits
        self._read = read

    async def create(self, principal: Principal, request: SessionCreate, key: str | None) -> KeyedAnswer:
        """Create a session, or return the answer that the first call with this key got.

        Raises InvalidRequest, UploadNotSupported, IdempotencyKeyReused, IdempotencyInProgress, or
        VendorError; after either of the last two the caller may repeat the call with the same key.
        """
        if key is None:
            return KeyedAnswer(
                await self._answer(principal, await self.start(principal, request)), is_replayed=False
            )
        check_create(request)
        call = keyed_call(principal.tenant_id, "createSession", key, request)
        plan = await self._plan(principal, request, new_session_id())
        return await self._create_once(principal, call, plan, Lease(uuid4()))

    async def start(
        self,
        principal: Principal,
        request: SessionCreate,
        *,
        session_id: SessionId | None = None,
        words: ProtocolWords | None = None,
    ) -> SessionId:
        """Create a session without an Idempotency-Key; clients of the protocol may choose its id.

        Raises InvalidRequest, UploadNotSupported, VendorError, or SessionExists if any tenant has a session
        of this id. In that case the vendor gets no call, because a second create damages the first session
        (docs/vendor.md#create-twice).
        """
        check_create(request)
        lease = Lease(uuid4())
        plan = await self._plan(principal, request, session_id or new_session_id(), words)
        inserted = await self._store.insert_session(
            plan, lease, lease_seconds=PENDING_CALL_LEASE_SECONDS, life_seconds=SESSION_LIFE_SECONDS
        )
        if not inserted:
            raise SessionExists("a session of this id exists already")
        await self._lifecycle.create_at_vendor(plan, lease, maybe_sent=False)
        return plan.id

    async def _plan(
        self,
        principal: Principal,
        request: SessionCreate,
        session_id: SessionId,
        words: ProtocolWords | None = None,
    ) -> SessionPlan:
        """Fill in the defaults, and refuse values that EkaScribe would refuse anyway, naming the field.

        `words` holds the request of a client of the protocol, whose `single` is a session of one chunk here.
        """
        plan = plan_session(principal, request, session_id, self._keep_audio)
        plan = msgspec.structs.replace(plan, details=msgspec.structs.replace(plan.details, protocol=words))
        limits = await self._limits.limits()
        check_upload(limits, words.upload_type if words else plan.upload)
        check_limits(
            limits,
            model=plan.model,
            languages=plan.languages,
            transcript_language=plan.transcript_language,
        )
        return plan

    async def _create_once(
        self, principal: Principal, call: KeyedCall, plan: SessionPlan, lease: Lease
    ) -> KeyedAnswer:
        reserved = await self._idempotency.reserve_session(
            call,
            plan,
            lease,
            lease_seconds=PENDING_CALL_LEASE_SECONDS,
            life_seconds=SESSION_LIFE_SECONDS,
        )
        if reserved.kind == "erased":
            raise SessionErased("the session of this Idempotency-Key was erased")
        check_reservation(reserved)
        session_id = SessionId(reserved.object_id)
        if reserved.kind == "replayed":
            # The present session stands in for an answer that nobody can decrypt any more.
            body = reserved.answer or await self._answer(principal, session_id)
            return KeyedAnswer(body, is_replayed=True)
        try:
            await self._create_at_vendor(principal, plan, lease, reserved)
            body = await self._answer(principal, session_id)
            await self._idempotency.finish(call, session_id, body)
        except (BridgeError, asyncio.CancelledError):
            await asyncio.shield(self._idempotency.abandon(call, lease))
            raise
        return KeyedAnswer(body, is_replayed=False)

    async def _create_at_vendor(
        self, principal: Principal, plan: SessionPlan, lease: Lease, reserved: Reservation
    ) -> None:
        if reserved.kind == "established":
            return
        resumed = reserved.kind == "resumed"
        if resumed:
            session_id = SessionId(reserved.object_id)
            vendor_id = await self._store.claim_pending_create(
                principal.tenant_id, session_id, lease, lease_seconds=PENDING_CALL_LEASE_SECONDS
            )
            if vendor_id is None:
                raise IdempotencyInProgress("this session is being looked for at EkaScribe at this moment")
            plan = msgspec.structs.replace(plan, id=session_id, vendor_id=vendor_id)
        await self._lifecycle.create_at_vendor(plan, lease, maybe_sent=resumed)

    async def _answer(self, principal: Principal, session_id: SessionId) -> bytes:
        return msgspec.json.encode(await self._read(principal.tenant_id, session_id))


def check_create(request: SessionCreate) -> None:
    """Check the rules that the schema cannot express. Raises InvalidRequest."""
    check_fields(
        templates=request.templates,
        patient=request.patient,
        reference=request.reference,
        metadata=request.metadata,
    )


def check_fields(
    *,
    templates: list[str] | None,
    patient: dict[str, Any] | None,
    reference: str | None = None,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Check the fields of a create call or a change; None means an absent field. Raises InvalidRequest."""
    if templates and len(set(templates)) != len(templates):
        raise InvalidRequest("names a template twice", field="templates")
    if patient is not None:
        for name in ("id", "name"):
            if name in patient and not (isinstance(patient[name], str) and patient[name].strip()):
                raise InvalidRequest("must be text, and not empty", field=f"patient.{name}")
    for name, text in (("reference", reference), ("patient.id", (patient or {}).get("id"))):
        if text is not None and "\0" in text:
            raise InvalidRequest("must not hold NUL", field=name)
    for name, value in (("patient", patient), ("metadata", metadata)):
        if _is_deeper(value, _MAX_LEVELS):
            raise InvalidRequest(f"must not be nested deeper than {_MAX_LEVELS} levels", field=name)
        if value is not None and len(msgspec.json.encode(value)) > _MAX_OBJECT_BYTES:
            raise InvalidRequest(f"must be at most {_MAX_OBJECT_BYTES} bytes of JSON", field=name)


def _is_deeper(value: Any, levels: int) -> bool:
    """Return whether JSON is nested deeper than `levels`, beyond which encoders could overflow the stack."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return False
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in value)
