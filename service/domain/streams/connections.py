"""Opens live streams, one connection per session over all pods, and ends them.

The right to stream to a session is a lease in PostgreSQL that its holder renews. One task per process
monitors all streams of the process, so that the number of queries does not grow with the number of streams.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import Context
from functools import partial
from typing import Protocol
from uuid import uuid4

import structlog

from service.domain.audio.uploads import OPEN_STATUSES, check_accepts_audio
from service.domain.errors import (
    NotFound,
    Overloaded,
    SessionErased,
    StoreUnavailable,
    StreamBusy,
    VendorUnavailable,
    VendorUnreachable,
)
from service.domain.ids import Account, Lease, SessionId, TenantId, VendorSessionId
from service.domain.sessions.change_polling import tenant_quota
from service.domain.streams.audio_log import AudioLog, Spool
from service.domain.streams.healing import HealingRule, HealingStream
from service.domain.streams.holding import HeldStreamStore, StreamHold
from service.domain.streams.models import StreamEnd, StreamHeartbeat, StreamSession, StreamState
from service.domain.streams.relay import SESSION_ENDED, SESSION_GONE, TAKEN_OVER, CloseReason, Relay
from service.domain.streams.sides import Client, VendorConnection
from service.domain.vendor_calls import CALLING_TENANT

log = structlog.get_logger()

# If a process dies, its lease keeps other connections away for this time.
_LEASE_SECONDS = 8.0
# No heartbeat renews the lease until the vendor's side is open, so it lasts longer than connecting may take.
_OPENING_LEASE_SECONDS = 15.0
_HEARTBEAT_SECONDS = 2.0
# An erasure, by whichever process, ends a stream within 200 ms.
_POLL_SECONDS = 0.1
# A client that sent nothing for this time may have lost its network: another connection may take over.
_SILENT_SECONDS = 5.0
# A new connection waits so long for the old one to end: less than clients wait for a handshake.
_TAKEOVER_SECONDS = 9.0
_REFUSE_AFTER_SECONDS = 1.0
_RETRY_AFTER_SECONDS = 2.0
_CLAIM_AGAIN_SECONDS = 0.1
# A vendor that does not accept a frame for this time counts as gone.
_STALL_SECONDS = 30.0
# A vendor that closes first has stored the audio. A vendor that only answers our close may still be storing:
# the stream stays leased for this time, before the session may end or a client may stream again.
_SETTLE_SECONDS = 1.0
_UNCONFIRMED = frozenset(
    {"unconfirmed", "client_closed", "bad_frame", "session_over", "taken_over", "restarting"}
)


class StreamStore(Protocol):
    """Rows of streams."""

    async def find(self, session_id: SessionId, capability: str) -> StreamSession | None:
        """Return the session if the capability is valid for its stream, else None."""
        ...

    async def claim(self, session_id: SessionId, lease: Lease, lease_seconds: float) -> bool:
        """Acquire the stream's lease; False if it is held or the session accepts no audio."""
        ...

    async def ask_to_yield(self, session_id: SessionId, silent_seconds: float) -> bool:
        """Ask the holder to release the stream; False if its client sent data within `silent_seconds`."""
        ...

    async def announce_end(self, session_id: SessionId, lease: Lease) -> None:
        """Record that this connection is about to end."""
        ...

    async def read_states(self, session_ids: list[SessionId]) -> list[StreamState]:
        """Return the states of these streams."""
        ...

    async def renew_leases(self, heartbeats: list[StreamHeartbeat], lease_seconds: float) -> None:
        """Renew the leases of these streams and record their progress."""
        ...

    async def release(self, session_id: SessionId, lease: Lease, end: StreamEnd) -> None:
        """Record the end of a connection and free the stream."""
        ...


class VendorStreams(Protocol):
    """Opens the vendor's side of a stream."""

    async def open(self, account: Account, session_id: VendorSessionId, url: str) -> VendorConnection:
        """Connect. Raises VendorError."""
        ...


class OpenStream:
    """A stream whose lease this process holds."""

    def __init__(
        self,
        session_id: SessionId,
        lease: Lease,
        vendor: HealingStream,
        on_end: Callable[[], Awaitable[None]],
    ) -> None:
        self.session_id = session_id
        self.lease = lease
        self._vendor = vendor
        self._on_end = on_end
        self.relay: Relay | None = None
        self.end = StreamEnd(cause="not_accepted", code=None, frames=0, bytes=0)
        self.is_shutting_down = False
        self.is_reported_recording = False  # a heartbeat has recorded that there is audio

    async def run(self, client: Client) -> None:
        """Relay until something ends it."""
        relay = self.relay = Relay(client, self._vendor, self._on_end)
        close_reason = None
        try:
            close_reason = await relay.run()
            if close_reason.cause in _UNCONFIRMED:
                await asyncio.sleep(_SETTLE_SECONDS)
        finally:
            self.end = StreamEnd(
                cause="broken" if close_reason is None else close_reason.cause,
                code=None if close_reason is None else close_reason.code,
                frames=relay.frames,
                bytes=relay.bytes,
            )

    def break_off(self) -> None:
        """Give up the vendor's connection, which accepts nothing."""
        self._vendor.break_off()

    async def close(self) -> None:
        """Close the vendor's side, if the relay never began."""
        if self.relay is None:
            await self._vendor.close(1001)


class Streams:
    """Opens and monitors the streams of this process."""

    def __init__(
        self,
        *,
        store: StreamStore,
        vendor: VendorStreams,
        held: HeldStreamStore,
        make_spool: Callable[[], Spool],
        admit: Callable[[TenantId], Awaitable[None]],
        max_streams: int = 1000,
        max_whole: int = 32,
        rule: HealingRule | None = None,
    ) -> None:
        """`max_streams` limits the streams of this process; one tenant may open three quarters of them.

        `make_spool` makes the file that keeps the audio of one stream. The streams beyond `max_whole` keep
        only what the vendor has not received, because keeping all of it costs time and disk.
        """
        self._max_whole = max_whole
        self._held = held
        self._make_spool = make_spool
        self._rule = rule or HealingRule()
        self._store = store
        self._max_streams = max_streams
        self._open_by_tenant: Counter[TenantId] = Counter()
        self._admit = admit
        self._vendor = vendor
        self._open: dict[Lease, OpenStream] = {}
        self._monitor_task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def opened(
        self, session_id: SessionId, capability: str, on_known: Callable[[], None] = lambda: None
    ) -> AsyncIterator[OpenStream]:
        """Open the stream of a capability on both sides, or on neither.

        This calls `on_known` as soon as the capability has proved valid.
        Raises NotFound, RateLimited, Overloaded, SessionErased, SessionEnded, SessionExpired,
        SessionNotReady, WrongUpload, StreamBusy, or VendorError.
        """
        session = await self._store.find(session_id, capability)
        if session is None:
            raise NotFound("no such stream")
        on_known()
        CALLING_TENANT.set(session.tenant_id)
        await self._admit(session.tenant_id)
        _check_accepts_stream(session)
        with self._permit(session.tenant_id):
            async with self._leased(session, capability) as stream:
                yield stream

    @contextmanager
    def _permit(self, tenant_id: TenantId) -> Iterator[None]:
        """Hold one of the process' permits for streams. Raises Overloaded."""
        counts = self._open_by_tenant
        if counts.total() >= self._max_streams or counts[tenant_id] >= tenant_quota(self._max_streams):
            raise Overloaded(
                "as many streams are open here as may be; another process may take this one",
                retry_after_seconds=_RETRY_AFTER_SECONDS,
            )
        counts[tenant_id] += 1
        try:
            yield
        finally:
            counts[tenant_id] -= 1
            if not counts[tenant_id]:
                del counts[tenant_id]

    @asynccontextmanager
    async def _leased(self, session: StreamSession, capability: str) -> AsyncIterator[OpenStream]:
        session_id = session.id
        lease = await self._claim(session_id, capability)
        end = StreamEnd(cause="vendor_unreachable", code=None, frames=0, bytes=0)
        try:
            vendor = await self._open_vendor(session, lease, capability)
            stream = OpenStream(session_id, lease, vendor, partial(self._announce_end, session_id, lease))
            self._open[lease] = stream
            try:
                await self._store.renew_leases([_heartbeat(stream)], _LEASE_SECONDS)
                await self._check_not_erased(session_id)
                self._start_monitor()
                yield stream
            finally:
                self._open.pop(lease, None)
                await stream.close()
                end = stream.end
        finally:
            await asyncio.shield(self._release(session_id, lease, end))

    async def _open_vendor(self, session: StreamSession, lease: Lease, capability: str) -> HealingStream:
        """Open the vendor's side; while the vendor is away the stream begins without it.

        Raises VendorRefused.
        """
        first: VendorConnection | None = None
        try:
            if session.vendor_url is not None:
                first = await self._vendor.open(session.account, session.vendor_id, session.vendor_url)
        except VendorUnreachable as error:
            log.info("stream_begins_held", session_id=session.id, reason=error.code)
        try:
            return HealingStream(
                session_id=session.id,
                connect=partial(self._connect, session.id, capability),
                first=first,
                hold=StreamHold(self._held, session.id, session.tenant_id, lease),
                make_log=lambda has_texts: AudioLog(self._make_spool(), has_texts=has_texts),
                earlier=await self._held.read_earlier(session.id, lease),
                rule=self._rule,
                keeps_all=session.keeps_audio or len(self._open) < self._max_whole,
            )
        except BaseException:
            if first is not None:
                first.abort()
            raise

    async def _connect(self, session_id: SessionId, capability: str) -> VendorConnection:
        """Connect to the vendor, at the address that its session has by now. Raises VendorError."""
        session = await self._store.find(session_id, capability)
        if session is None or session.vendor_url is None:
            raise VendorUnavailable("EkaScribe does not have this session yet", sent=False)
        return await self._vendor.open(session.account, session.vendor_id, session.vendor_url)

    async def _check_not_erased(self, session_id: SessionId) -> None:
        """Raise SessionErased if the session was erased in the seconds in which the vendor connected."""
        states = await self._store.read_states([session_id])
        if not states or states[0].is_erased:
            raise SessionErased("the session was erased")

    async def _claim(self, session_id: SessionId, capability: str) -> Lease:
        """Acquire the lease, waiting for a connection that is about to end."""
        lease = Lease(uuid4())
        loop = asyncio.get_running_loop()
        begun = loop.time()
        deadline = begun + _TAKEOVER_SECONDS
        while not await self._store.claim(session_id, lease, _OPENING_LEASE_SECONDS):
            session = await self._store.find(session_id, capability)
            if session is None:
                raise NotFound("no such stream")
            _check_accepts_stream(session)
            # Do not refuse at once: this client may just have lost the connection that holds the lease, and
            # its process may notice that within a moment.
            is_yielding = await self._store.ask_to_yield(session_id, _SILENT_SECONDS)
            now = loop.time()
            if now > deadline or (now > begun + _REFUSE_AFTER_SECONDS and not is_yielding):
                raise StreamBusy("another client is streaming to this session")
            await asyncio.sleep(_CLAIM_AGAIN_SECONDS)
        return lease

    async def _announce_end(self, session_id: SessionId, lease: Lease) -> None:
        """Record that this connection ends: a client that reopens the stream then waits for a moment."""
        try:
            await self._store.announce_end(session_id, lease)
        except StoreUnavailable:
            log.warning("stream_parts_unseen", session_id=session_id, reason="store_unavailable")

    async def _release(self, session_id: SessionId, lease: Lease, end: StreamEnd) -> None:
        try:
            await self._store.release(session_id, lease, end)
        except StoreUnavailable:
            log.warning("stream_release_waits", session_id=session_id, reason="store_unavailable")
        log.info(
            "stream_ended",
            session_id=session_id,
            cause=end.cause,
            code=end.code,
            frames=end.frames,
            bytes=end.bytes,
        )

    async def stop(self) -> None:
        """Stop monitoring: the process is closing, and no stream is open any more."""
        if self._monitor_task is not None:
            self._monitor_task.cancel()
            await asyncio.gather(self._monitor_task, return_exceptions=True)

    def _start_monitor(self) -> None:
        if self._monitor_task is None or self._monitor_task.done():
            self._monitor_task = asyncio.create_task(self._monitor(), context=Context())

    async def _monitor(self) -> None:
        loop = asyncio.get_running_loop()
        next_heartbeat = 0.0
        while self._open:
            self._end_stalled(loop.time())
            try:
                await self._end_unwanted()
                if loop.time() >= next_heartbeat or self._has_begun():
                    next_heartbeat = loop.time() + _HEARTBEAT_SECONDS
                    await self._renew_leases()
            except StoreUnavailable:
                # The streams go on: while the database is away, no other connection can take them over.
                log.warning("streams_wait", reason="store_unavailable", streams=len(self._open))
            await asyncio.sleep(_POLL_SECONDS)

    def _has_begun(self) -> bool:
        """Return whether a stream got its first audio; its session's status shall show that soon."""
        return any(
            stream.relay is not None and stream.relay.bytes > 0 and not stream.is_reported_recording
            for stream in self._open.values()
        )

    def _end_stalled(self, now: float) -> None:
        for stream in self._open.values():
            relay = stream.relay
            if relay is not None and relay.sending_since and now - relay.sending_since > _STALL_SECONDS:
                stream.break_off()

    async def _end_unwanted(self) -> None:
        """End streams whose session is over, or whose lease another connection holds or waits for."""
        streams = dict(self._open)  # a copy: the answer lacks streams that open during the query
        states = {state.session_id: state for state in await self._store.read_states(_ids(streams))}
        for lease, stream in streams.items():
            state = states.get(stream.session_id)
            if stream.relay is None:
                continue
            if state is None or state.is_erased:  # retention erases the rows, too
                stream.relay.cut(CloseReason("session_erased", SESSION_GONE, "the session was erased"))
                continue
            if stream.is_shutting_down:
                continue
            close_reason = _unwanted(state, lease)
            if close_reason is not None:
                stream.is_shutting_down = True
                stream.relay.end(close_reason)

    async def _renew_leases(self) -> None:
        heartbeats = []
        for stream in self._open.values():
            heartbeats.append(_heartbeat(stream))
            if stream.relay is not None:
                stream.relay.was_active = False
                stream.is_reported_recording = stream.relay.bytes > 0
        if heartbeats:
            await self._store.renew_leases(heartbeats, _LEASE_SECONDS)


def _heartbeat(stream: OpenStream) -> StreamHeartbeat:
    relay = stream.relay
    return StreamHeartbeat(
        session_id=stream.session_id,
        lease=stream.lease,
        was_active=relay is not None and relay.was_active,
        frames=relay.frames if relay is not None else 0,
        bytes=relay.bytes if relay is not None else 0,
    )


def _ids(streams: dict[Lease, OpenStream]) -> list[SessionId]:
    return [stream.session_id for stream in streams.values()]


def _unwanted(state: StreamState, lease: Lease) -> CloseReason | None:
    if state.status not in OPEN_STATUSES:
        if state.status in {"expired", "cancelled"}:
            return CloseReason("session_over", SESSION_GONE, f"the session is {state.status}")
        return CloseReason("session_over", SESSION_ENDED, "the session was ended")
    if state.is_yielding or state.lease != lease:
        return CloseReason("taken_over", TAKEN_OVER, "another client took this stream over")
    return None


def _check_accepts_stream(session: StreamSession) -> None:
    check_accepts_audio(
        wanted="stream",
        upload=session.upload,
        status=session.status,
        is_erased=session.is_erased,
        is_created=session.is_created,
        is_past=session.is_past,
    )
