"""Webhook events of the vendor: each is recorded once, and makes the fetches of its session due."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from asyncpg import PostgresError, Record

from service.concurrency.batching import Batcher
from service.domain.errors import BridgeError, StoreUnavailable
from service.domain.ids import Account, SessionId
from service.domain.webhooks import Received
from service.store.database import Database
from service.store.queries import sql

# Account, session, kind, shape, hash and size of the body, whether it ends the session.
_Event = tuple[Any, ...]


class WebhookEventRows:
    """Records webhook events.

    An event that arrives alone is written at once. Events that arrive during that write wait for it, and are
    then written as one batch with one commit. Each caller returns only after its own event is committed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._together = Batcher(self._write, unavailable=StoreUnavailable)
        self._is_one_alone = False

    async def receive(
        self,
        account: Account,
        *,
        session_id: str,
        kind: str,
        shape: str,
        body_sha256: bytes,
        body_bytes: int,
        is_ending: bool,
    ) -> Received:
        """Record an event and make the fetches due, in one statement: one round trip, one commit."""
        event = (account, session_id, kind, shape, body_sha256, body_bytes, is_ending)
        if self._together.is_idle and not self._is_one_alone:
            self._is_one_alone = True
            try:
                return await self._receive_alone(event)
            finally:
                self._is_one_alone = False
        return await self._together(event) or await self._receive_alone(event)

    async def _receive_alone(self, event: _Event) -> Received:
        row = await self._database.fetchrow(sql("webhook_events.receive"), *event)
        if row is None:  # pragma: no cover - the statement always returns its row
            raise AssertionError("the recorded webhook returned no row")
        return _received(row)

    async def _write(self, events: Sequence[_Event]) -> Sequence[Received | None]:
        """Write a batch; the answer None asks the caller to write that event alone.

        An event is left out of the batch if the batch has another kind of event of its session, or if another
        transaction has locked its session. If the database refuses the batch for its content, every event is
        written alone, so that only the bad one fails.
        """
        times = Counter(map(_telling, events))
        chosen: dict[str, _Event] = {}
        for event in events:
            chosen.setdefault(event[1], event)
        rows = [(*event, times[_telling(event)]) for event in chosen.values()]
        try:
            columns = map(list, zip(*rows, strict=True))
            written = await self._database.fetch(sql("webhook_events.receive_many"), *columns)
        except StoreUnavailable:
            raise
        except (BridgeError, PostgresError):
            return [None] * len(events)
        received = {_telling(chosen[row["session_id"]]): _received(row) for row in written}
        answers = []
        for event in events:
            answer = received.get(telling := _telling(event))
            answers.append(answer)
            if answer is not None:
                received[telling] = msgspec.structs.replace(answer, is_first=False, due=0)
        return answers


def _received(row: Record) -> Received:
    found = row["found_id"]
    return Received(
        session_id=SessionId(found) if found is not None else None,
        phase=row["phase"],
        is_first=row["is_first"],
        due=row["due"],
    )


def _telling(event: _Event) -> _Event:
    """Return the key of an event: two events with the same account, session and kind are one."""
    return event[:3]
