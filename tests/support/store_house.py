"""A tenant's rows, made by the code itself: short ways to the states that a test wants."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import asyncpg

from schemas.destinations import DestinationChange, DestinationCreate
from schemas.tenants import SessionDefaults
from service.bootstrap.container import Stores
from service.domain.audio.models import ChunkPlan
from service.domain.audit import Actor
from service.domain.deliveries.models import Answer, CallFailure, DeliveryJob
from service.domain.deliveries.recovery import Deliveries
from service.domain.destinations.changes import Destinations
from service.domain.ids import (
    DEFAULT_ACCOUNT,
    UNFILTERED,
    Lease,
    SessionId,
    TemplateId,
    TenantId,
    VendorSessionId,
    new_session_id,
)
from service.domain.results.fetching import ResultFetcher
from service.domain.results.models import FetchJob, VendorResult
from service.domain.sessions.models import EndRecorded, SessionDetails, SessionPlan, VendorEnd, VendorSession
from service.domain.tenants.changes import Tenants
from service.domain.vendor_account_changes import VendorAccounts
from service.domain.webhooks import Received
from tests.support.fakes import ScriptedVendor
from tests.support.makers import (
    NOTE,
    TurnedClock,
    make_answer,
    make_document,
    make_lease,
    make_plan,
    make_result,
)

DETAILS = SessionDetails(
    patient={"id": "PAT-1", "name": "Asha Rao"}, reference="ENC-1", metadata={"ward": "7"}
)


async def accept_call(_: DestinationCreate | DestinationChange) -> None:
    """Check nothing of a destination: the store is asked with whatever a test gives it."""


async def new_tenant(stores: Stores, name: str = "first") -> TenantId:
    return TenantId((await Tenants(stores.tenants).add(name, SessionDefaults())).id)


@dataclass
class House:
    """What a test of the store works on."""

    stores: Stores
    connection: asyncpg.Connection
    tenant_id: TenantId

    @property
    def actor(self) -> Actor:
        return Actor.operator(self.tenant_id)

    @property
    def destinations(self) -> Destinations:
        return Destinations(store=self.stores.destinations, check=accept_call)

    @property
    def deliveries(self) -> Deliveries:
        return Deliveries(self.stores.deliveries)

    @property
    def accounts(self) -> VendorAccounts:
        return VendorAccounts(self.stores.vendor_accounts)

    def plan(self, **fields: Any) -> SessionPlan:
        return make_plan(
            **({"id": new_session_id(), "tenant_id": self.tenant_id, "details": DETAILS} | fields)
        )

    async def insert(self, lease: Lease | None = None, **fields: Any) -> SessionId:
        """A session whose create call is owed and leased."""
        plan = self.plan(**fields)
        await self.stores.sessions.insert_session(
            plan, lease or make_lease(), lease_seconds=60, life_seconds=3600
        )
        return plan.id

    async def create(self, **fields: Any) -> SessionId:
        """A session that the vendor has."""
        lease = make_lease()
        session_id = await self.insert(lease, **fields)
        made = VendorSession(upload_url="https://api.eka.care/upload/u-1", expires_at=None)
        assert await self.stores.sessions.record_created(session_id, lease, made)
        return session_id

    def chunk(self, session_id: SessionId, sequence: int, audio: bytes, **fields: Any) -> ChunkPlan:
        values: dict[str, Any] = {
            "sha256": hashlib.sha256(audio).hexdigest(),
            "size": len(audio),
            "content_type": "audio/wav",
            "file_name": f"audio_{sequence}.wav",
            "lease": make_lease(),
            "lease_seconds": 60,
        }
        place = {"tenant_id": self.tenant_id, "session_id": session_id, "sequence": sequence}
        return ChunkPlan(**(place | values | fields))

    async def claim_chunk(self, session_id: SessionId, sequence: int, audio: bytes, **fields: Any) -> Any:
        return await self.stores.audio.claim(self.chunk(session_id, sequence, audio, **fields))

    async def store_chunk(self, session_id: SessionId, sequence: int, audio: bytes = b"audio") -> bool:
        await self.claim_chunk(session_id, sequence, audio)
        return await self.record_chunk(session_id, sequence, audio)

    async def record_chunk(self, session_id: SessionId, sequence: int, audio: bytes) -> bool:
        """Record that the vendor has a chunk in its session of the same id."""
        chunk = self.chunk(session_id, sequence, audio)
        return await self.stores.audio.record(chunk, VendorSessionId(session_id))

    async def begin_end(self, session_id: SessionId, *, reconcile_seconds: float = 0) -> Lease:
        lease = make_lease()
        async with self.stores.sessions.ending(self.tenant_id, session_id) as unit:
            assert unit is not None
            await unit.begin(lease, lease_seconds=60, reconcile_seconds=reconcile_seconds)
        return lease

    async def record_end(
        self,
        session_id: SessionId,
        lease: Lease,
        confirmed: VendorEnd,
        *,
        reconcile_seconds: float = 120,
        may_remake: bool = True,
    ) -> EndRecorded:
        return await self.stores.sessions.record_end_confirmed(
            session_id, lease, confirmed, reconcile_seconds=reconcile_seconds, may_remake=may_remake
        )

    async def end(self, *templates: TemplateId, reconcile_seconds: float = 0, **fields: Any) -> SessionId:
        """A session that was ended and of which the vendor was told; its results are due."""
        session_id = await self.create(templates=list(templates), **fields)
        lease = await self.begin_end(session_id, reconcile_seconds=reconcile_seconds)
        recorded = await self.record_end(
            session_id, lease, VendorEnd(files_received=1), reconcile_seconds=reconcile_seconds
        )
        assert recorded.was_ours
        return session_id

    async def claim_fetches(
        self, session_id: SessionId | None = None, limit: int = 50, lease_seconds: float = 60
    ) -> list[FetchJob]:
        return await self.stores.results.claim_fetches(session_id, limit, lease_seconds)

    async def fetch(self, job: FetchJob, result: VendorResult) -> bool:
        vendor = ScriptedVendor()
        vendor.answers = {UNFILTERED: [result], job.template_id: [result]}
        fetching = ResultFetcher(store=self.stores.results, vendor=vendor, clock=TurnedClock())
        return await fetching.fetch(job)

    async def postpone(self, job: FetchJob, seconds: float, reason: str, *, is_missing: bool = False) -> None:
        """Have a call made again later, as an answer that settles nothing does."""
        async with self.stores.results.settling(job.session_id) as unit:
            assert unit is not None
            await unit.postpone_fetch(job, seconds, reason, is_missing=is_missing)

    async def finish(self, *templates: TemplateId, transcript: str = "words", **fields: Any) -> SessionId:
        """A session whose results are here: every document's event is in the outbox."""
        session_id = await self.end(*templates, **fields)
        for job in await self.claim_fetches(session_id):
            wanted = NOTE if job.template_id == UNFILTERED else job.template_id
            await self.fetch(job, make_result("completed", make_document(wanted), transcript=transcript))
        return session_id

    async def add_destination(self, url: str = "https://emr.example/hooks", **fields: Any) -> Any:
        return await self.destinations.add(self.actor, DestinationCreate(url=url, **fields))

    async def claim_deliveries(
        self,
        session_id: SessionId | None = None,
        limit: int = 50,
        lease_seconds: float = 60,
        passed_over: tuple[str, ...] = (),
        *,
        max_body_bytes: int = 2**30,
        takes_any: bool = True,
    ) -> list[DeliveryJob]:
        return await self.stores.deliveries.claim_deliveries(
            session_id,
            limit,
            lease_seconds,
            passed_over,
            max_body_bytes=max_body_bytes,
            takes_any=takes_any,
        )

    async def record(
        self, job: DeliveryJob, outcome: Answer | CallFailure | None = None, **fields: Any
    ) -> bool:
        values: dict[str, Any] = {
            "status": "delivered",
            "wait_seconds": None,
            "spends_schedule": False,
            "reason": None,
            "error_class": None,
            "record_id": None,
            "pause_destination": False,
        }
        return await self.stores.deliveries.record_attempt(
            job, outcome or make_answer(200), **(values | fields)
        )

    async def hear(self, session_id: str, kind: str = "completed", **fields: Any) -> Received:
        """Receive a webhook."""
        values: dict[str, Any] = {
            "shape": "protocol",
            "body_sha256": b"\0" * 32,
            "body_bytes": 99,
            "is_ending": kind in {"completed", "partial", "failed", "expired"},
        }
        account = fields.pop("account", DEFAULT_ACCOUNT)
        return await self.stores.webhook_events.receive(
            account, session_id=session_id, kind=kind, **(values | fields)
        )

    async def let_pass(self, table: str, column: str = "next_at", seconds: float = 1) -> None:
        """Let the time of every row be over for so long, as if one had waited."""
        await self.connection.execute(
            f"UPDATE {table} SET {column} = now() - make_interval(secs => $1) WHERE {column} IS NOT NULL",
            seconds,
        )

    async def value(self, query: str, *arguments: Any) -> Any:
        return await self.connection.fetchval(query, *arguments)
