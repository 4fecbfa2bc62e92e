"""Wake-ups: "results of session X are due now", sent over arq from any process to some worker.

A wake-up carries at most the id of a session. It may be lost, doubled or late, and no caller waits for one:
the rows in PostgreSQL say what is due, and the sweep reads them.
"""

import asyncio

import structlog
from arq.connections import ArqRedis
from prometheus_client import Counter

from service.domain.ids import SessionId

log = structlog.get_logger()

DROPPED = Counter("ekabridge_nudges_dropped", "Nudges that Redis did not take; the sweep finds what is due.")

RESULTS_DUE = "results_due"
CALLS_DUE = "calls_due"
# Sent instead of a session's id: the worker looks at every due session.
ANY = ""

_ENQUEUE_SECONDS = 1.0
_MAX_NAMED = 2
# Workers read the queue this often; sending faster would wake nobody sooner.
_PAUSE_SECONDS = 0.02


class ArqWakeups:
    """The domain's Wakeups and PendingCallWakeups: one task sends them.

    It drops those that Redis does not accept.
    Several wake-ups that wait to be sent become one that names no session. A flood of webhooks so costs Redis
    and the workers no more than a few calls.
    """

    def __init__(self, redis: ArqRedis) -> None:
        """Send over this client, which its opener closes."""
        self._redis = redis
        self._due: set[SessionId] = set()
        self._are_calls_due = False
        self._is_due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def results_due(self, session_id: SessionId) -> None:
        """Wake a worker, as results of this session can be fetched."""
        if len(self._due) < _MAX_NAMED:
            self._due.add(session_id)
        self._is_due.set()

    def calls_due(self) -> None:
        """Wake a worker to make the pending calls that are due."""
        self._are_calls_due = True
        self._is_due.set()

    async def start(self) -> None:
        """Start sending."""
        self._task = asyncio.create_task(self._send_all())

    async def stop(self) -> None:
        """Stop sending; the sweep finds the sessions of wake-ups that were not sent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_ENQUEUE_SECONDS)

    async def _send_all(self) -> None:
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            due, self._due = self._due, set()
            are_calls_due, self._are_calls_due = self._are_calls_due, False
            try:
                async with asyncio.timeout(_ENQUEUE_SECONDS):
                    if are_calls_due:
                        await self._redis.enqueue_job(CALLS_DUE)
                    if due:
                        await self._redis.enqueue_job(RESULTS_DUE, due.pop() if len(due) == 1 else ANY)
            except Exception as error:  # noqa: BLE001 - a wake-up may be lost; the task that sends the next may not
                DROPPED.inc()
                log.warning("nudge_dropped", reason=type(error).__name__)
            if len(due) > 1:
                await asyncio.sleep(_PAUSE_SECONDS)
