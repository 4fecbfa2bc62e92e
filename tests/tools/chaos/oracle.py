"""Says after a run whether every promise was kept, from what the outside saw and what stands in the rows.

Every receipt or call beyond the first has to have a cause: something that happened to the process that made
the first one, or to the database, between its answer and the moment by which it was to be recorded.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from standardwebhooks import Webhook

from tests.support.characters import login_secrets
from tests.tools.chaos.doors import Receipt
from tests.tools.chaos.emr_client import PATIENT_MARK, Dictation
from tests.tools.chaos.hospital import FORWARD_TIMEOUT_SECONDS, Hospital

# A record that cannot be written waits for a connection (5 s) and for its statement (15 s), and is tried
# again for 20 s, then it fails. A process writes it down at once, however busy the machine is, so a kill
# matters for a moment only.
RECORD_SECONDS = 42.0
_KILL_SECONDS = 5.0
# What is told of a moment is off by so much, and by what our own process was late.
_SLACK_SECONDS = 1.0
_TOO_LATE = "SELECT delivery_id FROM attempts WHERE status_code IS NULL AND duration_ms >= 1000 * $1::float8"
_FORBIDDEN_EVENTS = frozenset(
    {
        "job_failed",
        "fetch_crashed",
        "request_failed",
        "sweep_failed",
        "sweep_step_failed",
        "claim_failed",
        "ledger_failed",
        "ledger_lost",
        "listening_failed",
        "listening_would_not_stop",
    }
)


@dataclass(frozen=True)
class Cause:
    """Something that may make a call be repeated: what, when, and to whom (None: to all)."""

    kind: str
    start: float
    end: float
    slot: str | None = None


@dataclass
class Findings:
    """What a run came to."""

    violations: list[str] = field(default_factory=list)
    figures: Counter[str] = field(default_factory=Counter)
    sessions: set[str] = field(default_factory=set)

    def expect(self, holds: bool, fact: str, session_id: str | None = None) -> None:
        """Note a promise that was not kept."""
        if not holds:
            self.violations.append(fact)
            if session_id:
                self.sessions.add(session_id)


async def judge(
    hospital: Hospital, dictations: Iterable[Dictation], disturbances: Iterable[Cause] = ()
) -> Findings:
    """Check every promise; `disturbances` are the causes that are no kill of ours."""
    told = [each for each in dictations if each.session_id is not None]
    findings = Findings()
    slack = _SLACK_SECONDS + hospital.lag_seconds
    causes = [
        replace(each, start=each.start - slack, end=each.end + slack)
        for each in (*disturbances, *_kills(hospital), *_failed_records(hospital))
    ]
    findings.figures["kills"] = sum(cause.kind == "kill" for cause in causes)
    ended = {each.session_id or "": each for each in told if each.ended}
    for each in dictations:
        findings.expect(
            each.failure is None, f"dictation {each.number} was refused: {each.failure}", each.session_id
        )
    findings.figures["dictations"] = len(ended)
    await _check_rows(hospital, findings, ended)
    await _check_webhooks(hospital, findings, ended)
    await _check_receipts(hospital, findings, ended, causes)
    _check_vendor(hospital, findings, told, ended, causes)
    _check_processes(hospital, findings)
    _check_logs(hospital, findings)
    await _check_ledger(hospital, findings, ended)
    return findings


def _kills(hospital: Hospital) -> list[Cause]:
    return [
        Cause(life.ended_by, life.ended_at, life.ended_at, slot.name)
        for slot in hospital.slots.values()
        for life in slot.lives
        if life.ended_by in {"kill", "stop"} and life.ended_at is not None
    ]


def _failed_records(hospital: Hospital) -> list[Cause]:
    """Jobs that ended because the database took no record in time, as on a machine that is too busy."""
    found = []
    for slot in hospital.slots.values():
        for entry in _entries(slot.log):
            if entry.get("event") == "job_interrupted":
                at = datetime.fromisoformat(entry["timestamp"]).timestamp()
                found.append(Cause("record failed", at - RECORD_SECONDS, at, slot.name))
    return found


def _entries(log: Path) -> list[dict[str, Any]]:
    """Every entry of a log; `event` is missing from what is none."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            found.append({"line": line})
    return found


async def _check_rows(hospital: Hospital, findings: Findings, ended: dict[str, Dictation]) -> None:
    rows = await hospital.rows("SELECT id, status, settled_at FROM sessions WHERE id = ANY($1)", list(ended))
    states = {row["id"]: row for row in rows}
    documents = defaultdict(list)
    for row in await hospital.rows("SELECT session_id, template_id, version, status FROM documents"):
        documents[row["session_id"]].append((row["template_id"], row["version"], row["status"]))
    for session_id, dictation in ended.items():
        state = states.get(session_id)
        findings.expect(state is not None, f"{session_id} was answered 2xx and is not there", session_id)
        if state is None:
            continue
        findings.expect(
            state["status"] == "completed" and state["settled_at"] is not None,
            f"{session_id} is {state['status']}, not completed",
            session_id,
        )
        wanted = sorted((name, 1, "success") for name in (*dictation.templates, *dictation.further))
        found = sorted(documents[session_id])
        # Asking for a further document has no key: each time that it was asked for may have made a version.
        once = [each for each in found if each[0] not in dictation.further or each[1] == 1]
        is_right = once == wanted and len(found) <= len(wanted) + dictation.further_repeats
        findings.expect(is_right, f"{session_id} has the documents {found}, not {wanted}", session_id)
        findings.figures["documents"] += len(found)


async def _check_webhooks(hospital: Hospital, findings: Findings, ended: dict[str, Dictation]) -> None:
    """A webhook that was answered 200 was committed: the sweep would hide it if it were not."""
    rows = await hospital.rows("SELECT session_id FROM webhook_events WHERE kind = 'completed'")
    recorded = {row["session_id"] for row in rows}
    for sent in hospital.vendor.deliveries:
        is_ending = sent["outcome"] in {"completed", "v2rx.completed"}
        if is_ending and sent["status"] == 200 and sent["session_id"] in ended:
            findings.figures["webhooks"] += 1
            is_recorded = sent["session_id"] in recorded
            findings.expect(
                is_recorded,
                f"a webhook of {sent['session_id']} was answered and forgotten",
                sent["session_id"],
            )


async def _check_receipts(
    hospital: Hospital, findings: Findings, ended: dict[str, Dictation], causes: list[Cause]
) -> None:
    by_document: dict[str, list[Receipt]] = defaultdict(list)
    signer = Webhook(hospital.secret)
    for receipt in hospital.emr.receipts:
        body = json.loads(receipt.body)
        data = body["data"]
        by_document[(data.get("document") or {}).get("id") or receipt.webhook_id].append(receipt)
        session_id = data["session_id"]
        dictation = ended.get(session_id)
        findings.expect(dictation is not None, f"the EMR got {body['type']} of {session_id}", session_id)
        findings.expect(_is_signed(signer, receipt), f"{receipt.webhook_id} is not signed", session_id)
        if dictation is not None:
            findings.expect(
                body["type"] == "document.ready"
                and data["patient"]["id"] == dictation.patient["id"]
                and data["reference"] == dictation.reference,
                f"{receipt.webhook_id} of {session_id} is {body['type']}, or of another patient",
                session_id,
            )
    late = Counter(row["delivery_id"] for row in await hospital.rows(_TOO_LATE, FORWARD_TIMEOUT_SECONDS))
    for row in await hospital.rows("SELECT id, session_id FROM documents"):
        got = by_document.get(row["id"], [])
        where = f"document {row['id']} of {row['session_id']}"
        findings.expect(
            any(each.is_told for each in got), f"{where} did not reach the EMR", row["session_id"]
        )
        findings.expect(
            len({each.webhook_id for each in got}) <= 1 and len({each.body for each in got}) <= 1,
            f"{where} came under two ids, or with two bodies",
            row["session_id"],
        )
        findings.figures["receipts"] += len(got)
        told = [each for each in got if each.is_told]
        for first, second in pairwise(told):
            findings.figures["duplicates"] += 1
            if late[first.webhook_id]:
                late[first.webhook_id] -= 1  # on a busy machine: answered, but not in time
                continue
            findings.expect(
                _is_caused(causes, first.slot, first.at, second.at),
                f"{where} came twice to the EMR, at {_clock(first.at)} and {_clock(second.at)}, "
                f"first from {first.slot}, without a cause",
                row["session_id"],
            )


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:-3]


def _is_signed(signer: Webhook, receipt: Receipt) -> bool:
    """Whether the signature fits, at whatever time the sender's clock may have shown."""
    at = datetime.fromtimestamp(int(receipt.headers["webhook-timestamp"]), UTC)
    expected = signer.sign(receipt.webhook_id, at, receipt.body.decode())
    return (
        expected in receipt.headers["webhook-signature"].split(" ")
        and receipt.headers["idempotency-key"] == receipt.webhook_id
    )


def _is_caused(causes: list[Cause], slot: str | None, first: float, second: float) -> bool:
    """Whether something kept the first call's outcome from being recorded."""
    return any(
        cause.start <= min(second, first + (_KILL_SECONDS if cause.kind == "kill" else RECORD_SECONDS))
        and cause.end >= first
        for cause in causes
        if slot is None or cause.slot in {None, slot}
    )


def _check_vendor(
    hospital: Hospital,
    findings: Findings,
    told: list[Dictation],
    ended: dict[str, Dictation],
    causes: list[Cause],
) -> None:
    known = {each.session_id: each for each in told}
    for session_id, session in hospital.vendor.sessions.items():
        dictation = known.get(session_id)
        findings.expect(dictation is not None, f"the vendor has {session_id}, which no EMR was told of")
        findings.expect(
            session.creates == 1 and not session.damaged,
            f"{session_id} was created {session.creates} times",
            session_id,
        )
        findings.expect(
            session.runs <= 1 and len(session.end_bodies) <= 1,
            f"{session_id} was ended {len(session.end_bodies)} times at the vendor",
            session_id,
        )
        if dictation is None or session_id not in ended:
            continue
        stored = [(chunk.number, chunk.latest.sha256) for chunk in session.ordered_chunks()]
        findings.expect(
            stored == list(enumerate(dictation.hashes)), f"{session_id} has other audio", session_id
        )
        patient = {"oid": dictation.patient["id"], "name": dictation.patient["name"]}
        findings.expect(session.patient == patient, f"{session_id} is of another patient", session_id)
    _check_gets(hospital, findings, ended, causes)


def _check_gets(
    hospital: Hospital, findings: Findings, ended: dict[str, Dictation], causes: list[Cause]
) -> None:
    """Whole answers to Get Session: one for each template, one without a filter, more only for a cause.

    Filtered answers of the servers on premises carry no transcript: there the call without a filter is made.
    One that comes before any filtered call asks whether the session was created or ended: it is not counted.
    """
    causes = [each for each in causes if each.slot is None or hospital.slots[each.slot].role == "worker"]
    answered: dict[tuple[str, str], list[Any]] = defaultdict(list)
    fetched: set[str | None] = set()
    for call in hospital.vendor.journal.calls:
        is_get = call.method == "GET" and call.session_id in ended and call.path.endswith(call.session_id)
        dictation = ended.get(call.session_id or "")
        if dictation and dictation.further_repeats and call.query.endswith(tuple(dictation.further)):
            continue  # asked for again by the EMR, and so made and fetched again
        if is_get and call.query:
            fetched.add(call.session_id)
        is_whole = call.status in {200, 206} and call.fault is None and not call.client_left
        if is_get and is_whole and call.session_id in fetched:
            answered[call.session_id, call.query].append(call)
    findings.figures["gets"] += sum(map(len, answered.values()))
    for (session_id, query), calls in answered.items():
        for first, second in pairwise(calls):
            findings.figures["extra_gets"] += 1
            findings.expect(
                _is_caused(causes, None, first.at, second.at),
                f"{session_id} was fetched twice by {query or 'no filter'}, at {_clock(first.at)} and "
                f"{_clock(second.at)}, without a cause",
                session_id,
            )


def _check_processes(hospital: Hospital, findings: Findings) -> None:
    for slot in hospital.slots.values():
        for life in slot.lives:
            status = life.process.returncode
            expected = {None: {None}, "kill": {-9}, "stop": {0}, "closed": {-9}}[life.ended_by]
            if life.was_stopped:  # a kill may come too late for one that is stopping
                expected = expected | {0}
            findings.expect(status in expected, f"{slot.name} ended with {status}, not with {expected}")


def _check_logs(hospital: Hospital, findings: Findings) -> None:
    secrets = [hospital.key, hospital.secret, "vendor-signing-key", PATIENT_MARK]
    secrets += login_secrets(hospital.vendor.settings.character)
    secrets += ["Received ", "Paracetamol", *(pair for pair in hospital.vendor.tokens._access)]
    for slot in hospital.slots.values():
        for entry in _entries(slot.log):
            line = json.dumps(entry, ensure_ascii=False)
            findings.expect(
                not any(secret in line for secret in secrets), f"{slot.name} logged what it must not"
            )
            findings.expect("event" in entry, f"{slot.name} wrote what is no log entry: {line[:200]}")
            # A database that is away ends a job, and its lease brings it back: foreseen, and logged.
            is_foreseen = entry.get("error") == "StoreUnavailable"
            findings.expect(
                is_foreseen or entry.get("event") not in _FORBIDDEN_EVENTS, f"{slot.name} logged {line[:300]}"
            )


async def _check_ledger(hospital: Hospital, findings: Findings, ended: dict[str, Dictation]) -> None:
    ledger = (await hospital.ask("GET", "/v1/ledger")).json()
    wanted = {"ended": len(ended), "delivered": len(ended), "in_flight": 0, "dead": 0, "lost": 0}
    findings.expect(ledger == wanted, f"the ledger says {ledger}, not {wanted}")
