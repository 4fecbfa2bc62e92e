"""Who read what: one entry for a key, an object and an hour, written after the read and never in its way."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

import msgspec
import structlog
from msgspec import UNSET, Struct

from schemas.emr import Document, Session
from service.domain.errors import StoreUnavailable
from service.domain.ids import KeyId, TenantId
from service.domain.models import Principal
from service.domain.ports import Clock

log = structlog.get_logger()

ReadAction = Literal["session.read", "document.read"]
_Read = tuple[KeyId, ReadAction, str]


class _Replayed(Struct, frozen=True):
    """What matters here of an answer to create."""

    id: str
    patient: dict[str, Any] | None = None
    transcript: str | None = None


def has_patient_data(patient: Mapping[str, Any] | None, transcript: str | None) -> bool:
    """Return whether a session that is shown says anything about a patient."""
    return bool(patient) or transcript is not None


# About 20 MB at most. What is forgotten early makes one more entry, none is left out.
_MAX_REMEMBERED = 100_000


class ReadStore(Protocol):
    """Where reads are recorded."""

    async def insert_reads(
        self, tenant_id: TenantId, actor: KeyId, action: str, object_ids: Sequence[str]
    ) -> None:
        """Record who read these objects."""
        ...


class ReadAudit:
    """Records reads of content: a client that polls makes one entry an hour in each process."""

    def __init__(self, *, store: ReadStore, clock: Clock, max_remembered: int = _MAX_REMEMBERED) -> None:
        self._store = store
        self._clock = clock
        self._max_remembered = max_remembered
        self._hours: OrderedDict[_Read, datetime] = OrderedDict()

    async def sessions(self, principal: Principal, found: Sequence[Session]) -> None:
        """Record that these sessions were shown, those that carry a patient's details or a transcript."""
        shown = [each.id for each in found if has_patient_data(each.patient, each.transcript)]
        await self.record(principal, "session.read", shown)

    async def replayed(self, principal: Principal, answer: bytes) -> None:
        """Record that an answer that was given before was shown again, perhaps to another key."""
        session = msgspec.json.decode(answer, type=_Replayed)
        if has_patient_data(session.patient, session.transcript):
            await self.record(principal, "session.read", [session.id])

    async def documents(self, principal: Principal, found: Sequence[Document]) -> None:
        """Record that these documents were shown, those that carry anything."""
        shown = [each.id for each in found if each.data is not None or each.fhir not in (None, UNSET)]
        await self.record(principal, "document.read", shown)

    async def record(self, principal: Principal, action: ReadAction, object_ids: Sequence[str]) -> None:
        """Record a read. It has happened: a database that is away now does not fail it, the log tells."""
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
