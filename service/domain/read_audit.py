"""Audits reads: one entry per key, object and hour, written after the read, which never fails for it."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

import msgspec
import structlog
from msgspec import UNSET, Struct

from schemas.results import Document
from schemas.sessions import Session
from service.domain.api_keys.models import Principal
from service.domain.clock import Clock
from service.domain.errors import StoreUnavailable
from service.domain.ids import KeyId, TenantId

log = structlog.get_logger()

ReadAction = Literal["session.read", "document.read", "recording.read"]
_Read = tuple[KeyId, ReadAction, str]


class _Replayed(Struct, frozen=True):
    """The fields of a stored answer to a create call that decide whether to audit it."""

    id: str
    patient: dict[str, Any] | None = None
    transcript: str | None = None


def has_patient_data(patient: Mapping[str, Any] | None, transcript: str | None) -> bool:
    """Return whether a session that a caller gets says anything about a patient."""
    return bool(patient) or transcript is not None


# About 20 MB at most. A read that is forgotten too early causes one more entry, but no entry gets lost.
_MAX_REMEMBERED = 100_000


class ReadStore(Protocol):
    """Rows of the audit log."""

    async def insert_reads(
        self, tenant_id: TenantId, actor: KeyId, action: str, object_ids: Sequence[str]
    ) -> None:
        """Record that a key read these objects."""
        ...


class ReadAudit:
    """Records reads of content: a client that polls makes one entry an hour in each process."""

    def __init__(self, *, store: ReadStore, clock: Clock, max_remembered: int = _MAX_REMEMBERED) -> None:
        self._store = store
        self._clock = clock
        self._max_remembered = max_remembered
        self._hours: OrderedDict[_Read, datetime] = OrderedDict()

    async def sessions(self, principal: Principal, found: Sequence[Session]) -> None:
        """Record the sessions among these that carry a patient's details or a transcript."""
        shown = [each.id for each in found if has_patient_data(each.patient, each.transcript)]
        await self.record(principal, "session.read", shown)

    async def replayed(self, principal: Principal, answer: bytes) -> None:
        """Record that a caller, perhaps with another key, got the stored answer of an earlier create call."""
        session = msgspec.json.decode(answer, type=_Replayed)
        if has_patient_data(session.patient, session.transcript):
            await self.record(principal, "session.read", [session.id])

    async def documents(self, principal: Principal, found: Sequence[Document]) -> None:
        """Record the documents among these that carry content."""
        shown = [each.id for each in found if each.data is not None or each.fhir not in (None, UNSET)]
        await self.record(principal, "document.read", shown)

    async def record(self, principal: Principal, action: ReadAction, object_ids: Sequence[str]) -> None:
        """Record a read that has happened; if the database is away, only log that the entry is missing."""
        hour = self._clock.now().replace(minute=0, second=0, microsecond=0)
        fresh = [each for each in object_ids if self._hours.get((principal.key_id, action, each)) != hour]
        if not fresh:
            return
        try:
            await self._store.insert_reads(principal.tenant_id, principal.key_id, action, fresh)
        except StoreUnavailable:
            log.warning("read_not_recorded", tenant_id=principal.tenant_id, action=action, count=len(fresh))
            return
        for each in fresh:
            self._hours[principal.key_id, action, each] = hour
            self._hours.move_to_end((principal.key_id, action, each))
        while len(self._hours) > self._max_remembered:
            self._hours.popitem(last=False)
