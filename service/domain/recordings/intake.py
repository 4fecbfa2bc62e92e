"""Receives whole recordings: checks their length, and keeps each with its session until a worker cuts it.

No vendor call is made here. One transaction inserts the session, ended and held, and all bytes: after its
commit nothing is lost, and before it nothing is begun.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from schemas.sessions import RecordingCreate, Session, SessionCreate
from schemas.tenants import KeepAudio
from service.domain.api_keys.models import Principal
from service.domain.errors import AudioEmpty, Overloaded, SessionErased
from service.domain.idempotency import (
    KeyedAnswer,
    KeyedCall,
    Reservation,
    check_key,
    check_reservation,
    keyed_call,
)
from service.domain.ids import SessionId, TenantId, new_session_id
from service.domain.recordings.length import check_length
from service.domain.recordings.models import ReceivedRecording
from service.domain.recordings.ports import HeldAudioRoom, RecordingReader, RecordingStore
from service.domain.sessions.creation import check_create, plan_within_limits
from service.domain.sessions.lifecycle import HOLD_SECONDS, SESSION_LIFE_SECONDS
from service.domain.sessions.models import SessionPlan
from service.domain.vendor import VendorLimits
from service.domain.wakeups import PendingCallWakeups

log = structlog.get_logger()

_ROUTE: Final = "createRecording"
# Room becomes free when EkaScribe takes the audio that is held.
_RETRY_AFTER_SECONDS = 60.0


class RecordingRequest(Struct, frozen=True, kw_only=True):
    """All that a call asks for; its hash tells a repeat from another call with the same Idempotency-Key."""

    session: RecordingCreate
    sha256: str


class RecordingIntake:
    """Receives recordings of EMRs."""

    def __init__(
        self,
        *,
        store: RecordingStore,
        room: HeldAudioRoom,
        reader: RecordingReader,
        limits: VendorLimits,
        wakeups: PendingCallWakeups,
        read: Callable[[TenantId, SessionId], Awaitable[Session]],
        reconcile_after_seconds: float,
        keep_audio: KeepAudio,
    ) -> None:
        self._store = store
        self._room = room
        self._reader = reader
        self._limits = limits
        self._wakeups = wakeups
        self._read = read
        self._keep_audio = keep_audio
        self._reconcile_seconds = HOLD_SECONDS + reconcile_after_seconds

    async def plan(self, principal: Principal, request: RecordingCreate, key: str | None) -> SessionPlan:
        """Plan the session before its audio is read. Raises InvalidRequest or IdempotencyKeyInvalid."""
        if key is not None:
            check_key(key)
        fields = SessionCreate(upload="recording", **msgspec.structs.asdict(request))
        check_create(fields)
        return plan_within_limits(
            await self._limits.limits(), principal, fields, new_session_id(), keep_audio=self._keep_audio
        )

    async def receive(
        self, plan: SessionPlan, request: RecordingCreate, recording: ReceivedRecording, key: str | None
    ) -> KeyedAnswer:
        """Keep a recording, or return the answer that the first call with this key got.

        Raises AudioEmpty, RecordingUnreadable, RecordingTooLong, IdempotencyKeyReused, SessionErased, or
        Overloaded when no room or no process is free.
        """
        if recording.size == 0:
            raise AudioEmpty("the recording has no bytes")
        call = _keyed(plan.tenant_id, request, recording, key)
        earlier = await self._store.find(call) if call else None
        if call is not None and earlier is not None:
            return await self._repeated(call, earlier)
        facts = await self._reader.inspect(recording)
        check_length(facts.seconds, plan.model, await self._limits.limits())
        if not await self._room.has_room(plan.tenant_id, recording.size):
            raise Overloaded("more audio is kept here than may be", retry_after_seconds=_RETRY_AFTER_SECONDS)
        earlier = await self._store.insert(
            plan,
            recording,
            seconds=facts.seconds,
            call=call,
            life_seconds=SESSION_LIFE_SECONDS,
            reconcile_seconds=self._reconcile_seconds,
        )
        if call is not None and earlier is not None:
            return await self._repeated(call, earlier)
        log.info("recording_received", session_id=plan.id, bytes=recording.size, seconds=facts.seconds)
        self._wakeups.calls_due()
        return KeyedAnswer(await self._answer(plan.tenant_id, plan.id, call), is_replayed=False)

    async def _repeated(self, call: KeyedCall, earlier: Reservation) -> KeyedAnswer:
        """Answer a repeat: the first call's row exists only if its recording was kept."""
        if earlier.kind == "erased":
            raise SessionErased("the session of this Idempotency-Key was erased")
        if earlier.kind == "reused":
            check_reservation(earlier)
        body = earlier.answer
        if body is None:
            # The first process died before it kept its answer, or nobody can decrypt that any more.
            body = await self._answer(call.tenant_id, SessionId(earlier.object_id), call)
        return KeyedAnswer(body, is_replayed=True)

    async def _answer(self, tenant_id: TenantId, session_id: SessionId, call: KeyedCall | None) -> bytes:
        body = msgspec.json.encode(await self._read(tenant_id, session_id))
        if call is not None:
            await self._store.finish(call, session_id, body)
        return body


def _keyed(
    tenant_id: TenantId, request: RecordingCreate, recording: ReceivedRecording, key: str | None
) -> KeyedCall | None:
    if key is None:
        return None
    return keyed_call(tenant_id, _ROUTE, key, RecordingRequest(session=request, sha256=recording.sha256))
