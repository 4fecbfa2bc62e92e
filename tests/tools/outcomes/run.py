"""Plays dictations with every outcome against one character of the vendor, and judges what the EMR was told.

The processes, PostgreSQL, Redis and HTTP are real; the waits of the rules (2 and 10 minutes) are not:
whenever nothing is due, the times in PostgreSQL and those of the vendor are moved back alike, as if one had
waited.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx2
from standardwebhooks import Webhook, WebhookVerificationError

from service.sandbox.serving import serve_app
from service.sandbox.vendor.records import PENDING, Document, Session
from tests.support.rig import Rig, speak, until
from tests.tools.outcomes.cases import LATE_SECONDS, SCENARIOS, VENDOR_SECONDS, Case, Told

# Time is moved by at least so much: smaller steps would only take longer.
_MIN_STEP_SECONDS, _MAX_STEP_SECONDS = 10.0, 60.0
# What has not ended by then never will.
_PATIENCE_SECONDS = 1800.0
_DICTATING_AT_ONCE = 8
_IS_BUSY = """
SELECT EXISTS (SELECT 1 FROM fetches WHERE status = 'pending' AND (lease IS NOT NULL OR next_at <= now()))
    OR EXISTS (SELECT 1 FROM deliveries WHERE status = 'pending')"""
_NEXT = """
SELECT extract(epoch FROM min(next_at) - now())::float8 FROM fetches
WHERE status = 'pending' AND lease IS NULL"""
_MOVE_SESSIONS = """
UPDATE sessions SET ended_at = ended_at - make_interval(secs => $1) WHERE settled_at IS NULL"""
_MOVE_FETCHES = """
UPDATE fetches
SET next_at = CASE WHEN lease IS NULL THEN next_at - make_interval(secs => $1) ELSE next_at END,
    verdict_since = verdict_since - make_interval(secs => $1),
    called_at = called_at - make_interval(secs => $1)"""


@dataclass
class Play:
    """One dictation of a case."""

    scenario: str
    case: Case
    session_id: str = ""
    ended_at: float = 0.0
    steps_done: int = 0
    documents: int = 0
    delivered: int = 0
    failures: int = 0
    calls: int = 0
    seconds: float | None = None
    complaints: list[str] = field(default_factory=list)

    def expect(self, holds: bool, complaint: str) -> None:
        """Note what is not as it must be."""
        if not holds:
            self.complaints.append(complaint)


@dataclass(frozen=True)
class Receipt:
    """A delivery that the EMR got, with a good signature."""

    at: float
    webhook_id: str
    body: dict[str, Any]


class Receiver:
    """An EMR that verifies each delivery by the library of Standard Webhooks and answers 204, or else 400."""

    def __init__(self, now: Any) -> None:
        self.secret = ""
        self.receipts: list[Receipt] = []
        self.refused = 0
        self._now = now

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Take one delivery."""
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        status = 204
        try:
            Webhook(self.secret).verify(body, headers)
            self.receipts.append(Receipt(self._now(), headers["webhook-id"], json.loads(body)))
        except WebhookVerificationError:
            self.refused, status = self.refused + 1, 400
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body"})


class OutcomeRun:
    """Plays so many dictations of each scenario at once."""

    def __init__(self, rig: Rig, database: asyncpg.Connection, seed: int) -> None:
        self.rig = rig
        self.vendor = rig.vendor_app.state.vendor
        self.plays: list[Play] = []
        self.complaints: list[str] = []
        self._database = database
        self._chance = random.Random(f"outcomes {seed}")
        self._passed = 0.0
        self._receiver = Receiver(self.now)

    def now(self) -> float:
        """Return the time, with what was let pass."""
        return time.time() + self._passed

    async def play(self, runs: int, scenarios: Sequence[str] = tuple(SCENARIOS)) -> list[Play]:
        """Dictate, let time pass until all is told, and judge."""
        settings = self.vendor.settings
        settings.slow_template_seconds = 1e6  # until a step finishes it
        settings.stt_fail_seconds, settings.late_content_seconds = VENDOR_SECONDS, LATE_SECONDS
        service = await self.rig.serve()
        await self.rig.worker(sweep_interval_seconds="0.05")
        api = await self.rig.client(service)
        await self._register(api)
        for scenario in scenarios:
            variants = SCENARIOS[scenario]
            self.plays += [
                Play(scenario, variants[number % len(variants)](self._chance)) for number in range(runs)
            ]
        waiting = list(self.plays)
        self._chance.shuffle(waiting)
        await asyncio.gather(*(self._dictate(api, waiting) for _ in range(_DICTATING_AT_ONCE)))
        await self._let_all_end(api)
        await self._judge(api)
        return self.plays

    async def _register(self, api: httpx2.AsyncClient) -> None:
        url = await self.rig.stack.enter_async_context(serve_app(self._receiver, lifespan="off"))
        answer = await api.post("/v1/destinations", json={"url": url})
        assert answer.status_code == 201, answer.text
        self._receiver.secret = answer.json()["secret"]

    async def _dictate(self, api: httpx2.AsyncClient, waiting: list[Play]) -> None:
        while waiting:
            play = waiting.pop()
            created = await api.post("/v1/sessions", json={"templates": play.case.templates})
            assert created.status_code == 201, created.text
            play.session_id = created.json()["id"]
            if play.case.outcome is not None:
                self.vendor.settings.outcomes[play.session_id] = play.case.outcome
            play.ended_at = self.now()  # a webhook can be quicker than the answer to the end
            await speak(api, play.session_id)

    # -- Time -------------------------------------------------------------------------------------

    async def _let_all_end(self, api: httpx2.AsyncClient) -> None:
        began = self.now()
        while self.now() - began < _PATIENCE_SECONDS:
            await until(self._is_idle, 60)
            ledger = (await api.get("/v1/ledger")).json()
            is_right = ledger["lost"] == 0 and ledger["dead"] == 0
            if not is_right and len(self.complaints) < 5:
                self.complaints.append(f"the ledger said {ledger}")
            if await self._take_steps(api):
                continue
            steps = [self._due(play) for play in self.plays if play.steps_done < len(play.case.steps)]
            if not steps and ledger["in_flight"] == 0:
                break
            next_fetch = await self._database.fetchval(_NEXT)
            nearest = min([_MAX_STEP_SECONDS, *steps, *([] if next_fetch is None else [next_fetch])])
            await self._let_pass(max(_MIN_STEP_SECONDS, nearest))
        ledger = (await api.get("/v1/ledger")).json()
        number = len(self.plays)
        wanted = {"ended": number, "delivered": number, "in_flight": 0, "dead": 0, "lost": 0}
        if ledger != wanted:
            self.complaints.append(f"the ledger ended with {ledger}, not {wanted}")

    async def _is_idle(self) -> bool:
        return not await self._database.fetchval(_IS_BUSY)

    def _due(self, play: Play) -> float:
        return play.ended_at + play.case.steps[play.steps_done].at - self.now()

    async def _take_steps(self, api: httpx2.AsyncClient) -> bool:
        """Let the vendor finish what is due; true if there was something."""
        due = [play for play in self.plays if play.steps_done < len(play.case.steps) and self._due(play) <= 0]
        for play in due:
            await self._take_step(api, play)
        return bool(due)

    async def _take_step(self, api: httpx2.AsyncClient, play: Play) -> None:
        step, at = play.case.steps[play.steps_done], time.time()
        play.steps_done += 1
        body: dict[str, Any] = {"template_id": step.template_id, "status": step.status}
        body |= {"errors": step.errors} if step.errors else {}
        body |= {"content": step.content} if step.content else {}
        path = f"/_control/sessions/{play.session_id}/documents"
        (await self.rig.vendor.post(path, json=body)).raise_for_status()
        if not step.is_refreshed:
            return
        if self.vendor.settings.is_august:
            refreshed = await api.post(f"/v1/sessions/{play.session_id}/refresh")
            assert refreshed.status_code == 202, refreshed.text
            return

        async def is_announced() -> bool:
            return any(
                each["session_id"] == play.session_id and each["at"] >= at and each["status"] == 200
                for each in self.vendor.deliveries
            )

        await until(is_announced)

    async def _let_pass(self, seconds: float) -> None:
        """Move every time that a rule looks at, ours and the vendor's, so far into the past."""
        async with self._database.transaction():
            await self._database.execute(_MOVE_SESSIONS, seconds)
            await self._database.execute(_MOVE_FETCHES, seconds)
        for session in self.vendor.sessions.values():
            session.created_at -= seconds
            session.ended_at = None if session.ended_at is None else session.ended_at - seconds
            for document in session.every_document():
                document.created_at -= seconds
                document.shown_at -= seconds if document.shown_at else 0.0
        self._passed += seconds

    # -- Judging ----------------------------------------------------------------------------------

    async def _judge(self, api: httpx2.AsyncClient) -> None:
        if self._receiver.refused:
            self.complaints.append(f"{self._receiver.refused} deliveries were not signed as they must be")
        received: dict[str, list[Receipt]] = defaultdict(list)
        for receipt in self._receiver.receipts:
            received[receipt.body["data"]["session_id"]].append(receipt)
        calls = Counter(
            call.session_id
            for call in self.vendor.journal.calls
            if call.method == "GET" and call.session_id and call.path.endswith(call.session_id)
        )
        for play in self.plays:
            play.calls = calls[play.session_id]
            await self._judge_one(api, play, received[play.session_id])

    async def _judge_one(self, api: httpx2.AsyncClient, play: Play, receipts: list[Receipt]) -> None:
        case, vendors = play.case, self.vendor.sessions[play.session_id]
        session = (await api.get(f"/v1/sessions/{play.session_id}")).json()
        documents = (await api.get(f"/v1/sessions/{play.session_id}/documents")).json()["items"]
        play.expect(session["status"] == case.status, f"is {session['status']}, not {case.status}")
        ids = Counter(receipt.webhook_id for receipt in receipts)
        play.expect(set(ids.values()) <= {1}, "was told something twice")
        told, wanted = sorted(map(_told, receipts), key=repr), sorted(case.told, key=repr)
        fits = len(told) == len(wanted) and all(map(_fits, told, wanted))
        play.expect(fits, f"was told {told}, not {wanted}")
        play.failures = sum(each.type in {"document.failed", "session.failed"} for each in told)
        text = vendors.transcript.content
        for receipt in receipts:
            data = receipt.body["data"]
            document = data.get("document") or {}
            found = data["transcript"]
            play.expect(found == text, f"{receipt.body['type']} has the transcript {found!r}, not {text!r}")
            is_empty = document.get("data") in (None, "", {}, [])
            is_ready = receipt.body["type"] == "document.ready"
            play.expect(is_ready != is_empty, f"{receipt.body['type']} has the data {document.get('data')!r}")
        self._judge_contents(play, vendors, documents, receipts)
        limit = case.max_calls(self.vendor.settings.character)
        play.expect(play.calls <= limit, f"took {play.calls} calls, more than {limit}")
        if receipts:
            play.seconds = max(receipt.at for receipt in receipts) - play.ended_at
            is_timely = case.min_seconds <= play.seconds <= case.max_seconds
            bounds = f"{case.min_seconds:g} to {case.max_seconds:g}"
            play.expect(is_timely, f"was told all after {play.seconds:.0f} s, not {bounds}")

    def _judge_contents(
        self, play: Play, vendors: Session, documents: list[dict[str, Any]], receipts: list[Receipt]
    ) -> None:
        """Each document with content that the vendor has is filed and told once, unchanged."""
        told = Counter(
            receipt.body["data"]["document"]["id"]
            for receipt in receipts
            if receipt.body["type"] == "document.ready"
        )
        filed = {each["upstream_id"]: each for each in documents if each["status"] == "success"}
        for document in vendors.documents:
            content = _content(document)
            if document.status not in {"success", "partial_success"} or content is None:
                continue
            play.documents += 1
            ours = filed.get(document.document_id)
            what = f"the vendor's document of {document.template_id}"
            play.expect(ours is not None, f"{what} is not here")
            if ours is not None:
                play.expect(ours["data"] == content, f"{what} is here with other data")
                play.expect(told[ours["id"]] == 1, f"{what} was told {told[ours['id']]} times")
                play.delivered += ours["data"] == content and told[ours["id"]] == 1


def _content(document: Document) -> Any:
    return document.read() if document.status != PENDING else None


def _told(receipt: Receipt) -> Told:
    data = receipt.body["data"]
    document = data.get("document") or {}
    error = document.get("error") or data.get("error") or {}
    warnings = document.get("warnings") or []
    codes = [code for each in warnings for code in (each["code"], each.get("vendor_code")) if code]
    return Told(
        receipt.body["type"],
        document.get("template_id"),
        error.get("code"),
        error.get("vendor_code"),
        tuple(codes),
    )


def _fits(told: Told, wanted: Told) -> bool:
    is_same = (told.type, told.template_id, told.code, told.vendor_code) == (
        wanted.type,
        wanted.template_id,
        wanted.code,
        wanted.vendor_code,
    )
    return is_same and set(told.warnings) >= set(wanted.warnings)


def report(plays: Sequence[Play]) -> str:
    """Name what was wrong, dictation by dictation."""
    return "\n".join(
        f"{play.scenario} {play.case.templates} ({play.session_id}): {'; '.join(play.complaints)}"
        for play in plays
    )
